"""What is due when, in memory: one bounded lane per destination; the rest waits in the table.

Theory of operation. The table in the spool is the truth; this is bookkeeping about it, with no
I/O and no clock. A lane holds the few deliveries of its destination that are due and loaded.
`more` says that the table may hold more that is due, `next_due` when the rest falls due. Every
record in memory, from loading until its outcome is recorded, has its key in `Queue.keys`, so
that a second look at the table cannot load it twice. A look takes time: what leaves memory while
one is under way is noted in `Lane.gone`, because the look may still have seen it.
"""

from __future__ import annotations

import enum
import heapq
import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from relayd.mail.content import CHUNK, BytesContent
from relayd.mail.delivery import Delivery
from relayd.mail.envelope import is_direct
from relayd.mail.message import Message, RecipientState, Record, Settlement
from relayd.mail.outcome import Outcome
from relayd.mail.value import dataclass
from relayd.spool.pace import Pace

MOST_RECIPIENTS = 100  # in one transaction: what every server must take (RFC 5321, 4.5.3.1.8)
NEVER = math.inf
REMEMBERED = 3600.0  # seconds for which the pace of a lane without mail is kept
WHOLE = -1  # a key with this number stands for all records of the message

SERVED = 600.0  # seconds for which a next hop that took mail from us is known to serve us
MOST_UNSERVED = 100  # domains to remember, of a lane

Unserved = Mapping[str, tuple[float, Outcome]]
"""Of which domains a next hop has said that it does not serve us for them: when, and how."""

_NONE_UNSERVED: Unserved = MappingProxyType({})

Key = tuple[int, int]
"""A record's place: message identifier and number."""

Found = Sequence[tuple[Message, tuple[Record, ...]]]
"""What a look at the table returns."""


