"""What clients see of our certificates, over real sockets."""

from __future__ import annotations

import contextlib
import hashlib
import os
import smtplib
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread

from relayd.intake.factory import SessionFactory
from relayd.intake.limits import SessionLimits
from relayd.intake.policy import ListenerPolicy
from relayd.smtp.extensions import Offer
from relayd.smtp.server import SmtpServer as SmtpServer
from relayd.tls.files import CertificateFiles
from relayd.tls.pair import CertificateError, load
from relayd.tls.renewal import LOOK, Certificates
from tests.certs import DAY, Authority, Issued, ecdsa_key, of_no_version, rsa_key
from tests.support import TestCase
from tests.unit.intake.scene import FakeLog, Scene

T = TypeVar("T")
reactor: Any = _reactor
LISTENER = "127.0.0.1:2525"


def files(issued: Issued, folder: Path, name: str, names: tuple[str, ...] = ()) -> CertificateFiles:
    chain, key = issued.write(folder, name)
    return CertificateFiles(chain, key, names)


class Server:
    """A listener of ours with certificates, and what it logs."""

    def __init__(self, wants_certificate: bool = False, *, implicit: bool = False) -> None:
        self.scene = Scene()
        self.clock = Clock()
        self.log = FakeLog()
        self.certificates = Certificates(
            self.clock, self.log, wants_certificate=lambda: wants_certificate
        )
        self.scene.service.reactor = reactor
        self.scene.listen(tls=self.certificates.of(LISTENER), implicit=implicit)
        make = self.scene.service.make_server

        def make_server(policy: ListenerPolicy) -> SmtpServer:
            server = make(policy)
            server.offer = Offer(starttls=policy.starttls)
            return server

        self.scene.service.make_server = make_server
        factory: Any = SessionFactory(self.scene.service, LISTENER)
        self.port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.number: int = self.port.getHost().port

    async def stop(self) -> None:
        await self.port.stopListening()
        for session in list(self.scene.service.sessions):
            session.abort()
        while self.scene.service.sessions:
            await deferLater(reactor, 0.01)

    def renew(self) -> None:
        self.certificates._look()
        self.certificates._look()


