"""Sends what is due to its next hop, and sees to what follows from the outcome.

What that teaches about the destination is said in `relay/lessons.py`.
"""

from __future__ import annotations

import enum
import random as default_random
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from relayd.mail.delivery import Delivery
from relayd.mail.envelope import Recipient, domain_of, source_of
from relayd.mail.log import MailLog
from relayd.mail.message import Message, RecipientState, Record, Settlement
from relayd.mail.outcome import Blame, Outcome, postponed
from relayd.mail.pacing import Pacing
from relayd.reactor.coroutine import log_bug, promise
from relayd.relay.courier import Hop, ICourier
from relayd.relay.firstattempt import FirstAttempt, FirstAttempts
from relayd.relay.foresight import Foresight
from relayd.relay.gathering import Gathering, bad_news
from relayd.relay.lessons import Lessons
from relayd.relay.limits import RelayLimits
from relayd.relay.lost import LostReports
from relayd.relay.origins import Origins
from relayd.relay.retrypolicy import RetryPolicy, judge, unreported
from relayd.relay.scheduler import Scheduler, Shares
from relayd.relay.settling import QueueStore, Settling
from relayd.relay.sites import SendingSite, Sites, goes_around, located, site_document
from relayd.relay.strangers import Strangers
from relayd.relay.survey import UnresolvedError
from relayd.relay.suspensions import Suspensions
from relayd.relay.sweep import Sweep
from relayd.report.bounce import Report, owed
from relayd.report.smaller import Smaller, is_report
from relayd.spool.queue import Key, Lane, LaneView, Queue, Standing, deliveries
from relayd.spool.view import NewMessage

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
        report_held: Callable[[Message], None] = lambda report: None,
        retry_policy: RetryPolicy | None = None,
        limits: RelayLimits | None = None,
        sites: Sites | None = None,
        suspensions: Suspensions | None = None,
        origins: Origins | None = None,
        strangers: Strangers | None = None,
        now: Callable[[], float] = time.time,
        random: Callable[[], float] = default_random.random,
    ) -> None:
        self._sites = sites
        self._strangers = strangers
        self._suspensions = suspensions
        if suspensions is not None:
            suspensions.told.append(self._suspend)
        self._clock = clock
        self._shelf = shelf
        self._courier = courier
        self._route = route
        self._write_report = write_report
        self._report_held = report_held  # one that filters are to see before it leaves
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
            start=self._carry,
            dropped=self._dropped,
            longest=lambda: self._retry_policy.longest,
            made=self._made,
            under_way=self._started,
        )
        self._lessons = Lessons(
            self._queue,
            self._scheduler,
            log,
            retry_policy=self._retry_policy,
            limits=self._limits,
            sites=sites,
            random=random,
        )
        self._sweep = Sweep(
            clock, shelf, self._queue, self._settle_swept, log, lambda: self._retry_policy, now
        )
        self._busy: dict[int, Delivery] = {}  # until the outcome is recorded
        self._flying: dict[int, Shares] = {}  # until there is an outcome
        self._disowned: set[int] = set()  # ... of those, what the operator has changed
        self._withdrawn: set[int] = set()  # ... of those, what we have cut off ourselves
        self._first = FirstAttempts(
            clock,
            self._settling,
            log,
            accept=self.accept,
            look_for=self._look_for,
            forget=self.forget,
            under_way=self._under_way,
            report=self._report,
        )
        self._quiet: Deferred[None] | None = None
        self._keeping: IDelayedCall | None = None
        self._origins = origins or Origins(log, now, random)
        self.foresight = Foresight(log)
        self._seeking: set[Deferred[tuple[SendingSite, ...]]] = set()

    # the life of a dispatcher

    def start(self) -> None:
        """Begin to deliver. The table's lanes are taken up by and by; fresh mail need not wait."""
        self._phase = Phase.RUNNING
        if self._sites is not None:
            self._sites.load()
            self._keeping = self._clock.callLater(self._sites.period, self._keep, self._sites)
        self._sweep.start()
        self._scheduler.open()

    def stop(self, grace: float) -> Deferred[None]:
        """Start nothing more. What is under way has `grace` seconds, then it is cut off.

        Fires when all that could be recorded is; the rest is in the table as it was.
        """
        return promise(self._stop(grace))

    async def _stop(self, grace: float) -> None:
        self._phase = Phase.STOPPING
        if self._keeping is not None and self._keeping.active():
            self._keeping.cancel()
        self._sweep.stop()
        self._scheduler.close()
        for seeking in list(self._seeking):
            seeking.cancel()
        self._first.stop()
        self._courier.close()
        self._gathering.stop()
        await self._quiet_within(grace)
        self._phase = Phase.STOPPED
        self._courier.abort()
        await self._quiet_within(_LAST_WORDS)
        if self._busy:
            self._log.trouble("stopped with outcomes not recorded", deliveries=len(self._busy))
        self._settling.stop()
        if self._sites is not None:
            self._sites.save()

    def _keep(self, sites: Sites) -> None:
        """What sites have taught us, now and then."""
        sites.save()
        self._keeping = self._clock.callLater(sites.period, self._keep, sites)

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

    def accept(self, message: Message, records: Sequence[Record]) -> bool:
        """A message that just became durable: it leaves at once if its lane has room.

        Whether all of it is in memory; the rest is found in the table in time.
        """
        if len(records) != 1 or records[0].state is not RecipientState.QUEUED:
            records = [record for record in records if record.state is RecipientState.QUEUED]
            if not records:
                return False
        scheduler, loaded = self._scheduler, True
        for delivery in deliveries(message, records):
            lane = scheduler.lane(delivery.records[0].recipient.destination)
            if lane.unserved and lane.standing is Standing.DOWN and lane.new(delivery):
                scheduler.probe(lane)
            if not self._queue.offer(lane, delivery, scheduler.slots(lane)):
                loaded = False
            scheduler.line_up(lane)
        scheduler.pump()
        return loaded

    def prompt(self, destination: str) -> bool:
        """Whether mail that comes now is attempted soon."""
        if self._phase is not Phase.RUNNING or self.stalled:
            return False
        lane = self._queue.lanes.get(destination)
        return lane is None or (
            lane.standing is Standing.OPEN
            and not lane.more
            and lane.suspended is None
            and not any(gate.blocks for gate in lane.gates)
        )

    def attempt(self, message: Message, records: Sequence[Record], patience: float) -> FirstAttempt:
        """A message that just became durable, and is on hold for its client, who waits."""
        return self._first.begin(message, records, patience)

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

    def withdraw(self) -> None:
        """Others may send soon what is under way: end what is not past the final dot."""
        self._disowned.update(self._busy)
        self._withdrawn.update(self._busy)
        self._courier.withdraw()

    def lost(self) -> None:
        """Others may have taken all over: find out what is left."""
        self.withdraw()
        self.forget(None)
        self._scheduler.take_up_soon()

    def borrow(self, messages: Iterable[Collection[Key]]) -> list[bool]:
        """These recipients are to be changed, message by message: which of them may be.

        Not what is under way. The others are not started until `bring_back`.
        """
        messages = list(messages)
        for lane in self._queue.forget({ident for keys in messages for ident, _ in keys}):
            self._scheduler.line_up(lane)
        return [self._queue.borrow(keys) for keys in messages]

    def bring_back(self, keys: Collection[Key], destinations: Iterable[str]) -> None:
        """They were changed, or not; something may be due for these destinations."""
        self._queue.bring_back(keys)
        self._look_for(destinations)

    def _look_for(self, destinations: Iterable[str]) -> None:
        """Something may be due for these."""
        for destination in destinations:
            lane = self._scheduler.lane(destination)
            lane.more = True
            self._scheduler.line_up(lane)
        self._scheduler.pump()

    def changed(self, verb: str, keys: Collection[tuple[int, int]]) -> None:
        """Spool.on_change: the operator did `verb` to these records.

        "reroute" by way of another node: what has not begun goes the new way.
        """
        if verb in ("hold", "remove", "reroute"):
            self.forget({ident for ident, _ in keys})
        if verb not in ("hold", "remove"):
            self._scheduler.take_up_soon()

    def recovered(self) -> None:
        """Spool.on_recovery: it can record again."""
        self._settling.recovered()

    def apply(self, retry_policy: RetryPolicy, limits: RelayLimits) -> None:
        """New settings; named next hops that are down are probed, they may have been mended.

        What one would not take from us is tried again at once.
        """
        self._retry_policy = self._lessons.retry_policy = retry_policy
        self._limits = self._scheduler.limits = self._lessons.limits = limits
        self._queue.bounds = limits.bounds
        for lane in self._queue.lanes.values():
            lane.window = min(lane.window, limits.window)
        self._courier.apply(limits)
        self._mended(list(self._queue.lanes.values()))

    def source_is_back(self, name: str) -> None:
        """It has the address again that it lacked: lanes that are down for it are probed."""
        self._mended(
            [
                lane
                for lane in self._queue.lanes.values()
                if lane.direct and source_of(lane.destination) == name
            ]
        )

    def _mended(self, lanes: Iterable[Lane]) -> None:
        """What was in the way of these may not be any more, if it was ours to mend.

        What is under way began before that, and may still end in vain: then it is tried again.
        """
        troubled = []
        for lane in lanes:
            lane.called += 1
            if _ours_to_mend(lane):
                troubled.append(lane)
        self._try_again(troubled)

    def _try_again(self, lanes: Collection[Lane]) -> None:
        for lane in lanes:
            lane.impatient = bool(lane.unserved)
            lane.unserved = {}
        self.retry([lane.destination for lane in lanes])

    def _resume(self) -> None:
        self._scheduler.pump()

    def lanes(self) -> Iterator[LaneView]:
        """Snapshots of all lanes, for the operator."""
        return self._queue.views()

    def sites(self) -> Iterator[Mapping[str, object]]:
        """Those that have a pace, or are blocked, for the operator."""
        if self._sites is not None:
            for site in self._sites.gated():
                yield site_document(site, self._now())

    def provider_of(self, destination: str) -> str:
        """Whose exchangers have the mail of this queue, by what is known now; empty: nobody's."""
        lane = self._queue.lanes.get(destination)
        gates = () if lane is None else lane.gates
        return next((gate.provider for gate in gates if gate.provider), "")

    def origins(self) -> Iterator[Mapping[str, object]]:
        """Those whose mail is complained about, for the operator."""
        return self._origins.documents()

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

    # where the mail of a lane goes

    def _made(self, lane: Lane) -> None:
        """A lane is new: what is known of it by its name."""
        if self._sites is not None:
            lane.gates, lane.around = self._sites.gates_of(lane.destination)
        self._held_up(lane)

    def _held_up(self, lane: Lane) -> bool:
        """Whether the operator wants the lane to wait; it does from now on, or goes on."""
        if self._suspensions is None:
            return False
        site = lane.gates[0] if lane.gates else None
        found = self._suspensions.of_lane(lane.destination, site)
        lane.suspended = None if found is None else found.outcome
        lane.suspended_until = 0.0 if found is None else found.until
        return found is not None

    def _suspend(self) -> None:
        """The operator has changed what is to wait."""
        for lane in list(self._queue.lanes.values()):
            before = lane.suspended is not None
            if self._held_up(lane):
                self._queue.unload(lane)
            elif before:
                lane.more = True
            self._scheduler.line_up(lane)
        self._scheduler.pump()

    def pace(self, pacing: Pacing) -> None:
        """New rules of how fast mail goes out: lanes find their sites anew."""
        if self._sites is not None and self._sites.apply(pacing):
            for lane in self._queue.lanes.values():
                lane.located_at = 0.0
                self._made(lane)

    async def _located(self, lane: Lane, sites: Sites) -> Outcome | None:
        """Find the lane's sites; or why there is nowhere to go."""
        queue = lane.destination
        seeking = promise(sites.locate(domain_of(queue), source_of(queue)))
        self._seeking.add(seeking)
        try:
            lane.gates = await seeking
        except UnresolvedError as error:
            return error.outcome
        except CancelledError:
            return None
        finally:
            self._seeking.discard(seeking)
        lane.located_at = self._now()
        return None

    def _started(self, lane: Lane) -> set[int]:
        """Those of a lane whose outcome is not recorded."""
        destination = lane.destination
        return {
            number
            for number, each in self._busy.items()
            if each.records[0].recipient.destination == destination
        }

    def _end(self, lane: Lane, delivery: Delivery) -> None:
        """It is under way no more; whoever calls this lets go of what the lane holds for it."""
        del self._busy[id(delivery)]
        if lane.older:
            lane.older.discard(id(delivery))

    def _put_back(self, lane: Lane, delivery: Delivery, shares: Shares) -> None:
        """It has to wait for its site, after all."""
        del self._flying[id(delivery)]
        self._scheduler.landed(lane, shares)
        self._end(lane, delivery)
        if id(delivery) in self._disowned or self._phase is not Phase.RUNNING:
            self._disowned.discard(id(delivery))
            self._withdrawn.discard(id(delivery))
            self._queue.release(lane, delivery)
            lane.more = True
        else:
            self._queue.put_back(lane, delivery)
        self._scheduler.line_up(lane)
        self._scheduler.pump()
        if not self._busy and self._quiet is not None:
            self._fall_quiet(self._quiet)

    async def _put_off(
        self,
        lane: Lane,
        delivery: Delivery,
        shares: Shares,
        waits: Sequence[tuple[float, Outcome] | None],
    ) -> None:
        """Some of its recipients are to wait, until when and why; others come again without them.

        It is no attempt.
        """
        message, now = delivery.message, self._now()
        ended = self._suspensions.ended if self._suspensions is not None else 0
        settlements = [
            judge(
                *(message, record, why, self._retry_policy),
                now=now,
                retry_at=min(until, now + self._retry_policy.farthest),
                excused=True,
            )
            for record, (until, why) in _with_some(delivery.records, waits)
            if id(delivery) not in self._disowned
        ]
        lane.more = True
        del self._flying[id(delivery)]
        self._scheduler.landed(lane, shares, asked=False)
        self._log.attempted(message, settlements, 0.0)
        if self._first.open:
            settlements = [*await self._first.heard(delivery, settlements)]
        recorded = await self._settle(message, settlements)
        if self._suspensions is not None and self._suspensions.ended != ended:
            lane.impatient = lane.more = True  # it may go on; who looked for it came too early
        self._done(lane, delivery, recorded)

    # one delivery

    async def _carry(self, lane: Lane, delivery: Delivery, shares: Shares) -> None:
        self._busy[id(delivery)] = delivery
        self._flying[id(delivery)] = shares
        epoch, called, began = lane.epoch, lane.called, self._now()
        count = len(delivery.records)
        nowhere: Outcome | None = None
        if lane.direct and self._sites is not None and not located(lane, began):
            nowhere = await self._located(lane, self._sites)
            waits = self._held_up(lane) or self._phase is not Phase.RUNNING
            joined = None if waits else self._scheduler.join(lane, shares)
            if joined is None:
                self._put_back(lane, delivery, shares)
                return
            shares = self._flying[id(delivery)] = joined
        if self._suspensions is not None and self._suspensions.of_messages:
            by = [self._suspensions.of_record(delivery, record) for record in delivery.records]
            if any(by):
                until = [None if each is None else (each.until, each.outcome) for each in by]
                await self._put_off(lane, delivery, shares, until)
                return
        if self._origins.shared and lane.direct:
            self._origins.ask_others()
        if self._origins.slowed and lane.direct:
            turn = self._origins.turn_of(delivery)
            if turn is not None:
                await self._put_off(lane, delivery, shares, [turn] * count)
                return
        hop = self._route(delivery.records[0].recipient)
        if lane.around is not None:
            if isinstance(hop, Hop) and goes_around(lane.gates, shares):
                hop = hop.around
                held = self._suspensions and self._suspensions.of_way_around(lane.destination)
                if held:
                    until = [(held.until, held.outcome)] * count
                    await self._put_off(lane, delivery, shares, until)
                    return
        elif nowhere is not None and isinstance(hop, Hop):
            hop = nowhere
        if self._withdrawn and id(delivery) in self._withdrawn:
            self._put_back(lane, delivery, shares)
            return
        outcomes: Sequence[Outcome]
        try:
            if isinstance(hop, Outcome):
                outcomes = [hop] * count
            else:
                outcomes = await self._courier.deliver(delivery, hop)
        except Exception as error:
            outcomes = self._mishap(delivery, "courier failed", why=_traceback(error))
        if len(outcomes) != count:
            outcomes = self._mishap(delivery, "courier miscounted")
        scheduler, now = self._scheduler, self._now()
        del self._flying[id(delivery)]
        scheduler.landed(lane, shares)
        standing, old = lane.standing, lane.called != called
        settlements = self._judged(lane, epoch, delivery, outcomes, now, began, old=old)
        with suppress(MemoryError):  # rather no line than the same delivery once more
            self._log.attempted(delivery.message, settlements, now - began)
        if lane.loaded or lane.more:
            scheduler.line_up(lane)
        scheduler.pump()  # the next one leaves while this one is being recorded
        recorded: Sequence[Settlement] | None = settlements
        if self._first.open:
            settlements = [*await self._first.heard(delivery, settlements)]
        if not _as_hoped(settlements):
            final = isinstance(hop, Hop) and hop.final
            recorded = await self._settle(delivery.message, settlements, final=final)
        elif settlements and await self._settling.record(settlements) is None:
            recorded = None
        self._done(lane, delivery, recorded)
        if old and lane.standing is Standing.DOWN is not standing:
            self._try_again((lane,))  # it has shut the lane, and knew nothing of the call

    def _dropped(self, failure: Failure, lane: Lane, delivery: Delivery, shares: Shares) -> None:
        """A delivery broke: of its slot another makes use.

        For want of memory it comes again, as after a restart; a bug would break it again.
        """
        if id(delivery) in self._flying:
            self._scheduler.landed(lane, self._flying.pop(id(delivery)))
        scarce = isinstance(failure.value, (MemoryError, SystemError))
        if scarce and id(delivery) in self._busy:
            self._end(lane, delivery)
            self._disowned.discard(id(delivery))
            self._withdrawn.discard(id(delivery))
            self._queue.release(lane, delivery)
            self._scheduler.again_later(lane)
        with suppress(MemoryError):
            log_bug(self._log, "bug", failure)
        if not self._busy and self._quiet is not None:
            self._fall_quiet(self._quiet)

    def _mishap(self, delivery: Delivery, event: str, **facts: object) -> list[Outcome]:
        """A bug of the courier's: mail waits for it to be mended."""
        self._log.trouble(event, message=str(delivery.message), **facts)
        local = postponed("4.3.0", "local error in processing", blame=Blame.RECIPIENT)
        return [local] * len(delivery.records)

    def _judged(
        self,
        lane: Lane,
        epoch: int,
        delivery: Delivery,
        outcomes: Sequence[Outcome],
        now: float,
        began: float,
        *,
        old: bool,
    ) -> list[Settlement]:
        # what we cut off ourselves says nothing about the destination
        stopped = self._phase is Phase.STOPPED
        if self._withdrawn:
            stopped = stopped or id(delivery) in self._withdrawn
        message = delivery.message
        retry_at, excused = now, False
        if not stopped:
            retry_at, excused = self._lessons.learn(lane, epoch, delivery, outcomes, now, began)
            if old:  # it was to be tried again meanwhile
                retry_at = retry_at or now
            if lane.direct and (self._origins.counting or outcomes[0].reply.code >= 300):
                self._origins.heard(delivery, outcomes)
            if self.foresight.waiting:
                self.foresight.heard(delivery, outcomes)
        disowned = stopped or id(delivery) in self._disowned
        settlements = []
        judged, taken = None, False  # most share the outcome of the one before
        for record, outcome in zip(delivery.records, outcomes, strict=True):
            if outcome is not judged:
                judged, taken = outcome, outcome.reply.code < 300
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
        settlements, reports = await self._reports(message, settlements, final=final)
        return settlements if await self._stored(message, settlements, reports) else None

    async def _report(self, message: Message, settlements: Sequence[Settlement]) -> None:
        """What these are owed that are recorded by now."""
        _, reports = await self._reports(message, settlements, final=False, recorded=True)
        if reports:
            await self._stored(message, (), reports)

    async def _stored(
        self,
        message: Message,
        settlements: Sequence[Settlement],
        reports: Sequence[tuple[Report | Smaller, NewMessage]],
    ) -> bool:
        stored = await self._settling.record(settlements, [letter for _, letter in reports])
        if stored is None:
            return False
        known = {letter.ident: report for report, letter in reports}
        for letter, records in stored:
            report = known.get(letter.ident)
            if report is not None:
                self._log.report(message, str(letter), str(report.to), report.kind)
            if any(each.state is RecipientState.HELD for each in records):
                self._report_held(letter)
            self.accept(letter, records)
        return True

    def _under_way(self, ident: int) -> int:
        """Deliveries of this message whose outcome is not recorded."""
        return sum(each.message.ident == ident for each in self._busy.values())

    async def _reports(
        self,
        message: Message,
        settlements: Sequence[Settlement],
        *,
        final: bool,
        recorded: bool = False,
    ) -> tuple[Sequence[Settlement], list[tuple[Report | Smaller, NewMessage]]]:
        now = self._now()
        reports: Sequence[Report | Smaller] = ()
        later: Sequence[Settlement] = ()
        try:
            if message.envelope.reverse_path is not None:
                mine = owed(
                    message, settlements, now=now, give_up=self._retry_policy.give_up, final=final
                )
                strangers = self._strangers
                if mine and strangers is not None and strangers.concerns(mine):
                    settlements, mine, later = await strangers.sift(
                        settlements, mine, recorded=recorded
                    )
                reports = mine
            elif is_report(message):
                told = [each for each in settlements if not each.record.recipient.bcc]
                reports = self._lost.follow(message, told)
            copies = self._lost.copies(message, settlements)
            if copies:
                reports = [*reports, *copies]
            written = [(report, self._write_report(report)) for report in reports]
        except Exception as error:
            self._log.trouble("report not written", message=str(message), why=_traceback(error))
            settlements, later, written = (), [*settlements, *later], []
        if later:
            delay = self._retry_policy.delay(1, self._random())
            waiting = [unreported(each, now=now, delay=delay) for each in later]
            settlements = [*settlements, *waiting]
        return settlements, written

    def _done(self, lane: Lane, delivery: Delivery, recorded: Sequence[Settlement] | None) -> None:
        self._end(lane, delivery)
        disowned = id(delivery) in self._disowned
        if disowned:
            self._disowned.discard(id(delivery))
            self._withdrawn.discard(id(delivery))
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
        if not self._busy and self._quiet is not None:
            self._fall_quiet(self._quiet)

    def _fall_quiet(self, quiet: Deferred[None]) -> None:
        if not quiet.called:
            quiet.callback(None)


def _with_some(
    records: Sequence[Record], waits: Sequence[tuple[float, Outcome] | None]
) -> Iterator[tuple[Record, tuple[float, Outcome]]]:
    for record, wait in zip(records, waits, strict=True):
        if wait is not None:
            yield record, wait


def _ours_to_mend(lane: Lane) -> bool:
    """It waits for what is configured here: a next hop that has a name, also behind `direct`.

    Direct mail waits for a source that has its address, or is defined, or for the TLS demanded.
    """
    if lane.standing is not Standing.DOWN:
        return bool(lane.unserved) and not lane.direct
    return (
        not lane.direct
        or lane.around is not None
        or (lane.trouble is not None and lane.trouble.of_our_set_up)
    )


def _as_hoped(settlements: Sequence[Settlement]) -> bool:
    """All are delivered, and nobody has to hear of it."""
    for each in settlements:
        if each.state is not RecipientState.DELIVERED or "SUCCESS" in each.record.recipient.notify:
            return False
    return True


def _traceback(error: Exception) -> str:
    return "".join(traceback.format_exception(error))
