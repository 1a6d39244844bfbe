"""Decides which lane's next delivery starts when, and when the spool's table is looked into.

Theory of operation. A lane that may have something to do stands in a line (`_line`, once); `pump`
serves the line while there are free slots, one delivery per turn, so that lanes share the slots
evenly. Two things make a lane wait elsewhere: too many looks at the table at a time, and, for
destinations that may not answer, too many of their kind at a time (`Share`): neither dead nor
silent ones can take all slots, and who is new or works does not wait behind them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from relayd.mail.delivery import Delivery
from relayd.mail.log import MailLog
from relayd.mail.message import Message
from relayd.reactor.coroutine import log_bug, spawn
from relayd.relay.limits import RelayLimits
from relayd.relay.retrypolicy import speaks_against_destination
from relayd.relay.settling import QueueStore, Settling
from relayd.spool.queue import Lane, Queue, Standing

_TICK = 60.0  # seconds between two looks at the wall clock, which may jump
_STEP = 1000  # lanes taken up per reactor turn
_SOON = 0.2  # seconds in which several changes by the operator become one
_AGAIN = 1.0  # seconds until an unreadable table is tried again
_REVIEW = 900.0  # seconds: should a lane ever be forgotten, it is not for longer than that
_MOST_PROVEN = 10_000  # destinations to remember when there is no mail for them


NOBODY: deque[Lane] = deque(maxlen=0)
"""Who waits for a share, as long as nobody ever has."""


class Turns:
    """Lanes that wait: those for mail of one sender in a line, and the senders in turns."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[str, deque[Lane]] = {}  # the next turn first

    def append(self, lane: Lane) -> None:
        """Last of its sender's."""
        self._lines.setdefault(lane.sender, deque()).append(lane)

    def appendleft(self, lane: Lane) -> None:
        """First of its sender's."""
        self._lines.setdefault(lane.sender, deque()).appendleft(lane)

    def popleft(self) -> Lane:
        """Whose turn it is."""
        sender = next(iter(self._lines))
        line = self._lines.pop(sender)
        lane = line.popleft()
        if line:
            self._lines[sender] = line
        return lane

    def remove(self, lane: Lane) -> None:
        """It does not wait any more; raises KeyError and ValueError."""
        line = self._lines[lane.sender]
        line.remove(lane)
        if not line:
            del self._lines[lane.sender]

    def __iter__(self) -> Iterator[Lane]:
        for line in self._lines.values():
            yield from line

    def __bool__(self) -> bool:
        return bool(self._lines)


class Share:
    """The slots that lanes of one kind may hold together, and who waits for one of them."""

    __slots__ = ("alarm", "in_flight", "more", "waiting")
    paced = False  # it is one place, and not a kind of them
    gated = False  # it wants to know of each start and end

    def __init__(self) -> None:
        self.in_flight = 0
        self.more = 0  # than usual, while things go well
        self.waiting: deque[Lane] | Turns = deque()
        self.alarm: IDelayedCall | None = None  # it opens by itself, too

    def most(self, limits: RelayLimits) -> int:
        """How many there may be."""
        return limits.share + self.more

    def wait(self) -> float:
        """Seconds after which it may be open without a slot that comes free; 0: never."""
        return 0.0

    def started(self, now: float) -> None:
        """A delivery has taken a slot."""

    def ended(self) -> None:
        """... and given it back."""

    def spared(self, now: float) -> None:
        """... of which nobody was asked anything: it is the next one's turn."""

    def reopened(self) -> None:
        """The operator wants it tried now."""


