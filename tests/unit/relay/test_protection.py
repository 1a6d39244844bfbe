"""TLS to next hops, over real sockets: what is demanded, what is proven, and what then happens."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography import x509
from OpenSSL import crypto
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport

from relayd.config.tls import level_for
from relayd.dns.answer import Answer, DnsError, DnsTrouble, NxDomain, Tlsa
from relayd.dns.resolver import Resolver
from relayd.mail.delivery import Delivery
from relayd.mail.nexthop import HostPort, NextHop
from relayd.mail.outcome import Blame, Outcome
from relayd.mail.reply import Severity
from relayd.mail.security import Level
from relayd.relay import pool
from relayd.relay.connection import Connection
from relayd.relay.courier import Hop
from relayd.relay.limits import NextHopDeadlines, RelayLimits
from relayd.relay.pool import Pool
from relayd.relay.protection import Advice, Protection, TlsSettings
from relayd.relay.security import HopSecurity
from relayd.relay.smtpout import Courier
from relayd.relay.survey import Endpoint
from relayd.relay.trouble import SessionError
from relayd.smtp.exchange import ServerLimits as SessionRules
from relayd.smtp.extensions import Offer
from relayd.smtp.server import SmtpServer as SmtpServer
from relayd.tls.client import ClientContexts
from relayd.tls.demand import Demand
from relayd.tls.flaw import Failure, Policy
from tests.certs import DAY, Authority, Issued, of_no_version
from tests.ports import free_port
from tests.support import TestCase
from tests.unit.relay.fakes import a_message, a_recipient
from tests.unit.tls.test_server import Server, files

reactor: Any = _reactor
MX = "mx.example.com"
DIRECT = Hop(domain="example.com")


class Scripted(Protocol):
    """A server that answers each line from a list, and is not to be trusted."""

    replies: Sequence[bytes] = ()
    heard: list[bytes]

    def connectionMade(self) -> None:
        self._replies = list(self.replies)
        self._answer()

    def _answer(self) -> None:
        assert self.transport is not None
        if self._replies:
            reply = self._replies.pop(0)
            if not reply:
                self.transport.loseConnection()
            self.transport.write(reply)

    def dataReceived(self, data: bytes) -> None:
        self.heard.append(data)
        self._answer()


class Encrypting(Scripted):
    """... and that means what it says with `220 go`."""

    options: Any = None

    def _answer(self) -> None:
        start = self._replies[:1] == [b"220 go\r\n"]
        super()._answer()
        if start:
            transport: Any = self.transport
            transport.startTLS(self.options)


@dataclass
class Sts:
    """A policy, without the ways to it."""

    enforced: bool = True
    hosts: tuple[str, ...] = (MX,)

    @property
    def mx(self) -> tuple[str, ...]:
        return self.hosts

    def allows(self, host: str) -> bool:
        return host in self.hosts


def tlsa(usage: int, selector: int, issued: Issued, matching: int = 1) -> Tlsa:
    data = issued.der if selector == 0 else issued.spki
    digest = {1: hashlib.sha256, 2: hashlib.sha512}.get(matching)
    return Tlsa(usage, selector, matching, data if digest is None else digest(data).digest())


class Case(TestCase):
    timeout = 240
    GREETING = (b"220 mx ESMTP\r\n", b"250-mx\r\n250 STARTTLS\r\n")

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.authority = Authority()
        authorities = self.folder / "authorities.pem"
        authorities.write_bytes(self.authority.pem)
        self.levels: dict[str, Level] = {}
        self.answers: dict[str, Answer[Tlsa] | DnsError] = {}
        self.questions: list[str] = []
        self.policies: dict[str, Advice] = {}
        self.endpoints: list[Endpoint] = []
        self.settings = TlsSettings(
            ClientContexts(authorities=authorities),
            lambda domain: self.levels.get(domain, Level.AUTO),
        )
        resolver = Resolver(reactor, ask=self.ask)
        self.protection = Protection(resolver, self.settings, self.sts)
        self.courier = Courier(reactor, self.resolve, "gw.example.com", protection=self.protection)
        self.heard: list[bytes] = []
        self.servers: list[Server] = []
        self.before = 0

    async def tearDown(self) -> None:  # type: ignore[override]  # the base makes it a Deferred
        self.courier.abort()
        while self.courier.connections:
            await deferLater(reactor, 0.005)

    async def ask(self, name: str, rdtype: str) -> Answer[Any]:
        self.questions.append(name)
        answer = self.answers.get(rdtype)
        if answer is None:
            raise NxDomain(name, rdtype, "no such name")
        if isinstance(answer, DnsError):
            raise answer
        return answer

    async def sts(self, domain: str) -> Advice | None:
        return self.policies.get(domain)

    async def resolve(self, _: NextHop | str) -> Sequence[Endpoint]:
        return self.endpoints

    def publish(self, *records: Tlsa, secure: bool = True) -> None:
        self.answers["TLSA"] = Answer("x", "x", records, secure, 60)

    def serve(
        self, issued: Issued | None, *, implicit: bool = False, secure: bool = True
    ) -> Server:
        server = Server(implicit=implicit)
        self.servers.append(server)
        self.addCleanup(lambda: Deferred.fromCoroutine(server.stop()))
        if issued is not None:
            server.certificates.apply([files(issued, self.folder, f"s{id(server)}")], "1.2")
        self.endpoints.append(Endpoint(MX, "127.0.0.1", server.number, secure))
        return server

    def script(
        self,
        *replies: bytes,
        issued: Issued | None = None,
        options: CertificateOptions | None = None,
    ) -> None:
        factory: Any = Factory()
        if issued is not None:
            options = PrivateCertificate.loadPEM(issued.key_pem + issued.chain_pem).options()
        facts = {"replies": replies, "heard": self.heard, "options": options}
        factory.protocol = type("_", (Scripted if options is None else Encrypting,), facts)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.endpoints.append(Endpoint(MX, "127.0.0.1", port.getHost().port, True))

    @property
    def stored(self) -> int:
        return sum(len(server.scene.spool.stored) for server in self.servers)

    async def deliver(
        self,
        hop: Hop = DIRECT,
        *,
        require_tls: bool = False,
        content: bytes = b"Subject: x\r\n\r\nhello\r\n",
    ) -> Outcome:
        message, records = a_message(1, [a_recipient("alice@example.com")], content=content)
        if require_tls:
            message = replace(message, envelope=replace(message.envelope, require_tls=True))
        self.before = self.stored
        (outcome,) = await self.courier.deliver(Delivery(message, records), hop)
        return outcome

    def sent(self, outcome: Outcome, tls: str) -> None:
        self.assertIs(outcome.severity, Severity.SUCCESS, str(outcome))
        expected = f"TLSv1.3 TLS_AES_256_GCM_SHA384 {tls}".strip() if tls != "clear" else ""
        self.assertEqual(outcome.tls, expected)

    def waits(self, outcome: Outcome, words: str) -> None:
        """Deferred with 4.7.x, with a reason, and not a word of the mail was said."""
        self.assertRegex(str(outcome.reply), rf"^451 4\.7\.\d TLS .*{words}")
        self.assertEqual(self.stored, self.before)


class Levels(Case):
    def hop(self, level: str, *, implicit: bool = False) -> Hop:
        wanted = Level(level) if level else None
        hosts = (HostPort(MX, 25),)
        return Hop((NextHop("isp", "smtp", hosts, level=wanted, implicit_tls=implicit),))

    async def test_what_each_level_makes_of_each_certificate(self) -> None:
        good = self.authority.issue(MX)
        other = self.authority.issue("other.example")
        stranger = Authority("nobody knows").issue(MX)
        over = self.authority.issue(MX, start=-3 * DAY, end=-DAY)
        for level, issued, expected in (
            ("none", good, "clear"),
            ("", good, "verified"),
            ("", None, "clear"),
            ("optional", stranger, ""),
            ("optional", over, ""),
            ("required", other, ""),
            ("required", None, "STARTTLS is not offered"),
            ("verify", good, "verified"),
            ("verify", other, "certificate is not for mx.example.com"),
            ("verify", stranger, "unable to get local issuer certificate"),
            ("verify", over, "certificate has expired"),
            ("verify", None, "STARTTLS is not offered"),
        ):
            with self.subTest(level=level, expected=expected):
                self.endpoints.clear()
                server = self.serve(issued)
                outcome = await self.deliver(self.hop(level))
                if outcome.severity is Severity.SUCCESS:
                    self.sent(outcome, expected)
                else:
                    self.waits(outcome, f"next hop isp.*{expected}")
                    self.assertEqual(server.scene.spool.stored, [])
                self.courier._pool.close()
                self.courier._pool._closing = False

    async def test_tls_from_the_first_octet(self) -> None:
        server = self.serve(self.authority.issue(MX), implicit=True)
        self.sent(await self.deliver(self.hop("verify", implicit=True)), "verified")
        self.assertEqual(server.scene.spool.stored[0][1].client.protocol, "ESMTPS")

    async def test_a_next_hop_by_its_address(self) -> None:
        self.serve(self.authority.issue("127.0.0.1"))
        self.endpoints[0] = replace(self.endpoints[0], host="127.0.0.1")
        self.sent(await self.deliver(self.hop("verify")), "verified")

    async def test_a_common_name_is_no_name(self) -> None:
        """RFC 9525 section 2: old service-identity takes it where nothing else is there."""
        mail = x509.RFC822Name(f"postmaster@{MX}")
        for alternatives in ((), (mail,)):
            for hop in (self.hop("verify"), self.hop("verify", implicit=True)):
                self.endpoints.clear()
                issued = self.authority.issue(MX, alternatives=alternatives)
                self.serve(issued, implicit=hop.next_hops[0].implicit_tls)
                self.waits(await self.deliver(hop), f"certificate is not for {MX}")

    async def test_an_address_needs_an_address(self) -> None:
        for alternatives in ((), (x509.DNSName("127.0.0.1"),), (x509.DNSName("*.0.0.1"),)):
            self.endpoints.clear()
            self.serve(self.authority.issue("127.0.0.1", alternatives=alternatives))
            self.endpoints[0] = replace(self.endpoints[0], host="127.0.0.1")
            self.waits(await self.deliver(self.hop("verify")), "certificate is not for 127.0.0.1")

    async def test_two_messages_on_one_connection(self) -> None:
        server = self.serve(self.authority.issue(MX))
        for _ in range(2):
            self.sent(await self.deliver(self.hop("verify")), "verified")
        self.assertEqual(self.courier.connections, 1)
        self.assertEqual(len(server.scene.spool.stored), 2)

    async def test_a_kept_connection_serves_only_the_same_demands(self) -> None:
        self.serve(None)
        self.sent(await self.deliver(), "clear")
        self.levels["example.com"] = Level.REQUIRED
        outcome = await self.deliver()
        self.assertIn("STARTTLS is not offered", str(outcome.reply))

    def test_the_most_special_statement_counts(self) -> None:
        from relayd.config import load_text

        site = load_text(
            "tls to @example.com, @.example.com verify\ntls to @x.example.com none\n"
            "tls to any required\n",
            Path("/nowhere"),
        )
        find = level_for(site.domain_tls)
        for domain, level in (
            ("example.com", Level.VERIFY),
            ("a.b.example.com", Level.VERIFY),
            ("x.example.com", Level.NONE),
            ("example.org", Level.REQUIRED),
        ):
            self.assertIs(find(domain), level)


class Silence(TestCase):
    """A server that says `220 go ahead` to STARTTLS, and then nothing: it has a minute."""

    def silent(self, level: Level, seconds: int) -> tuple[str, HopSecurity]:
        """How the session has ended after so many seconds."""

        class Transport(StringTransport):
            def startTLS(self, creator: object) -> None:
                self.tls = creator

            def setTcpNoDelay(self, enabled: bool) -> None:
                pass

        clock, endpoint = Clock(), Endpoint("mx.example", "192.0.2.1", 25)
        security = HopSecurity(ClientContexts(), endpoint, Demand(level))
        made = Connection(
            Pool(clock, RelayLimits()),
            endpoint,
            "gw.example.com",
            NextHopDeadlines(),
            target="example.com",
            security=security,
        )
        made.makeConnection(Transport())
        for line in (b"220 mx ESMTP\r\n", b"250-mx\r\n250 STARTTLS\r\n", b"220 go ahead\r\n"):
            made.dataReceived(line)
        clock.pump([1.0] * seconds)
        made.cut("end of the test")
        return str(self.failureResultOf(made.opened, SessionError).value), security

    def test_it_has_a_minute_and_then_there_is_no_tls_with_it(self) -> None:
        for level in (Level.OPTIONAL, Level.REQUIRED):
            end, _ = self.silent(level, 58)
            self.assertIn("end of the test", end)
            end, security = self.silent(level, 62)
            self.assertIn("TLS handshake failed: timed out", end)
            self.assertTrue(security.failed)  # what the courier goes on in the clear by
            self.assertEqual(security.demand.clear, level is Level.OPTIONAL)


class Downgrades(Case):
    """Nothing is sent in the clear because something was stripped or broken."""

    async def attempts(self, *replies: bytes) -> AsyncIterator[tuple[bool, int, int]]:
        """At each level: whether it may be in the clear, and the EHLOs and MAILs there were."""
        for level, clear in (
            (Level.OPTIONAL, True),
            (Level.AUTO, True),
            (Level.REQUIRED, False),
            (Level.VERIFY, False),
        ):
            with self.subTest(level):
                self.endpoints.clear()
                self.heard.clear()
                self.levels["example.com"] = level
                self.script(*self.GREETING, *replies)
                outcome = await self.deliver()
                hellos = sum(each.startswith(b"EHLO") for each in self.heard)
                mails = sum(each.startswith(b"MAIL") for each in self.heard)
                yield clear, hellos, mails
                if not clear:
                    self.waits(outcome, "handshake failed")

    async def test_a_broken_handshake_is_tried_in_the_clear_only_where_optional(self) -> None:
        async for clear, hellos, mails in self.attempts(b"220 go\r\n", b"this is not TLS\r\n"):
            self.assertEqual((hellos, mails), (2, 1) if clear else (1, 0))

    async def test_a_server_that_hangs_up_at_starttls(self) -> None:
        async for clear, _, mails in self.attempts(b""):
            self.assertEqual(mails, 1 if clear else 0)

    async def test_a_handshake_that_never_ends(self) -> None:
        self.courier._deadlines = NextHopDeadlines(handshake=0.05, envelope=0.05)
        self.patch(pool, "_TICK", 0.02)
        for level, hellos in ((Level.REQUIRED, 1), (Level.OPTIONAL, 2)):
            self.endpoints.clear()
            self.heard.clear()
            self.levels["example.com"] = level
            self.script(*self.GREETING, b"220 go\r\n")
            outcome = await self.deliver()
            self.assertEqual(sum(each.startswith(b"EHLO") for each in self.heard), hellos)
            in_the_clear = sum(each.startswith(b"MAIL") for each in self.heard)
            self.assertEqual(in_the_clear, level is Level.OPTIONAL)
            if level is Level.REQUIRED:
                self.waits(outcome, "handshake failed: timed out")

    async def test_a_refused_starttls(self) -> None:
        replies = (*self.GREETING, b"454 4.7.0 not now\r\n", b"250 ok\r\n", b"")
        for level in (Level.REQUIRED, Level.OPTIONAL):
            self.endpoints.clear()
            self.heard.clear()
            self.levels["example.com"] = level
            self.script(*replies)
            outcome = await self.deliver()
            mails = sum(each.startswith(b"MAIL") for each in self.heard)
            if level is Level.REQUIRED:
                self.waits(outcome, "refused: 454 4.7.0 not now")
            self.assertEqual(mails, level is Level.OPTIONAL)

    async def test_plaintext_behind_the_220_in_one_packet(self) -> None:
        """A fresh connection in the clear where that is enough: what came is never an answer."""
        for replies in (b"220 go\r\n250 ok\r\n", b"220 go\r\n250-mx\r\n250 AUTH PLAIN\r\n"):
            async for clear, hellos, mails in self.attempts(replies):
                self.assertEqual((hellos, mails), (2, 1) if clear else (1, 0))

    async def test_any_end_on_the_way_to_tls(self) -> None:
        self.courier._deadlines = NextHopDeadlines(envelope=0.3, recipient=0)  # not all has an end
        self.patch(pool, "_TICK", 0.02)
        for replies in (
            (b"220 go\r\n", b""),  # closes instead of a ServerHello
            (b"220 go\r\n", b"\x15\x03\x03\x00\x02\x02\x28"),  # a TLS alert
            (b"220 go\r\n", b"\x16\x03\x03\xff\xff" + b"x" * 300),
            (b"220 go\r\n", b"454 4.7.0 TLS is broken\r\n"),
            (b"421 4.7.0 no TLS today\r\n",),
            (b"what?\r\n",),
            (b"454 4.7.0 not now\r\n250 and more\r\n",),
        ):
            async for clear, hellos, mails in self.attempts(*replies):
                self.assertEqual((hellos, mails), (2, 1) if clear else (1, 0), replies)

    async def test_a_starttls_that_is_never_answered(self) -> None:
        self.courier._deadlines = NextHopDeadlines(hello=0.2, envelope=0.2)
        self.patch(pool, "_TICK", 0.02)
        for level, mails in ((Level.REQUIRED, 0), (Level.OPTIONAL, 1)):
            self.endpoints.clear()
            self.heard.clear()
            self.levels["example.com"] = level
            self.script(*self.GREETING)
            outcome = await self.deliver()
            self.assertEqual(sum(each.startswith(b"MAIL") for each in self.heard), mails)
            if level is Level.REQUIRED:
                self.waits(outcome, "handshake failed: timed out")

    async def test_an_ehlo_refused_under_tls(self) -> None:
        """It welcomes us in the clear and not under TLS: in the clear only where optional."""
        for level, mails in ((Level.REQUIRED, 0), (Level.OPTIONAL, 1)):
            for replies in (
                (b"503 5.5.1 again?\r\n", b"503 5.5.1 again?\r\n"),
                (b"454 4.7.0 not under TLS\r\n",),
                (b"what?\r\n",),
                (b"",),
            ):
                with self.subTest(level=level, replies=replies):
                    self.endpoints.clear()
                    self.heard.clear()
                    self.levels["example.com"] = level
                    issued = self.authority.issue(MX)
                    self.script(*self.GREETING, b"220 go\r\n", *replies, issued=issued)
                    outcome = await self.deliver()
                    self.assertIs(outcome.severity, Severity.TRANSIENT)
                    self.assertIs(outcome.blame, Blame.DESTINATION)
                    self.assertEqual(sum(each.startswith(b"MAIL") for each in self.heard), mails)

    async def test_a_host_that_is_busy_under_tls_is_busy(self) -> None:
        self.levels["example.com"] = Level.OPTIONAL
        replies = (*self.GREETING, b"220 go\r\n", b"421 4.3.2 busy\r\n")
        self.script(*replies, issued=self.authority.issue(MX))
        outcome = await self.deliver()
        self.assertEqual(str(outcome.reply), "421 4.3.2 busy")
        self.assertFalse(any(each.startswith(b"MAIL") for each in self.heard))

    async def test_what_a_server_says_behind_220_is_no_answer(self) -> None:
        """The client's side of plaintext injection: an EHLO reply in the clear."""
        self.levels["example.com"] = Level.REQUIRED
        self.script(*self.GREETING, b"220 go\r\n250-mx\r\n250 AUTH PLAIN\r\n")
        outcome = await self.deliver()
        self.assertIn("spoke in the clear", str(outcome.reply))
        self.assertFalse(any(each.startswith(b"MAIL") for each in self.heard))

    async def test_the_next_host_is_asked(self) -> None:
        self.levels["example.com"] = Level.VERIFY
        self.serve(None)
        self.serve(self.authority.issue(MX))
        self.sent(await self.deliver(), "verified")


