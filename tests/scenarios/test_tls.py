"""TLS with programs that are not ours, at both ends, and DANE from a zone signed for the test."""

from __future__ import annotations

import hashlib
import os
import shutil
import smtplib
import ssl
import subprocess
import tempfile
import time
import unittest
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from relayd.dns.resolver import Resolver
from relayd.mail.delivery import Delivery
from relayd.mail.outcome import Outcome
from relayd.mail.reply import Severity
from relayd.mail.security import Level
from relayd.relay.courier import Hop
from relayd.relay.protection import Protection, TlsSettings
from relayd.relay.resolve import Directory
from relayd.relay.selfdetection import SelfDetection
from relayd.relay.smtpout import Courier
from relayd.tls.client import ClientContexts
from tests.certs import DAY, Authority, Issued
from tests.scenarios import peers
from tests.scenarios.harness import (
    Process,
    Relayd,
    Scenario,
    free_port,
    missing_peer,
    port_is_open,
    program,
    run,
    unhurried,
    wait_until,
)
from tests.support import TestCase
from tests.unit.relay.fakes import a_message, a_recipient
from tests.unit.tls.test_server import Server, files

reactor: Any = _reactor
TLS = "TLSv1.3 TLS_AES_256_GCM_SHA384"


class Clients(Scenario):
    """swaks, msmtp, Postfix and Python submit to us under TLS."""

    needs = ("swaks", "msmtp", "postfix")

    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority()
        room = self.room("tls")
        self.trusted = room / "authority.pem"
        self.trusted.write_bytes(self.authority.pem)
        self.chain, self.key = self.authority.issue("gw.example.com", "127.0.0.1").write(room, "gw")
        self.store = peers.Postfix(self, "store", domains=["example.com"])
        self.implicit = free_port()
        self.relay = self.relayd(
            "accept to @example.com\nroute any via store\n"
            f"next-hop store smtp 127.0.0.1:{self.store.port}\n",
            settings=f"certificate {self.chain} key {self.key}\n"
            f"listen 127.0.0.1:{self.implicit} tls implicit\n",
        )

    def received(self) -> str:
        wait_until(self.store.mailbox, "the message arrives")
        text = self.store.mailbox()[-1].decode()
        return text.partition("\r\n\r\n")[0]

    def arrived(self, number: int) -> bool:
        return len(self.store.mailbox()) > number

    def assert_secure(self) -> None:
        header = self.received()
        # msmtp 1.8.28 says SMTPUTF8 of everything (RFC 6531 section 3.7.3)
        self.assertRegex(header, r" by gw\.example\.com \(relayd\) with (ESMTP|UTF8SMTP)S id ")
        self.assertRegex(header, r"\(TLSv1\.3 TLS_\w+\)")

    def test_swaks(self) -> None:
        for number, (port, word) in enumerate(
            ((self.relay.port, "--tls"), (self.implicit, "--tlsc"))
        ):
            try:
                run(
                    [
                        *(program("swaks"), word, "--tls-verify"),
                        *("--tls-ca-path", str(self.trusted), "--server", f"127.0.0.1:{port}"),
                        *("--to", "a@example.com", "--from", "b@example.org"),
                    ]
                )
            except AssertionError as error:
                if "Net::SSLeay" in str(error):
                    raise unittest.SkipTest("needs libnet-ssleay-perl") from None
                raise
            wait_until(partial(self.arrived, number), "the message arrives")
            self.assert_secure()

    def test_msmtp(self) -> None:
        for port, starttls in ((self.relay.port, "on"), (self.implicit, "off")):
            run(
                [
                    *(program("msmtp"), "--host=127.0.0.1", f"--port={port}", "--auth=off"),
                    *("--tls=on", f"--tls-starttls={starttls}"),
                    *(f"--tls-trust-file={self.trusted}", "--from=b@example.org", "a@example.com"),
                ],
                data=b"Subject: x\n\nhello\n",
            )
        self.assert_secure()

    def test_postfix(self) -> None:
        client = peers.Postfix(
            self,
            "client",
            relayhost=f"[127.0.0.1]:{self.relay.port}",
            extra="smtp_tls_security_level = verify\nsmtp_tls_loglevel = 1\n"
            f"smtp_tls_CAfile = {self.trusted}\nsmtp_tls_verify_cert_match = gw.example.com\n",
        )
        client.submit("b@example.org", ["a@example.com"], b"Subject: x\r\n\r\nhello\r\n")
        self.assert_secure()
        verified = "Verified TLS connection established to 127.0.0.1"
        wait_until(lambda: verified in client.log(), "its log has it")

    def test_a_renewed_certificate_shows_within_ten_seconds(self) -> None:
        def shown() -> str:
            with smtplib.SMTP("127.0.0.1", self.relay.port, timeout=60) as client:
                context = ssl.create_default_context(cafile=str(self.trusted))
                client.starttls(context=context)
                assert client.sock is not None
                return hashlib.sha256(client.sock.getpeercert(True) or b"").hexdigest()  # type: ignore[attr-defined]

        with self.relay.session() as held:
            held.ehlo()
            before = shown()
            renewed = self.authority.issue("gw.example.com", "127.0.0.1")
            renewed.write(self.chain.parent, "gw")
            start = time.monotonic()
            wait_until(lambda: shown() != before, "the new certificate shows")
            self.assertLess(unhurried(start), 10)
            self.assertEqual(shown(), renewed.sha256)
            self.assertEqual(held.noop()[0], 250)


