"""`relayctl follow`: what happens, as it happens, to whoever asks; mail never waits for a reader.

Nobody asks, as a rule, and then nothing is kept. From the first follower on, and for a while after
the last one, the latest events of this process stand in a ring. A follower reads from it as fast as
he likes; what has left the ring before he came to it, he missed, and is told so. His cursor says
how far he is: `BOOT.NUMBER`, of several processes one each, with commas.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.mail.ident import parse_ident
from relayd.mail.log import MailLog
from relayd.ops.answers import EventAnswer
from relayd.ops.documents import Request, RequestError, text_of
from relayd.ops.telling import Telling

EVENTS = ("accepted", "refused", "attempt", "report", "notice", "trouble")
MOST = 5000  # events in the ring
LINGER = 600.0  # seconds that events are kept for somebody who may come back
BEAT = 10.0  # seconds without an event after which a follower hears that there is none
BATCH = 100  # events sent before another look at the ring
_CURSOR = re.compile(r"[0-9a-f]+\.[0-9]+(,[0-9a-f]+\.[0-9]+)*")


class Tapped(Protocol):
    """A log that lets others hear what it writes: relayd.ops.maillog.LineLog."""

    taps: tuple[MailLog, ...]


class EventStream(Protocol):
    """Where events go; `send` waits while the reader is slow, and raises when he is gone."""

    async def send(self, document: EventAnswer) -> None:
        """One of them."""


class WantedEvents:
    """Which events a follower wants."""

    def __init__(self, request: Request) -> None:
        """Raises RequestError."""
        names = [name for name in text_of(request, "event").split(",") if name]
        wrong = next((name for name in names if name not in EVENTS), "")
        if wrong:
            raise RequestError(f"no event {wrong!r}; expected {', '.join(EVENTS)}")
        self._names = frozenset(names)
        self._ident = text_of(request, "id").upper()
        try:
            if self._ident:
                parse_ident(self._ident)
        except ValueError as error:
            raise RequestError(str(error)) from None
        cursor = text_of(request, "cursor")
        if cursor and not _CURSOR.fullmatch(cursor):
            raise RequestError(f"no cursor {cursor[:40]!r}; expected one of follow --json")
        self._sender = text_of(request, "sender").lower()
        self._recipient = text_of(request, "recipient").lower()
        self._anything = not (names or self._ident or self._sender or self._recipient)

    def fits(self, event: EventAnswer) -> bool:
        """Whether it is one of them."""
        return self._anything or (
            (not self._names or event["event"] in self._names)
            and (not self._ident or event.get("id") == self._ident)
            and (not self._sender or _is(self._sender, event.get("sender")))
            and (
                not self._recipient
                or any(_is(self._recipient, each) for each in event.get("recipients", ()))
            )
        )


def _is(wanted: str, mailbox: str | None) -> bool:
    if mailbox is None:
        return False
    if wanted == "<>":
        return not mailbox
    return mailbox.lower().endswith(wanted) if wanted[0] == "@" else mailbox.lower() == wanted


class Events(Telling):
    """The latest events of this process."""

    def __init__(
        self,
        clock: IReactorTime,
        log: Tapped,
        later: Callable[[Callable[[], None]], object],
        now: Callable[[], float] = time.time,
    ) -> None:
        """`later`: calls at the turn's end (relayd.reactor.lean.soon)."""
        super().__init__(now)
        self._clock = clock
        self._log = log
        self._later = later
        self._ring: deque[EventAnswer] = deque(maxlen=MOST)
        self._boot = ""  # empty: nothing is kept
        self._last = 0  # the number of the latest event
        self._followers = 0
        self._waiting: list[Deferred[None]] = []
        self._waking = False
        self._end: IDelayedCall | None = None

    # following

    async def follow(self, request: Request, stream: EventStream) -> None:
        """Send what happens from now on, or from the cursor on, until the reader hangs up."""
        wanted = WantedEvents(request)
        self._begin()
        try:
            at = self._place(text_of(request, "cursor"))
            if at < 0:
                at = self._last - len(self._ring)
                await stream.send(self._said("missed", at, count=0))
            await stream.send(self._said("alive", at))
            while True:
                oldest = self._last - len(self._ring)
                if at < oldest:
                    missed, at = oldest - at, oldest
                    await stream.send(self._said("missed", at, count=missed))
                    continue
                if at == self._last:
                    await self._more()
                    if at == self._last:
                        await stream.send(self._said("alive", at))
                    continue
                for event in [*islice(self._ring, at - oldest, at - oldest + BATCH)]:
                    at += 1
                    if wanted.fits(event):
                        await stream.send({**event, "cursor": f"{self._boot}.{at}"})
        finally:
            self._finished()

    def _begin(self) -> None:
        self._followers += 1
        if self._end is not None:
            self._end.cancel()
            self._end = None
        if not self._boot:
            self._boot = secrets.token_hex(4)
            self._log.taps += (self,)

    def _finished(self) -> None:
        self._followers -= 1
        if not self._followers:
            self._end = self._clock.callLater(LINGER, self._forget)

    def _forget(self) -> None:
        self._end = None
        self._boot, self._last = "", 0
        self._ring.clear()
        self._log.taps = tuple(tap for tap in self._log.taps if tap is not self)

    def _place(self, cursor: str) -> int:
        """How far a follower is; -1: he has a cursor, but none of ours."""
        if not cursor:
            return self._last
        for each in cursor.split(","):
            boot, _, number = each.partition(".")
            if boot == self._boot and number.isdigit():
                return min(int(number), self._last)
        return -1

    async def _more(self) -> None:
        """Until there is another event, or it has been quiet for a while."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        beat = self._clock.callLater(BEAT, self._wake, waiting)
        await waiting
        if beat.active():
            beat.cancel()

    def _wake(self, one: Deferred[None] | None = None) -> None:
        if one is None:
            self._waking = False
            waiting, self._waiting = self._waiting, []
        else:
            waiting = [one]
            self._waiting.remove(one)
        for each in waiting:
            each.callback(None)

    def _said(self, event: str, at: int, count: int | None = None) -> EventAnswer:
        said: EventAnswer = {"event": event, "at": self._now(), "cursor": f"{self._boot}.{at}"}
        if count is not None:
            said["count"] = count
        return said

    def tell(self, event: EventAnswer) -> None:
        """See Telling."""
        self._last += 1
        self._ring.append(event)
        if self._waiting and not self._waking:
            self._waking = True
            self._later(self._wake)


class GoneError(Exception):
    """The reader of several processes' events is gone."""