class Dane(Case):
    async def check(self, issued: Issued | None, *records: Tlsa) -> Outcome:
        self.endpoints.clear()
        self.serve(issued)
        self.protection._resolver.forget()
        self.publish(*records)
        outcome = await self.deliver()
        self.courier._pool.close()
        self.courier._pool._closing = False
        return outcome

    async def test_end_entity(self) -> None:
        # RFC 7672 section 3.1.1: neither name nor date nor issuer counts
        issued = Authority("x").issue("nobody", start=-3 * DAY, end=-DAY)
        for selector in (0, 1):
            for matching in (0, 1, 2):
                self.sent(await self.check(issued, tlsa(3, selector, issued, matching)), "dane")
        self.assertRegex(self.questions[-1], rf"^_\d+\._tcp\.{MX}$")
        wrong = Authority("x").issue(MX)
        outcome = await self.check(issued, tlsa(3, 1, wrong))
        self.waits(outcome, "TLSA records of _.*: no certificate matches")
        self.sent(await self.check(issued, tlsa(3, 1, wrong), tlsa(3, 1, issued)), "dane")

    async def test_trust_anchor(self) -> None:
        root = Authority("Private Root")
        middle = Authority("Private Middle", root)
        for anchor in (root, middle):
            for selector in (0, 1):
                issued = middle.issue(MX, with_root=True)
                self.sent(await self.check(issued, tlsa(2, selector, anchor.issued)), "dane")
        record = tlsa(2, 1, middle.issued)
        self.sent(await self.check(middle.issue("example.com"), record), "dane")
        outcome = await self.check(middle.issue("other.example"), record)
        self.waits(outcome, "certificate is not for mx.example.com or example.com")
        outcome = await self.check(middle.issue(MX, alternatives=()), record)
        self.waits(outcome, "certificate is not for mx.example.com or example.com")
        over = middle.issue(MX, start=-3 * DAY, end=-DAY)
        self.waits(await self.check(over, record), "certificate has expired")
        # the anchor is not sent, or did not sign
        self.waits(await self.check(root.issue(MX), record), "no certificate matches")
        forged = Issued(
            root.issue(MX).certificate, (key := root.issue(MX)).key, (middle.certificate,)
        )
        forged = replace(key, above=(middle.certificate,))
        self.waits(await self.check(forged, record), "TLSA")

    async def test_a_certificate_that_cannot_be_read_proves_nothing(self) -> None:
        issued = self.authority.issue(MX)
        strange = crypto.load_certificate(crypto.FILETYPE_PEM, of_no_version(issued))
        key = crypto.load_privatekey(crypto.FILETYPE_PEM, issued.key_pem)
        options: Any = CertificateOptions(privateKey=key, certificate=strange)
        self.script(*self.GREETING, b"220 go\r\n", options=options)
        self.publish(tlsa(3, 0, issued))
        self.waits(await self.deliver(), "no certificate that can be read")

    async def test_records_that_cannot_be_used_still_demand_tls(self) -> None:
        issued = Authority("x").issue("nobody")
        for record in (Tlsa(1, 1, 1, b"x" * 32), Tlsa(3, 1, 9, b"x"), Tlsa(3, 1, 1, b"short")):
            self.sent(await self.check(issued, record), "")
            self.waits(await self.check(None, record), "STARTTLS is not offered")

    async def test_stripped_starttls(self) -> None:
        issued = self.authority.issue(MX)
        self.waits(await self.check(None, tlsa(3, 1, issued)), "dane by the TLSA records")

    async def test_trouble_with_the_lookup_defers(self) -> None:
        self.serve(self.authority.issue(MX))
        self.answers["TLSA"] = DnsTrouble(MX, "TLSA", "SERVFAIL")
        self.waits(await self.deliver(), "lookup of its TLSA records failed")

    async def test_unsigned_answers_are_no_dane(self) -> None:
        wrong = tlsa(3, 1, Authority("x").issue(MX))
        self.serve(self.authority.issue(MX))
        self.publish(wrong, secure=False)
        self.sent(await self.deliver(), "verified")
        # unsigned MX or addresses: TLSA is not even asked for
        self.questions.clear()
        self.endpoints[0] = replace(self.endpoints[0], secure=False, port=self.endpoints[0].port)
        self.publish(wrong)
        self.courier._pool.close()
        self.sent(await self.deliver(), "verified")
        self.assertEqual(self.questions, [])

    async def test_demanded_but_not_there(self) -> None:
        self.levels["example.com"] = Level.DANE
        self.serve(self.authority.issue(MX))
        self.waits(await self.deliver(), "no signed TLSA records")


