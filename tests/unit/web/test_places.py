"""Where the console is: a socket for its group only, and TCP, where there is TLS or nothing."""

from __future__ import annotations

import socket
import ssl
import stat
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from relayd.config.values import ConsolePlace, MetricsPlace
from relayd.login.guesses import PER_ADDRESS
from relayd.tls.files import CertificateFiles
from relayd.tls.pair import load
from relayd.tls.server import ServerTls
from relayd.web import guard
from relayd.web.exchange import TurnedAwayError, WebRequest
from relayd.web.site import MOST_EACH, REQUEST_TIME, SecuredFactory, SiteFactory
from tests.certs import Authority
from tests.support import TestCase
from tests.unit.web.scene import PASSWORD, Scene, reactor

TIME = 20.0  # seconds for a socket; nobody waits so long


class OverTcp(Scene, TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority()
        self.tls = ServerTls()
        place = ConsolePlace(MetricsPlace("127.0.0.1", 1), "people")
        self.site = SiteFactory(self.clock, place, self.console.answer, self.journal)
        port = reactor.listenTCP(0, SecuredFactory(self.tls, self.site), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.number = port.getHost().port

    def serve(self) -> None:
        chain, key = self.authority.issue("127.0.0.1").write(self.folder, "tls")
        self.tls.replace([load(CertificateFiles(Path(chain), Path(key)))])

    def said(self, octets: bytes) -> Deferred[bytes]:
        """The answer within TLS, from a client in a thread."""
        context = ssl.create_default_context(cadata=self.authority.pem.decode())

        def speak() -> bytes:
            plain = socket.create_connection(("127.0.0.1", self.number), TIME)
            with plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped:
                wrapped.sendall(octets)
                return b"".join(iter(lambda: wrapped.recv(65536), b""))

        found: Deferred[bytes] = deferToThread(speak)
        return found

    def head(self, first: str, *fields: str) -> bytes:
        usual = (f"Host: 127.0.0.1:{self.number}", "Connection: close")
        return "\r\n".join([f"{first} HTTP/1.1", *usual, *fields, "", ""]).encode()

    async def test_a_login_over_tls_and_its_guesses_by_address(self) -> None:
        self.serve()
        page = (await self.said(self.head("GET /login"))).decode()
        cookie = page.partition("Set-Cookie: ")[2].partition(";")[0]
        token = page.partition('name="token" value="')[2].partition('"')[0]
        origin = f"Origin: https://127.0.0.1:{self.number}"
        kind = "Content-Type: application/x-www-form-urlencoded"
        for password, status in ((PASSWORD, "303"), ("wrong", "403")):
            body = f"token={token}&name=ada&password={password.replace(' ', '+')}"
            fields = (f"Cookie: {cookie}", origin, kind, f"Content-Length: {len(body)}")
            heard = await self.said(self.head("POST /login", *fields) + body.encode())
            self.assertIn(f"HTTP/1.1 {status} ", heard.decode()[:20])
            page = (await self.said(self.head("GET /login"))).decode()
            cookie = page.partition("Set-Cookie: ")[2].partition(";")[0]
            token = page.partition('name="token" value="')[2].partition('"')[0]
        self.assertEqual(self.journal.refusals[0][0].address, "127.0.0.1")
        heard = await self.said(self.head("POST /login", origin.replace("https", "http"), kind))
        self.assertIn(b" 403 ", heard[:20])

    async def test_nothing_in_the_clear_and_nothing_without_a_certificate(self) -> None:
        async def in_clear() -> bytes:
            def speak() -> bytes:
                with socket.create_connection(("127.0.0.1", self.number), TIME) as plain:
                    try:
                        plain.sendall(self.head("GET /login"))
                        return b"".join(iter(lambda: plain.recv(65536), b""))
                    except ConnectionError:
                        return b""

            found: bytes = await deferToThread(speak)
            return found

        self.assertEqual(await in_clear(), b"")  # there is none yet
        self.serve()
        self.assertNotIn(b"HTTP", await in_clear())

    async def test_one_client_has_some_connections_and_a_handshake_has_its_time(self) -> None:
        self.serve()

        def open_many() -> list[socket.socket]:
            return [socket.create_connection(("127.0.0.1", self.number), TIME)
                    for _ in range(MOST_EACH + 1)]  # fmt: skip

        many: list[socket.socket] = await deferToThread(open_many)
        try:
            for each in many:
                each.settimeout(TIME)
            self.assertEqual(await deferToThread(many[-1].recv, 1), b"")
            self.clock.advance(REQUEST_TIME)

            def end(each: socket.socket) -> bytes:
                try:
                    return each.recv(1)
                except ConnectionError:
                    return b""

            self.assertEqual(await deferToThread(end, many[0]), b"")
        finally:
            for each in many:
                each.close()
        waited: Deferred[Any] = Deferred()
        reactor.callLater(0.05, waited.callback, None)
        await waited
        self.assertFalse(self.site.full(None))

    def test_pace_of_guesses_is_of_the_address(self) -> None:
        for _ in range(PER_ADDRESS):
            self.guesses.begin("192.0.2.1")
        self.assertIsNone(self.guesses.begin("192.0.2.1"))
        self.assertIsNotNone(self.guesses.begin("192.0.2.2"))


class Places(Scene, TestCase):
    def test_the_socket_is_for_owner_and_group(self) -> None:
        mode = (self.folder / "admin").stat().st_mode
        self.assertEqual(stat.S_IMODE(mode), 0o660)

    def test_only_with_a_login_any_name_may_lead_here(self) -> None:
        for table, right in (("", False), ("people", True)):
            place = ConsolePlace(MetricsPlace(path=Path("/x")), table)
            request = WebRequest(
                "GET", "/", place, "", "uid=0", headers={"host": ["console.example"]}
            )
            if right:
                guard.check(request, "gw.example.com")
            else:
                with self.assertRaises(TurnedAwayError):
                    guard.check(request, "gw.example.com")

    def test_our_own_origin_is_with_tls_or_where_a_tunnel_ends(self) -> None:
        """A proxy in front of a socket ends TLS, and the browser says so."""
        socket_, tcp = MetricsPlace(path=Path("/x")), MetricsPlace("127.0.0.1", 8443)
        for place, secure, origin, right in (
            (socket_, False, "https://console.example", True),
            (socket_, False, "http://console.example", False),
            (socket_, False, "http://localhost:8025", True),
            (tcp, True, "https://console.example:8443", True),
            (tcp, True, "http://console.example:8443", False),
            (tcp, True, "http://localhost", False),
        ):
            host = origin.partition("//")[2]
            request = WebRequest("POST", "/login", ConsolePlace(place, "people"), "", "uid=0",
                                 secure, headers={"host": [host], "origin": [origin]})  # fmt: skip
            with self.subTest(origin=origin, secure=secure):
                if right:
                    guard.check(request, "gw.example.com")
                else:
                    self.assertRaises(TurnedAwayError, guard.check, request, "gw.example.com")

    async def test_guesses_through_a_proxy_are_counted_by_whose_they_are(self) -> None:
        browser = self.browser()
        page = await browser.ask("/login")
        for number in range(PER_ADDRESS + 1):
            form = {"token": page.token, "name": "ada", "password": str(number), "code": ""}
            page = await browser.ask("/login", form, x_forwarded_for="9.9.9.9, 192.0.2.7")
        self.assertEqual(page.status, 429)
        self.assertEqual(self.journal.refusals[-1][0].address, "192.0.2.7")
        form = {"token": page.token, "name": "ada", "password": PASSWORD, "code": ""}
        heard = await browser.ask("/login", form, x_forwarded_for="192.0.2.7, 192.0.2.8")
        self.assertEqual(heard.status, 303)

    def test_at_a_tcp_place_nobody_says_whose_guesses_they_are(self) -> None:
        place = ConsolePlace(MetricsPlace("127.0.0.1", 8443), "people")
        said = {"x-forwarded-for": ["192.0.2.7"]}
        request = WebRequest("GET", "/", place, "192.0.2.1", "", True, headers=said)
        self.assertEqual(request.client, "192.0.2.1")
        for text in ("nonsense", "", "192.0.2.7, x"):
            said = {"x-forwarded-for": [text]}
            request = WebRequest("GET", "/", place, "", "uid=0", headers=said)
            self.assertEqual(request.client, "unix")
