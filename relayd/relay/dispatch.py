"""Sends what is due to its next hop, and sees to what follows from the outcome.

What an attempt teaches about a destination counts only if no lesson came since it began
(`Lane.epoch`): what began before the trouble says nothing about what came after, and twenty
connections lost at once are one failure, not twenty. A destination that refuses some of ours and
serves others is not down: it has asked for less, and gets it (`spool/pace.py`).
"""

from __future__ import annotations

import enum
import random as default_random
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from relayd.mail.delivery import Delivery
from relayd.mail.envelope import Recipient
from relayd.mail.log import MailLog
from relayd.mail.message import Message, RecipientState, Record, Settlement
from relayd.mail.outcome import Blame, Outcome, postponed
from relayd.mail.reply import Severity
from relayd.reactor.coroutine import promise
from relayd.relay.courier import Hop, ICourier
from relayd.relay.gathering import Gathering, bad_news
from relayd.relay.limits import RelayLimits, grown
from relayd.relay.lost import LostReports
from relayd.relay.retrypolicy import (
    RetryPolicy,
    asks_for_less,
    judge,
    serves_none,
    speaks_against_destination,
    unreported,
)
from relayd.relay.scheduler import Scheduler, Shares
from relayd.relay.settling import QueueStore, Settling
from relayd.relay.sweep import Sweep
from relayd.report.bounce import Report, owed
from relayd.report.smaller import Smaller, is_report
from relayd.spool.pace import Pace
from relayd.spool.queue import SERVED, Lane, LaneView, Queue, Standing, deliveries, domains
from relayd.spool.view import NewMessage

_LATELY = 60.0  # seconds for which a success shows that the destination is there
_LOSSES = 3  # connections in a row, each alone
_MOMENT = 1.0  # seconds until what one connection was too much for goes over another
_UNSERVED = 2  # domains that it does not serve us for
_LAST_WORDS = 2.0  # seconds for the outcomes of what was cut off to be recorded

Route = Callable[[Recipient], Hop | Outcome]
"""Where this recipient goes by the configuration of now, or why that cannot be said."""

WriteReport = Callable[[Report | Smaller], NewMessage]
"""Makes a report that is owed into a message."""


class Phase(enum.Enum):
    """The life of a dispatcher."""

    WAITING = "waiting"  # takes messages in, starts nothing yet
    RUNNING = "running"
    STOPPING = "stopping"  # what is under way may finish
    STOPPED = "stopped"  # what was cut off stays queued as it was