class MtaSts(Case):
    async def test_enforced(self) -> None:
        self.policies["example.com"] = Sts()
        for issued, words in (
            (self.authority.issue(MX), ""),
            (self.authority.issue("other.example"), "certificate is not for"),
            (self.authority.issue(MX, alternatives=()), "certificate is not for"),
            (None, "STARTTLS is not offered"),
        ):
            self.endpoints.clear()
            self.serve(issued, secure=False)
            outcome = await self.deliver()
            if words:
                self.waits(outcome, f"MTA-STS policy of example.com.*{words}")
            else:
                self.sent(outcome, "verified")
                self.courier._pool.close()
                self.courier._pool._closing = False

    async def test_a_host_that_the_policy_does_not_name(self) -> None:
        self.policies["example.com"] = Sts(hosts=("mx.elsewhere.example",))
        self.serve(self.authority.issue(MX), secure=False)
        self.waits(await self.deliver(), "does not name this host")

    async def test_testing(self) -> None:
        self.policies["example.com"] = Sts(enforced=False, hosts=())
        self.serve(None, secure=False)
        self.sent(await self.deliver(), "clear")

    async def test_dane_comes_first(self) -> None:
        issued = Authority("x").issue(MX)
        self.policies["example.com"] = Sts(hosts=())
        self.publish(tlsa(3, 1, issued))
        self.serve(issued)
        self.sent(await self.deliver(), "dane")


