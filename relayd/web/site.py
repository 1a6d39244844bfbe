"""HTTP on Twisted: requests in bounded size and time become values, and answers are sent strictly.

Of twisted.web it takes the protocol (framing of requests, folded and doubled lengths, persistence).
What it leaves open is bounded here: a request that is too long, that comes too slowly, whose answer
nobody reads, and how many of one client there are.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from io import BytesIO
from typing import Any

from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web import http

from relayd.config.values import ConsolePlace
from relayd.intake.limits import client_key
from relayd.mail.log import MailLog
from relayd.reactor.coroutine import log_bug, spawn
from relayd.tls.server import ServerTls
from relayd.web.exchange import WebAnswer, WebRequest, problem

MAX_BODY = 1 << 20  # octets of a request's body: a header section to be explained is in it
REQUEST_TIME = 15.0  # seconds until a request is there as a whole, from the end of the one before
ANSWER_TIME = 60.0  # seconds for what is asked
VERSIONS = (b"HTTP/1.0", b"HTTP/1.1")
MOST = 64  # connections at a time
MOST_EACH = 16  # ... of one client: a browser has six

STRICT = (
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
        " connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    # not no-referrer: then browsers would say "Origin: null" with our own forms
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)

Answers = Callable[[WebRequest], Awaitable[WebAnswer]]


class _Request(http.Request):
    """One request; what it means, the factory's `answers` says."""

    channel: Any
    factory: SiteFactory
    turned_away = False
    gone = False

    def gotLength(self, length: int | None) -> None:
        """Nothing is read of what is too long, or says no length."""
        self.content = BytesIO()  # Twisted would take a file for what is not small
        if length is None:
            self._turn_away(HTTPStatus.LENGTH_REQUIRED)
        elif length > MAX_BODY:
            self._turn_away(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    def handleContentChunk(self, data: bytes) -> None:
        """A piece of the body."""
        if not self.turned_away:
            super().handleContentChunk(data)  # type: ignore[no-untyped-call]

    def parseCookies(self) -> None:
        """Nothing: we read them ourselves, where we want one."""

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """It is whole. Nothing is made of the body before we know what it is for."""
        self.method, self.uri, self.clientproto = command, path, version
        if not self.turned_away and not self._is_meant():
            self._turn_away(HTTPStatus.BAD_REQUEST)
        if not self.turned_away:
            self.process()

    def _is_meant(self) -> bool:
        """Older Twisted takes another protocol as well, and NUL in fields (RFC 9110 section 5.5).

        What might be a line end there it has made a blank of.
        """
        fields = self.requestHeaders.getAllRawHeaders()
        whole = not any(b"\0" in value for _, values in fields for value in values)
        return whole and self.clientproto in VERSIONS

    def process(self) -> None:
        """Find the answer."""
        self.factory = self.channel.factory
        spawn(self._find_answer(), self._broken)

    def connectionLost(self, reason: Failure) -> None:
        """Nobody waits for the answer."""
        self.gone = True
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    async def _find_answer(self) -> None:
        self._send(await self.factory.answers(self._asked()))

    def _asked(self) -> WebRequest:
        headers = {
            name.decode("latin-1").lower(): [each.decode("latin-1") for each in values]
            for name, values in self.requestHeaders.getAllRawHeaders()
        }
        target = self.uri.decode("latin-1")
        scheme, absolute, rest = target.partition("://")
        if absolute and scheme.lower() in ("http", "https"):  # RFC 9112 section 3.2.2
            host, slash, path = rest.partition("/")
            headers["host"], target = [host], (slash or "/") + path  # whatever Host says
        path, _, query = target.partition("?")
        place = self.factory.place
        address, user = _peer(self.channel.transport, place)
        body: Any = self.content
        body.seek(0)
        return WebRequest(
            method=self.method.decode("latin-1"),
            path=path,
            place=place,
            address=address,
            user=user,
            secure=place.place.path is None,
            query=query,
            headers=headers,
            body=body.read(),
        )

    def _send(self, answer: WebAnswer) -> None:
        if self.gone:
            return
        self.setResponseCode(answer.status, HTTPStatus(answer.status).phrase.encode())
        for name, value in _fields(answer):
            self.responseHeaders.addRawHeader(name.encode(), value.encode("latin-1"))
        self.write(answer.body)  # type: ignore[no-untyped-call]
        self.finish()  # type: ignore[no-untyped-call]

    def _turn_away(self, status: HTTPStatus) -> None:
        """Before it is whole: the rest is not waited for."""
        self.turned_away = True
        answer = problem(status, status.phrase)
        self.channel.transport.write(_early(answer))
        self.channel.loseConnection()

    def _broken(self, failure: Failure) -> None:
        log_bug(self.factory.journal, "bug in the console", failure)
        if not self.startedWriting:
            why = "a bug in relayd; its log tells more"
            self._send(problem(HTTPStatus.INTERNAL_SERVER_ERROR, why))


class _Channel(http.HTTPChannel):
    """One connection, for some requests one after the other."""

    requestFactory = _Request
    timeOut = None  # ours are of the whole request, which Twisted's, of each piece, are not
    factory: SiteFactory
    client = ""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Not for ever."""
        super().connectionMade()  # type: ignore[no-untyped-call]
        self._within(REQUEST_TIME)

    def _respondToBadRequestAndDisconnect(self) -> None:
        """What is no HTTP gets a document, too, where Twisted has an empty answer."""
        said = _early(problem(HTTPStatus.BAD_REQUEST, "that is no request of HTTP"))
        transport: Any = self.transport
        transport.write(said)
        self.loseConnection()  # type: ignore[no-untyped-call]

    def lineLengthExceeded(self, line: bytes) -> None:
        """Likewise; Twisted would say nothing, and wait for what produces the answer."""
        self._respondToBadRequestAndDisconnect()

    def allContentReceived(self) -> None:
        """The request is there."""
        self._within(ANSWER_TIME)
        super().allContentReceived()  # type: ignore[no-untyped-call]

    def requestDone(self, request: http.Request) -> None:
        """The answer is written; in good time it is to be read, and the next request there."""
        self._within(REQUEST_TIME)
        super().requestDone(request)  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is over."""
        self._rest()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        self.factory.ended(self.client)

    def _within(self, seconds: float) -> None:
        self._rest()
        self._deadline = self.factory.clock.callLater(seconds, self._too_late)

    def _rest(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()

    def _too_late(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()


class SiteFactory(Factory):
    """Makes the connections of one place, a bounded number at a time."""

    noisy = False

    def __init__(
        self, clock: IReactorTime, place: ConsolePlace, answers: Answers, log: MailLog
    ) -> None:
        self.clock = clock
        self.place = place
        self.answers = answers
        self.journal = log
        self._clients: Counter[str] = Counter()

    def full(self, address: IAddress | None) -> bool:
        """Whether there are enough connections, in all or of this client."""
        in_all = self._clients.total()
        return in_all >= MOST or (
            self.place.place.path is None and self._clients[_client(address)] >= MOST_EACH
        )

    def buildProtocol(self, addr: IAddress | None) -> Any:  # noqa: ANN401 - as Twisted has it
        """A connection, or None: it is closed."""
        if self.full(addr):
            return None
        channel = _Channel()
        channel.factory = self
        channel.client = _client(addr)
        self._clients[channel.client] += 1
        return channel

    def ended(self, client: str) -> None:
        """A connection is over."""
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]

    def log(self, request: http.Request) -> None:
        """What Twisted would write into an access log. Who acts is in ours."""


class SecuredFactory(TLSMemoryBIOFactory):
    """The same within TLS, as soon as there is a certificate."""

    noisy = False

    def __init__(self, tls: ServerTls, site: SiteFactory) -> None:
        super().__init__(tls, False, site)
        self._tls = tls
        self._site = site

    def buildProtocol(self, addr: Any) -> Any:  # noqa: ANN401 - as Twisted has it
        """A connection, or None: it is closed."""
        if not self._tls.ready or self._site.full(addr):
            return None
        return super().buildProtocol(addr)


def _client(address: IAddress | None) -> str:
    host = getattr(address, "host", "")
    return client_key(host) if host else ""


def _fields(answer: WebAnswer) -> Sequence[tuple[str, str]]:
    own = {name.lower() for name, _ in answer.fields}
    return [
        ("Date", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())),
        ("Content-Type", answer.kind),
        ("Content-Length", str(len(answer.body))),
        *(each for each in STRICT if each[0].lower() not in own),
        *answer.fields,
    ]


def _early(answer: WebAnswer) -> bytes:
    """An answer before there is a whole request, and the last one of its connection."""
    head = "".join(f"{name}: {value}\r\n" for name, value in _fields(answer))
    phrase = HTTPStatus(answer.status).phrase
    said = f"HTTP/1.1 {int(answer.status)} {phrase}\r\n{head}Connection: close\r\n\r\n"
    return said.encode("latin-1") + answer.body


def _peer(transport: Any, place: ConsolePlace) -> tuple[str, str]:  # noqa: ANN401
    """The client's address, or its user as the kernel knows him (SO_PEERCRED of unix(7))."""
    if place.place.path is None:
        return str(transport.getPeer().host), ""
    size = struct.calcsize("3i")
    credentials = transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", credentials)
    return "", f"uid={uid}"
