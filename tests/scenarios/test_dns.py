"""The resolver and the mail exchangers of a domain against nsd and unbound on loopback."""

from __future__ import annotations

import os
import shutil
import tempfile
import unittest
from collections.abc import Sequence
from pathlib import Path

from twisted.internet import reactor

from relayd.dns.answer import DnsTrouble, NoData, NxDomain
from relayd.dns.resolver import Resolver
from relayd.mail.nexthop import HostPort, NextHop
from relayd.relay.resolve import Directory
from relayd.relay.selfdetection import SelfDetection
from relayd.relay.survey import UnresolvedError
from tests.scenarios import peers
from tests.scenarios.harness import Process, free_port, missing_peer, port_is_open, program
from tests.scenarios.harness import wait_until as poll_until
from tests.support import TestCase

SIGNED = Path(__file__).with_name("signed.example.zone")

HEAD = """$TTL 60
@ SOA ns.invalid. hostmaster.invalid. 1 3600 600 86400 5
@ NS ns.invalid.
"""
ZONE = """
@           MX 10 mx1
@           MX 20 mx2
@           MX 20 mx3
mx1         A 192.0.2.1
mx1         AAAA 2001:db8::1
mx2         A 192.0.2.2
mx3         A 192.0.2.3
null        MX 0 .
implicit    A 192.0.2.7
implicit    AAAA 2001:db8::7
six         MX 10 mx6
mx6         AAAA 2001:db8::6
alias       CNAME implicit
aliased     MX 10 aliasmx
aliasmx     CNAME mx2
gone        MX 10 nowhere
halfgone    MX 10 nowhere
halfgone    MX 20 mx1
halfbroken  MX 10 mx.broken.example.
halfbroken  MX 20 mx1
broken      MX 10 mx.broken.example.
txt         TXT "no mail here"
loop        MX 10 mx1
loop        MX 20 gw.example.com.
loop        MX 30 mx3
toip        MX 10 192.0.2.1
""" + "\n".join(f"crowd MX {n} host{n:03}.a-name-of-some-length" for n in range(100))