class KnownClients(Scenario):
    """Who may relay by certificate."""

    def test_only_with_the_certificate(self) -> None:
        room = self.room("tls")
        chain, key = Authority().issue("gw.example.com").write(room, "gw")
        known, stranger = (Authority().issue("client.example") for _ in range(2))
        known.write(room, "known")
        stranger.write(room, "stranger")
        relay = self.relayd(
            f"table known {{ {known.spki_sha256} }}\n"
            "accept certificate <known>\nroute any direct\n",
            settings=f"certificate {chain} key {key}\n",
        )
        for name, code in (("known", 250), ("stranger", 550), ("", 550)):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            if name:
                context.load_cert_chain(room / f"{name}.pem", room / f"{name}.key")
            with self.subTest(name), smtplib.SMTP("127.0.0.1", relay.port, timeout=60) as client:
                client.starttls(context=context)
                client.ehlo()
                client.mail("b@example.org")
                self.assertEqual(client.rcpt("a@example.com")[0], code)


class NextHops(Scenario):
    """Postfix as the next hop, with a certificate."""

    needs = ("postfix",)

    def relay_to(self, names: tuple[str, ...], level: str, *, tls: bool = True) -> Relayd:
        authority = Authority()
        room = self.room("tls")
        trusted = room / "authority.pem"
        trusted.write_bytes(authority.pem)
        chain, key = authority.issue(*names).write(room, "store")
        extra = f"smtpd_tls_cert_file = {chain}\nsmtpd_tls_key_file = {key}\n"
        extra += f"smtpd_tls_security_level = {'may' if tls else 'none'}\n"
        extra += "smtpd_tls_received_header = yes\n"
        self.store = peers.Postfix(self, "store", domains=["example.com"], extra=extra)
        return self.relayd(
            "accept to @example.com\nroute any via store\n"
            f"next-hop store smtp 127.0.0.1:{self.store.port} tls {level}\n",
            settings=f"tls-authorities {trusted}\n",
        )

    def test_verified(self) -> None:
        relay = self.relay_to(("127.0.0.1",), "verify")
        ident = relay.send("b@example.org", ["a@example.com"])
        recipient = relay.settled(ident)
        self.assertEqual(recipient["state"], "delivered", recipient)
        self.assertIn(f"{TLS} verified", str(relay.show(ident)))
        wait_until(lambda: "status=sent" in relay.log(), "the log tells")
        self.assertIn(f'tls="{TLS} verified"', relay.log())
        header = wait_until(self.store.mailbox, "it is stored")[0].partition(b"\r\n\r\n")[0]
        self.assertRegex(header, rb"using TLSv1\.3 with cipher TLS_\w+ .*(?s:.)*with ESMTPS id")

    def test_the_wrong_name_waits(self) -> None:
        relay = self.relay_to(("elsewhere.example",), "verify")
        ident = relay.send("b@example.org", ["a@example.com"])
        recipient = relay.settled(ident)
        self.assertIn("certificate is not for 127.0.0.1", str(recipient))
        self.assertEqual(self.store.mailbox(), [])

    def test_no_tls_waits_and_says_so(self) -> None:
        relay = self.relay_to(("127.0.0.1",), "required", tls=False)
        ident = relay.send("b@example.org", ["a@example.com"])
        recipient = relay.settled(ident)
        self.assertIn("4.7.4", str(recipient))
        self.assertIn("STARTTLS is not offered", str(recipient))