class Wanted(Case):
    """A host that wants TLS which we did without: our set-up, or its own fault, not the mail's."""

    MUST = b"530 5.7.0 Must issue a STARTTLS command first\r\n"

    async def refused(self, *replies: bytes, hop: Hop = DIRECT) -> Outcome:
        self.script(b"220 mx ESMTP\r\n", b"250-mx\r\n250 STARTTLS\r\n", *replies)
        return await self.deliver(hop)

    async def test_by_a_host_whose_starttls_does_not_work(self) -> None:
        outcome = await self.refused(b"454 4.7.0 no TLS\r\n", self.MUST)
        self.assertEqual((outcome.reply.code, outcome.blame), (451, Blame.DESTINATION))
        self.assertIn("it wants TLS", outcome.reply.text)

    async def test_by_a_host_to_which_we_say_none(self) -> None:
        self.levels["example.com"] = Level.NONE
        outcome = await self.refused(self.MUST)
        self.assertEqual((outcome.reply.code, outcome.blame), (451, Blame.DESTINATION))
        hop = Hop((NextHop("isp", "smtp", (HostPort(MX, 25),), level=Level.NONE),))
        self.endpoints.clear()
        outcome = await self.refused(self.MUST, hop=hop)
        self.assertEqual((outcome.reply.code, outcome.blame), (451, Blame.DESTINATION))
        self.assertRegex(outcome.reply.text, "^Next hop isp at mx.example.com .*it wants TLS")


