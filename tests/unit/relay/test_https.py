"""One HTTP request: what it says, what it trusts, and how it ends when a server does not."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import PrivateCertificate
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from relayd.dns.resolver import Resolver
from relayd.relay.hosts import Found, Hosts
from relayd.relay.https import HttpAnswer, HttpError, Https
from relayd.relay.internal import may_lead_to
from tests.certs import Authority
from tests.support import TestCase
from tests.unit.relay.test_resolve import FakeDns

reactor: Any = _reactor


class Addresses:
    """Hosts that answer for every name the same."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def named(self, hosts: list[str]) -> dict[str, Found]:
        note = "" if self.addresses else "does not exist"
        return {host: Found(self.addresses, note) for host in hosts}


class Root(Resource):
    isLeaf = True  # noqa: N815  # Twisted's name

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bytes, str | None, bytes]] = []
        self.open: list[Request] = []
        self.hangs_up = False

    def render(self, request: Request) -> int | bytes:
        assert request.content is not None
        kind = request.getHeader("content-type")
        self.seen.append((request.method, kind, request.content.read()))
        if request.path == b"/slow":
            request.write(b"{")  # and no more
            self.open.append(request)
            return NOT_DONE_YET
        if request.path == b"/huge":
            return b"x" * 100_001
        if request.path == b"/gone":
            cast(Any, request.transport).abortConnection()
            return NOT_DONE_YET
        request.setHeader("content-type", "Application/JSON; charset=utf-8")
        request.setResponseCode(400)
        return b"{}"


class Endless(Protocol):
    """An answer that never comes to its end, and how much of it was sent."""

    opening = b"HTTP/1.1 200 OK\r\n"
    piece = b""
    sent = 0

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(self.opening)
        if self.piece:
            transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        assert self.transport is not None
        type(self).sent += len(self.piece)
        self.transport.write(self.piece)

    def stopProducing(self) -> None:
        """The client has hung up."""