class SignedZone:
    """nsd with a zone signed here and now, and a validating unbound in front of it."""

    def __init__(self, folder: Path, zones: dict[str, str], spoil: str) -> None:
        self.folder = folder
        self.running: list[Process] = []
        self.nsd_port, self.unbound_port = free_port(), free_port()
        head = (
            "$TTL 60\n@ SOA ns.invalid. hostmaster.invalid. 1 3600 600 86400 5\n@ NS ns.invalid.\n"
        )
        anchor = ""
        for name, records in zones.items():
            text = head + records
            if name.startswith("signed"):
                text, anchor = self._sign(name, text)
                text = _spoilt(text, spoil)
            (folder / f"{name}.zone").write_text(text)
        self._configure(list(zones), anchor)

    def _sign(self, name: str, text: str) -> tuple[str, str]:
        """The zone as ldnsutils sign it, and the key that a validator is to trust."""

        def ldns(program_name: str, *arguments: str) -> str:
            command = [program(program_name), *arguments]
            done = subprocess.run(
                command, cwd=self.folder, check=True, capture_output=True, text=True
            )
            return done.stdout.strip()

        key = ldns("ldns-keygen", "-k", "-a", "ECDSAP256SHA256", name)
        (self.folder / "plain.zone").write_text(f"$ORIGIN {name}.\n{text}")
        ldns("ldns-signzone", "-f", "signed.zone", "-o", name, "plain.zone", key)
        public = (self.folder / f"{key}.key").read_text().partition(";")[0].strip()
        return (self.folder / "signed.zone").read_text(), public.replace("\t", " ")

    def _configure(self, zones: list[str], anchor: str) -> None:
        folder = self.folder
        (folder / "nsd.conf").write_text(peers.nsd_conf(folder, self.nsd_port, zones))
        lines = ["server:", '  chroot: ""', '  username: ""', '  directory: "/"']
        lines += [f"  interface: 127.0.0.1@{self.unbound_port}", f"  pidfile: {folder}/unbound.pid"]
        lines += ["  use-syslog: no", "  do-daemonize: no", "  do-not-query-localhost: no"]
        lines += ['  module-config: "validator iterator"', f'  trust-anchor: "{anchor}"']
        lines += ["  num-threads: 1", '  root-hints: ""', "  do-ip6: no"]
        lines += ['  local-zone: "example." transparent', "  qname-minimisation: no"]
        lines += ["remote-control:", "  control-enable: no"]
        for zone in zones:
            lines += ["stub-zone:", f"  name: {zone}", "  stub-prime: no"]
            lines += [f"  stub-addr: 127.0.0.1@{self.nsd_port}"]
        (folder / "unbound.conf").write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        for name, port in (("nsd", self.nsd_port), ("unbound", self.unbound_port)):
            arguments = [program(name), "-d", "-c", str(self.folder / f"{name}.conf")]
            process = Process(arguments, self.folder / f"{name}.out")
            self.running.append(process)
            wait_until(partial(port_is_open, ("127.0.0.1", port)), f"{name} listens")

    def stop(self) -> None:
        for process in self.running:
            process.kill()


def _ended(server: Server) -> Deferred[None]:
    return Deferred.fromCoroutine(server.stop())