class Reported(Case):
    """What domains are told of (RFC 8460): each session once, by the policy that they publish."""

    def setUp(self) -> None:
        super().setUp()
        self.told: list[tuple[Policy, Failure | None]] = []
        self.protection._results = self

    def ours(self, delivery: Delivery) -> bool:
        return False

    def note(self, policy: Policy, failure: Failure | None) -> None:
        self.told.append((policy, failure))

    async def tell(self, issued: Issued | None, *, secure: bool = False) -> str:
        """The policy and the flaw of one delivery, to a host of its own."""
        self.endpoints.clear()
        self.told.clear()
        self.serve(issued, secure=secure)
        await self.deliver()
        self.courier._pool.close()
        self.courier._pool._closing = False
        return " ".join(
            f"{policy.kind}{f' {failure.flaw}' if failure else ''}" for policy, failure in self.told
        )

    async def test_without_a_policy(self) -> None:
        self.assertEqual(await self.tell(Authority("x").issue("x")), "no-policy-found")
        self.assertEqual(await self.tell(None), "no-policy-found starttls-not-supported")
        self.endpoints.clear()
        self.told.clear()
        self.script(b"220 mx ESMTP\r\n", b"250-mx\r\n250 STARTTLS\r\n", b"")
        await self.deliver()
        [(_, failure)] = self.told
        assert failure is not None
        self.assertEqual(failure.flaw, "validation-failure")
        self.assertEqual((failure.host, failure.sender), (MX, "127.0.0.1"))

    async def test_by_mta_sts(self) -> None:
        for policy in (Sts(), Sts(enforced=False)):
            self.policies["example.com"] = policy
            for issued, flaw in (
                (self.authority.issue(MX), ""),
                (self.authority.issue(MX, start=-3 * DAY, end=-DAY), " certificate-expired"),
                (self.authority.issue("other.example"), " certificate-host-mismatch"),
                (Authority("x").issue(MX), " certificate-not-trusted"),
                (None, " starttls-not-supported"),
            ):
                self.assertEqual(await self.tell(issued), f"sts{flaw}")
            self.policies["example.com"] = replace(policy, hosts=("other.example",))
            self.assertEqual(await self.tell(self.authority.issue(MX)), "sts validation-failure")

    async def test_by_dane(self) -> None:
        right, wrong = self.authority.issue(MX), self.authority.issue(MX)
        self.publish(tlsa(3, 1, right))
        self.assertEqual(await self.tell(right, secure=True), "tlsa")
        self.assertIn("IN TLSA 3 1 1 ", self.told[0][0].strings[0])
        self.assertEqual(await self.tell(wrong, secure=True), "tlsa validation-failure")
        self.publish(tlsa(1, 1, right))
        self.assertEqual(await self.tell(right, secure=True), "tlsa tlsa-invalid")
        self.answers["TLSA"] = DnsTrouble("x", "TLSA", "SERVFAIL")
        self.assertEqual(await self.tell(right, secure=True), "tlsa dnssec-invalid")
        del self.answers["TLSA"]
        self.levels["example.com"] = Level.DANE
        self.assertEqual(await self.tell(right, secure=True), "tlsa dane-required")


