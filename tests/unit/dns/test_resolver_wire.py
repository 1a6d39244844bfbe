"""The resolver against a real server on loopback that can be made to misbehave."""

from __future__ import annotations

from typing import cast

import dns.version
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, globalLogPublisher

from relayd.dns import lookup as lookup_module
from relayd.dns.answer import DnsTrouble, MailExchanger, NoData, NxDomain, Tlsa
from relayd.dns.lookup import Lookup
from relayd.dns.resolver import Resolver
from relayd.dns.wire import MOST_RECORDS
from tests.dnsserver import DnsServer
from tests.support import TestCase

ZONE = """
example.com.           SOA  ns.example.com. root.example.com. 1 60 60 60 42
example.com.      600  MX   20 MX2.example.com.
example.com.       77  MX   10 mx1.example.com.
example.com.           TXT  "v=spf1 " "-all"
mx1.example.com.       A    192.0.2.1
mx1.example.com.       A    192.0.2.2
mx1.example.com.       AAAA 2001:db8::1
alias.example.com.  30 CNAME mx1.example.com.
null.example.com.      MX   0 .
_25._tcp.mx1.example.com. TLSA 3 1 0 00ff
"""
PATIENT = (30.0,)  # seconds, for a busy machine
HASTY = (0.2,)  # where a time-out is what is tested
TAKES_GARBAGE = dns.version.MAJOR == 2 and dns.version.MINOR < 6
BIG = "\n".join(f"big.example.com. A 10.0.{n // 256}.{n % 256}" for n in range(600))


def lookup(*servers: DnsServer, rounds: tuple[float, ...] = PATIENT) -> Lookup:
    return Lookup(reactor, [server.address for server in servers], rounds=rounds)


