"""A connection to a filter, unix or TCP: what is written leaves at once, what comes is awaited."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
)
from twisted.internet.error import ConnectError
from twisted.internet.error import TimeoutError as ConnectionTimeout
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.reactor.coroutine import Awaited
from relayd.reactor.wire import Wire

T = TypeVar("T")
Conversation = Generator[float, bytes, T]
"""One side of a talk with a filter: it yields how many seconds it waits, and is given what came;
nothing, where there is room again for what it writes.
"""
CLOSED = "it closed the connection"
MOST_UNREAD = 4 << 20  # octets: a filter that says more than anybody reads is babbling


class FilterTroubleError(Exception):
    """A filter is not there, breaks off, takes too long, or says what nobody understands."""


@dataclass(frozen=True, slots=True)
class FilterPlace:
    """Where a filter listens: a unix socket, or a host and a port."""

    unix: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> FilterPlace:
        """`unix:/path`, `host:port`, `[v6]:port` or `http://host:port`."""
        if text.startswith("unix:"):
            return cls(unix=text.removeprefix("unix:"))
        host, _, port = text.removeprefix("http://").rpartition(":")
        return cls(host=host.strip("[]"), port=int(port))

    def __str__(self) -> str:
        if self.unix:
            return f"unix:{self.unix}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@implementer(IPushProducer)
class FilterLine(Protocol):
    """One connection. It is read and written by one coroutine at a time."""

    transport: Any  # of several kinds
    _wire: Wire

    def __init__(self, reactor: Any) -> None:  # noqa: ANN401  # of several interfaces
        self._reactor = reactor
        self._unread: list[bytes] = []
        self._held = 0  # octets unread
        self.spoke = False  # it has said something that nobody has read
        self._conversation: Conversation[Any] | None = None  # it hears what comes
        self._coming: Awaited[Any] | None = None  # octets, or its end, that are waited for
        self._room: Awaited[None] | None = None  # ... or room for ours
        self.by = math.inf  # when all must be said that is waited for, in the reactor's seconds
        self._patience = 0.0  # seconds
        self._until = 0.0  # when who waits has waited long enough, in the reactor's seconds
        self._timer: IDelayedCall | None = None
        self._rings = 0.0  # when the timer is due: most often too early, for who waits has changed
        self.full = False  # the filter does not take what is written
        self.ended = ""  # why it is over
        self._tcp: socket.socket | None = None

    # what who asks does

    def write(self, data: bytes) -> None:
        """Octets that leave at once; nothing once it is over."""
        if not self.ended and data:
            self._wire.write(data)

    async def read(self, patience: float) -> bytes:
        """What has come, at least an octet. Raises FilterTroubleError."""
        if not self._unread:
            if self.ended:
                raise FilterTroubleError(self.ended)
            self._coming = self._awaited(patience)
            await self._coming
        data, self._unread, self._held, self.spoke = b"".join(self._unread), [], 0, False
        if not data:
            raise FilterTroubleError(self.ended or "it says nothing")
        return data

    async def drained(self, patience: float) -> None:
        """Until the filter takes more. Raises FilterTroubleError."""
        if self.ended:
            raise FilterTroubleError(self.ended)
        if self.full:
            self._room = self._awaited(patience)
            await self._room
            if self.ended:
                raise FilterTroubleError(self.ended)

    async def converse(self, conversation: Conversation[T]) -> T:
        """What comes of it. Raises what it does, and FilterTroubleError.

        It goes on with each piece that comes: nobody is woken up before it is over.
        """
        try:
            patience = next(conversation)
        except StopIteration as end:
            told: T = end.value
            return told
        if self.ended:
            raise FilterTroubleError(self.ended)
        self._conversation = conversation
        coming: Awaited[T] = self._awaited(patience)
        self._coming = coming
        return await coming

    def close(self) -> None:
        """It is over, once the last octets are out."""
        if not self.ended:
            self.ended = "closed"
            self.transport.unregisterProducer()
            self._wire.close()

    def abort(self) -> None:
        """It is over."""
        self.ended = self.ended or "closed"
        self.transport.abortConnection()

    # who waits

    def _awaited(self, patience: float) -> Awaited[Any]:
        self._wait(patience)
        return Awaited(self._given_up)

    def _wait(self, patience: float) -> None:
        """Somebody waits from now on: one timer does for all that is waited for."""
        now = self._reactor.seconds()
        self._patience = patience = max(min(patience, self.by - now), 0.0)
        self._until = until = now + patience
        if self._timer is None:
            self._timer, self._rings = self._reactor.callLater(patience, self._tick), until
        elif until < self._rings:
            self._timer.reset(patience)
            self._rings = until

    def _tick(self) -> None:
        self._timer = None
        if self._coming is None and self._room is None:
            return
        left = self._until - self._reactor.seconds()
        if left > 0:
            self._timer, self._rings = self._reactor.callLater(left, self._tick), self._until
            return
        late = "read" if self.full else "answer"
        self._fail(FilterTroubleError(f"it does not {late} within {self._patience:.3g} seconds"))

    def _given_up(self, _coming: object) -> None:
        self._coming = self._room = self._conversation = None
        self.abort()  # in the middle of something: nobody can go on here

    def _go_on(self, data: bytes) -> None:
        """The conversation, with what has come."""
        assert self._conversation is not None
        try:
            self._wait(self._conversation.send(data))
        except StopIteration as end:
            self._conversation = None
            self._came(end.value)
        except Exception as error:
            self._fail(error)

    def _came(self, what: object) -> None:
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.callback(what)

    def _has_room(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def _fail(self, error: Exception) -> None:
        waiting = [each for each in (self._coming, self._room) if each is not None]
        self._coming = self._room = self._conversation = None
        for each in waiting:
            each.errback(error)

    # Twisted's side

    def connectionMade(self) -> None:
        """It is open."""
        self._wire = Wire(self.transport)
        self.transport.registerProducer(self, True)
        handle: object = getattr(self.transport, "socket", None)
        if isinstance(handle, socket.socket) and handle.family != socket.AF_UNIX:
            self._tcp = handle
            self.transport.setTcpNoDelay(True)
            self._quickly()

    def dataReceived(self, data: bytes) -> None:
        """Octets from the filter."""
        if self._tcp is not None:
            self._quickly()
        if self._conversation is not None:
            self._go_on(data)
            return
        self._unread.append(data)
        self._held += len(data)
        self.spoke = True
        if self._held > MOST_UNREAD:
            self.ended = "it says more than anybody asked for"
            self._unread, self.spoke = [], False
            self.transport.abortConnection()
        self._came(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is over."""
        self.ended = self.ended or CLOSED
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._conversation is not None:
            self._fail(FilterTroubleError(self.ended))
        self._came(None)
        self._has_room()

    def pauseProducing(self) -> None:
        """The filter does not take what is written."""
        self.full = True

    def resumeProducing(self) -> None:
        """It takes more."""
        self._wire.drained()
        self.full = False
        if self._conversation is not None:
            self._go_on(b"")
        self._has_room()

    def stopProducing(self) -> None:
        """ConnectionLost says the rest."""

    def _quickly(self) -> None:
        # many filters write a reply in small pieces without TCP_NODELAY: each would wait for our
        # delayed acknowledgement
        if self._tcp is not None and not self.ended:
            self._tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


