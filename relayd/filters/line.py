"""A connection to a filter, unix or TCP: what is written leaves at once, what comes is awaited."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
)
from twisted.internet.error import ConnectError
from twisted.internet.error import TimeoutError as ConnectionTimeout
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.reactor.wire import Wire

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
        self._coming: Deferred[None] | None = None  # octets that are waited for
        self._room: Deferred[None] | None = None  # ... or room for ours
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
            self._coming = Deferred()
            await self._wait(self._coming, patience, "it does not answer")
        data, self._unread, self._held = b"".join(self._unread), [], 0
        if not data:
            raise FilterTroubleError(self.ended or "it says nothing")
        return data

    async def drained(self, patience: float) -> None:
        """Until the filter takes more. Raises FilterTroubleError."""
        if self.ended:
            raise FilterTroubleError(self.ended)
        if self.full:
            self._room = Deferred()
            await self._wait(self._room, patience, "it does not read")
            if self.ended:
                raise FilterTroubleError(self.ended)

    @property
    def spoke(self) -> bool:
        """It has said something that nobody has read."""
        return bool(self._unread)

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

    async def _wait(self, coming: Deferred[None], patience: float, late: str) -> None:
        try:
            await coming.addTimeout(patience, self._reactor)
        except TimeoutError:
            raise FilterTroubleError(f"{late} within {patience:g} seconds") from None
        except CancelledError:
            self.abort()  # in the middle of something: nobody can go on here
            raise
        finally:
            self._coming = self._room = None

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
        self._unread.append(data)
        self._held += len(data)
        if self._held > MOST_UNREAD:
            self.ended = "it says more than anybody asked for"
            self._unread = []
            self.transport.abortConnection()
        self._quickly()
        self._wake(self._coming)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is over."""
        self.ended = self.ended or CLOSED
        self._wake(self._coming)
        self._wake(self._room)

    def pauseProducing(self) -> None:
        """The filter does not take what is written."""
        self.full = True

    def resumeProducing(self) -> None:
        """It takes more."""
        self._wire.drained()
        self.full = False
        self._wake(self._room)

    def stopProducing(self) -> None:
        """ConnectionLost says the rest."""

    def _quickly(self) -> None:
        # many filters write a reply in small pieces without TCP_NODELAY: each would wait for our
        # delayed acknowledgement
        if self._tcp is not None and not self.ended:
            self._tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    @staticmethod
    def _wake(waiting: Deferred[None] | None) -> None:
        if waiting is not None and not waiting.called:
            waiting.callback(None)


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
            why = f"no connection within {patience:g} seconds"
        elif error.osError is not None:
            why = f"no connection: {os.strerror(error.osError)}"
        raise FilterTroubleError(why) from None
    except Exception as error:  # a name that is none
        raise FilterTroubleError(f"no connection: {type(error).__name__}") from None
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