class Wire(TestCase):
    def setUp(self) -> None:
        self.server = self.serve(ZONE)

    def serve(self, zone: str) -> DnsServer:
        server = DnsServer(reactor, zone)
        server.start()
        self.addCleanup(server.stop)
        return server

    async def test_values_are_plain(self) -> None:
        resolver = Resolver(reactor, [self.server.address])
        mx = await resolver.query("Example.COM.", "MX")
        self.assertEqual(
            sorted(mx.values),
            [MailExchanger(10, "mx1.example.com"), MailExchanger(20, "MX2.example.com")],
        )
        self.assertEqual((mx.name, mx.canonical), ("example.com", "example.com"))
        self.assertFalse(mx.secure)
        a = await resolver.query("mx1.example.com", "A")
        self.assertEqual(sorted(a.values), ["192.0.2.1", "192.0.2.2"])
        self.assertEqual((await resolver.query("mx1.example.com", "AAAA")).values, ("2001:db8::1",))
        self.assertEqual((await resolver.query("example.com", "TXT")).values, ("v=spf1 -all",))
        tlsa = await resolver.query("_25._tcp.mx1.example.com", "TLSA")
        self.assertEqual(tlsa.values, (Tlsa(3, 1, 0, b"\x00\xff"),))
        null = await resolver.query("null.example.com", "MX")
        self.assertEqual(null.values, (MailExchanger(0, "."),))

    async def test_alias_is_followed_and_named(self) -> None:
        answer = await lookup(self.server).ask("alias.example.com", "A")
        self.assertEqual(answer.canonical, "mx1.example.com")
        self.assertEqual(answer.ttl, 30)
        self.assertEqual(len(answer.values), 2)

    async def test_ad_flag_is_kept(self) -> None:
        self.server.secure = True
        self.assertTrue((await lookup(self.server).ask("example.com", "MX")).secure)

    async def test_absence_has_two_kinds_and_a_ttl(self) -> None:
        with self.assertRaises(NxDomain) as nx:
            await lookup(self.server).ask("nowhere.example.com", "A")
        self.assertEqual(nx.exception.ttl, 42)
        with self.assertRaises(NoData) as no:
            await lookup(self.server).ask("example.com", "A")
        self.assertEqual(no.exception.ttl, 42)
        with self.assertRaises(NxDomain) as bare:
            await lookup(self.server).ask("elsewhere.example", "A")
        self.assertEqual(bare.exception.ttl, 0)

    async def test_empty_non_terminal_exists(self) -> None:
        with self.assertRaises(NoData):
            await lookup(self.server).ask("_tcp.mx1.example.com", "A")

    async def test_invalid_names_do_not_exist_and_are_not_asked(self) -> None:
        for name in ("a..b", "x" * 64 + ".example", "ä.example", "a\\b.example", ".a", ""):
            with self.assertRaises(NxDomain):
                await lookup(self.server).ask(name, "A")
        self.assertEqual(self.server.queries, [])

    async def test_truncation_goes_to_tcp(self) -> None:
        self.server.load(ZONE + BIG)
        answer = await lookup(self.server).ask("big.example.com", "A")
        self.assertEqual(len(answer.values), MOST_RECORDS)
        self.assertEqual([query[2] for query in self.server.queries], ["udp", "tcp"])

    async def test_truncation_of_a_short_answer(self) -> None:
        self.server.fault("truncate")
        answer = await lookup(self.server).ask("mx1.example.com", "A")
        self.assertEqual(len(answer.values), 2)

    async def test_tcp_that_closes_is_trouble(self) -> None:
        self.server.fault("truncate", times=1)
        self.server.fault("close", times=1)
        with self.assertRaises(DnsTrouble):
            await lookup(self.server).ask("mx1.example.com", "A")

    async def test_forged_datagrams_are_dropped(self) -> None:
        self.server.fault("forge")
        answer = await lookup(self.server).ask("mx1.example.com", "A")
        self.assertEqual(len(answer.values), 2)

    async def test_each_trouble_is_temporary_and_says_what(self) -> None:
        address = f"127.0.0.1:{self.server.address[1]}"
        for kind, words in [
            ("servfail", "said SERVFAIL"),
            ("refused", "said REFUSED"),
            ("formerr", "said FORMERR"),
            ("drop", "timed out"),
            ("wrong-id", "timed out"),
            ("wrong-question", "timed out"),
            ("query", "timed out"),
            ("short", "timed out"),
            # dnspython 2.3 takes it for the answer, 2.9 waits for a better one
            ("garbage", "sent no valid answer" if TAKES_GARBAGE else "timed out"),
        ]:
            self.server.mend()
            self.server.fault(kind)
            with self.assertRaises(DnsTrouble, msg=kind) as trouble:
                await lookup(self.server, rounds=HASTY).ask("mx1.example.com", "A")
            self.assertIn(f"{address} {words}", trouble.exception.text, kind)

    async def test_a_slow_answer_is_waited_for(self) -> None:
        self.server.fault("delay", seconds=0.1)
        answer = await lookup(self.server).ask("mx1.example.com", "A")
        self.assertEqual(len(answer.values), 2)

    async def test_many_silent_names_are_not_waited_for_twice(self) -> None:
        self.patch(lookup_module, "PATIENT", 2)
        self.server.fault("drop")
        patient = lookup(self.server, rounds=(0.1, 60))
        asked = [Deferred.fromCoroutine(patient.ask(f"n{n}.example", "A")) for n in range(5)]
        for each in asked[2:]:
            with self.assertRaises(DnsTrouble):
                await each
        for each in asked[:2]:
            each.cancel()
            with self.assertRaises(CancelledError):
                await each
        self.assertEqual(patient._patient, 0)

    async def test_a_silent_name_is_remembered_where_others_have_an_answer(self) -> None:
        self.server.fault("drop", "silent.example")
        patient = lookup(self.server, rounds=(0.1, 0.1))
        asked = Deferred.fromCoroutine(patient.ask("silent.example", "A"))
        await patient.ask("mx1.example.com", "A")
        with self.assertRaises(DnsTrouble) as trouble:
            await asked
        self.assertEqual(trouble.exception.ttl, 60)
        with self.assertRaises(
            DnsTrouble
        ) as trouble:  # nobody else asked: perhaps it is the server
            await patient.ask("silent.example", "A")
        self.assertEqual(trouble.exception.ttl, 0)

    async def test_a_lost_datagram_is_asked_again(self) -> None:
        self.server.fault("drop", times=1)
        answer = await lookup(self.server, rounds=(*HASTY, *PATIENT)).ask("mx1.example.com", "A")
        self.assertEqual(len(answer.values), 2)

    async def test_nobody_listens(self) -> None:
        silent = DnsServer(reactor, "")
        silent.start()
        address = silent.address
        await silent.stop()
        with self.assertRaises(DnsTrouble) as trouble:
            await Lookup(reactor, [address], rounds=(5,)).ask("example.com", "A")
        self.assertIn("Connection refused", trouble.exception.text)

    async def test_the_next_server_takes_over(self) -> None:
        other = self.serve(ZONE)
        self.server.fault("drop")
        both = lookup(self.server, other, rounds=(1.0,))
        for _ in range(3):
            await both.ask("mx1.example.com", "A")
        self.assertEqual(len(self.server.queries), 1)
        self.assertEqual(len(other.queries), 3)

    async def test_a_refusing_server_is_not_asked_twice(self) -> None:
        other = self.serve(ZONE)
        self.server.fault("refused")
        other.fault("servfail")
        with self.assertRaises(DnsTrouble) as trouble:
            await lookup(self.server, other, rounds=(1, 1)).ask("mx1.example.com", "A")
        self.assertIn("REFUSED", trouble.exception.text)
        self.assertIn("SERVFAIL", trouble.exception.text)
        self.assertEqual(len(self.server.queries) + len(other.queries), 2)

    async def test_cancel_ends_the_query_at_once(self) -> None:
        self.server.fault("drop")
        asked = Deferred.fromCoroutine(lookup(self.server, rounds=(60, 60)).ask("example.com", "A"))
        await deferLater(reactor, 0.05)
        asked.cancel()
        with self.assertRaises(CancelledError):
            await asked
        self.assertEqual(len(self.server.queries), 1)

    async def test_a_query_writes_nothing_to_the_log(self) -> None:
        self.server.fault("truncate", times=1)
        lines: list[object] = []
        observer = cast(ILogObserver, lines.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        await lookup(self.server).ask("mx1.example.com", "A")
        await deferLater(reactor, 0.01)
        self.assertEqual(lines, [])

    async def test_cancel_over_tcp(self) -> None:
        self.server.fault("truncate", times=1)
        self.server.fault("drop")
        asked = Deferred.fromCoroutine(lookup(self.server, rounds=(60, 60)).ask("example.com", "A"))
        while len(self.server.queries) < 2:
            await deferLater(reactor, 0.01)
        asked.cancel()
        with self.assertRaises(CancelledError):
            await asked

    async def test_many_at_once_use_few_sockets(self) -> None:
        self.server.load("\n".join(f"n{n}.example. A 192.0.2.{n}" for n in range(50)))
        resolver = Resolver(reactor, [self.server.address], in_flight=5)
        asked = [Deferred.fromCoroutine(resolver.query(f"n{n}.example", "A")) for n in range(50)]
        for n, each in enumerate(asked):
            self.assertEqual((await each).values, (f"192.0.2.{n}",))


class OverIPv6(TestCase):
    async def test_server_with_an_ipv6_address(self) -> None:
        server = DnsServer(reactor, ZONE + BIG, interface="::1")
        server.start()
        self.addCleanup(server.stop)
        self.assertEqual(
            (await lookup(server).ask("mx1.example.com", "AAAA")).values,
            ("2001:db8::1",),
        )
        answer = await lookup(server).ask("big.example.com", "A")
        self.assertEqual(len(answer.values), MOST_RECORDS)