class _NewDomains(Share):
    """Domains never reached: many of one sender's do not keep another's waiting."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self.waiting = Turns()


class _ToDomains(Share):
    """All that goes to domains."""

    __slots__ = ()

    def most(self, limits: RelayLimits) -> int:
        return limits.direct


Shares = Sequence[Share]


class Scheduler:
    """Who is next. `start` begins a delivery; `landed` is called when its outcome is there."""

    def __init__(
        self,
        clock: IReactorTime,
        shelf: QueueStore,
        queue: Queue,
        settling: Settling,
        log: MailLog,
        *,
        limits: RelayLimits,
        now: Callable[[], float],
        start: Callable[[Lane, Delivery, Shares], Coroutine[Any, Any, None]],
        dropped: Callable[[Failure, Lane, Delivery, Shares], None],
        longest: Callable[[], float],
        made: Callable[[Lane], None] = lambda lane: None,
        under_way: Callable[[Lane], set[int]] = lambda lane: set(),
    ) -> None:
        self.limits = limits
        self._under_way = under_way  # deliveries of a lane that have started, by their ids
        self._made = made  # what is known of a lane by its name
        self.in_flight = 0
        self._clock = clock
        self._shelf = shelf
        self._queue = queue
        self._settling = settling
        self._log = log
        self._now = now
        self._start = start
        self._dropped = dropped  # hears of one that broke
        self._longest = longest  # seconds that a recipient may have to wait for its next attempt
        self._line: deque[Lane] = deque()
        self._to_look: deque[Lane] = deque()
        self._aside = 0  # lanes that wait there, or for a share
        self._next_hops_down = Share()
        self._domains = _ToDomains()  # all that goes to domains, the next two as well
        self._domains_down = Share()
        self._domains_new = _NewDomains()
        self._all_shares = (
            *(self._domains, self._domains_new),
            *(self._domains_down, self._next_hops_down),
        )
        self._proven: dict[str, float] = {}  # domains that have taken mail, and when
        self._looks = 0
        self._running = False
        self._pumping = False
        self._timer: IDelayedCall | None = None
        self._soon: IDelayedCall | None = None
        self._ticked_at = now()
        self._review_at = 0.0

    def open(self) -> None:
        """Begin; what waits in the table is taken up by and by."""
        self._running = True
        self._tick()
        self.pump()

    def close(self) -> None:
        """Start nothing more."""
        self._running = False
        for call in (self._timer, self._soon):
            if call is not None and call.active():
                call.cancel()

    def slots(self, lane: Lane) -> int:
        """How many more deliveries may start now, if they are for this lane."""
        slots = self.limits.deliveries - self.in_flight
        for share in self._shares(lane):
            slots = min(slots, share.most(self.limits) - share.in_flight)
        return max(slots, 0)

    def lane(self, destination: str) -> Lane:
        """The lane of a destination."""
        lane = self._queue.lanes.get(destination)
        if lane is None:
            lane = self._queue.lane(destination, self.limits.opening)
            lane.proved_at = self._proven.get(destination, 0.0)
            self._made(lane)
        return lane

    def proved(self, lane: Lane, now: float) -> None:
        """It took a message: what works is not held up by what may not."""
        if lane.direct and not lane.proved_at:
            self._proven[lane.destination] = now
            new = self._domains_new
            new.more = min(new.more + 1, self.limits.share)
            if len(self._proven) > _MOST_PROVEN:
                del self._proven[next(iter(self._proven))]
        lane.proved_at = now

    def failed(self, lane: Lane) -> None:
        """It is down: it has to prove itself again."""
        lane.proved_at = 0.0
        if lane.direct:
            self._proven.pop(lane.destination, None)
            self._domains_new.more //= 2

    # shares

    def _shares(self, lane: Lane) -> Shares:
        """Of which shares a delivery of this lane takes a slot."""
        probing = lane.standing is Standing.PROBING
        shares: Shares
        if not lane.direct:
            shares = (self._next_hops_down,) if probing else ()
        elif probing:
            shares = self._domains_down, self._domains
        else:
            shares = (self._domains,) if lane.proved_at else (self._domains_new, self._domains)
        gates = lane.gates
        if not gates:
            return shares
        if lane.around is not None:
            for gate in gates:
                if gate.blocks and not gate.probe_due(self._now()):
                    return (*shares, *lane.around)
        return (*shares, *gates)

    def _free(self, share: Share) -> bool:
        return share.in_flight < share.most(self.limits)

    def _crowded(self, shares: Shares) -> bool:
        """Half is taken: from here on those who have proved nothing have one slot each."""
        return 2 * self.in_flight >= self.limits.deliveries or any(
            2 * share.in_flight >= share.most(self.limits) for share in shares if not share.paced
        )

    # the lines

    def line_up(self, lane: Lane) -> None:
        """There may be something to do for this lane; `pump` will see."""
        if not lane.waits:
            lane.waits = True
            self._line.append(lane)

    def pump(self) -> None:
        """Start what can be started."""
        if self._pumping or not self._running:
            return
        self._pumping = True
        try:
            while self.in_flight < self.limits.deliveries:
                line = self._line or (self._elsewhere() if self._aside else None)
                if not line or self._settling.stalled:
                    return
                lane = line.popleft()
                if line is not self._line:
                    self._aside -= 1
                lane.waits = False
                self._serve(lane)
        finally:
            self._pumping = False

    def landed(self, lane: Lane, shares: Shares, *, asked: bool = True) -> None:
        """A delivery is not in flight any more. `asked`: it was an attempt."""
        lane.in_flight -= 1
        self.in_flight -= 1
        for share in shares:
            share.in_flight -= 1
            if share.gated:
                if not asked:
                    share.spared(self._now())
                share.ended()
            self._call_up(share.waiting)

    def retry(self, destinations: Iterable[str] | None) -> None:
        """Look at the table again; a lane that is down probes now. None: all lanes."""
        names = list(self._queue.lanes) if destinations is None else destinations
        gates: dict[Share, None] = {}
        for name in names:
            lane = self.lane(name)
            gates.update(dict.fromkeys(lane.gates))
            lane.more = True
            lane.probe_at = 0.0
            if lane.pace is not None:
                lane.pace.reopened()
            self.line_up(lane)
        for gate in gates:
            gate.reopened()
            self._opens(gate)
        self.pump()

    def _elsewhere(self) -> deque[Lane] | Turns | None:
        """Who waits for something else that is free now."""
        if self._looks >= self.limits.looks:
            return None
        if self._to_look:
            return self._to_look
        for share in self._all_shares:
            if share.waiting and self._free(share):
                return share.waiting
        return None

    def join(self, lane: Lane, shares: Shares) -> Shares | None:
        """A delivery that has started without the gates of its lane; None: it has to wait there."""
        wanted = [share for share in self._shares(lane) if share not in shares]
        for share in wanted:
            if not self._free(share):
                return None
        for share in wanted:
            share.in_flight += 1
            if share.gated:
                share.started(self._now())
        return (*shares, *wanted)

    def _opens(self, share: Share) -> None:
        """Some time has passed: lanes that wait there may go on, as far as there is room."""
        share.alarm = None
        for lane in [lane for lane in share.waiting if lane.around is not None]:
            share.waiting.remove(lane)  # another way may be open
            self._aside -= 1
            lane.waits = False
            self.line_up(lane)
        self.pump()
        while share.waiting and self._free(share):
            self._call_up(share.waiting)
            self.pump()
            if self._pumping or not self._running:
                break
        self._alarm(share)

    def _alarm(self, share: Share) -> None:
        """As long as lanes wait, there is a time to look at them."""
        wait = share.wait() if share.waiting and self._running else 0.0
        if wait and (share.alarm is None or not share.alarm.active()):
            share.alarm = self._clock.callLater(wait, self._opens, share)

    def _call_up(self, others: deque[Lane] | Turns) -> None:
        """The first of those who wait elsewhere may stand in line again."""
        if others:
            lane = others.popleft()
            self._aside -= 1
            lane.waits = False
            self.line_up(lane)

    def _serve(self, lane: Lane) -> None:
        """At most one delivery of this lane, and a look at the table when it runs low."""
        if lane.suspended_until:
            if self._now() < lane.suspended_until:
                self._wake(lane, lane.suspended_until)
                return
            lane.suspended_until, lane.suspended = 0.0, None
        if lane.standing is Standing.DOWN:
            if self._now() < lane.probe_at:
                self.arm(lane)
                return
            self.probe(lane)
        if lane.standing is Standing.PROBING and lane.held - lane.outlived > lane.loaded:
            return  # something is in flight or being recorded, and comes back here
        shares = self._shares(lane)
        for share in shares:
            if not self._free(share):
                self._stand_by(lane, share)
                return
        if lane.in_flight < lane.capacity:
            if lane.in_flight and not lane.proved_at and self._crowded(shares):
                return  # what is in flight comes back here
            pace = lane.pace
            if pace is not None and lane.standing is Standing.OPEN:
                now = self._now()
                if pace.waits(now):
                    self._wake(lane, pace.resume_at)
                    return
                if lane.loaded:
                    pace.started(now)
            delivery = self._queue.take(lane)
            if delivery is not None:
                self.in_flight += 1
                for share in shares:
                    share.in_flight += 1
                    if share.gated:
                        share.started(self._now())
                try:
                    spawn(
                        self._start(lane, delivery, shares),
                        lambda failure: self._dropped(failure, lane, delivery, shares),
                    )
                except MemoryError:  # it has not begun
                    self.landed(lane, shares)
                    self._queue.put_back(lane, delivery)
                    raise
                if lane.loaded and lane.in_flight < lane.capacity:
                    self.line_up(lane)
        if lane.gone is None:
            if lane.more:
                self._maybe_look(lane)
            else:
                self.arm(lane)

    def probe(self, lane: Lane) -> None:
        """One message finds out whether the lane has to be down."""
        lane.standing = Standing.PROBING
        lane.epoch += 1
        lane.more = True
        # these may hang for minutes: the probe does not wait for them
        lane.older = self._under_way(lane) if lane.held > lane.loaded else None

    def _stand_by(self, lane: Lane, share: Share) -> None:
        """Wait for a slot of the share: who is loaded already first, if there is memory for it."""
        if lane.waits:
            return
        lane.waits = True
        self._aside += 1
        if lane.head is not None and share is self._domains_new:
            lane.sender = _sender(lane.head.message)
        if lane.loaded and not self._queue.roomy:
            self._queue.unload(lane)
        if share.waiting is NOBODY:
            share.waiting = deque()
        if lane.loaded and not lane.in_flight:
            share.waiting.appendleft(lane)
        else:
            share.waiting.append(lane)
        self._alarm(share)

    # looks at the table

    def _maybe_look(self, lane: Lane) -> None:
        """The table may hold more that is due."""
        if lane.standing is Standing.OPEN:
            if lane.loaded >= lane.window:
                return
        elif lane.probed:
            return
        if self._looks >= self.limits.looks:
            if not lane.waits:
                lane.waits = True
                self._aside += 1
                if lane.direct:
                    self._to_look.append(lane)
                else:
                    self._to_look.appendleft(lane)
            return
        asked = self._queue.begin_look(lane, self.slots(lane))
        if asked:
            self._looks += 1
            self.spawn(self._look(lane, asked))
        elif not lane.held:
            self.line_up(lane)  # a slot has to come free first

    async def _look(self, lane: Lane, asked: int) -> None:
        now, impatient = self._now(), lane.impatient
        try:
            longest = 0.0 if impatient else self._longest()
            found = await self._shelf.due(lane.destination, now, asked, longest=longest)
        except Exception as error:
            self._queue.abandon_look(lane)
            self._unreadable(error, self._again, lane)
            return
        finally:
            self._looks -= 1
            self._call_up(self._to_look)
        if impatient and len(found) < asked:
            lane.impatient = False
        complete = self._queue.end_look(lane, found, asked, self.slots(lane))
        self._remember_trouble(lane)
        if lane.loaded or not lane.probed:
            self.line_up(lane)
        self.pump()
        if complete:
            await self._next_due(lane.destination, now)

    async def _next_due(self, destination: str, after: float) -> None:
        """All that is due is in memory: when does the rest follow?"""
        try:
            earliest = await self._shelf.earliest(destination, after)
        except Exception:
            earliest = after + _TICK
        if earliest is not None:
            self.due_at(self.lane(destination), earliest)

    def _again(self, lane: Lane) -> None:
        self.line_up(lane)
        self.pump()

    def again_later(self, lane: Lane) -> None:
        """What it has is in the table: look for it there, when others have had their turn."""
        lane.more = True
        if self._running:
            self._clock.callLater(_AGAIN, self._again, lane)

    def _unreadable(self, error: Exception, again: Callable[..., None], *args: object) -> None:
        self._log.trouble("queue not readable", why=str(error))
        if self._running:
            self._clock.callLater(_AGAIN, again, *args)

    def _remember_trouble(self, lane: Lane) -> None:
        """After a restart the records know that the destination was down: one message probes."""
        head = lane.head
        if head is None or lane.epoch or lane.proved_at or lane.standing is not Standing.OPEN:
            return
        last = head.records[0].last
        if last is not None and speaks_against_destination(last):
            lane.standing = Standing.PROBING
            lane.failures = head.records[0].attempts
            lane.trouble = last

    # time

    def due_at(self, lane: Lane, when: float) -> None:
        """Something of the lane in the table falls due then."""
        self._queue.due_at(lane, when)
        self._set_timer()

    def arm(self, lane: Lane) -> None:
        """The lane's next time has changed."""
        if lane.wake_at < lane.alarm:
            self._wake(lane, lane.wake_at)

    def _wake(self, lane: Lane, when: float) -> None:
        """The lane goes on then."""
        if self._queue.wake(lane, when):
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
        delay = _TICK  # should anything break
        try:
            # the wall clock was set back: no time is right any more
            if now < self._ticked_at - _TICK:
                self.retry(None)
                self._review_at = 0.0
            self._ticked_at = now
            if now >= self._review_at:
                self._review_at = now + _REVIEW
                self.spawn(self._take_up(retry=False))
            lanes = self._queue.ripe(now, _STEP)
            for lane in lanes:
                self.line_up(lane)
            if len(lanes) == _STEP:
                delay = 0.0
            elif not lanes:
                self._queue.prune(now)
            delay = min(delay, max(self._queue.next_alarm() - now, 0.0))
        finally:
            self._timer = self._clock.callLater(delay, self._tick)
        self.pump()

    # what waits in the table

    def take_up_soon(self) -> None:
        """The operator has put something back or made it due: find out what."""
        if self._running and (self._soon is None or not self._soon.active()):
            self._soon = self._clock.callLater(_SOON, lambda: self.spawn(self._take_up(retry=True)))

    async def _take_up(self, *, retry: bool) -> None:
        """The lanes of all that waits, some at a time. `retry`: those that are down probe now."""
        try:
            waiting = await self._shelf.destinations()
        except Exception as error:
            self._unreadable(error, lambda: self.spawn(self._take_up(retry=retry)))
            return
        now = self._now()
        for start in range(0, len(waiting), _STEP):
            for destination, earliest in waiting[start : start + _STEP]:
                if earliest > now + self._longest():
                    earliest = now  # the clock was set back since that was written
                if retry and earliest <= now:
                    self.lane(destination).called += 1
                    self.retry([destination])
                else:
                    self._queue.due_at(self.lane(destination), earliest)
            self._set_timer()
            turn: Deferred[None] = Deferred()
            self._clock.callLater(0, turn.callback, None)
            await turn

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run it; an error in it is a bug, and logged as such."""
        spawn(coroutine, self._broken)

    def _broken(self, failure: Failure) -> None:
        log_bug(self._log, "bug", failure)


def _sender(message: Message) -> str:
    """Who has his turn with it: the login that it came by, or the domain that it is from."""
    path = message.envelope.reverse_path
    return message.client.login or (path.domain_key if path is not None else "")
