"""Fetches MTA-STS policies over HTTPS (RFC 8461 section 3.3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import (
    Certificate,
    TLSVersion,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from relayd.relay.hosts import Hosts
from relayd.tls.sts import MAX_SIZE

HTTPS = 443
PATIENCE = 60.0  # seconds: section 3.3
CONNECT = 15  # seconds for one address
MOST_ADDRESSES = 3

_MARK = b"-----END CERTIFICATE-----"


class FetchError(Exception):
    """There is no policy to be had now; the text says why."""


class StsFetch:
    """Asks the policy host of a domain, at the addresses that our own resolver finds."""

    def __init__(
        self,
        reactor: Any,  # noqa: ANN401  # of many interfaces
        hosts: Hosts,
        *,
        authorities: Path | None = None,
        port: int = HTTPS,
    ) -> None:
        self._reactor = reactor
        self._hosts = hosts
        self._authorities = authorities
        self._port = port

    async def __call__(self, domain: str) -> str:
        """The policy's text; raises FetchError."""
        host = f"mta-sts.{domain}"
        found = (await self._hosts.named([host]))[host]
        if not found.addresses:
            raise FetchError(f"{host}: {found.note}")
        why = ""
        for address in found.addresses[:MOST_ADDRESSES]:
            asked = Deferred.fromCoroutine(self._ask(host, address))
            asked.addTimeout(PATIENCE, self._reactor)
            try:
                return await asked
            except (FetchError, CancelledError):
                raise
            except Exception as error:  # of TCP, of TLS, of HTTP: the next address may do better
                why = f"{type(error).__name__} {error}".strip()
        raise FetchError(f"{host}: {why}")

    async def _ask(self, host: str, address: str) -> str:
        way = _Way(self._reactor, host, address, self._port, self._trust())
        # Agent follows no redirect, and caches nothing: section 3.3 forbids both
        agent = Agent.usingEndpointFactory(  # type: ignore[no-untyped-call]  # Twisted's own
            self._reactor,
            way,
            HTTPConnectionPool(self._reactor, persistent=False),  # type: ignore[no-untyped-call]
        )
        url = f"https://{host}/.well-known/mta-sts.txt"
        headers = Headers({b"User-Agent": [b"relayd"]})
        response = await agent.request(b"GET", url.encode("ascii"), headers)
        body = _Body()
        response.deliverBody(body)
        text = await body.whole
        if response.code != 200:
            raise FetchError(f"{host} said {response.code}")
        kinds = response.headers.getRawHeaders(b"content-type") or [b""]
        if kinds[0].partition(b";")[0].strip().lower() != b"text/plain":
            raise FetchError(f"{host} sent no text/plain")
        return text.decode("utf-8", "replace")

    def _trust(self) -> Any:  # noqa: ANN401  # a private interface of Twisted's
        if self._authorities is None:
            return platformTrust()  # type: ignore[no-untyped-call]  # Twisted's own
        parts = self._authorities.read_bytes().split(_MARK)[:-1]
        return trustRootFromCertificates(  # type: ignore[no-untyped-call]  # likewise
            [Certificate.loadPEM(part + _MARK + b"\n") for part in parts]
        )


@implementer(IAgentEndpointFactory)
class _Way:
    """To one address, whatever name is in the URL; the certificate must be for the name."""

    def __init__(self, reactor: Any, host: str, address: str, port: int, trust: Any) -> None:  # noqa: ANN401
        self._reactor = reactor
        self._host = host
        self._address = address
        self._port = port
        self._trust = trust

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """The one way there is."""
        kind = TCP6ClientEndpoint if ":" in self._address else TCP4ClientEndpoint
        options = optionsForClientTLS(
            self._host,
            trustRoot=self._trust,
            extraCertificateOptions={"raiseMinimumTo": TLSVersion.TLSv1_2},
        )
        plain = kind(self._reactor, self._address, self._port, CONNECT)
        way: IStreamClientEndpoint = wrapClientTLS(options, plain)
        return way


class _Body(Protocol):
    """Reads a response, but not for ever."""

    def __init__(self) -> None:
        self.whole: Deferred[bytes] = Deferred()
        self._chunks: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        """A piece."""
        self._size += len(data)
        self._chunks.append(data)
        if self._size > MAX_SIZE and not self.whole.called:
            self.whole.errback(FetchError("the policy is too large"))
            if self.transport is not None:
                self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end, or too early an end."""
        if self.whole.called:
            return
        # an old server tells no length; cut short, a policy would allow less, or be none
        if isinstance(reason.value, ResponseDone | PotentialDataLoss):
            self.whole.callback(b"".join(self._chunks))
        else:
            self.whole.errback(reason)