class MergedEvents:
    """Events of several processes on their way to one reader; a bounded number of them."""

    def __init__(self) -> None:
        self._events: deque[tuple[str, EventAnswer]] = deque()
        self._room: list[Deferred[None]] = []
        self._more: Deferred[None] | None = None
        self._closed = False

    def source(self, name: str) -> EventStream:
        """Where the events of one process go."""
        return _Source(self, name)

    async def put(self, name: str, event: EventAnswer) -> None:
        """One event; waits for room. Raises GoneError."""
        while len(self._events) >= BATCH and not self._closed:
            room: Deferred[None] = Deferred()
            self._room.append(room)
            await room
        if self._closed:
            raise GoneError
        self._events.append((name, event))
        if self._more is not None:
            more, self._more = self._more, None
            more.callback(None)

    async def get(self) -> tuple[str, EventAnswer]:
        """The next one, and whose it is."""
        while not self._events:
            self._more = Deferred()
            await self._more
        found = self._events.popleft()
        self._let_in()
        return found

    def close(self) -> None:
        """Nobody reads any more."""
        self._closed = True
        self._let_in()

    def _let_in(self) -> None:
        waiting, self._room = self._room, []
        for each in waiting:
            each.callback(None)


class _Source:
    def __init__(self, merged: MergedEvents, name: str) -> None:
        self._merged = merged
        self._name = name

    async def send(self, document: EventAnswer) -> None:
        await self._merged.put(self._name, document)
