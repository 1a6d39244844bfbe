"""One HTTP request to a named host: at the addresses our own resolver finds, bounded, verified."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    TLSVersion,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from relayd.reactor.coroutine import promise
from relayd.relay.hosts import Hosts, Leads, usable
from relayd.relay.internal import NOTE
from relayd.tls.named import NamedTls, WrongNameError
from relayd.tls.words import is_unverified, reason

HTTPS = 443
HTTP = 80
CONNECT = 15  # seconds for one address
LINGER = 1.0  # seconds for what follows a 2xx whose text nobody reads, and for a farewell
MOST_ADDRESSES = 3
_HEAD = 64 * 1024  # octets of an answer beside its body
_LINES = 1000  # of all of it: old releases of Twisted take the square of the fields of one name

_MARK = b"-----END CERTIFICATE-----"


class HttpError(Exception):
    """There was no answer, or none to be used; the text says why."""

    def __init__(self, why: str, *, unproven: bool = False) -> None:
        super().__init__(why)
        self.unproven = unproven  # the server's certificate is not what it must be


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came back, whole."""

    status: int
    kind: str  # its Content-Type, without parameters, in lower case
    body: bytes = field(repr=False)


class Https:
    """Asks once, follows no redirect, keeps no connection and caches nothing."""

    def __init__(
        self,
        reactor: Any,  # noqa: ANN401  # of many interfaces
        hosts: Hosts,
        *,
        authorities: Path | None = None,  # None: the system's
        leads: Leads = None,  # whether the URL may lead to an address; None: to any
        patience: float = 60.0,  # seconds for all of it, at one address
        most: int = 64 * 1024,  # octets of an answer
    ) -> None:
        self._reactor = reactor
        self._hosts = hosts
        self._authorities = authorities
        self._leads = leads
        self._patience = patience
        self._most = most

    async def get(self, url: str, port: int = 0) -> HttpAnswer:
        """GET; raises HttpError. `port`: where to go instead of where the URL leads."""
        return await self._request("GET", url, {}, None, port)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> HttpAnswer:
        """POST; raises HttpError. What was sent to one address is not said again to another."""
        return await self._request("POST", url, headers, body, 0)

    async def hand(self, url: str, body: bytes, headers: Mapping[str, str]) -> HttpAnswer:
        """The same for who asks for the status alone: a 2xx stands, whatever its text is."""
        return await self._request("POST", url, headers, body, 0, text=False)

    async def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, port: int,
        *, text: bool = True,
    ) -> HttpAnswer:  # fmt: skip
        parts = urlsplit(url)
        host = parts.hostname or ""
        found = (await self._hosts.named([host]))[host]
        if not found.addresses:
            raise HttpError(f"{host}: {found.note}")
        secure = parts.scheme == "https"
        port = port or parts.port or (HTTPS if secure else HTTP)
        why, unproven = "", False
        for address in self._outside(host, found.addresses)[:MOST_ADDRESSES]:
            if not secure and not ipaddress.ip_address(address).is_loopback:
                raise HttpError(f"{host} [{address}] is not this machine, and this is not HTTPS")
            trust = self._trust() if secure else None
            way = _Way(self._reactor, host, address, port, trust, _HEAD + 4 * self._most)
            asked = promise(self._ask(way, method, url, headers, body, text=text))
            timer = self._reactor.callLater(self._patience, asked.cancel)
            try:
                return await asked
            except HttpError:
                raise
            except Exception as error:  # of TCP, of TLS, of HTTP
                cause = _cause(error)
                if isinstance(cause, CancelledError):
                    if timer.active():
                        raise cause from None  # not the time is over, but somebody gave up
                    why, unproven = f"no answer within {self._patience:g} seconds", False
                    break
                if way.overflowed:
                    raise HttpError(f"{host}: its answer is too large") from None
                why = f"{type(cause).__name__}: {reason(cause)}"
                unproven = isinstance(cause, WrongNameError) or is_unverified(cause)
                if method == "GET" or isinstance(error, ConnectError):
                    continue  # the next address may do better
            finally:
                way.leave()
                if timer.active():
                    timer.cancel()
            break
        raise HttpError(f"{host}: {why}", unproven=unproven)

    def _outside(self, host: str, addresses: Sequence[str]) -> Sequence[str]:
        """Those that whoever published the URL may lead us to; it is these that we connect to."""
        if self._leads is None:
            return addresses
        outside = [each for each in addresses if usable(each) and self._leads(each)]
        if not outside:
            raise HttpError(f"{host}: {addresses[0]} is {NOTE}")
        return outside

    async def _ask(
        self, way: _Way, method: str, url: str, headers: Mapping[str, str], body: bytes | None,
        *, text: bool,
    ) -> HttpAnswer:  # fmt: skip
        agent = Agent.usingEndpointFactory(  # type: ignore[no-untyped-call]  # Twisted's own
            self._reactor,
            way,
            HTTPConnectionPool(self._reactor, persistent=False),  # type: ignore[no-untyped-call]
        )
        fields = Headers({"User-Agent": ["relayd"], **{k: [v] for k, v in headers.items()}})
        producer = None if body is None else _Form(body)
        response = await agent.request(method.encode(), url.encode("ascii"), fields, producer)
        reader = _Body(self._most)
        response.deliverBody(reader)
        if text or response.code // 100 != 2:
            data = await reader.whole
        else:
            data = b""
            await self._heard_out(reader)
        kind = (response.headers.getRawHeaders("content-type") or [""])[0]
        return HttpAnswer(response.code, kind.partition(";")[0].strip().lower(), data)

    async def _heard_out(self, reader: _Body) -> None:
        """Let a server finish, but not for long, and whatever it says."""
        timer = self._reactor.callLater(LINGER, reader.whole.cancel)
        with contextlib.suppress(Exception):
            await reader.whole
        if timer.active():
            timer.cancel()

    def _trust(self) -> Any:  # noqa: ANN401  # a private interface of Twisted's
        if self._authorities is None:
            return platformTrust()  # type: ignore[no-untyped-call]  # Twisted's own
        try:
            parts = self._authorities.read_bytes().split(_MARK)[:-1]
        except OSError as error:
            raise HttpError(f"{self._authorities}: {error.strerror}") from None
        return trustRootFromCertificates(  # type: ignore[no-untyped-call]  # likewise
            [Certificate.loadPEM(part + _MARK + b"\n") for part in parts]
        )


