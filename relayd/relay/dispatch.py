"""Sends what is due to its next hop: which delivery starts when, and what follows from its outcome.

Theory of operation. A lane that may have something to do stands in a line (`_line`, once); `_pump`
serves the line while there are free slots, one delivery per turn, so that lanes share the slots
evenly. Two things make a lane wait elsewhere: too many looks at the table at a time, and, for
destinations in trouble, too many probes at a time: dead destinations cannot take all slots.

What an attempt teaches about a destination counts only if nothing was learnt since it began
(`Lane.epoch`): one 421 among successes makes the window smaller, but the lane stays open, and
twenty connections lost at once are one failure, not twenty.
"""

from __future__ import annotations

import enum
import random as default_random
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from relayd.mail.delivery import Delivery
from relayd.mail.envelope import DIRECT, Recipient
from relayd.mail.log import MailLog
from relayd.mail.message import Message, Record, Settlement, State
from relayd.mail.outcome import Blame, Outcome, postponed
from relayd.mail.reply import Severity
from relayd.relay.courier import Hop, ICourier
from relayd.relay.limits import Limits, grown, shrunk
from relayd.relay.settling import Settling, Shelf
from relayd.relay.sweep import Sweep
from relayd.relay.verdict import Patience, judge, speaks_against_destination, unreported
from relayd.report.bounce import Report, owed
from relayd.spool.queue import Lane, LaneView, Queue, Standing, deliveries
from relayd.spool.view import NewMessage

_TICK = 60.0  # seconds between two looks at the wall clock, which may jump
_STEP = 1000  # lanes taken up per reactor turn
_LAST_WORDS = 2.0  # seconds for the outcomes of what was cut off to be recorded

Route = Callable[[Recipient], Hop | Outcome]
"""Where this recipient goes by the configuration of now, or why that cannot be said."""