class Dispatcher:
    """Owns the lanes. All methods are called in the reactor's thread."""

    def __init__(
        self,
        clock: IReactorTime,
        shelf: QueueStore,
        courier: ICourier,
        route: Route,
        write_report: WriteReport,
        log: MailLog,
        *,
        retry_policy: RetryPolicy | None = None,
        limits: RelayLimits | None = None,
        now: Callable[[], float] = time.time,
        random: Callable[[], float] = default_random.random,
    ) -> None:
        self._clock = clock
        self._shelf = shelf
        self._courier = courier
        self._route = route
        self._write_report = write_report
        self._log = log
        self._retry_policy = retry_policy or RetryPolicy()
        self._limits = limits or RelayLimits()
        self._now = now
        self._random = random
        self._phase = Phase.WAITING
        self._queue = Queue(self._limits.bounds)
        self._settling = Settling(clock, shelf, log, self._resume)
        self._lost = LostReports(log, now)
        self._gathering = Gathering(
            clock, lambda ident: self._queue.parts.get(ident, 0), self._record
        )
        self._scheduler = Scheduler(
            clock,
            shelf,
            self._queue,
            self._settling,
            log,
            limits=self._limits,
            now=now,
            start=self._start,
            longest=lambda: self._retry_policy.longest,
        )
        self._sweep = Sweep(
            clock, shelf, self._queue, self._settle_swept, log, lambda: self._retry_policy, now
        )
        self._busy: dict[int, Delivery] = {}  # until the outcome is recorded
        self._disowned: set[int] = set()  # ... of those, what the operator has changed
        self._quiet: Deferred[None] | None = None

    # the life of a dispatcher

    def start(self) -> None:
        """Begin to deliver. The table's lanes are taken up by and by; fresh mail need not wait."""
        self._phase = Phase.RUNNING
        self._sweep.start()
        self._scheduler.open()

    def stop(self, grace: float) -> Deferred[None]:
        """Start nothing more. What is under way has `grace` seconds, then it is cut off.

        Fires when all that could be recorded is; the rest is in the table as it was.
        """
        return promise(self._stop(grace))

    async def _stop(self, grace: float) -> None:
        self._phase = Phase.STOPPING
        self._sweep.stop()
        self._scheduler.close()
        self._courier.close()
        self._gathering.stop()
        await self._quiet_within(grace)
        self._phase = Phase.STOPPED
        self._courier.abort()
        await self._quiet_within(_LAST_WORDS)
        if self._busy:
            self._log.trouble("stopped with outcomes not recorded", deliveries=len(self._busy))
        self._settling.stop()

    async def _quiet_within(self, seconds: float) -> None:
        if not self._busy:
            return
        quiet: Deferred[None] = Deferred()
        self._quiet = quiet
        timer = self._clock.callLater(seconds, quiet.callback, None)
        await quiet
        self._quiet = None
        if timer.active():
            timer.cancel()

    # what the rest of relayd says to us

    def accept(self, message: Message, records: Sequence[Record]) -> None:
        """A message that just became durable: it leaves at once if its lane has room."""
        if len(records) != 1 or records[0].state is not RecipientState.QUEUED:
            records = [record for record in records if record.state is RecipientState.QUEUED]
            if not records:
                return
        scheduler = self._scheduler
        for delivery in deliveries(message, records):
            lane = scheduler.lane(delivery.records[0].recipient.destination)
            if lane.unserved and lane.standing is Standing.DOWN and lane.new(delivery):
                scheduler.probe(lane)
            self._queue.offer(lane, delivery, scheduler.slots(lane))
            scheduler.line_up(lane)
        scheduler.pump()

    def retry(self, destinations: Iterable[str] | None = None) -> None:
        """Look at the table again; a lane that is down probes now. None: all lanes."""
        self._scheduler.retry(destinations)

    def forget(self, idents: Collection[int] | None) -> None:
        """The operator has changed these messages (held, removed, ...); None: maybe any.

        What is not under way is read from the table again; of what is under way, only an end
        is recorded.
        """
        for lane in self._queue.forget(idents):
            self._scheduler.line_up(lane)
        for number, delivery in self._busy.items():
            if idents is None or delivery.message.ident in idents:
                self._disowned.add(number)
        self._scheduler.pump()

    def changed(self, verb: str, keys: Collection[tuple[int, int]]) -> None:
        """Spool.on_change: the operator did `verb` to these records."""
        if verb in ("hold", "remove"):
            self.forget({ident for ident, _ in keys})
        else:
            self._scheduler.take_up_soon()

    def recovered(self) -> None:
        """Spool.on_recovery: it can record again."""
        self._settling.recovered()

    def apply(self, retry_policy: RetryPolicy, limits: RelayLimits) -> None:
        """New settings; named next hops that are down are probed, they may have been mended.

        What one would not take from us is tried again at once.
        """
        self._retry_policy = retry_policy
        self._limits = self._scheduler.limits = limits
        self._queue.bounds = limits.bounds
        for lane in self._queue.lanes.values():
            lane.window = min(lane.window, limits.window)
        self._courier.apply(limits)
        troubled = [
            lane
            for lane in self._queue.lanes.values()
            if not lane.direct and (lane.standing is Standing.DOWN or lane.unserved)
        ]
        for lane in troubled:
            lane.impatient = bool(lane.unserved)
            lane.unserved = {}
        self.retry([lane.destination for lane in troubled])

    def _resume(self) -> None:
        self._scheduler.pump()

    def lanes(self) -> Iterator[LaneView]:
        """Snapshots of all lanes, for the operator."""
        return self._queue.views()

    @property
    def in_flight(self) -> int:
        """Deliveries with a courier now."""
        return self._scheduler.in_flight

    @property
    def lost_reports(self) -> int:
        """Reports that nobody took, since the start."""
        return self._lost.count

    @property
    def stalled(self) -> bool:
        """Nothing is delivered because the spool cannot record outcomes."""
        return self._settling.owed > 0 or not self._shelf.healthy

    # one delivery

    def _start(self, lane: Lane, delivery: Delivery, shares: Shares) -> None:
        self._busy[id(delivery)] = delivery
        self._scheduler.spawn(self._carry(lane, delivery, shares))

    async def _carry(self, lane: Lane, delivery: Delivery, shares: Shares) -> None:
        epoch, began = lane.epoch, self._now()
        hop = self._route(delivery.records[0].recipient)
        outcomes = await self._attempt(delivery, hop)
        scheduler, now = self._scheduler, self._now()
        scheduler.landed(lane, shares)
        settlements = self._judged(lane, epoch, delivery, outcomes, now)
        self._log.attempted(delivery.message, settlements, now - began)
        if lane.loaded or lane.more:
            scheduler.line_up(lane)
        scheduler.pump()  # the next one leaves while this one is being recorded
        recorded: Sequence[Settlement] | None = settlements
        if not _as_hoped(settlements):
            final = isinstance(hop, Hop) and hop.final
            recorded = await self._settle(delivery.message, settlements, final=final)
        elif settlements and await self._settling.record(settlements) is None:
            recorded = None
        self._done(lane, delivery, recorded)

    async def _attempt(self, delivery: Delivery, hop: Hop | Outcome) -> Sequence[Outcome]:
        """One outcome per record, whatever happens."""
        count = len(delivery.records)
        if isinstance(hop, Outcome):
            return [hop] * count
        try:
            outcomes = await self._courier.deliver(delivery, hop)
        except Exception as error:
            self._log.trouble(
                "courier failed", message=str(delivery.message), why=_traceback(error)
            )
        else:
            if len(outcomes) == count:
                return outcomes
            self._log.trouble("courier miscounted", message=str(delivery.message))
        return [postponed("4.3.0", "local error in processing", blame=Blame.RECIPIENT)] * count

    def _judged(
        self, lane: Lane, epoch: int, delivery: Delivery, outcomes: Sequence[Outcome], now: float
    ) -> list[Settlement]:
        # what we cut off ourselves says nothing about the destination
        stopped = self._phase is Phase.STOPPED
        message = delivery.message
        retry_at, excused = now, False
        if not stopped:
            retry_at, excused = self._learn(lane, epoch, delivery, outcomes, now)
        disowned = stopped or id(delivery) in self._disowned
        settlements = []
        judged, taken = None, False  # most share the outcome of the one before
        for record, outcome in zip(delivery.records, outcomes, strict=True):
            if outcome is not judged:
                judged, taken = outcome, outcome.severity is Severity.SUCCESS
            if taken:
                settlements.append(Settlement(record, RecipientState.DELIVERED, outcome))
                continue
            at = retry_at if excused or outcome.blame is not Blame.RECIPIENT else 0.0
            at = at or now + self._retry_policy.delay(record.attempts + 1, self._random())
            settlement = judge(
                *(message, record, outcome, self._retry_policy),
                now=now,
                retry_at=at,
                excused=excused,
            )
            if not (disowned and settlement.state is RecipientState.QUEUED):
                settlements.append(settlement)
        return settlements

    def _learn(
        self, lane: Lane, epoch: int, delivery: Delivery, outcomes: Sequence[Outcome], now: float
    ) -> tuple[float, bool]:
        """What the outcomes say about the destination.

        Returns when it is tried again, or 0 for as the schedule says, and whether this attempt
        counts for nothing.
        """
        success = any(outcome.severity is Severity.SUCCESS for outcome in outcomes)
        if not success and (
            all(map(speaks_against_destination, outcomes))
            or ((lane.proved_at or lane.pace is not None) and all(map(asks_for_less, outcomes)))
        ):
            return self._suffer(lane, epoch, delivery.message, outcomes[0], now)
        if success:
            self._scheduler.proved(lane, now)
            if lane.unserved:
                self._serves(lane, delivery, outcomes, now)
        else:
            lane.impatient = False
            if serves_none(outcomes):
                return self._serves_not(lane, epoch, delivery, outcomes[0], now)
        if epoch == lane.epoch:
            if success:
                self._grow(lane, now)
            if lane.standing is not Standing.OPEN:
                self._open(lane)
        elif success and lane.standing is Standing.DOWN:
            self._doubt(lane, now)
        return 0.0, False

    def _serves(
        self, lane: Lane, delivery: Delivery, outcomes: Sequence[Outcome], now: float
    ) -> None:
        """It took mail for these domains; and of what was refused long ago nothing waits."""
        taken = {
            record.recipient.mailbox.domain_key
            for record, outcome in zip(delivery.records, outcomes, strict=True)
            if outcome.severity is Severity.SUCCESS
        }
        lane.unserved = {
            domain: (at, trouble)
            for domain, (at, trouble) in lane.unserved.items()
            if domain not in taken and now - at <= self._retry_policy.longest
        }

    def _serves_not(
        self, lane: Lane, epoch: int, delivery: Delivery, trouble: Outcome, now: float
    ) -> tuple[float, bool]:
        """As _learn, for a next hop that does not serve us for the domains of this mail.

        For those of one other, too, and of none that is taken: then it is down. Who may be served
        all the same does not wait for that: other domains than those it refused probe it at once.
        """
        new = lane.new(delivery)
        if not lane.unserved:
            self._log.notice(
                "next hop refuses some", destination=lane.destination, reply=str(trouble.reply)
            )
        heard = domains(delivery)
        if new or heard <= lane.unserved.keys():
            lane.unserved = {**lane.unserved, **dict.fromkeys(heard, (now, trouble))}
        since = sum(at > lane.proved_at for at, _ in lane.unserved.values())
        served = 0.0 <= now - lane.proved_at < SERVED
        if lane.standing is Standing.OPEN and (served or since < _UNSERVED):
            return 0.0, False
        if epoch == lane.epoch and lane.standing is not Standing.DOWN:
            self._shut(lane, trouble, now)
            if new:
                lane.probe_at = now + _MOMENT
                self._scheduler.arm(lane)
        return (now if lane.standing is Standing.DOWN else 0.0), False

    def _doubt(self, lane: Lane, now: float) -> None:
        """Another connection was lost, this one lived on: does the lane have to be down?

        A probe finds out; where the next hop itself asked for less, it is left alone.
        """
        if lane.trouble is not None and not asks_for_less(lane.trouble):
            lane.failures = 0
            lane.probe_at = min(lane.probe_at, now + _MOMENT)
            self._scheduler.arm(lane)

    def _suffer(
        self, lane: Lane, epoch: int, message: Message, trouble: Outcome, now: float
    ) -> tuple[float, bool]:
        """As _learn, for an attempt that speaks against the destination as a whole."""
        lane.impatient = False
        fresh = epoch == lane.epoch
        if lane.standing is Standing.OPEN:
            if self._lives(lane, trouble, now, fresh=fresh):
                pace = lane.pace or self._ask_less(lane, trouble, now)
                if not pace.excuses(message.ident):
                    return 0.0, False  # others are taken: it is this message
                if self._slow(lane, pace, trouble, now, fresh=fresh):
                    if trouble.in_doubt:
                        return 0.0, False
                    again = pace.resume_at if pace.waits(now) else now
                    return max(again, now + _MOMENT), True
            self._shut(lane, trouble, now)
        elif lane.standing is Standing.PROBING and fresh:
            self._shut(lane, trouble, now)
        # while it is down the lane waits, not the mail: that is due when the lane opens
        return (now if lane.standing is Standing.DOWN else 0.0), False

    def _lives(self, lane: Lane, trouble: Outcome, now: float, *, fresh: bool) -> bool:
        """Whether others of ours are served, or were lately, so that it is no use to wait long."""
        lately = 0.0 <= now - lane.proved_at < _LATELY
        if asks_for_less(trouble):
            return lately or lane.in_flight > 0
        # a connection that was lost, or not made: one alone means that nobody is there, unless
        # some are lost now and then
        flaky = lane.pace is not None and lane.pace.losses < _LOSSES
        return lately and (lane.in_flight > 0 or not fresh or flaky)

    def _grow(self, lane: Lane, now: float) -> None:
        """It took what began after all that we know of it."""
        pace = lane.pace
        if pace is None or pace.took(now):
            lane.window = grown(lane.window, self._limits)
        if (
            pace is not None
            and pace.over
            and lane.window >= self._limits.opening
            and lane.standing is Standing.OPEN
        ):
            self._log.notice("next hop takes it all again", destination=lane.destination)
            lane.pace = lane.trouble = None

    def _ask_less(self, lane: Lane, trouble: Outcome, now: float) -> Pace:
        """From now on the lane has a pace."""
        lane.pace = Pace(now)
        self._log.notice(
            "next hop slowed",
            destination=lane.destination,
            reply=str(trouble.reply),
            why=trouble.why,
            window=max(lane.in_flight, 1),
        )
        return lane.pace

    def _slow(self, lane: Lane, pace: Pace, trouble: Outcome, now: float, *, fresh: bool) -> bool:
        """It lives, but wants less: what it serves beside this, or after a pause. False: it's down.

        Of what began together only the first one is a lesson, but each shows how many there were.
        """
        spoken = asks_for_less(trouble)
        lane.trouble = trouble
        lane.window = max(min(lane.window, lane.in_flight), 1)
        if fresh:
            lane.epoch += 1
            pace.learnt(now, spoken=spoken)
        if lane.in_flight or not spoken:  # a connection that is lost says nothing of a rate
            return True
        return pace.refused(now, self._retry_policy.schedule.delay(1))

    def _open(self, lane: Lane) -> None:
        self._log.notice("next hop up", destination=lane.destination)
        lane.standing = Standing.OPEN
        lane.failures = 0
        lane.more = True  # all that is due flows at once
        if lane.pace is not None:  # ... or as it was asked for
            lane.window = 1
            lane.pace.reopened()
        else:
            lane.trouble = None
            lane.window = self._limits.opening

    def _shut(self, lane: Lane, trouble: Outcome, now: float) -> None:
        lane.failures += 1
        lane.epoch += 1
        lane.trouble = trouble
        if not asks_for_less(trouble):
            lane.pace = None  # it was no limit: it is gone
        delay = self._retry_policy.delay(lane.failures, self._random())
        lane.probe_at = now + delay
        if lane.standing is Standing.OPEN:
            self._log.notice(
                "next hop down",
                destination=lane.destination,
                reply=str(trouble.reply),
                why=trouble.why,
                retry_in=round(delay),
            )
        lane.standing = Standing.DOWN
        self._scheduler.failed(lane)
        self._queue.unload(lane)
        self._scheduler.arm(lane)

    # recording

    async def _settle(
        self, message: Message, settlements: Sequence[Settlement], *, final: bool = False
    ) -> Sequence[Settlement] | None:
        """Record with the reports that are owed; what was recorded, or None: that was refused.

        Bad news waits a moment for that of the message's other deliveries.
        """
        told: list[Settlement] = []
        if message.envelope.reverse_path is not None:
            told = [
                each
                for each in settlements
                if each.state is not RecipientState.DELIVERED and bad_news(each)
            ]
        if not told:
            return await self._record(message, settlements, final=final)
        others = [each for each in settlements if not bad_news(each)]
        recorded = await self._record(message, others, final=final)
        found = await self._gathering.settle(message, told)
        return None if recorded is None or found is None else [*recorded, *found]

    async def _settle_swept(
        self, message: Message, settlements: Sequence[Settlement]
    ) -> Sequence[Settlement] | None:
        """The same for what was not attempted: it has come together already."""
        if message.envelope.reverse_path is None:
            return await self._record(message, settlements)
        return await self._gathering.settle(message, settlements, parts=0)

    async def _record(
        self, message: Message, settlements: Sequence[Settlement], *, final: bool = False
    ) -> Sequence[Settlement] | None:
        if not settlements:
            return settlements
        settlements, reports = self._reports(message, settlements, final=final)
        new = [letter for _, letter in reports]
        stored = await self._settling.record(settlements, new)
        if stored is None:
            return None
        known = {letter.ident: report for report, letter in reports}
        for letter, records in stored:
            report = known.get(letter.ident)
            if report is not None:
                self._log.report(message, str(letter), str(report.to), report.kind)
            self.accept(letter, records)
        return settlements

    def _reports(
        self, message: Message, settlements: Sequence[Settlement], *, final: bool
    ) -> tuple[Sequence[Settlement], list[tuple[Report | Smaller, NewMessage]]]:
        now = self._now()
        reports: Sequence[Report | Smaller] = ()
        try:
            if message.envelope.reverse_path is not None:
                reports = owed(
                    message, settlements, now=now, give_up=self._retry_policy.give_up, final=final
                )
            elif is_report(message):
                reports = self._lost.follow(message, settlements)
            return settlements, [(report, self._write_report(report)) for report in reports]
        except Exception as error:
            self._log.trouble("report not written", message=str(message), why=_traceback(error))
            delay = self._retry_policy.delay(1, self._random())
            return [unreported(each, now=now, delay=delay) for each in settlements], []

    def _done(self, lane: Lane, delivery: Delivery, recorded: Sequence[Settlement] | None) -> None:
        del self._busy[id(delivery)]
        disowned = id(delivery) in self._disowned
        if disowned:
            self._disowned.discard(id(delivery))
            lane.more = True  # the operator may have put it back
        if recorded is not None:
            self._queue.release(lane, delivery)
            self._gathering.landed(delivery.message.ident)
            for settlement in recorded:
                if settlement.state is RecipientState.QUEUED:
                    self._scheduler.due_at(lane, settlement.next_attempt)
        if lane.more:
            self._scheduler.line_up(lane)
            self._scheduler.pump()
        if not self._busy and self._quiet is not None and not self._quiet.called:
            self._quiet.callback(None)


def _as_hoped(settlements: Sequence[Settlement]) -> bool:
    """All are delivered, and nobody has to hear of it."""
    for each in settlements:
        if each.state is not RecipientState.DELIVERED or "SUCCESS" in each.record.recipient.notify:
            return False
    return True


def _traceback(error: Exception) -> str:
    return "".join(traceback.format_exception(error))