def _spoilt(text: str, name: str) -> str:
    """The zone with the signature of this name's TLSA records broken: a validator says SERVFAIL."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith(name) and line.split()[3:5] == ["RRSIG", "TLSA"]:
            words = line.split()
            words[-1] = ("A" if words[-1][0] != "A" else "B") + words[-1][1:]
            lines[number] = " ".join(words)
    return "\n".join(lines) + "\n"


def _tlsa(port: int, host: str, usage: int, selector: int, issued: Issued) -> str:
    data = issued.der if selector == 0 else issued.spki
    return f"_{port}._tcp.{host} TLSA {usage} {selector} 1 {hashlib.sha256(data).hexdigest()}\n"


class Dane(TestCase):
    """RFC 7672 with a real signer, a real validator, and our own server as the exchanger."""

    timeout = 240

    def setUp(self) -> None:
        missing = [reason for reason in map(missing_peer, ("nsd", "unbound", "ldns")) if reason]
        if missing:
            if os.environ.get("RELAYD_REQUIRE_PEERS"):
                self.fail("needs " + ", ".join(missing))
            raise unittest.SkipTest("needs " + ", ".join(missing))
        self.folder = Path(tempfile.mkdtemp(prefix="relayd-dane-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.server = Server()
        self.bare = Server()
        for server in (self.server, self.bare):
            self.addCleanup(_ended, server)
        self._publish()
        self.addCleanup(self.zone.stop)
        self.zone.start()
        resolver = Resolver(reactor, [("127.0.0.1", self.zone.unbound_port)])
        authorities = self.folder / "authorities.pem"
        authorities.write_bytes(Authority().pem)
        self.levels: dict[str, Level] = {}
        settings = TlsSettings(
            ClientContexts(authorities=authorities), lambda d: self.levels.get(d, Level.AUTO)
        )
        protection = Protection(resolver, settings)
        own = SelfDetection(["gw.example.com"])
        self.couriers = {
            server: Courier(
                reactor,
                Directory(
                    resolver,
                    own,
                    port=server.number,
                    internal=lambda: (ip_network("127.0.0.0/8"),),
                ).resolve,
                "gw.example.com",
                protection=protection,
            )
            for server in (self.server, self.bare)
        }

    def _publish(self) -> None:
        """A host for every case, each with its certificate by server name."""
        root = Authority("Private Root")
        stranger = Authority("Somebody")
        zone = "signed.example"
        start, end = -3 * DAY, -DAY  # it is over
        issued = {
            "ee": stranger.issue("whatever", start=start, end=end),  # neither name nor date counts
            "ta": root.issue(f"ta.{zone}", with_root=True),
            "wrong": stranger.issue(f"wrong.{zone}"),
            "expired": root.issue(f"expired.{zone}", with_root=True, start=start, end=end),
            "othername": root.issue("elsewhere.example", with_root=True),
            "bogus": stranger.issue(f"bogus.{zone}"),
            "none": stranger.issue(f"none.{zone}"),
        }
        self.server.certificates.apply(
            [
                files(each, self.folder, name, (f"{name}.{zone}", f"{name}.unsigned.example"))
                for name, each in issued.items()
            ],
            "1.2",
        )
        port = self.server.number
        records = "".join(f"{name} A 127.0.0.1\n{name} MX 10 {name}\n" for name in issued)
        records += "bare A 127.0.0.1\nbare MX 10 bare\nalias CNAME ee\naliased MX 10 alias\n"
        records += "half MX 10 ee.unsigned.example.\n"
        signed = records
        signed += _tlsa(port, "ee", 3, 1, issued["ee"])
        signed += _tlsa(port, "ta", 2, 0, root.issued)
        signed += _tlsa(port, "wrong", 3, 1, issued["ee"])
        signed += _tlsa(port, "expired", 2, 1, root.issued)
        signed += _tlsa(port, "othername", 2, 1, root.issued)
        signed += _tlsa(port, "bogus", 3, 1, issued["bogus"])
        signed += _tlsa(self.bare.number, "bare", 3, 1, issued["ee"])
        unsigned = records + _tlsa(port, "ee", 3, 1, issued["wrong"])
        self.zone = SignedZone(
            self.folder,
            {zone: signed, "unsigned.example": unsigned},
            f"_{port}._tcp.bogus",
        )

    async def tearDown(self) -> None:  # type: ignore[override]  # the base makes it a Deferred
        for courier in self.couriers.values():
            courier.abort()
            while courier.connections:
                await deferLater(reactor, 0.01)

    async def deliver(self, domain: str, server: Server | None = None) -> Outcome:
        message, records = a_message(1, [a_recipient(f"alice@{domain}")])
        courier = self.couriers[server or self.server]
        (outcome,) = await courier.deliver(Delivery(message, records), Hop(domain=domain))
        return outcome

    async def test_as_the_book_says(self) -> None:
        for name, words in (
            ("ee.signed.example", "dane"),
            ("ta.signed.example", "dane"),
            ("aliased.signed.example", "dane"),
            ("none.signed.example", ""),  # no TLSA: opportunistic
            ("ee.unsigned.example", ""),  # unsigned TLSA: not looked at
            ("half.signed.example", ""),  # signed MX, unsigned host
            ("wrong.signed.example", "TLSA records of .*: no certificate matches"),
            ("expired.signed.example", "certificate has expired"),
            ("othername.signed.example", "certificate is not for othername.signed.example"),
            ("bogus.signed.example", "lookup of its TLSA records failed"),
        ):
            with self.subTest(name):
                before = len(self.server.scene.spool.stored)
                outcome = await self.deliver(name)
                if outcome.severity is Severity.SUCCESS:
                    self.assertEqual(outcome.tls, f"{TLS} {words}".strip())
                else:
                    self.assertRegex(str(outcome.reply), rf"^451 4\.7\.5 TLS .*{words}")
                    self.assertEqual(len(self.server.scene.spool.stored), before)
        outcome = await self.deliver("bare.signed.example", self.bare)
        self.assertRegex(str(outcome.reply), r"^451 4\.7\.4 .*STARTTLS is not offered")
        self.assertEqual(self.bare.scene.spool.stored, [])
