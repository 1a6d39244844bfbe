"""TLS sessions that are resumed: against Python's own TLS, which tells whether they were."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.task import Clock

from relayd.mail.nexthop import HostPort, NextHop
from relayd.mail.security import Level
from relayd.relay.courier import Hop
from relayd.relay.limits import RelayLimits
from relayd.relay.survey import Endpoint
from relayd.tls import sessions
from relayd.tls.sessions import CertificateVerdict, Handshakes, TlsSessions
from tests.certs import Authority, Issued
from tests.support import TestCase
from tests.unit.relay.test_protection import MX, Case, tlsa

reactor: Any = _reactor
NEW_EACH = RelayLimits(connection_messages=1)


class TlsServer:
    """Takes mail under TLS, one session after the other, and notes which were resumed."""

    def __init__(self, issued: Issued, folder: Path, *, newest: str = "TLSv1_3") -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*issued.write(folder, f"s{id(self)}"))
        self.context.maximum_version = getattr(ssl.TLSVersion, newest)
        self.resumed: list[bool] = []
        self.taken = 0
        self.chokes: Callable[[ssl.SSLSocket], bool] = lambda _: False
        self.implicit = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            with plain, contextlib.suppress(OSError):
                self._session(plain)

    def _session(self, plain: socket.socket) -> None:
        if not self.implicit:
            plain.sendall(b"220 mx ESMTP\r\n")
            plain.recv(1000)
            plain.sendall(b"250-mx\r\n250 STARTTLS\r\n")
            plain.recv(1000)
            plain.sendall(b"220 go\r\n")
        with self.context.wrap_socket(plain, server_side=True) as secure:
            self.resumed.append(bool(secure.session_reused))
            if self.chokes(secure):
                return
            if self.implicit:
                secure.sendall(b"220 mx ESMTP\r\n")
            lines = secure.makefile("rb")
            for line in lines:
                verb = line[:4].upper()
                if verb == b"DATA":
                    secure.sendall(b"354 go\r\n")
                    while lines.readline() != b".\r\n":
                        pass
                    self.taken += 1
                secure.sendall(b"221 bye\r\n" if verb == b"QUIT" else b"250 fine\r\n")
                if verb == b"QUIT":
                    return


class Resumed(Case, TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.counts = Handshakes()
        self.settings.contexts.sessions.counts = self.counts
        self.courier.apply(NEW_EACH)

    def server(self, issued: Issued | None = None, **changes: Any) -> TlsServer:  # noqa: ANN401
        server = TlsServer(issued or self.authority.issue(MX), self.folder, **changes)
        self.addCleanup(server.stop)
        self.endpoints.append(Endpoint(MX, "127.0.0.1", server.port, True))
        return server

    @property
    def shaken(self) -> tuple[int, int]:
        """Handshakes that looked at a certificate, and those that did not have to."""
        return self.counts.full, self.counts.resumed

    def hop(self, level: str, *, implicit: bool = False, name: str = "isp") -> Hop:
        hosts = (HostPort(MX, 25),)
        return Hop((NextHop(name, "smtp", hosts, level=Level(level), implicit_tls=implicit),))

    async def test_the_second_connection_resumes_and_says_what_the_first_found(self) -> None:
        for newest in ("TLSv1_2", "TLSv1_3"):
            for level in ("verify", "required", "optional"):
                self.endpoints.clear()
                server = self.server(newest=newest)
                said = [(await self.deliver(self.hop(level))).tls for _ in range(3)]
                self.assertEqual(server.resumed, [False, True, True], (newest, level))
                self.assertEqual((len(set(said)), server.taken), (1, 3))
                self.assertTrue(said[0].endswith(" verified"), said)
        self.assertEqual(self.shaken, (6, 12))

    async def test_tls_from_the_first_octet_likewise(self) -> None:
        server = self.server()
        server.implicit = True
        for _ in range(2):
            outcome = await self.deliver(self.hop("verify", implicit=True))
        self.assertEqual((server.resumed, server.taken), ([False, True], 2), str(outcome))

    async def test_what_was_good_enough_is_not_for_a_stricter_policy(self) -> None:
        """The session of a stranger, which optional TLS has no quarrel with."""
        server = self.server(Authority("nobody knows").issue(MX))
        for _ in range(2):
            outcome = await self.deliver(self.hop("optional"))
            self.assertNotIn("verified", outcome.tls)
        self.assertEqual(server.resumed, [False, True])
        self.waits(await self.deliver(self.hop("verify")), "unable to get local issuer")
        self.assertEqual((self.shaken, server.taken), ((2, 1), 2))
        self.publish(tlsa(3, 1, self.authority.issue(MX)))
        self.waits(await self.deliver(), "no certificate matches")
        self.assertEqual((self.shaken, server.taken), ((3, 1), 2))

    async def test_nor_for_another_name(self) -> None:
        server = self.server()
        await self.deliver(self.hop("verify"))
        self.endpoints[0] = replace(self.endpoints[0], host="other.example.com")
        self.waits(await self.deliver(self.hop("verify")), "certificate is not for other")
        self.assertEqual((self.shaken, server.taken), ((2, 0), 1))

    async def test_by_tlsa_records_and_no_others(self) -> None:
        issued = self.authority.issue(MX)
        server = self.server(issued)
        self.publish(tlsa(3, 1, issued))
        for _ in range(2):
            outcome = await self.deliver()
            self.assertTrue(outcome.tls.endswith(" dane"), str(outcome))
        self.assertEqual(server.resumed, [False, True])
        self.protection._resolver.forget()
        self.publish(tlsa(3, 1, self.authority.issue(MX)))  # the key was changed for another
        self.waits(await self.deliver(), "no certificate matches")
        self.assertEqual((self.shaken, server.taken), ((2, 1), 2))

    async def test_a_server_that_chokes_on_it_is_asked_without(self) -> None:
        for newest in ("TLSv1_2", "TLSv1_3"):
            self.endpoints.clear()
            server = self.server(newest=newest)
            server.chokes = lambda secure: bool(secure.session_reused)
            for count in range(1, 4):
                outcome = await self.deliver(self.hop("verify"))
                self.assertEqual((outcome.reply.code, server.taken), (250, count), str(outcome))
            # once, and then it is left alone
            self.assertEqual(server.resumed, [False, True, False, False], newest)

    async def test_what_demands_tls_all_the_way_likewise(self) -> None:
        server = self.server()
        server.chokes = lambda secure: bool(secure.session_reused)
        for _ in range(2):
            outcome = await self.deliver(self.hop("verify"), require_tls=True)
            self.assertIn("REQUIRETLS", str(outcome.reply))  # which it does not offer
        self.assertEqual(self.shaken, (2, 1))

    async def test_one_that_forgets_sessions_shakes_hands(self) -> None:
        issued = self.authority.issue(MX)
        server = self.server(issued)
        await self.deliver(self.hop("verify"))
        fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        fresh.load_cert_chain(*issued.write(self.folder, "again"))
        server.context = fresh  # it was restarted: its ticket keys are others
        self.assertTrue((await self.deliver(self.hop("verify"))).tls.endswith(" verified"))
        self.assertEqual((server.resumed, server.taken), ([False, False], 2))

    async def test_under_new_settings_all_is_looked_at_anew(self) -> None:
        server = self.server()
        await self.deliver(self.hop("verify"))
        authorities = self.folder / "others.pem"
        authorities.write_bytes(Authority("another").pem)
        contexts = type(self.settings.contexts)(authorities=authorities)
        self.protection.settings = replace(self.settings, contexts=contexts)
        self.waits(await self.deliver(self.hop("verify")), "unable to get local issuer")
        self.assertEqual(contexts.sessions.counts, Handshakes(full=1))
        self.assertEqual(server.taken, 1)


class Kept(TestCase):
    def test_after_an_hour_the_certificate_is_looked_at_again(self) -> None:
        clock = Clock()
        kept = TlsSessions(clock=clock.seconds)
        session: Any = object()
        kept.keep("mx", session, CertificateVerdict(), None)
        for _ in range(5):
            clock.advance(sessions.LIFETIME / 6)
            found = kept.find("mx")
            assert found is not None
            kept.keep("mx", session, found.verdict, found)  # resumed, which proves nothing new
        clock.advance(sessions.LIFETIME / 6)
        self.assertIsNone(kept.find("mx"))

    def test_only_so_many_are_kept(self) -> None:
        self.patch(sessions, "MOST", 3)
        kept = TlsSessions()
        session: Any = object()
        for name in "abc":
            kept.keep(name, session, CertificateVerdict(), None)
        kept.find("a")
        kept.keep("d", session, CertificateVerdict(), None)
        self.assertEqual([name for name in "abcd" if kept.find(name)], ["a", "c", "d"])

    def test_where_it_failed_none_is_kept_for_a_while(self) -> None:
        clock = Clock()
        kept = TlsSessions(clock=clock.seconds)
        session: Any = object()
        kept.refuse("mx")
        kept.keep("mx", session, CertificateVerdict(), None)
        self.assertIsNone(kept.find("mx"))
        clock.advance(sessions.LIFETIME)
        kept.keep("mx", session, CertificateVerdict(), None)
        self.assertIsNotNone(kept.find("mx"))
