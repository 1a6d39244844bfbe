"""dnspython's asynchronous backend on a Twisted reactor: its sockets, timeouts and sleep.

dnspython 2.3 and 2.9 differ in the constructors of their socket classes, hence no `super()` calls.
"""

from __future__ import annotations

import os
import socket
from typing import Any, TypeVar

import dns._asyncbackend as asyncbackend  # dns.asyncbackend shows these, but not to mypy
import dns.exception
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.dns.wire import worth_reading

T = TypeVar("T")

_HEADER = 12  # octets of a DNS header, RFC 1035 section 4.1.1
_QR = 0x80
_MAX_DATAGRAM = 65535
_DATAGRAMS = 16  # read in one go; more than one is a forger's
_MAX_STREAM = 2 + 65535  # a length and one message, RFC 1035 section 4.2.2
_SECONDS = 5.0  # where dnspython gives no timeout
# FORMERR, SERVFAIL, NOTIMP, REFUSED: a server may send them without the question
_BARE_RCODES = frozenset((1, 2, 4, 5))


class Abandoned(BaseException):
    """The query was cancelled.

    Not an Exception, because dnspython's resolver takes every one of those for a failed server
    and would go on with the next.
    """


async def wait(reactor: Any, waiting: Deferred[T], timeout: float | None) -> T:
    """The result of `waiting`; raises dns.exception.Timeout, or Abandoned when cancelled."""
    waiting.addTimeout(_SECONDS if timeout is None else max(timeout, 0.0), reactor)
    try:
        return await waiting
    except TimeoutError:
        raise dns.exception.Timeout from None
    except CancelledError:
        raise Abandoned from None


def question_end(wire: bytes) -> int:
    """Where the (only) question of a query of our own ends."""
    at = _HEADER
    while wire[at]:
        at += 1 + wire[at]
    return at + 5


def answers(response: bytes, query: bytes) -> bool:
    """Whether the datagram claims to answer the query: ID, QR bit and question (RFC 5452).

    dnspython does not look before it parses (CVE-2023-29483 in 2.3): one forged datagram would
    fail the lookup.
    """
    if len(response) < _HEADER or response[:2] != query[:2] or not response[2] & _QR:
        return False
    if response[4:6] == b"\0\0":
        return response[3] & 0x0F in _BARE_RCODES
    end = question_end(query)
    if response[4:6] != query[4:6]:
        return False
    # a name compares without case, type and class do not
    return (
        response[_HEADER : end - 4].lower() == query[_HEADER : end - 4].lower()
        and response[end - 4 : end] == query[end - 4 : end]
    )


def failure(error: Exception) -> Failure:
    """The error as a Failure, whose own constructor has no types."""
    return Failure(error)  # type: ignore[no-untyped-call]