class Standing(enum.Enum):
    """What is known of a destination."""

    OPEN = "open"  # deliveries flow
    DOWN = "down"  # nothing of the lane is touched until `probe_at`
    PROBING = "probing"  # one message finds out
    SLOWED = "slowed"  # only shown: open, at the pace that the destination has asked for
    SUSPENDED = "suspended"  # only shown: by the operator
    BLOCKED = "blocked"  # only shown: open, but where its mail goes nothing of ours is taken
    REFUSING = "refusing"  # only shown: open, but it does not serve us for some of the mail


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of the queue may be in memory."""

    messages: int = 2000  # deliveries, over all lanes
    octets: int = 32 * 1024 * 1024  # of their content
    look: int = 100  # messages asked of the table at a time


@dataclass(frozen=True, slots=True)
class LaneView:
    """A lane as the operator sees it. Times are seconds since the epoch; 0: not applicable."""

    destination: str
    standing: Standing
    in_flight: int
    loaded: int
    window: int
    interval: float  # seconds between two starts
    failures: int
    probe_at: float
    next_due: float
    trouble: Outcome | None


class Lane:
    """The queue of one destination. The dispatcher decides; the lane keeps count."""

    __slots__ = (
        "_loaded",
        "alarm",
        "around",
        "called",
        "destination",
        "direct",
        "epoch",
        "failures",
        "gates",
        "gone",
        "held",
        "impatient",
        "in_flight",
        "loaded",
        "located_at",
        "more",
        "next_due",
        "older",
        "pace",
        "probe_at",
        "proved_at",
        "sender",
        "standing",
        "suspended",
        "suspended_until",
        "trouble",
        "unserved",
        "waits",
        "window",
    )

    def __init__(self, destination: str, window: int) -> None:
        self.destination = destination
        self.direct = is_direct(destination)  # no next hop that somebody has named
        self.standing = Standing.OPEN
        self.proved_at = 0.0  # when it last took a message; 0: never, or not since it was down
        self.pace: Pace | None = None  # not None: it has asked for less
        self.window = window  # deliveries at a time
        self.in_flight = 0  # deliveries with a courier
        self.held = 0  # deliveries in memory: loaded, in flight, or being settled
        self.failures = 0  # probes in a row that met trouble
        self.probe_at = 0.0  # when DOWN ends
        self.trouble: Outcome | None = None
        self.unserved: Unserved = _NONE_UNSERVED
        self.impatient = False  # what waits for later is due as well, as long as it is taken
        self.epoch = 0  # counts the lessons: a delivery that began before one knows nothing of it
        self.called = 0  # counts the calls to try again: an attempt that began before one is old
        self.older: set[int] | None = None  # of those held, who began before the probe: ids
        self.more = False  # the table may hold more that is due now
        self.next_due = NEVER  # when something else in the table falls due, as far as known
        self.gone: set[Key] | None = None  # not None: a look at the table is under way
        self.alarm = NEVER  # the entry of Queue's heap that counts
        self.waits = False  # the dispatcher has it in a line
        self.loaded = 0  # deliveries that are due, in memory and not started
        self.gates: tuple[Any, ...] = ()  # who else has a say (relayd.relay.sites.SendingSite)
        self.around: tuple[Any, ...] | None = None  # ... on another way; None: there is none
        self.located_at = 0.0  # when it was looked up where a domain's mail goes
        self.suspended: Outcome | None = None  # by the operator: why
        self.suspended_until = 0.0
        self.sender = ""  # whose mail it waits with, where senders have turns
        self._loaded: deque[Delivery] | None = None  # 100,000 empty deques would be 76 MB

    @property
    def head(self) -> Delivery | None:
        """What comes next, if something is loaded."""
        return self._loaded[0] if self._loaded else None

    @property
    def capacity(self) -> int:
        """How many deliveries may be in flight at a time."""
        if self.standing is Standing.OPEN:
            return self.window
        return 1 + self.outlived if self.standing is Standing.PROBING else 0

    @property
    def outlived(self) -> int:
        """How many began before the probe, and are held still."""
        return len(self.older) if self.older else 0

    @property
    def probed(self) -> bool:
        """Something is held that may be the probe, or is it."""
        return self.held > self.outlived

    @property
    def wake_at(self) -> float:
        """When there may be something to do again, if nothing else happens."""
        return self.probe_at if self.standing is Standing.DOWN else self.next_due

    @property
    def idle(self) -> bool:
        """Nothing here, nothing in the table, nothing to remember."""
        return (
            not self.held
            and not self.more
            and not self.waits
            and self.gone is None
            and self.next_due == NEVER
            and self.standing is not Standing.DOWN
        )

    @property
    def choosy(self) -> bool:
        """What it said of us may be about one mail after all: another one is the better probe.

        Security or policy status (RFC 3463 section 3.8), of a next hop that somebody has named.
        """
        return not self.direct and self.trouble is not None and self.trouble.reply.subject == 7

    def new(self, delivery: Delivery) -> bool:
        """It is also for domains of which the next hop has not said that it does not serve us."""
        return len(self.unserved) < MOST_UNSERVED and not domains(delivery) <= self.unserved.keys()

    def view(self) -> LaneView:
        """A snapshot for the operator."""
        down = self.standing is not Standing.OPEN
        pace = self.pace
        standing, trouble = self.standing, self.trouble
        interval, probe_at = 0.0 if pace is None else pace.interval, self.probe_at
        gate = next((each for each in self.gates if each.gated and each.trouble is not None), None)
        if self.suspended is not None:
            down, standing, trouble = True, Standing.SUSPENDED, self.suspended
            probe_at = self.suspended_until
        elif gate is not None and not down:
            standing = Standing.BLOCKED if gate.blocks else Standing.SLOWED
            trouble = gate.trouble
            rate = gate.learnt.in_force
            interval = 1 / rate if rate else 0.0
            if gate.blocks and self.around is None:
                down, probe_at = True, gate.probe_at
        elif down or pace is not None:
            standing = standing if down else Standing.SLOWED
        elif self.unserved:
            standing = Standing.REFUSING
            _, trouble = max(self.unserved.values(), key=itemgetter(0))
        else:
            trouble = None
        return LaneView(
            self.destination,
            standing,
            self.in_flight,
            self.loaded,
            self.window,
            interval,
            self.failures,
            probe_at if down else 0.0,
            0.0 if self.next_due == NEVER else self.next_due,
            trouble,
        )


class Queue:
    """All lanes, and how much of them is in memory."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.lanes: dict[str, Lane] = {}
        self.keys: set[Key] = set()
        self.parts: dict[int, int] = {}  # deliveries in memory of each message
        self.messages = 0  # deliveries in memory
        self.octets = 0  # of their content
        self._looking: set[Lane] = set()
        self._watch: set[Key] | None = None
        self._alarms: list[tuple[float, int, Lane]] = []
        self._count = 0

    # loading and unloading

    def lane(self, destination: str, window: int) -> Lane:
        """The lane of this destination, made now with this window if there is none."""
        lane = self.lanes.get(destination)
        if lane is None:
            lane = self.lanes[destination] = Lane(destination, window)
        return lane

    def offer(self, lane: Lane, delivery: Delivery, slots: int) -> bool:
        """Load a delivery that just became durable, or leave it to the table; says which.

        `slots` is how many more deliveries could start now over all lanes. A look may have been
        quicker than the news that the message is durable: then it is in memory already.
        """
        ident = delivery.message.ident
        for record in delivery.records:
            if (ident, record.number) in self.keys:
                lane.more = True
                return False
        wanted = lane.standing is Standing.OPEN and not lane.more
        if lane.unserved and lane.standing is Standing.PROBING:
            wanted = not lane.held and lane.new(delivery)
        octets = weight(delivery)
        if wanted and self._room(lane, octets, slots):
            self._load(lane, delivery, octets)
            return True
        lane.more = True
        return False

    def take(self, lane: Lane) -> Delivery | None:
        """The next delivery of the lane, now in flight; None when nothing is loaded."""
        if not lane._loaded:
            return None
        delivery = lane._loaded.popleft()
        lane.loaded -= 1
        if not lane.loaded:
            lane._loaded = None
        lane.in_flight += 1
        return delivery

    def release(self, lane: Lane, delivery: Delivery) -> None:
        """Out of memory: its outcome is recorded, or it was never started."""
        message = delivery.message.ident
        gone = lane.gone
        for record in delivery.records:
            key = message, record.number
            self.keys.discard(key)
            if gone is not None:
                gone.add(key)
            if self._watch is not None:
                self._watch.add(key)
        parts = self.parts.pop(message) - 1
        if parts:
            self.parts[message] = parts
        lane.held -= 1
        self.messages -= 1
        self.octets -= weight(delivery)

    def unload(self, lane: Lane) -> None:
        """Forget what is loaded and not started; it is in the table, as it was."""
        while lane._loaded:
            self.release(lane, lane._loaded.popleft())
            lane.more = True
        lane._loaded = None
        lane.loaded = 0

    def forget(self, idents: Collection[int] | None) -> list[Lane]:
        """The operator changed these messages (None: any): what is not started is read again.

        Returns the lanes that it was in.
        """
        touched = []
        stale = {(WHOLE, WHOLE)} if idents is None else {(ident, WHOLE) for ident in idents}
        self._outdate(stale)
        for lane in self.lanes.values():
            if not lane._loaded:
                continue
            kept: deque[Delivery] = deque()
            for delivery in lane._loaded:
                if idents is None or delivery.message.ident in idents:
                    self.release(lane, delivery)
                    lane.more = True
                else:
                    kept.append(delivery)
            lane._loaded = kept or None
            lane.loaded = len(kept)
            if lane.more:
                touched.append(lane)
        return touched

    def _outdate(self, stale: set[Key]) -> None:
        """A look under way may have seen these too early."""
        if self._watch is not None:
            self._watch |= stale
        for lane in self._looking:
            assert lane.gone is not None
            lane.gone |= stale
            lane.more = True

    def _load(self, lane: Lane, delivery: Delivery, octets: int) -> None:
        if lane._loaded is None:
            lane._loaded = deque()
        lane._loaded.append(delivery)
        lane.loaded += 1
        message = delivery.message.ident
        for record in delivery.records:
            self.keys.add((message, record.number))
        self.parts[message] = self.parts.get(message, 0) + 1
        lane.held += 1
        self.messages += 1
        self.octets += octets

    def _room(self, lane: Lane, octets: int, slots: int) -> bool:
        """What can start at once always has room; beyond that a lane holds less than is free.

        So one slow lane fills half of the memory, a few leave room for others, and with the
        memory full every destination still moves.
        """
        if lane.loaded < min(lane.window - lane.in_flight, slots):
            return True
        if self.octets + octets > self.bounds.octets:
            return False
        return lane.held < self.bounds.messages - self.messages

    @property
    def roomy(self) -> bool:
        """There is memory for what cannot start now."""
        bounds = self.bounds
        return 2 * self.messages < bounds.messages and 2 * self.octets < bounds.octets

    def put_back(self, lane: Lane, delivery: Delivery) -> None:
        """It was taken, and cannot start after all: it is the next one again."""
        if lane._loaded is None:
            lane._loaded = deque()
        lane._loaded.appendleft(delivery)
        lane.loaded += 1

    # looking into the table

    def begin_look(self, lane: Lane, slots: int) -> int:
        """A look at what is due begins; returns how many messages to ask for, 0: no room."""
        free = self.bounds.messages - self.messages - lane.held
        if self.octets >= self.bounds.octets:
            free = 0
        wanted = self.bounds.look
        if lane.standing is Standing.PROBING and not lane.choosy:
            wanted = 1
        wanted = min(wanted, max(free, min(lane.window - lane.in_flight, slots)))
        if wanted <= 0:
            return 0
        lane.gone = set()
        lane.more = False
        lane.next_due = NEVER
        self._looking.add(lane)
        return wanted + lane.held  # what is in memory is in the table too, and due

    def end_look(self, lane: Lane, found: Found, asked: int, slots: int) -> bool:
        """Load what the look found; returns whether the table holds nothing more that is due."""
        gone = lane.gone or set()
        lane.gone = None
        self._looking.discard(lane)
        if len(found) >= asked or lane.standing is Standing.DOWN:
            lane.more = True
        if lane.standing is Standing.PROBING and lane.choosy:
            found = sorted(
                found, key=lambda each: (not lane.new(Delivery(*each)), each[1][0].attempts)
            )
        for message, records in found:
            fresh = [
                record
                for record in records
                if record.state is RecipientState.QUEUED and self.free(record, gone)
            ]
            for delivery in deliveries(message, fresh):
                octets = weight(delivery)
                if lane.standing is Standing.DOWN or (
                    (lane.standing is Standing.PROBING and lane.probed)
                    or not self._room(lane, octets, slots)
                ):
                    lane.more = True
                    return False
                self._load(lane, delivery, octets)
        return not lane.more

    def abandon_look(self, lane: Lane) -> None:
        """The look failed."""
        lane.gone = None
        lane.more = True
        self._looking.discard(lane)

    def free(self, record: Record, gone: set[Key]) -> bool:
        """Whether a record that a look has seen is neither in memory nor seen too early."""
        ident = record.message
        key = ident, record.number
        return key not in self.keys and not (
            gone and (key in gone or (ident, WHOLE) in gone or (WHOLE, WHOLE) in gone)
        )

    # settling what waits without loading it (the sweep)

    def begin_watch(self) -> set[Key]:
        """Another look at the table begins, one at a time; the set fills as in Lane.gone."""
        self._watch = set()
        return self._watch

    def end_watch(self) -> None:
        """What was found has been claimed or left alone."""
        self._watch = None

    def claim(self, settlements: Iterable[Settlement]) -> None:
        """These records are not to be loaded until they are disclaimed."""
        self.keys.update((each.record.message, each.record.number) for each in settlements)

    def disclaim(self, settlements: Iterable[Settlement]) -> None:
        """Their outcome is recorded."""
        for each in settlements:
            key = each.record.message, each.record.number
            self.keys.discard(key)
            lane = self.lanes.get(each.record.recipient.destination)
            if lane is not None and lane.gone is not None:
                lane.gone.add(key)

    # changing what waits (the operator)

    def borrow(self, keys: Collection[Key]) -> bool:
        """None of these is loaded from now on until they are brought back; not if one is in use."""
        if not self.keys.isdisjoint(keys):
            return False
        self.keys.update(keys)
        return True

    def bring_back(self, keys: Collection[Key]) -> None:
        """They may be others now."""
        self.keys.difference_update(keys)
        self._outdate({(ident, WHOLE) for ident, _ in keys})

    # time

    def due_at(self, lane: Lane, when: float) -> None:
        """Something of the lane in the table falls due at `when`."""
        if when < lane.next_due:
            lane.next_due = when
            self.arm(lane)

    def arm(self, lane: Lane) -> bool:
        """See to it that the lane comes up in `ripe` in time; whether sooner than before."""
        return self.wake(lane, lane.wake_at)

    def wake(self, lane: Lane, when: float) -> bool:
        """The same at a time of the caller's."""
        if when >= lane.alarm:
            return False
        lane.alarm = when
        self._count += 1
        heapq.heappush(self._alarms, (when, self._count, lane))
        return True

    def next_alarm(self) -> float:
        """When the first lane wakes; NEVER if none does."""
        alarms = self._alarms
        while alarms and alarms[0][2].alarm != alarms[0][0]:
            heapq.heappop(alarms)
        return alarms[0][0] if alarms else NEVER

    def ripe(self, now: float, most: int) -> list[Lane]:
        """At most so many lanes whose time has come; each is handed out once."""
        lanes: list[Lane] = []
        while len(lanes) < most and self.next_alarm() <= now:
            _, _, lane = heapq.heappop(self._alarms)
            lane.alarm = NEVER
            if lane.next_due <= now:
                lane.next_due = NEVER
                lane.more = True
            elif lane.next_due < NEVER:
                self.wake(lane, lane.next_due)  # this time it was for something else
            lanes.append(lane)
        return lanes

    def prune(self, now: float) -> None:
        """Drop the lanes that there is nothing to say about.

        A pace is remembered for a while, and that a named next hop serves us.
        """
        for lane in [lane for lane in self.lanes.values() if lane.idle]:
            kept = REMEMBERED if lane.pace is not None else 0.0 if lane.direct else SERVED
            if lane.proved_at and abs(now - lane.proved_at) < kept:
                continue
            lane.alarm = NEVER
            del self.lanes[lane.destination]

    def views(self) -> Iterator[LaneView]:
        """Snapshots of all lanes."""
        for lane in list(self.lanes.values()):
            yield lane.view()


def domains(delivery: Delivery) -> set[str]:
    """Where the recipients are."""
    return {record.recipient.mailbox.domain_key for record in delivery.records}


def weight(delivery: Delivery) -> int:
    """Octets of memory its content takes; a file is read by the chunk."""
    content = delivery.message.content
    return len(content.data) if type(content) is BytesContent else CHUNK


def deliveries(message: Message, records: Iterable[Record]) -> list[Delivery]:
    """What one transaction each can carry: same destination, reverse-path and header section.

    A copy that nobody may hear of goes apart, for its reverse-path may have to be another.
    """
    parts = tuple(records)
    if len(parts) == 1:
        return [Delivery(message, parts)]
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in parts:
        recipient = record.recipient
        named = recipient.original
        bcc = not named.local and not named.domain  # Recipient.bcc
        key = recipient.destination, recipient.reverse_path, recipient.header, bcc
        groups.setdefault(key, []).append(record)
    return [
        Delivery(message, tuple(group[start : start + MOST_RECIPIENTS]))
        for group in groups.values()
        for start in range(0, len(group), MOST_RECIPIENTS)
    ]