WriteReport = Callable[[Report], NewMessage]
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
        shelf: Shelf,
        courier: ICourier,
        route: Route,
        write_report: WriteReport,
        log: MailLog,
        *,
        patience: Patience | None = None,
        limits: Limits | None = None,
        now: Callable[[], float] = time.time,
        random: Callable[[], float] = default_random.random,
    ) -> None:
        self._clock = clock
        self._shelf = shelf
        self._courier = courier
        self._route = route
        self._write_report = write_report
        self._log = log
        self._patience = patience or Patience()
        self._limits = limits or Limits()
        self._now = now
        self._random = random
        self._phase = Phase.WAITING
        self._queue = Queue(self._limits.bounds)
        self._settling = Settling(clock, shelf, log, self._pump)
        self._sweep = Sweep(
            clock, shelf, self._queue, self._settle, log, lambda: self._patience, now
        )
        self._line: deque[Lane] = deque()
        self._to_look: deque[Lane] = deque()
        self._to_probe: deque[Lane] = deque()
        self._looks = 0
        self._probes = 0
        self._in_flight = 0
        self._busy: dict[int, Delivery] = {}  # until the outcome is recorded
        self._disowned: set[int] = set()  # ... of those, what the operator has changed
        self._pumping = False
        self._timer: IDelayedCall | None = None
        self._quiet: Deferred[None] | None = None

    # the life of a dispatcher

    def start(self) -> None:
        """Begin to deliver. The table's lanes are taken up by and by; fresh mail need not wait."""
        self._phase = Phase.RUNNING
        self._spawn(self._take_up())
        self._sweep.start()
        self._tick()
        self._pump()

    def stop(self, grace: float) -> Deferred[None]:
        """Start nothing more. What is under way has `grace` seconds, then it is cut off.

        Fires when all that could be recorded is; the rest is in the table as it was.
        """
        return Deferred.fromCoroutine(self._stop(grace))

    async def _stop(self, grace: float) -> None:
        self._phase = Phase.STOPPING
        self._sweep.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._courier.close()
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
        if len(records) != 1 or records[0].state is not State.QUEUED:
            records = [record for record in records if record.state is State.QUEUED]
            if not records:
                return
        slots = self._limits.deliveries - self._in_flight
        for delivery in deliveries(message, records):
            lane = self._lane(delivery.records[0].recipient.destination)
            self._queue.offer(lane, delivery, slots)
            self._line_up(lane)
        self._pump()

    def retry(self, destinations: Iterable[str] | None = None) -> None:
        """Look at the table again; a lane that is down probes now. None: all lanes."""
        names = list(self._queue.lanes) if destinations is None else destinations
        for name in names:
            lane = self._lane(name)
            lane.more = True
            lane.probe_at = 0.0
            self._line_up(lane)
        self._pump()

    def forget(self, idents: Collection[int] | None) -> None:
        """The operator has changed these messages (held, removed, ...); None: maybe any.

        What is not under way is read from the table again; of what is under way, only an end
        is recorded.
        """
        self._queue.forget(idents)
        for number, delivery in self._busy.items():
            if idents is None or delivery.message.ident in idents:
                self._disowned.add(number)
        for lane in self._queue.lanes.values():
            if lane.more:
                self._line_up(lane)
        self._pump()

    def changed(self, verb: str, keys: Collection[tuple[int, int]]) -> None:
        """Spool.on_change: the operator did `verb` to these records."""
        if verb in ("hold", "remove"):
            self.forget({ident for ident, _ in keys})
        else:
            self._spawn(self._take_up(retry=True))

    def recovered(self) -> None:
        """Spool.on_recovery: it can record again."""
        self._settling.recovered()

    def apply(self, patience: Patience, limits: Limits) -> None:
        """New settings; named next hops that are down are probed, they may have been mended."""
        self._patience = patience
        self._limits = limits
        self._queue.bounds = limits.bounds
        down = [
            lane.destination
            for lane in self._queue.lanes.values()
            if lane.standing is Standing.DOWN and not lane.destination.startswith(f"{DIRECT} ")
        ]
        self.retry(down)

    def lanes(self) -> Iterator[LaneView]:
        """Snapshots of all lanes, for the operator."""
        return self._queue.views()

    @property
    def in_flight(self) -> int:
        """Deliveries with a courier now."""
        return self._in_flight

    @property
    def stalled(self) -> bool:
        """Nothing is delivered because the spool cannot record outcomes."""
        return self._settling.owed > 0 or not self._shelf.healthy

    # lines and slots

    def _lane(self, destination: str) -> Lane:
        return self._queue.lane(destination, self._limits.first_window)

    def _line_up(self, lane: Lane) -> None:
        if not lane.waits:
            lane.waits = True
            self._line.append(lane)

    def _call_up(self, others: deque[Lane]) -> None:
        """The first of those who wait elsewhere may stand in line again."""
        if others:
            lane = others.popleft()
            lane.waits = False
            self._line_up(lane)

    def _pump(self) -> None:
        """Start what can be started."""
        if self._pumping or self._phase is not Phase.RUNNING:
            return
        self._pumping = True
        try:
            while self._in_flight < self._limits.deliveries:
                if self._settling.stalled:
                    return
                lane = self._next_in_line()
                if lane is None:
                    return
                self._serve(lane)
        finally:
            self._pumping = False

    def _next_in_line(self) -> Lane | None:
        line = self._line
        if not line:
            if self._to_look and self._looks < self._limits.looks:
                line = self._to_look
            elif self._to_probe and self._probes < self._limits.probes:
                line = self._to_probe
            else:
                return None
        lane = line.popleft()
        lane.waits = False
        return lane

    def _serve(self, lane: Lane) -> None:
        """At most one delivery of this lane, and a look at the table when it runs low."""
        if lane.standing is Standing.DOWN:
            if self._now() < lane.probe_at:
                self._arm(lane)
                return
            lane.standing = Standing.PROBING
            lane.epoch += 1
            lane.more = True
        if lane.standing is Standing.PROBING:
            if lane.held > lane.loaded:
                return  # something is in flight or being recorded, and comes back here
            if lane.loaded and self._probes >= self._limits.probes:
                lane.waits = True
                self._to_probe.append(lane)
                return
        if lane.in_flight < lane.capacity:
            delivery = self._queue.take(lane)
            if delivery is not None:
                self._start(lane, delivery)
                if lane.loaded and lane.in_flight < lane.capacity:
                    self._line_up(lane)
        self._maybe_look(lane)

    def _maybe_look(self, lane: Lane) -> None:
        if lane.gone is not None:
            return
        if not lane.more:
            self._arm(lane)
            return
        if lane.standing is Standing.OPEN:
            if lane.loaded >= lane.window:
                return
        elif lane.held:
            return
        if self._looks >= self._limits.looks:
            if not lane.waits:
                lane.waits = True
                self._to_look.append(lane)
            return
        asked = self._queue.begin_look(lane, self._limits.deliveries - self._in_flight)
        if asked:
            self._looks += 1
            self._spawn(self._look(lane, asked))
        elif not lane.held:
            self._line_up(lane)  # a slot has to come free first

    async def _look(self, lane: Lane, asked: int) -> None:
        now = self._now()
        try:
            found = await self._shelf.due(lane.destination, now, asked)
        except Exception as error:
            self._queue.abandon_look(lane)
            self._log.trouble("queue not readable", destination=lane.destination, why=str(error))
            self._clock.callLater(1.0, self._again, lane)
            return
        finally:
            self._looks -= 1
            self._call_up(self._to_look)
        slots = self._limits.deliveries - self._in_flight
        complete = self._queue.end_look(lane, found, asked, slots)
        self._remember_trouble(lane)
        if lane.loaded or not lane.held:
            self._line_up(lane)
        self._pump()
        if complete:
            await self._next_due(lane, now)

    async def _next_due(self, lane: Lane, after: float) -> None:
        """All that is due is in memory: when does the rest follow?"""
        try:
            earliest = await self._shelf.earliest(lane.destination, after)
        except Exception:
            earliest = after + _TICK
        if earliest is not None:  # meanwhile the lane may have been dropped and made again
            self._due_at(self._lane(lane.destination), earliest)

    def _again(self, lane: Lane) -> None:
        self._line_up(lane)
        self._pump()

    def _remember_trouble(self, lane: Lane) -> None:
        """After a restart the records know that the destination was down: one message probes."""
        head = lane.head
        if head is None or lane.epoch or lane.standing is not Standing.OPEN:
            return
        last = head.records[0].last
        if last is not None and speaks_against_destination(last):
            lane.standing = Standing.PROBING
            lane.failures = head.records[0].attempts
            lane.trouble = last

    # one delivery

    def _start(self, lane: Lane, delivery: Delivery) -> None:
        self._in_flight += 1
        self._busy[id(delivery)] = delivery
        self._spawn(self._carry(lane, delivery))

    async def _carry(self, lane: Lane, delivery: Delivery) -> None:
        epoch, began = lane.epoch, self._now()
        probing = lane.standing is Standing.PROBING
        self._probes += probing
        hop = self._route(delivery.records[0].recipient)
        outcomes = await self._attempt(delivery, hop)
        lane.in_flight -= 1
        self._in_flight -= 1
        now = self._now()
        if probing:
            self._probes -= 1
            self._call_up(self._to_probe)
        settlements = self._judged(lane, epoch, delivery, outcomes, now)
        for settlement in settlements:
            self._log.attempt(delivery.message, settlement, now - began)
        if lane.loaded or lane.more:
            self._line_up(lane)
        self._pump()  # the next one leaves while this one is being recorded
        final = isinstance(hop, Hop) and hop.final
        recorded = await self._settle(delivery.message, settlements, final=final)
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
        retry_at = now if stopped else self._learn(lane, epoch, outcomes, now)
        disowned = stopped or id(delivery) in self._disowned
        message = delivery.message
        settlements = []
        for record, outcome in zip(delivery.records, outcomes, strict=True):
            at = retry_at if speaks_against_destination(outcome) else 0.0
            at = at or now + self._patience.delay(record.attempts + 1, self._random())
            settlement = judge(message, record, outcome, self._patience, now=now, retry_at=at)
            if not (disowned and settlement.state is State.QUEUED):
                settlements.append(settlement)
        return settlements

    def _learn(self, lane: Lane, epoch: int, outcomes: Sequence[Outcome], now: float) -> float:
        """What the outcomes say about the destination; returns when it is tried again, or 0."""
        if not all(speaks_against_destination(outcome) for outcome in outcomes):
            lane.epoch += 1
            if any(outcome.severity is Severity.SUCCESS for outcome in outcomes):
                lane.window = grown(lane.window, self._limits)
            if lane.standing is not Standing.OPEN:
                self._open(lane)
            return 0.0
        lane.window = shrunk(lane.window)
        if epoch == lane.epoch:
            self._shut(lane, outcomes[0], now)
        return lane.probe_at if lane.standing is Standing.DOWN else 0.0

    def _open(self, lane: Lane) -> None:
        self._log.notice("next hop up", destination=lane.destination)
        lane.standing = Standing.OPEN
        lane.failures = 0
        lane.trouble = None
        lane.window = self._limits.first_window
        lane.more = True  # all that is due flows at once

    def _shut(self, lane: Lane, trouble: Outcome, now: float) -> None:
        lane.failures += 1
        lane.epoch += 1
        lane.trouble = trouble
        delay = self._patience.delay(lane.failures, self._random())
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
        self._queue.unload(lane)
        self._arm(lane)

    # recording

    async def _settle(
        self, message: Message, settlements: Sequence[Settlement], *, final: bool = False
    ) -> Sequence[Settlement] | None:
        """Record with the reports that are owed; what was recorded, or None: that was refused."""
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
                self._log.report(message, str(letter), str(report.to), report.action.value)
            self.accept(letter, records)
        return settlements

    def _reports(
        self, message: Message, settlements: Sequence[Settlement], *, final: bool
    ) -> tuple[Sequence[Settlement], list[tuple[Report, NewMessage]]]:
        if message.envelope.reverse_path is None or all(map(_as_hoped, settlements)):
            return settlements, []
        now = self._now()
        try:
            reports = owed(
                message, settlements, now=now, give_up=self._patience.give_up, final=final
            )
            return settlements, [(report, self._write_report(report)) for report in reports]
        except Exception as error:
            self._log.trouble("report not written", message=str(message), why=_traceback(error))
            delay = self._patience.delay(1, self._random())
            return [unreported(each, now=now, delay=delay) for each in settlements], []

    def _done(self, lane: Lane, delivery: Delivery, recorded: Sequence[Settlement] | None) -> None:
        del self._busy[id(delivery)]
        disowned = id(delivery) in self._disowned
        if disowned:
            self._disowned.discard(id(delivery))
            lane.more = True  # the operator may have put it back
        if recorded is not None:
            self._queue.release(lane, delivery)
            for settlement in recorded:
                if settlement.state is State.QUEUED:
                    self._due_at(lane, settlement.next_attempt)
        if lane.more:
            self._line_up(lane)
            self._pump()
        if not self._busy and self._quiet is not None and not self._quiet.called:
            self._quiet.callback(None)

    # time

    def _due_at(self, lane: Lane, when: float) -> None:
        self._queue.due_at(lane, when)
        self._set_timer()

    def _arm(self, lane: Lane) -> None:
        if self._queue.arm(lane):
            self._set_timer()

    def _set_timer(self) -> None:
        """One timer for all lanes."""
        timer = self._timer
        if timer is None or not timer.active():
            return
        delay = max(self._queue.next_alarm() - self._now(), 0.0)
        if self._clock.seconds() + delay < timer.getTime():
            timer.reset(delay)

    def _tick(self) -> None:
        """Wake the lanes whose time has come; at most a thousand, then others have their turn."""
        now = self._now()
        lanes = self._queue.ripe(now, _STEP)
        for lane in lanes:
            self._line_up(lane)
        delay = _TICK
        if len(lanes) == _STEP:
            delay = 0.0
        elif not lanes:
            self._queue.prune()
        delay = min(delay, max(self._queue.next_alarm() - now, 0.0))
        self._timer = self._clock.callLater(delay, self._tick)
        self._pump()

    async def _take_up(self, *, retry: bool = False) -> None:
        """The lanes of all that waits in the table, some at a time."""
        try:
            waiting = await self._shelf.destinations()
        except Exception as error:
            self._log.trouble("queue not readable", why=str(error))
            self._clock.callLater(5.0, lambda: self._spawn(self._take_up(retry=retry)))
            return
        now = self._now()
        for start in range(0, len(waiting), _STEP):
            for destination, earliest in waiting[start : start + _STEP]:
                if retry and earliest <= now:
                    self.retry([destination])
                else:
                    self._queue.due_at(self._lane(destination), earliest)
            self._set_timer()
            turn: Deferred[None] = Deferred()
            self._clock.callLater(0, turn.callback, None)
            await turn

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        Deferred.fromCoroutine(coroutine).addErrback(self._broken)

    def _broken(self, failure: Failure) -> None:
        self._log.trouble("bug", why=failure.getTraceback())


def _as_hoped(settlement: Settlement) -> bool:
    """Most are, and nobody has to hear of them."""
    return (
        settlement.state is State.DELIVERED and "SUCCESS" not in settlement.record.recipient.notify
    )


def _traceback(error: Exception) -> str:
    return "".join(traceback.format_exception(error))