def client_context(maximum: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if maximum is not None:
        context.maximum_version = maximum
    return context


def starttls(port: int, name: str = "", context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
    """Past STARTTLS, by hand."""
    plain = socket.create_connection(("127.0.0.1", port), 10)
    plain.recv(1000)
    for line in (b"EHLO c.example\r\n", b"STARTTLS\r\n"):
        plain.sendall(line)
        reply = plain.recv(1000)
    assert reply.startswith(b"220 "), reply
    return (context or client_context()).wrap_socket(plain, server_hostname=name or None)


def seen(port: int, name: str = "", context: ssl.SSLContext | None = None) -> str:
    """The SHA-256 of the certificate that a client sees."""
    with starttls(port, name, context) as sock:
        return hashlib.sha256(sock.getpeercert(True) or b"").hexdigest()


def in_thread(function: Callable[..., T], *args: object) -> Deferred[T]:
    return deferToThread(function, *args)


class ServerCase(TestCase):
    timeout = 240

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.authority = Authority()
        self.server = self.make()

    def make(self, *, implicit: bool = False, wants_certificate: bool = False) -> Server:
        server = Server(wants_certificate, implicit=implicit)
        self.addCleanup(lambda: Deferred.fromCoroutine(server.stop()))
        return server

    def serve(self, *wanted: CertificateFiles, minimum: str = "1.2") -> None:
        self.server.certificates.apply(wanted, minimum)


class Sessions(ServerCase):
    async def test_a_message_with_starttls(self) -> None:
        issued = self.authority.issue("gw.example.com")
        self.serve(files(issued, self.folder, "a"))

        def send() -> None:
            context = ssl.create_default_context(cadata=self.authority.pem.decode())
            client = smtplib.SMTP("127.0.0.1", self.server.number, "c.example", timeout=60)
            client._host = "gw.example.com"  # type: ignore[attr-defined]
            client.starttls(context=context)
            self.assertFalse(client.has_extn("starttls"))
            client.sendmail("s@example.org", ["alice@example.com"], "Subject: x\r\n\r\nx\r\n")
            client.quit()

        await in_thread(send)
        ((stored, submission),) = self.server.scene.spool.stored
        content = b"".join(stored.content.chunks())
        self.assertRegex(content, rb"with ESMTPS id \w+\r\n \(TLSv1.3 TLS_AES_256_GCM_SHA384\)")
        self.assertEqual(submission.client.certificate, "")

    async def test_tls_from_the_first_octet(self) -> None:
        server = self.server = self.make(implicit=True)
        self.serve(files(self.authority.issue("gw.example.com"), self.folder, "a"))

        def send() -> None:
            client = smtplib.SMTP_SSL(
                "127.0.0.1", server.number, "c.example", context=client_context(), timeout=60
            )
            client.sendmail("s@example.org", ["alice@example.com"], "Subject: x\r\n\r\nx\r\n")
            client.quit()

        await in_thread(send)
        self.assertEqual(server.scene.spool.stored[0][1].client.protocol, "ESMTPS")

    async def test_what_is_sent_behind_starttls_in_the_clear_is_dropped(self) -> None:
        self.serve(files(self.authority.issue("gw.example.com"), self.folder, "a"))

        def attack() -> list[bytes]:
            plain = socket.create_connection(("127.0.0.1", self.server.number), 10)
            plain.recv(1000)
            plain.sendall(b"EHLO before.example\r\n")
            plain.recv(1000)
            plain.sendall(b"STARTTLS\r\nEHLO inject.example\r\nMAIL FROM:<evil@example.org>\r\n")
            reply = plain.recv(1000)
            with client_context().wrap_socket(plain) as sock:
                sock.settimeout(0.5)
                try:
                    early = sock.recv(1000)
                except TimeoutError:
                    early = b""
                sock.settimeout(60)
                sock.sendall(b"RCPT TO:<alice@example.com>\r\n")
                return [reply, early, sock.recv(1000)]

        reply, early, late = await in_thread(attack)
        self.assertEqual(reply.count(b"\r\n"), 1)
        self.assertEqual(early, b"")
        self.assertTrue(late.startswith(b"503 "), late)

    async def test_plaintext_instead_of_a_handshake_ends_it(self) -> None:
        self.serve(files(self.authority.issue("gw.example.com"), self.folder, "a"))

        def attack() -> bytes:
            plain = socket.create_connection(("127.0.0.1", self.server.number), 10)
            plain.recv(1000)
            for line in (b"EHLO c.example\r\n", b"STARTTLS\r\n"):
                plain.sendall(line)
                plain.recv(1000)
            plain.sendall(b"MAIL FROM:<evil@example.org>\r\n")
            received = b""
            with contextlib.suppress(OSError):
                while more := plain.recv(1000):
                    received += more
            return received

        self.assertNotIn(b"250", await in_thread(attack))
        while self.server.scene.service.sessions:
            await deferLater(reactor, 0.01)
        self.assertIn("handshake failed", self.server.scene.log.of("session")[0])

    async def test_a_client_certificate_is_known_by_its_prints(self) -> None:
        self.server = self.make(wants_certificate=True)
        self.serve(files(self.authority.issue("gw.example.com"), self.folder, "a"))
        mine = Authority("somebody else").issue("me.example")
        chain, key = mine.write(self.folder, "mine")
        for certified in (True, False):

            def send(certified: bool = certified) -> None:
                context = client_context()
                if certified:
                    context.load_cert_chain(chain, key)
                client = smtplib.SMTP("127.0.0.1", self.server.number, "c.example", timeout=60)
                client.starttls(context=context)
                client.sendmail("s@example.org", ["alice@example.com"], "Subject: x\r\n\r\nx\r\n")
                client.quit()

            await in_thread(send)
        prints = [each[1].client.certificate for each in self.server.scene.spool.stored]
        self.assertEqual(prints, [f"{mine.sha256} {mine.spki_sha256}", ""])

    async def test_a_client_certificate_that_cannot_be_read_is_none(self) -> None:
        self.server = self.make(wants_certificate=True)
        self.serve(files(self.authority.issue("gw.example.com"), self.folder, "a"))
        mine = self.authority.issue("me.example")
        chain, key = mine.write(self.folder, "mine")
        chain.write_bytes(of_no_version(mine))

        def send() -> None:
            context = client_context()
            context.load_cert_chain(chain, key)
            client = smtplib.SMTP("127.0.0.1", self.server.number, "c.example", timeout=60)
            client.starttls(context=context)
            client.sendmail("s@example.org", ["alice@example.com"], "Subject: x\r\n\r\nx\r\n")
            client.quit()

        await in_thread(send)
        (stored,) = self.server.scene.spool.stored
        self.assertEqual(stored[1].client.certificate, "")
        self.assertIn("TLSv1.3", stored[1].client.tls)


class WhichCertificate(ServerCase):
    async def test_by_server_name(self) -> None:
        issue = self.authority.issue
        default, named, star = issue("gw.example.com"), issue("b.example.net"), issue("*.c.example")
        self.serve(
            files(named, self.folder, "b", ("b.example.net",)),
            files(star, self.folder, "c", ("*.c.example",)),
            files(default, self.folder, "a"),
        )
        for name, expected in (
            ("", default),
            ("gw.example.com", default),
            ("B.example.net", named),
            ("x.c.example", star),
            ("y.x.c.example", default),
            ("c.example", default),
        ):
            with self.subTest(name):
                self.assertEqual(await in_thread(seen, self.server.number, name), expected.sha256)

    async def test_ecdsa_and_rsa_together_each_with_its_chain(self) -> None:
        upper = Authority("Intermediate", self.authority)
        one = upper.issue("gw.example.com", key=ecdsa_key())
        two = self.authority.issue("gw.example.com", key=rsa_key())
        self.serve(files(one, self.folder, "ec"), files(two, self.folder, "rsa"))
        for ciphers, expected in (("ECDHE+ECDSA", one), ("ECDHE+aRSA", two)):
            context = client_context(ssl.TLSVersion.TLSv1_2)
            context.set_ciphers(ciphers)
            context.load_verify_locations(cadata=self.authority.pem.decode())
            context.verify_mode = ssl.CERT_REQUIRED
            with self.subTest(ciphers):
                found = await in_thread(seen, self.server.number, "", context)
                self.assertEqual(found, expected.sha256)

    async def test_two_of_one_kind_do_not_fit(self) -> None:
        pair = [
            files(self.authority.issue("gw.example.com"), self.folder, name) for name in ("a", "b")
        ]
        self.serve(*pair)
        self.assertIn("both ECDSA", self.server.log.of("trouble")[0])
        self.assertFalse(self.server.certificates.of(LISTENER).ready)

    def test_what_cannot_be_loaded_says_why(self) -> None:
        issued, other = self.authority.issue("a.example"), self.authority.issue("a.example")
        good = files(issued, self.folder, "a")
        other.write(self.folder, "other")
        for damage, words in (
            (lambda: good.key.write_bytes(other.key_pem), "is not the key of"),
            (lambda: good.key.write_bytes(b"x"), "no readable private key"),
            (lambda: good.certificate.write_bytes(b"x"), "no certificate in PEM"),
            (lambda: good.certificate.unlink(), "cannot read"),
        ):
            damage()
            with self.assertRaisesRegex(CertificateError, words):
                load(good)


class Strength(ServerCase):
    async def test_old_versions_only_where_it_is_said(self) -> None:
        self.serve(files(self.authority.issue("a.example", key=rsa_key()), self.folder, "a"))
        old = client_context(ssl.TLSVersion.TLSv1_1)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.set_ciphers("ALL:@SECLEVEL=0")
        with self.assertRaises(OSError):
            await in_thread(seen, self.server.number, "", old)
        self.serve(files(self.authority.issue("a.example", key=rsa_key()), self.folder, "a"),
                   minimum="1.0")  # fmt: skip
        await in_thread(seen, self.server.number, "", old)

    async def test_no_cipher_without_forward_secrecy_and_aead(self) -> None:
        self.serve(files(self.authority.issue("a.example", key=rsa_key()), self.folder, "a"))
        for ciphers in ("RSA+AES", "ECDHE+AES:!AESGCM:!AESCCM", "DHE+AES"):
            context = client_context(ssl.TLSVersion.TLSv1_2)
            context.set_ciphers(ciphers)
            with self.subTest(ciphers), self.assertRaises(OSError):
                await in_thread(seen, self.server.number, "", context)


class Renewal(ServerCase):
    async def test_two_hundred_open_sessions_do_not_notice(self) -> None:
        old, new = self.authority.issue("a.example"), self.authority.issue("a.example")
        wanted = files(old, self.folder, "a")
        self.serve(wanted)
        self.server.scene.service.admission.limits = SessionLimits(per_client=500)

        def open_many() -> list[ssl.SSLSocket]:
            return [starttls(self.server.number) for _ in range(200)]

        def use(socks: list[ssl.SSLSocket]) -> list[bytes]:
            replies = []
            for sock in socks:
                sock.sendall(b"EHLO c.example\r\n")
                replies.append(sock.recv(1000)[:4])
                sock.close()
            return replies

        sessions = await in_thread(open_many)
        new.write(self.folder, "a")
        self.server.certificates.start()
        self.server.clock.advance(LOOK)
        self.server.clock.advance(LOOK)
        self.addCleanup(self.server.certificates.stop)
        self.assertLess(2 * LOOK, 10)
        self.assertEqual(await in_thread(seen, self.server.number), new.sha256)
        self.assertEqual(await in_thread(use, sessions), [b"250-"] * 200)

    def test_a_pair_that_does_not_load_keeps_the_old_one_and_says_so_once(self) -> None:
        wanted = files(self.authority.issue("a.example"), self.folder, "a")
        self.serve(wanted)
        tls = self.server.certificates.of(LISTENER)
        before = tls._first
        wanted.key.write_bytes(b"half of a k")
        for _ in range(5):
            self.server.renew()
        (line,) = self.server.log.of("trouble")
        self.assertIn("the old one stays", line)
        self.assertIs(tls._first, before)
        self.authority.issue("a.example").write(self.folder, "a")
        os.utime(wanted.key, (time.time(), time.time() + 5))
        self.server.renew()
        self.assertIsNot(tls._first, before)

    def test_a_renewed_key_that_everybody_may_read_is_complained_of(self) -> None:
        wanted = files(self.authority.issue("a.example"), self.folder, "a")
        self.serve(wanted)
        self.assertEqual(self.server.log.of("trouble"), [])  # said with the configuration
        wanted.key.chmod(0o644)
        os.utime(wanted.key, (time.time(), time.time() + 5))
        self.server.renew()
        (line,) = self.server.log.of("trouble")
        self.assertIn("open to every user of this machine (mode 0644)", line)
        self.assertIn(f"chmod 640 {wanted.key}", line)

    def test_an_expired_one_is_served_with_a_loud_line(self) -> None:
        over = self.authority.issue("a.example", start=-3 * DAY, end=-DAY)
        self.serve(files(over, self.folder, "a"))
        self.assertIn("certificate expired", self.server.log.of("trouble")[0])
        self.assertTrue(self.server.certificates.of(LISTENER).ready)