class Servers:
    """nsd with the zones, unbound in front of it; `broken.example` is a zone without a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nsd_port, self.unbound_port = free_port(), free_port()
        (folder / "example.net.zone").write_text("$ORIGIN example.net.\n" + HEAD + ZONE)
        shutil.copy(SIGNED, folder / "signed.example.zone")
        zones = ("example.net", "signed.example", "broken.example")
        (folder / "nsd.conf").write_text(peers.nsd_conf(folder, self.nsd_port, zones))
        key = next(line for line in SIGNED.read_text().splitlines() if " DNSKEY 257" in line)
        lines = ["server:", '  chroot: ""', '  username: ""', '  directory: "/"']
        lines += [f"  interface: 127.0.0.1@{self.unbound_port}", f"  pidfile: {folder}/unbound.pid"]
        lines += ["  use-syslog: no", "  do-daemonize: no", "  do-not-query-localhost: no"]
        lines += ['  module-config: "validator iterator"', f'  trust-anchor: "{key}"']
        lines += ["  num-threads: 1", "  verbosity: 1", '  root-hints: ""', "  do-ip6: no"]
        lines += ['  local-zone: "example." transparent', "  qname-minimisation: no"]
        lines += ["remote-control:", "  control-enable: no"]
        for zone in zones:
            lines += ["stub-zone:", f"  name: {zone}", "  stub-prime: no"]
            lines += [f"  stub-addr: 127.0.0.1@{self.nsd_port}"]
        (folder / "unbound.conf").write_text("\n".join(lines) + "\n")
        self.running: list[Process] = []

    def start(self) -> None:
        self.nsd = self._launch("nsd", self.nsd_port)
        self.unbound = self._launch("unbound", self.unbound_port)

    def _launch(self, name: str, port: int) -> Process:
        arguments = [program(name), "-d", "-c", str(self.folder / f"{name}.conf")]
        process = Process(arguments, self.folder / f"{name}.out")
        self.running.append(process)
        try:
            poll_until(lambda: port_is_open(("127.0.0.1", port)), f"{name} listens")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{process.log()}") from None
        return process

    def stop(self) -> None:
        for process in self.running:
            process.kill()


class Peers(TestCase):
    """Both servers, fresh for each test."""

    def setUp(self) -> None:
        missing = [reason for reason in map(missing_peer, ("nsd", "unbound")) if reason]
        if missing:
            reason = "needs " + ", ".join(missing)
            if os.environ.get("RELAYD_REQUIRE_PEERS"):
                self.fail(reason)
            raise unittest.SkipTest(reason)
        folder = Path(tempfile.mkdtemp(prefix="relayd-dns-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        self.servers = Servers(folder)
        self.addCleanup(self.servers.stop)
        self.servers.start()

    def resolver(self, *ports: int) -> Resolver:
        return Resolver(reactor, [("127.0.0.1", port) for port in ports])

    def through(self, *ports: int) -> Directory:
        return Directory(self.resolver(*ports), SelfDetection(["gw.example.com"]))

    async def endpoints(self, directory: Directory, where: str | NextHop) -> list[str]:
        return [str(each) for each in await directory.resolve(where)]


class BothServers(Peers):
    """Every outcome that the RFCs ask for, from unbound (recursive) and from nsd itself."""

    def each(self) -> Sequence[Directory]:
        return [self.through(self.servers.unbound_port), self.through(self.servers.nsd_port)]

    async def refused(self, domain: str) -> set[str]:
        said = set()
        for directory in self.each():
            with self.assertRaises(UnresolvedError, msg=domain) as caught:
                await directory.resolve(domain)
            said.add(str(caught.exception.outcome.reply).split(" ")[1])
        return said

    async def test_preference_and_random_choice_among_equals(self) -> None:
        for directory in self.each():
            seen = set()
            for _ in range(40):
                found = await self.endpoints(directory, "example.net")
                self.assertEqual(found[:2], ["192.0.2.1:25", "[2001:db8::1]:25"])
                self.assertEqual(sorted(found[2:]), ["192.0.2.2:25", "192.0.2.3:25"])
                seen.add(found[2])
            self.assertEqual(len(seen), 2)

    async def test_implicit(self) -> None:
        for directory in self.each():
            for domain in ("implicit.example.net", "alias.example.net"):
                self.assertEqual(
                    await self.endpoints(directory, domain), ["192.0.2.7:25", "[2001:db8::7]:25"]
                )

    async def test_ipv6_only(self) -> None:
        for directory in self.each():
            self.assertEqual(
                await self.endpoints(directory, "six.example.net"), ["[2001:db8::6]:25"]
            )

    async def test_an_exchanger_that_is_an_alias_is_tolerated(self) -> None:
        for directory in self.each():
            self.assertEqual(
                await self.endpoints(directory, "aliased.example.net"), ["192.0.2.2:25"]
            )

    async def test_permanent(self) -> None:
        for domain, status in (
            ("null.example.net", "5.1.10"),
            ("nosuch.example.net", "5.1.2"),
            ("gone.example.net", "5.4.4"),
            ("toip.example.net", "5.4.4"),
            ("txt.example.net", "5.4.4"),
        ):
            self.assertEqual(await self.refused(domain), {status}, domain)

    async def test_temporary(self) -> None:
        for domain in ("broken.example", "broken.example.net"):
            self.assertEqual(await self.refused(domain), {"4.4.3"}, domain)

    async def test_one_host_of_two(self) -> None:
        for directory in self.each():
            for domain in ("halfgone.example.net", "halfbroken.example.net", "loop.example.net"):
                self.assertEqual(
                    await self.endpoints(directory, domain), ["192.0.2.1:25", "[2001:db8::1]:25"]
                )

    async def test_explained(self) -> None:
        for directory in self.each():
            survey = await directory.survey("loop.example.net")
            self.assertEqual(
                survey.lines(),
                [
                    "MX 10 mx1.example.net [192.0.2.1, 2001:db8::1]",
                    "MX 20 gw.example.com (this host)",
                    "MX 30 mx3.example.net (not preferred over this host)",
                ],
            )

    async def test_a_long_answer_comes_over_tcp(self) -> None:
        for port in (self.servers.unbound_port, self.servers.nsd_port):
            answer = await self.resolver(port).query("crowd.example.net", "MX")
            self.assertEqual(len(answer.values), 100)

    async def test_absence_in_both_kinds(self) -> None:
        for port in (self.servers.unbound_port, self.servers.nsd_port):
            resolver = self.resolver(port)
            for name, kind in (("txt.example.net", NoData), ("x.y.example.net", NxDomain)):
                with self.assertRaises(kind) as caught:
                    await resolver.query(name, "A")
                self.assertLessEqual(caught.exception.ttl, 5)
            self.assertEqual(
                (await resolver.query("txt.example.net", "TXT")).values[0], "no mail here"
            )

    async def test_named_next_hop(self) -> None:
        where = NextHop(
            "isp", hosts=(HostPort("mx2.example.net", 587), HostPort("mx1.example.net", 25))
        )
        for directory in self.each():
            self.assertEqual(
                await self.endpoints(directory, where),
                ["192.0.2.2:587", "192.0.2.1:25", "[2001:db8::1]:25"],
            )

    async def test_a_dead_server_before_a_living_one(self) -> None:
        directory = self.through(free_port(), self.servers.unbound_port)
        self.assertEqual(await self.endpoints(directory, "six.example.net"), ["[2001:db8::6]:25"])

    async def test_a_server_that_refuses_before_one_that_answers(self) -> None:
        resolver = self.resolver(self.servers.nsd_port)
        with self.assertRaises(DnsTrouble) as caught:
            await resolver.query("elsewhere.example", "MX")
        self.assertIn("said REFUSED", caught.exception.text)


class Validation(Peers):
    """unbound vouches by AD, which it does without being sent DO (RFC 6840 section 5.7)."""

    async def test_signed_zone_is_secure(self) -> None:
        resolver = self.resolver(self.servers.unbound_port)
        self.assertTrue((await resolver.query("signed.example", "MX")).secure)
        self.assertTrue((await resolver.query("mx.signed.example", "A")).secure)
        tlsa = await resolver.query("_25._tcp.mx.signed.example", "TLSA")
        self.assertTrue(tlsa.secure)
        self.assertEqual(tlsa.values[0][:3], (3, 1, 1))
        self.assertEqual(tlsa.values[0].data, bytes(range(32)))

    async def test_unsigned_zone_and_a_server_that_does_not_validate_are_not(self) -> None:
        resolver = self.resolver(self.servers.unbound_port)
        self.assertFalse((await resolver.query("example.net", "MX")).secure)
        resolver = self.resolver(self.servers.nsd_port)
        self.assertFalse((await resolver.query("signed.example", "MX")).secure)


class AServerDies(Peers):
    async def test_what_is_cached_outlives_it_and_the_rest_is_temporary(self) -> None:
        directory = self.through(self.servers.nsd_port)
        before = await self.endpoints(directory, "six.example.net")
        self.servers.nsd.kill()
        self.assertEqual(await self.endpoints(directory, "six.example.net"), before)
        with self.assertRaises(UnresolvedError) as caught:
            await directory.resolve("null.example.net")
        outcome = caught.exception.outcome
        self.assertEqual(outcome.reply.status, "4.4.3")
        self.assertIn("Connection refused", outcome.why)