class SendersWishes(Case):
    """RFC 8689."""

    async def test_tls_required_no(self) -> None:
        content = b"Subject: x\r\nTLS-Required: No\r\n\r\nhello\r\n"
        self.policies["example.com"] = Sts()
        self.serve(None)
        self.sent(await self.deliver(content=content), "clear")
        self.waits(await self.deliver(), "MTA-STS")  # and no kept connection for others
        self.levels["example.com"] = Level.VERIFY  # our own demand stands
        self.waits(await self.deliver(content=content), "STARTTLS is not offered")

    async def test_requiretls(self) -> None:
        make: Callable[..., Server] = self.serve
        server = make(self.authority.issue(MX), secure=True)
        outcome = await self.deliver(require_tls=True)
        self.assertIn("550 5.7.30", str(outcome.reply))  # it does not offer REQUIRETLS
        self.assertEqual(server.scene.spool.stored, [])
        server.scene.service.make_server = lambda _: SmtpServer(
            "mx", SessionRules(), Offer(starttls=True, require_tls=True)
        )
        self.courier._pool.close()
        self.courier._pool._closing = False
        self.sent(await self.deliver(require_tls=True), "verified")
        ((_, submission),) = server.scene.spool.stored
        self.assertTrue(submission.envelope.require_tls)
        self.endpoints[0] = replace(self.endpoints[0], secure=False)
        self.courier._pool.close()
        outcome = await self.deliver(require_tls=True)
        self.assertIn("550 5.7.30 Message requires TLS", str(outcome.reply))

    async def test_requiretls_goes_to_the_next_host_that_can(self) -> None:
        """Each must prove itself; what one lacks is not the end while another is in trouble."""
        can = Offer(starttls=True, require_tls=True)
        for first, secure in ((self.authority.issue(MX), True), (None, True), (None, False)):
            with self.subTest(secure=secure, tls=first is not None):
                self.endpoints.clear()
                self.serve(first, secure=secure)
                good = self.serve(self.authority.issue(MX))
                good.scene.service.make_server = lambda _: SmtpServer("mx", SessionRules(), can)
                self.sent(await self.deliver(require_tls=True), "verified")
                self.courier._pool.close()
                self.courier._pool._closing = False
                self.endpoints[1] = replace(self.endpoints[1], port=free_port())
                outcome = await self.deliver(require_tls=True)
                self.assertIs(outcome.severity, Severity.TRANSIENT, outcome)
                self.assertIs(outcome.blame, Blame.RECIPIENT)

    async def test_requiretls_speaks_against_no_destination(self) -> None:
        """Ordinary mail may go where it cannot."""
        self.serve(None)
        outcome = await self.deliver(require_tls=True)
        self.waits(outcome, "REQUIRETLS")
        self.assertIs(outcome.blame, Blame.RECIPIENT)
        self.sent(await self.deliver(), "clear")