class HttpsTests(TestCase):
    def setUp(self) -> None:
        self.root = Root()
        self.authority = Authority()
        issued = self.authority.issue("idp.example")
        options = PrivateCertificate.loadPEM(issued.key_pem + issued.chain_pem).options()
        port = reactor.listenSSL(0, Site(self.root), options, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        plain = reactor.listenTCP(0, Site(self.root), interface="127.0.0.1")
        self.addCleanup(plain.stopListening)
        self.base = f"https://idp.example:{port.getHost().port}"
        self.plain = plain.getHost().port
        self.trusted = Path(self.mktemp())
        self.trusted.write_bytes(self.authority.pem)

    def web(self, *addresses: str, patience: float = 60.0) -> Https:
        hosts = cast(Hosts, Addresses(*(addresses or ("127.0.0.1",))))
        return Https(reactor, hosts, authorities=self.trusted, patience=patience, most=100_000)

    async def failure(self, web: Https, url: str) -> str:
        asked: Deferred[Any] = Deferred.fromCoroutine(web.post(url, b"a=b", {}))
        return str(await self.assertFailure(asked, HttpError))

    async def test_a_form(self) -> None:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await self.web().post(f"{self.base}/token?x=y", b"a=b", kind)
        self.assertEqual(answer, HttpAnswer(400, "application/json", b"{}"))
        self.assertEqual(self.root.seen, [(b"POST", kind["Content-Type"], b"a=b")])

    async def test_in_the_clear_to_this_machine_only(self) -> None:
        answer = await self.web().post(f"http://localhost:{self.plain}/", b"", {})
        self.assertEqual(answer.status, 400)
        said = await self.failure(self.web("192.0.2.1"), f"http://localhost:{self.plain}/")
        self.assertIn("is not this machine", said)

    async def test_a_server_that_never_ends_or_never_stops(self) -> None:
        web = self.web(patience=0.3)
        said = await self.failure(web, f"{self.base}/slow")
        self.assertIn("no answer within 0.3 seconds", said)
        [request] = self.root.open
        await self.assertFailure(request.notifyFinish(), Exception)  # we hung up
        self.assertIn("too large", await self.failure(self.web(), f"{self.base}/huge"))

    def endless(self, piece: bytes, opening: bytes = Endless.opening) -> tuple[str, type[Endless]]:
        kind = type("_", (Endless,), {"piece": piece, "opening": opening})
        port = reactor.listenTCP(0, Factory.forProtocol(kind), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"http://127.0.0.1:{port.getHost().port}/", kind

    async def test_a_header_section_without_end(self) -> None:
        for piece in (
            b"X-1: %s\r\n" % (b"x" * 1000) * 100,
            b"X: y\r\n" * 10_000,
            b" folded\r\n" * 10_000,
            b"\r\nHTTP/1.1 100 Continue\r\n" * 5_000,
        ):
            with self.subTest(piece[:30]):
                url, server = self.endless(piece, Endless.opening + b"Y: z\r\n")
                asked = Deferred.fromCoroutine(self.web().get(url))
                error = await self.assertFailure(asked, HttpError)
                self.assertIn("answer is too large", str(error))
                self.assertLess(server.sent, 8 << 20)

    async def test_a_2xx_stands_whatever_follows_where_nobody_reads_it(self) -> None:
        for opening, piece in (
            (b"Content-Length: 200000\r\n\r\n", b"x" * 200_000),
            (b"Content-Length: 1000000000\r\n\r\n", b"x" * 10_000),
            (b"Transfer-Encoding: chunked\r\n\r\n", b"4e20\r\n%b\r\n" % (b"x" * 20_000)),
            (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b""),
            (b"Content-Length: 50\r\n\r\nthanks", b""),
            (b"\r\nthanks", b""),
        ):
            url, _ = self.endless(piece, Endless.opening + opening)
            answer = await self.web(patience=20.0).hand(url, b"a=b", {})
            self.assertEqual((answer.status, answer.body), (200, b""), opening)
        url, _ = self.endless(b"", b"HTTP/1.1 500 No\r\nContent-Length: 50\r\n\r\nno")
        asked: Deferred[Any] = Deferred.fromCoroutine(self.web(patience=0.3).hand(url, b"", {}))
        self.assertIn("no answer within", str(await self.assertFailure(asked, HttpError)))

    async def test_who_never_ends_tls_has_no_connection_for_ever(self) -> None:
        """Nor one who is silent: his socket would stay ours with each request."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        issued = self.authority.issue("idp.example")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*issued.write(Path(self.trusted).parent, "idp"))

        def serve(said: bytes) -> bytes:
            """What comes on the plain connection after we have said that, at its end."""
            plain, _ = listening.accept()
            plain.settimeout(20)
            with context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=False) as tls:
                tls.recv(65536)
                tls.sendall(said)
                below = socket.socket(fileno=os.dup(tls.fileno()))  # its farewell is not answered
                below.settimeout(20)
                with below:
                    while True:
                        try:
                            if not below.recv(65536):
                                return b"ended"
                        except ConnectionResetError:
                            return b"reset"

        url = f"https://idp.example:{listening.getsockname()[1]}/"
        for said in (b"Content-Length: 2\r\n\r\nok", b"Content-Length: 9\r\n\r\nok", b""):
            served = deferToThread(serve, Endless.opening + said)
            with contextlib.suppress(HttpError):
                await self.web(patience=0.5).hand(url, b"a=b", {})
            self.assertIn(await served, (b"ended", b"reset"))

    async def test_a_header_section_that_stops(self) -> None:
        url, _ = self.endless(b"")
        asked = Deferred.fromCoroutine(self.web(patience=0.3).get(url))
        error = await self.assertFailure(asked, HttpError)
        self.assertIn("no answer within 0.3 seconds", str(error))
        asked = Deferred.fromCoroutine(self.web("127.0.0.1", "127.0.0.1").get(url))
        reactor.callLater(0.1, asked.cancel)  # somebody gives up: no other address is asked
        await self.assertFailure(asked, CancelledError)

    async def test_who_gives_up_is_not_told_of_time(self) -> None:
        asked = Deferred.fromCoroutine(self.web().post(f"{self.base}/slow", b"", {}))
        reactor.callLater(0.3, asked.cancel)
        await self.assertFailure(asked, CancelledError)
        for request in self.root.open:
            await self.assertFailure(request.notifyFinish(), Exception)

    async def test_a_form_goes_to_the_next_address_only_if_it_cannot_have_arrived(self) -> None:
        answer = await self.web("127.0.0.9", "127.0.0.1").post(f"{self.base}/", b"", {})
        self.assertEqual(answer.status, 400)
        self.root.seen.clear()
        said = await self.failure(self.web("127.0.0.1", "127.0.0.1"), f"{self.base}/gone")
        self.assertIn("idp.example: ", said)
        self.assertEqual(len(self.root.seen), 1)

    async def test_whom_it_does_not_trust(self) -> None:
        other = self.base.replace("idp.example", "other.example")
        said = await self.failure(self.web(), f"{other}/")
        self.assertIn("the certificate is for another name", said)
        self.trusted.write_bytes(Authority("a stranger").pem)
        self.assertIn("certificate verify failed", await self.failure(self.web(), f"{self.base}/"))
        self.trusted.unlink()
        self.assertIn("No such file", await self.failure(self.web(), f"{self.base}/"))
        self.assertEqual(self.root.seen, [])

    async def test_a_common_name_is_no_name(self) -> None:
        issued = self.authority.issue("idp.example", alternatives=())
        options = PrivateCertificate.loadPEM(issued.key_pem + issued.chain_pem).options()
        port = reactor.listenSSL(0, Site(self.root), options, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        base = f"https://idp.example:{port.getHost().port}/"
        self.assertIn("the certificate is for another name", await self.failure(self.web(), base))
        asked: Deferred[Any] = Deferred.fromCoroutine(self.web().get(base))
        said = await self.assertFailure(asked, HttpError)
        self.assertIn("the certificate is for another name", str(said))
        self.assertEqual(self.root.seen, [])

    async def test_what_strangers_publish_leads_to_no_internal_host(self) -> None:
        """Whatever the name is, it is the address that is looked at, and the one connected to."""
        number = self.base.rpartition(":")[2]
        inside = ("127.0.0.1", "10.0.0.1", "::1", "fd00::1", "169.254.169.254", "::ffff:7f00:1")
        for address in (*inside, "64:ff9b::7f00:1"):
            hosts = cast(Hosts, Addresses(address))
            web = Https(reactor, hosts, authorities=self.trusted, leads=may_lead_to)
            for url in (f"{self.base}/", f"http://idp.example:{self.plain}/"):
                self.assertIn("an internal address", await self.failure(web, url))
        real = Hosts(Resolver(None, ask=FakeDns({}).ask))
        for host in ("127.0.0.1", "[::1]", "localhost", "2130706433", "0x7f.1", "127.1"):
            web = Https(reactor, real, authorities=self.trusted, leads=may_lead_to)
            said = await self.failure(web, f"https://{host}:{number}/")
            self.assertRegex(said, "an internal address|does not exist")
        self.assertEqual(self.root.seen, [])
        # of several those outside are tried, and what a setting allows may be reached
        allowed = (ip_network("127.0.0.0/8"),)
        hosts = cast(Hosts, Addresses("10.0.0.1", "127.0.0.1"))
        web = Https(
            reactor,
            hosts,
            authorities=self.trusted,
            leads=lambda address: may_lead_to(address, allowed),
        )
        self.assertEqual((await web.post(f"{self.base}/", b"", {})).status, 400)

    async def test_nowhere(self) -> None:
        hosts = cast(Hosts, Addresses())
        web = Https(reactor, hosts, authorities=self.trusted)
        self.assertEqual(await self.failure(web, self.base), "idp.example: does not exist")
