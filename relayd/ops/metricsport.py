"""Where the figures are fetched: a GET over HTTP, on a TCP address or a unix socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from relayd.intake.transport import Transport
from relayd.mail.log import MailLog
from relayd.ops.openmetrics import OPENMETRICS, PLAIN
from relayd.reactor.coroutine import log_bug, spawn

MOST = 8  # connections at a time
MAX_REQUEST = 8192  # octets
TIME = 15.0  # seconds for all of it

Figures = Callable[[bool], Awaitable[str]]
"""The text of all figures; True: in OpenMetrics."""


class MetricsSession(Protocol):
    """One request, one answer."""

    transport: Transport  # type: ignore[assignment]  # narrower than Twisted's

    def __init__(
        self, clock: IReactorTime, figures: Figures, log: MailLog, end: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._figures = figures
        self._log = log
        self._end = end
        self._buffer = b""
        self._asked = False
        self._open = True
        self._deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Not for ever."""
        self._deadline = self._clock.callLater(TIME, self.transport.abortConnection)

    def dataReceived(self, data: bytes) -> None:
        """Gather the head of the request; nothing behind it is looked at."""
        if self._asked:
            return
        self._buffer += data
        if b"\r\n\r\n" in self._buffer or b"\n\n" in self._buffer:
            self._asked = True
            spawn(self._answer(), self._broken)
        elif len(self._buffer) > MAX_REQUEST:
            self._reply("431 Request Header Fields Too Large", PLAIN, "")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Nobody waits for the rest."""
        self._open = False
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._end()

    async def _answer(self) -> None:
        head = self._buffer.decode("latin-1")
        method, _, rest = head.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method not in ("GET", "HEAD"):
            self._reply("405 Method Not Allowed", PLAIN, "")
        elif path not in ("/", "/metrics"):
            self._reply("404 Not Found", PLAIN, "The figures are at /metrics.\n")
        else:
            openmetrics = "application/openmetrics-text" in head.lower()
            text = await self._figures(openmetrics)
            kind = OPENMETRICS if openmetrics else PLAIN
            self._reply("200 OK", kind, text, body=method == "GET")

    def _reply(self, status: str, kind: str, text: str, *, body: bool = True) -> None:
        self._asked = True
        if not self._open:
            return
        octets = text.encode()
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(octets)}\r\n"
            "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
            "Connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + (octets if body else b""))
        self.transport.loseConnection()

    def _broken(self, failure: Failure) -> None:
        log_bug(self._log, "bug in the metrics", failure)
        self._reply("500 Internal Server Error", PLAIN, "")


class MetricsFactory(Factory):
    """Makes sessions, a bounded number at a time."""

    noisy = False

    def __init__(self, clock: IReactorTime, figures: Figures, log: MailLog) -> None:
        self._clock = clock
        self._figures = figures
        self._log = log
        self._sessions = 0

    def buildProtocol(self, addr: IAddress | None) -> MetricsSession | None:
        """A session, or None: the connection is closed."""
        if self._sessions >= MOST:
            return None
        self._sessions += 1
        return MetricsSession(self._clock, self._figures, self._log, self._ended)

    def _ended(self) -> None:
        self._sessions -= 1