@implementer(IReadDescriptor)
class _Datagrams:
    """A connected UDP socket; hands the first datagram that answers the query to whoever waits.

    Not the reactor's own UDP port, which logs four lines for each one that is opened and closed.
    """

    def __init__(self, reactor: Any, family: int, destination: tuple[str, int]) -> None:
        self.query = b""
        self._reactor = reactor
        self._received: list[bytes] = []
        self._waiting: Deferred[bytes] | None = None
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            # To be connected makes the kernel choose a random port, drop what others send, and
            # tell of ICMP errors.
            self._socket.connect(destination)
        except OSError:
            self._socket.close()
            raise
        reactor.addReader(self)

    def fileno(self) -> int:
        """For the reactor; -1 once closed."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """For the reactor's log of bugs."""
        return "dns"

    def doRead(self) -> None:
        """A few datagrams at most, then it is others' turn; the rest wakes the reactor again."""
        for _ in range(_DATAGRAMS):
            try:
                datagram = self._socket.recv(_MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                self._end(failure(error))
                return
            if answers(datagram, self.query):
                if self._waiting is None:
                    self._received.append(datagram)
                else:
                    self._end(datagram)
                return

    def connectionLost(self, reason: Failure) -> None:
        """An ICMP error came with no datagram; the reactor has stopped reading by itself."""
        if self.fileno() < 0:
            return
        number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._end(failure(OSError(number, os.strerror(number) if number else "network error")))

    def _end(self, result: bytes | Failure) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(result)  # a Failure makes it an errback

    def send(self, query: bytes) -> None:
        """Send the query whose answer is awaited from now on."""
        self.query = query
        self._socket.send(query)

    def receive(self) -> Deferred[bytes]:
        """Fires with the next datagram that answers the query, or fails with an OSError."""

        def forget(_: object) -> None:
            self._waiting = None

        waiting: Deferred[bytes] = Deferred(forget)
        if self._received:
            waiting.callback(self._received.pop(0))
        else:
            self._waiting = waiting
        return waiting

    def close(self) -> None:
        """Give the socket back."""
        self._reactor.removeReader(self)
        self._socket.close()


class DatagramSocket(asyncbackend.DatagramSocket):
    """A UDP socket for one query to one server, on a random port of the kernel's choice."""

    def __init__(self, reactor: Any, family: int, destination: tuple[str, int]) -> None:
        self.family = family
        self.type = socket.SOCK_DGRAM
        self._reactor = reactor
        self._datagrams = _Datagrams(reactor, family, destination)
        self._destination: object = destination

    async def sendto(self, what: bytes, destination: Any, timeout: float | None) -> int:
        """Send the query; `destination` is the one that the socket is connected to."""
        self._destination = destination
        self._datagrams.send(what)
        return len(what)

    async def recvfrom(self, size: int, timeout: float | None) -> tuple[bytes, Any]:
        """The next datagram that answers the query sent, and where it came from."""
        datagram = await wait(self._reactor, self._datagrams.receive(), timeout)
        return worth_reading(datagram), self._destination

    async def close(self) -> None:
        """Give the socket back."""
        self._datagrams.close()


class _Streams(Factory):
    noisy = False  # two lines in the log for each connection


class _Stream(Protocol):
    """Keeps the one response, when it is whole, until somebody asks for it."""

    def __init__(self) -> None:
        self.received = bytearray()  # with its length before it
        self._arrived = bytearray()
        self.waiting: Deferred[None] | None = None
        self.lost = False

    def _wake(self) -> None:
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.callback(None)

    def dataReceived(self, data: bytes) -> None:
        """Octets of the one response that we asked for; more than that is no DNS server's."""
        self._arrived += data
        length = int.from_bytes(self._arrived[:2], "big")
        if len(self._arrived) > _MAX_STREAM:
            self.transport.abortConnection()  # type: ignore[union-attr]
        elif len(self._arrived) >= 2 + length:
            response = worth_reading(bytes(self._arrived[2 : 2 + length]))
            self._arrived.clear()
            self.received += len(response).to_bytes(2, "big") + response
            self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The server closed: whoever waits gets the response, or the end."""
        self.lost = True
        self._wake()

    def more(self) -> Deferred[None]:
        """Fires when octets have arrived, or none will."""

        def forget(_: object) -> None:
            self.waiting = None

        waiting: Deferred[None] = Deferred(forget)
        if self.received or self.lost:
            waiting.callback(None)
        else:
            self.waiting = waiting
        return waiting


class StreamSocket(asyncbackend.StreamSocket):
    """A TCP connection for one query, after an answer that was too long for UDP."""

    def __init__(self, reactor: Any, family: int, protocol: _Stream) -> None:
        self.family = family
        self.type = socket.SOCK_STREAM
        self._reactor = reactor
        self._protocol = protocol
        self._transport: Any = protocol.transport

    async def sendall(self, what: bytes, timeout: float | None) -> None:
        """Send; a query fits in the socket's buffer, so there is nothing to wait for."""
        self._transport.write(what)

    async def recv(self, size: int, timeout: float | None) -> bytes:
        """At most `size` octets; none at the end of the stream."""
        received = self._protocol.received
        if not received:
            await wait(self._reactor, self._protocol.more(), timeout)
        data = bytes(received[:size])
        del received[:size]
        return data

    async def close(self) -> None:
        """Drop the connection: nothing on it matters any more, and a peer may not read."""
        self._transport.abortConnection()


class TwistedBackend(asyncbackend.Backend):
    """What dnspython's resolver is given so that it runs on this reactor."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def name(self) -> str:
        """The backend's name for dnspython."""
        return "twisted"

    def datagram_connection_required(self) -> bool:
        """True: make_socket then learns the destination of UDP sockets, too."""
        return True

    async def make_socket(
        self,
        af: int,
        socktype: int,
        proto: int = 0,
        source: Any = None,
        destination: Any = None,
        timeout: float | None = None,
        ssl_context: Any = None,
        server_hostname: str | None = None,
    ) -> Any:
        """A socket to `destination`; raises OSError and dns.exception.Timeout."""
        if ssl_context is not None or destination is None:
            raise NotImplementedError("only plain DNS to a known server")
        host, port = destination[:2]
        if socktype == socket.SOCK_DGRAM:
            return DatagramSocket(self._reactor, af, (host, port))
        kind = TCP6ClientEndpoint if af == socket.AF_INET6 else TCP4ClientEndpoint
        # ours is the timeout that counts; the endpoint's must only not be shorter
        endpoint = kind(self._reactor, host, port, timeout=(timeout or _SECONDS) + 1)
        try:
            protocol = await wait(
                self._reactor, endpoint.connect(_Streams.forProtocol(_Stream)), timeout
            )
        except ConnectError as error:
            raise OSError(str(error)) from None
        protocol.transport.setTcpNoDelay(True)
        return StreamSocket(self._reactor, af, protocol)

    async def sleep(self, interval: float) -> None:
        """Pause; dnspython does so before it asks the same servers again."""
        await wait(self._reactor, deferLater(self._reactor, interval), interval + 1)