async def dial(reactor: Any, place: FilterPlace, patience: float) -> FilterLine:  # noqa: ANN401
    """A new connection. Raises FilterTroubleError."""
    endpoint = _endpoint(reactor, place, patience)
    factory = Factory.forProtocol(lambda: FilterLine(reactor))
    factory.noisy = False
    try:
        # the endpoint has the time limit: it knows how to give up
        line: FilterLine = await endpoint.connect(factory)
    except CancelledError:
        raise
    except ConnectError as error:
        why = "no connection"
        if isinstance(error, ConnectionTimeout):
            why = f"no connection within {patience:.3g} seconds"
        elif error.osError is not None:
            why = f"no connection: {os.strerror(error.osError)}"
        raise FilterTroubleError(why) from None
    except Exception as error:  # a name that is none
        raise FilterTroubleError(f"no connection: {type(error).__name__}") from None
    if isinstance(line.transport, Connection):
        line.transport.protocol = line  # not the endpoint's, which only passes on what comes
    return line


def _endpoint(reactor: Any, place: FilterPlace, patience: float) -> Any:  # noqa: ANN401
    kind: Any = TCP4ClientEndpoint
    if place.unix:
        kind = UNIXClientEndpoint
        return kind(reactor, place.unix, patience)
    if ":" in place.host:
        kind = TCP6ClientEndpoint
    elif not place.host.replace(".", "").isdigit():
        kind = HostnameEndpoint
    return kind(reactor, place.host, place.port, patience)