def _cause(error: BaseException) -> BaseException:
    """What went wrong, without Twisted's wrappings."""
    while isinstance(error, ResponseFailed) or hasattr(error, "reasons"):
        reasons = getattr(error, "reasons", None)
        if not reasons:
            break
        error = reasons[0].value
    return error


@implementer(IAgentEndpointFactory)
class _Way:
    """To one address, whatever name is in the URL; the certificate must be for the name.

    Who says more than `most` octets there, or _LINES, is hung up on: Twisted bounds no header
    section.
    """

    def __init__(
        self,
        reactor: Any,  # noqa: ANN401
        host: str,
        address: str,
        port: int,
        trust: Any,  # noqa: ANN401
        most: int,
    ) -> None:
        self.overflowed = False
        self._reactor = reactor
        self._host = host
        self._address = address
        self._port = port
        self._trust = trust  # None: no TLS
        self._left, self._lines = most, _LINES
        self._protocol: Any = None  # Twisted's own, while it has a connection
        self._end: IDelayedCall | None = None

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """The one way there is."""
        kind = TCP6ClientEndpoint if ":" in self._address else TCP4ClientEndpoint
        plain: IStreamClientEndpoint = kind(self._reactor, self._address, self._port, CONNECT)
        if self._trust is None:
            return _Watched(plain, self._watch)
        options = CertificateOptions(trustRoot=self._trust, raiseMinimumTo=TLSVersion.TLSv1_2)
        way: IStreamClientEndpoint = wrapClientTLS(
            NamedTls(options.getContext(), self._host), plain
        )
        return _Watched(way, self._watch)

    def leave(self) -> None:
        """Who does not end the connection, or TLS in it, in a moment is hung up on."""
        if self._protocol is not None:
            hang_up = self._protocol.transport.abortConnection
            self._end = self._reactor.callLater(LINGER, hang_up)

    def _watch(self, protocol: Any) -> Any:  # noqa: ANN401  # Twisted's own
        self._protocol, lost = protocol, protocol.connectionLost

        def connection_lost(reason: Failure = connectionDone) -> None:
            self._protocol = None
            if self._end is not None and self._end.active():
                self._end.cancel()
            lost(reason)

        protocol.connectionLost = connection_lost
        receive = protocol.dataReceived

        def data_received(data: bytes) -> None:
            self._left -= len(data)
            self._lines -= data.count(b"\n")
            if self._left >= 0 and self._lines >= 0:
                receive(data)
            else:
                self.overflowed = True
                protocol.transport.abortConnection()

        protocol.dataReceived = data_received
        return protocol


@implementer(IStreamClientEndpoint)
class _Watched:
    """An endpoint whose connections somebody sees before they are used."""

    def __init__(self, endpoint: IStreamClientEndpoint, watch: Callable[[Any], Any]) -> None:
        self._endpoint = endpoint
        self._watch = watch

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:  # noqa: N803
        """See IStreamClientEndpoint."""
        return self._endpoint.connect(protocolFactory).addCallback(self._watch)


@implementer(IBodyProducer)
class _Form:
    """A small body, written at once."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """All of it."""
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """It is written already."""

    def resumeProducing(self) -> None:
        """Likewise."""

    def stopProducing(self) -> None:
        """Likewise."""


class _Body(Protocol):
    """Reads a response, but not for ever."""

    def __init__(self, most: int) -> None:
        self.whole: Deferred[bytes] = Deferred(lambda _: self._hang_up())
        self._most = most
        self._chunks: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        """A piece."""
        self._size += len(data)
        if self._size <= self._most:
            self._chunks.append(data)
        elif not self.whole.called:
            self.whole.errback(HttpError(f"its answer is too large: more than {self._most} octets"))
            self._hang_up()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end, or too early an end."""
        if self.whole.called:
            return
        # an old server tells no length; what follows from a text cut short is the caller's
        if isinstance(reason.value, ResponseDone | PotentialDataLoss):
            self.whole.callback(b"".join(self._chunks))
        else:
            self.whole.errback(reason)

    def _hang_up(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()
