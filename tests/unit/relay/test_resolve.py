"""Where mail goes, for every shape of DNS data that RFC 5321 section 5.1 and RFC 7505 speak of."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, ClassVar, TypedDict, Unpack

from twisted.internet.defer import CancelledError, Deferred

from relayd.dns.answer import (
    Answer,
    DnsError,
    DnsTrouble,
    MailExchanger,
    NoData,
    NxDomain,
)
from relayd.dns.localnames import LocalNames
from relayd.dns.resolver import Resolver
from relayd.mail.nexthop import HostPort, NextHop
from relayd.mail.outcome import Blame, Outcome
from relayd.mail.reply import Severity
from relayd.relay.resolve import Directory
from relayd.relay.selfdetection import SelfDetection
from relayd.relay.survey import Endpoint, SurveyKind, UnresolvedError
from tests.support import TestCase

TROUBLE = "trouble"
Zone = dict[tuple[str, str], Any]


class FakeDns:
    """Answers from a dictionary: (name, type) -> values, TROUBLE, or a Deferred to wait for."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.asked: list[tuple[str, str]] = []

    async def ask(self, name: str, rdtype: str) -> Answer[Any]:
        self.asked.append((name, rdtype))
        found = self.zone.get((name, rdtype))
        if isinstance(found, Deferred):
            found = await found
        if found == TROUBLE:
            raise DnsTrouble(name, rdtype, "192.0.2.53:53 said SERVFAIL")
        if found is None:
            exists = any(each == name for each, _ in self.zone)
            kind: type[DnsError] = NoData if exists else NxDomain
            raise kind(name, rdtype, "no")
        return Answer(name, name, tuple(found), secure=False, ttl=60)


def mx(*pairs: tuple[int, str]) -> list[MailExchanger]:
    return [MailExchanger(*pair) for pair in pairs]


class Options(TypedDict, total=False):
    local: LocalNames
    own: tuple[str, ...]
    listen: tuple[str, ...]
    seed: int


def directory(
    zone: Zone,
    *,
    own: tuple[str, ...] = ("gw.example.com",),
    listen: tuple[str, ...] = (),
    seed: int = 1,
    local: LocalNames | None = None,
) -> Directory:
    resolver = Resolver(None, ask=FakeDns(zone).ask)
    return Directory(
        resolver,
        SelfDetection(own, listen, local=lambda address: address == "203.0.113.9"),
        shuffle=Random(seed).shuffle,
        local=local,
    )


class Resolving(TestCase):
    async def endpoints(
        self, zone: Zone, where: NextHop | str, **kwargs: Unpack[Options]
    ) -> list[str]:
        found = await directory(zone, **kwargs).resolve(where)
        return [f"{each.host} {each}" for each in found]

    async def outcome(self, zone: Zone, where: NextHop | str, **kwargs: Unpack[Options]) -> Outcome:
        with self.assertRaises(UnresolvedError) as caught:
            await directory(zone, **kwargs).resolve(where)
        outcome: Outcome = caught.exception.outcome
        return outcome


class ByMx(Resolving):
    async def test_preference_orders_the_hosts(self) -> None:
        zone = {
            ("example.net", "MX"): mx(
                (20, "b.example.net"), (10, "a.example.net"), (30, "c.example.net")
            ),
            ("a.example.net", "A"): ["192.0.2.1"],
            ("b.example.net", "A"): ["192.0.2.2"],
            ("c.example.net", "AAAA"): ["2001:db8::3"],
        }
        self.assertEqual(
            await self.endpoints(zone, "Example.NET"),
            [
                "a.example.net 192.0.2.1:25",
                "b.example.net 192.0.2.2:25",
                "c.example.net [2001:db8::3]:25",
            ],
        )

    async def test_equals_come_in_random_order(self) -> None:
        zone: Zone = {("example.net", "MX"): mx(*((10, f"m{n}.example.net") for n in range(4)))}
        for n in range(4):
            zone[f"m{n}.example.net", "A"] = [f"192.0.2.{n}"]
        first: Counter[str] = Counter()
        for seed in range(400):
            found = await self.endpoints(zone, "example.net", seed=seed)
            self.assertEqual(len(found), 4)
            first[found[0]] += 1
        self.assertEqual(len(first), 4)
        self.assertGreater(min(first.values()), 60)

    async def test_families_alternate_and_every_address_is_tried(self) -> None:
        zone = {
            ("example.net", "MX"): mx((10, "a.example.net")),
            ("a.example.net", "A"): ["192.0.2.1", "192.0.2.2", "192.0.2.3"],
            ("a.example.net", "AAAA"): ["2001:db8::1"],
        }
        found = await self.endpoints(zone, "example.net")
        self.assertEqual(
            [":" in each.split()[1][:-3] for each in found], [False, True, False, False]
        )
        self.assertEqual(len(set(found)), 4)

    async def test_number_of_addresses_is_bounded_and_leaves_room_for_the_next_host(self) -> None:
        zone: Zone = {("example.net", "MX"): mx(*((n, f"m{n}.example.net") for n in range(60)))}
        for n in range(60):
            zone[f"m{n}.example.net", "A"] = [f"203.0.{n}.{k}" for k in range(60)]
        found = await self.endpoints(zone, "example.net")
        self.assertEqual(len(found), 20)
        self.assertEqual({each.split()[0] for each in found}, {"m0.example.net", "m1.example.net"})

    async def test_a_host_without_addresses_is_skipped(self) -> None:
        zone = {
            ("example.net", "MX"): mx((10, "gone.example.net"), (20, "b.example.net")),
            ("b.example.net", "A"): ["192.0.2.2"],
        }
        self.assertEqual(await self.endpoints(zone, "example.net"), ["b.example.net 192.0.2.2:25"])

    async def test_a_host_in_trouble_is_skipped_while_another_has_addresses(self) -> None:
        zone = {
            ("example.net", "MX"): mx((10, "bad.example.net"), (20, "b.example.net")),
            ("bad.example.net", "A"): TROUBLE,
            ("b.example.net", "A"): ["192.0.2.2"],
        }
        self.assertEqual(await self.endpoints(zone, "example.net"), ["b.example.net 192.0.2.2:25"])

    async def test_trouble_with_one_family_is_no_trouble(self) -> None:
        zone = {
            ("example.net", "MX"): mx((10, "a.example.net")),
            ("a.example.net", "A"): ["192.0.2.1"],
            ("a.example.net", "AAAA"): TROUBLE,
        }
        self.assertEqual(await self.endpoints(zone, "example.net"), ["a.example.net 192.0.2.1:25"])

    async def test_trouble_with_a_host_and_no_other_address_is_temporary(self) -> None:
        for family, other in (("A", "AAAA"), ("AAAA", "A")):
            zone = {
                ("example.net", "MX"): mx((10, "bad.example.net"), (20, "gone.example.net")),
                ("bad.example.net", family): TROUBLE,
                ("bad.example.net", other): None,
            }
            outcome = await self.outcome(zone, "example.net")
            self.assertEqual(outcome.reply.status, "4.4.3")
            self.assertIs(outcome.blame, Blame.DESTINATION)
            self.assertNotIn("192.0.2.53", outcome.reply.text)
            self.assertIn("192.0.2.53:53 said SERVFAIL", outcome.why)

    async def test_no_host_exists(self) -> None:
        zone = {("example.net", "MX"): mx((10, "a.example.net"), (20, "b.example.net"))}
        outcome = await self.outcome(zone, "example.net")
        self.assertEqual(str(outcome.reply)[:9], "550 5.4.4")

    async def test_no_host_has_an_address(self) -> None:
        zone = {("example.net", "MX"): mx((10, "a.example.net")), ("a.example.net", "TXT"): [""]}
        self.assertEqual((await self.outcome(zone, "example.net")).reply.status, "5.4.4")

    async def test_names_that_are_no_host_names_are_not_asked_for(self) -> None:
        bad = (
            "192.0.2.1",
            "a..b",
            "-x.example",
            "2001:db8::1",
            "sp\\032ace.example",
            "[192.0.2.1]",
        )
        zone = {
            ("example.net", "MX"): mx(*((10, name) for name in bad), (20, "b.example.net")),
            ("b.example.net", "A"): ["192.0.2.2"],
        }
        self.assertEqual(await self.endpoints(zone, "example.net"), ["b.example.net 192.0.2.2:25"])
        zone = {("example.net", "MX"): mx((10, "192.0.2.1"))}
        self.assertEqual((await self.outcome(zone, "example.net")).reply.status, "5.4.4")

    async def test_addresses_that_are_no_hosts_are_skipped(self) -> None:
        zone = {
            ("example.net", "MX"): mx((10, "a.example.net")),
            ("a.example.net", "A"): ["0.0.0.0", "224.0.0.1", "255.255.255.255"],
            ("a.example.net", "AAAA"): ["::", "ff02::1", "::ffff:203.0.113.9", "fe80::1"],
        }
        self.assertEqual((await self.outcome(zone, "example.net")).reply.status, "5.4.4")

    async def test_null_mx(self) -> None:
        outcome = await self.outcome({("example.net", "MX"): mx((0, "."))}, "example.net")
        self.assertEqual(str(outcome.reply)[:10], "556 5.1.10")
        self.assertIs(outcome.severity, Severity.PERMANENT)

    async def test_null_mx_beside_others_is_ignored(self) -> None:
        zone = {
            ("example.net", "MX"): mx((0, "."), (10, "a.example.net")),
            ("a.example.net", "A"): ["192.0.2.1"],
        }
        self.assertEqual(await self.endpoints(zone, "example.net"), ["a.example.net 192.0.2.1:25"])

    async def test_unknown_domain(self) -> None:
        outcome = await self.outcome({}, "example.net")
        self.assertEqual(str(outcome.reply)[:9], "550 5.1.2")

    async def test_trouble_with_the_domain_is_temporary(self) -> None:
        outcome = await self.outcome({("example.net", "MX"): TROUBLE}, "example.net")
        self.assertEqual(outcome.reply.status, "4.4.3")
        self.assertIs(outcome.severity, Severity.TRANSIENT)

    async def test_international_domain_is_asked_for_in_a_labels(self) -> None:
        zone = {("xn--bcher-kva.example", "A"): ["192.0.2.1"]}
        self.assertEqual(
            await self.endpoints(zone, "Bücher.example"), ["xn--bcher-kva.example 192.0.2.1:25"]
        )

    async def test_what_is_no_domain(self) -> None:
        for domain in ("", "a..b", "x" * 64 + ".example", "\u2488com"):
            self.assertEqual((await self.outcome({}, domain)).severity, Severity.PERMANENT, domain)

    async def test_cancel(self) -> None:
        zones: tuple[Zone, ...] = (
            {("example.net", "MX"): Deferred()},
            {("example.net", "MX"): mx((1, "a.example.net")), ("a.example.net", "A"): Deferred()},
        )
        for zone in zones:
            asked = Deferred.fromCoroutine(directory(zone).resolve("example.net"))
            asked.cancel()
            with self.assertRaises(CancelledError):
                await asked


class Implicit(Resolving):
    async def test_a_domain_without_mx_is_its_own_exchanger(self) -> None:
        zone = {("example.net", "A"): ["192.0.2.1"], ("example.net", "AAAA"): ["2001:db8::1"]}
        self.assertEqual(
            await self.endpoints(zone, "example.net"),
            ["example.net 192.0.2.1:25", "example.net [2001:db8::1]:25"],
        )

    async def test_not_when_the_mx_hosts_have_no_addresses(self) -> None:
        zone = {
            ("example.net", "MX"): mx((10, "gone.example.net")),
            ("example.net", "A"): ["192.0.2.1"],
        }
        self.assertEqual((await self.outcome(zone, "example.net")).reply.status, "5.4.4")

    async def test_neither_mx_nor_address(self) -> None:
        outcome = await self.outcome({("example.net", "TXT"): ["x"]}, "example.net")
        self.assertEqual(outcome.reply.status, "5.4.4")

    async def test_trouble_with_its_address(self) -> None:
        outcome = await self.outcome({("example.net", "A"): TROUBLE}, "example.net")
        self.assertEqual(outcome.reply.status, "4.4.3")

    async def test_ourselves(self) -> None:
        zone = {("gw.example.com", "A"): ["192.0.2.1"]}
        self.assertEqual((await self.outcome(zone, "gw.example.com")).reply.status, "5.4.6")


class Loops(Resolving):
    ZONE: ClassVar[Zone] = {
        ("example.net", "MX"): mx(
            (10, "a.example.net"),
            (20, "GW.example.com"),
            (20, "c.example.net"),
            (30, "d.example.net"),
        ),
        ("a.example.net", "A"): ["192.0.2.1"],
        ("gw.example.com", "A"): ["203.0.113.9"],
        ("c.example.net", "A"): ["192.0.2.3"],
        ("d.example.net", "A"): ["192.0.2.4"],
    }

    async def test_own_name_cuts_the_list_there(self) -> None:
        self.assertEqual(
            await self.endpoints(self.ZONE, "example.net"), ["a.example.net 192.0.2.1:25"]
        )

    async def test_own_listening_address_cuts_the_list_there(self) -> None:
        self.assertEqual(
            await self.endpoints(
                self.ZONE, "example.net", own=("x.example",), listen=("203.0.113.9",)
            ),
            ["a.example.net 192.0.2.1:25"],
        )

    async def test_any_local_address_does_when_we_listen_at_all(self) -> None:
        for listen, hosts in ((("0.0.0.0",), 1), (("::",), 4), (("192.0.2.77",), 4)):
            found = await self.endpoints(
                self.ZONE, "example.net", own=("x.example",), listen=listen
            )
            self.assertEqual(len(found), hosts, listen)

    async def test_best_preference_is_ours(self) -> None:
        zone = {
            ("example.net", "MX"): mx((10, "gw.example.com"), (20, "b.example.net")),
            ("b.example.net", "A"): ["192.0.2.2"],
        }
        outcome = await self.outcome(zone, "example.net")
        self.assertEqual(str(outcome.reply)[:9], "550 5.4.6")

    async def test_trouble_with_those_before_us_is_no_loop(self) -> None:
        zone = {
            ("example.net", "MX"): mx((10, "bad.example.net"), (20, "gw.example.com")),
            ("bad.example.net", "A"): TROUBLE,
        }
        self.assertEqual((await self.outcome(zone, "example.net")).reply.status, "4.4.3")

    async def test_localhost_is_ourselves(self) -> None:
        zone = {("example.net", "MX"): mx((10, "localhost"))}
        self.assertEqual((await self.outcome(zone, "example.net")).reply.status, "5.4.6")


class Literals(Resolving):
    async def test_address_is_used_as_it_is(self) -> None:
        self.assertEqual(await self.endpoints({}, "[192.0.2.1]"), ["[192.0.2.1] 192.0.2.1:25"])
        self.assertEqual(
            await self.endpoints({}, "[IPv6:2001:DB8::1]"),
            ["[IPv6:2001:DB8::1] [2001:db8::1]:25"],
        )

    async def test_malformed_ours_or_nobodys(self) -> None:
        for literal, status in (
            ("[300.1.1.1]", "5.1.3"),
            ("[x]", "5.1.3"),
            ("[203.0.113.9]", "5.4.6"),
            ("[0.0.0.0]", "5.4.4"),
        ):
            outcome = await self.outcome({}, literal, listen=("203.0.113.9",))
            self.assertEqual(outcome.reply.status, status)


def hop(*hosts: tuple[str, int], mx: bool = False) -> NextHop:
    return NextHop("isp", hosts=tuple(HostPort(*host) for host in hosts), mx=mx)


class Named(Resolving):
    async def test_hosts_in_order_with_their_ports(self) -> None:
        zone = {
            ("b.example", "A"): ["192.0.2.2"],
            ("a.example", "A"): ["192.0.2.1"],
            ("a.example", "MX"): mx((1, "elsewhere.example")),
        }
        where = hop(
            ("B.example", 587),
            ("a.example", 25),
            ("192.0.2.9", 26),
            ("2001:db8::1", 27),
            ("localhost", 28),
        )
        self.assertEqual(
            await self.endpoints(zone, where),
            [
                "B.example 192.0.2.2:587",
                "a.example 192.0.2.1:25",
                "192.0.2.9 192.0.2.9:26",
                "2001:db8::1 [2001:db8::1]:27",
                "localhost 127.0.0.1:28",
                "localhost [::1]:28",
            ],
        )

    async def test_the_same_host_on_two_ports(self) -> None:
        zone = {("a.example", "A"): ["192.0.2.1"]}
        self.assertEqual(
            await self.endpoints(zone, hop(("a.example", 25), ("a.example", 26))),
            ["a.example 192.0.2.1:25", "a.example 192.0.2.1:26"],
        )

    async def test_unknown_hosts_are_an_operators_affair(self) -> None:
        zone = {("b.example", "A"): TROUBLE}
        for where in (
            hop(("a.example", 25)),
            hop(("a.example", 25), ("b.example", 25)),
            hop(("a..b", 1)),
        ):
            outcome = await self.outcome(zone, where)
            self.assertEqual(outcome.reply.status, "4.4.4")
            self.assertIn("isp", outcome.reply.text)
            self.assertIn(where.hosts[0].host, outcome.why)

    async def test_one_unknown_host_of_two(self) -> None:
        zone = {("b.example", "A"): ["192.0.2.2"]}
        self.assertEqual(
            await self.endpoints(zone, hop(("a.example", 25), ("b.example", 25))),
            ["b.example 192.0.2.2:25"],
        )

    async def test_by_the_mail_exchangers_of_its_name(self) -> None:
        zone = {
            ("a.example", "MX"): mx((10, "m.example")),
            ("m.example", "A"): ["192.0.2.1"],
            ("b.example", "A"): ["192.0.2.2"],
        }
        where = hop(("a.example", 587), ("gone.example", 1), ("b.example", 26), mx=True)
        self.assertEqual(
            await self.endpoints(zone, where),
            ["m.example 192.0.2.1:587", "b.example 192.0.2.2:26"],
        )
        outcome = await self.outcome({}, where)
        self.assertEqual(outcome.reply.status, "4.4.4")

    async def test_unix_socket(self) -> None:
        where = NextHop("store", "lmtp", unix="/run/dovecot/lmtp")
        (found,) = await directory({}).resolve(where)
        self.assertEqual(str(found), "unix:/run/dovecot/lmtp")
        self.assertEqual(found.unix, "/run/dovecot/lmtp")
        self.assertEqual(Endpoint("h", "192.0.2.1", 25).unix, "")


class Surveys(Resolving):
    async def test_mx_lines(self) -> None:
        zone = Loops.ZONE | {("c.example.net", "AAAA"): TROUBLE}
        survey = await directory(zone).survey("example.net")
        self.assertIs(survey.kind, SurveyKind.MX)
        self.assertEqual(
            sorted(survey.lines()),
            [
                "MX 10 a.example.net [192.0.2.1]",
                "MX 20 GW.example.com (this host)",
                "MX 20 c.example.net (not preferred over this host)",
                "MX 30 d.example.net (not preferred over this host)",
            ],
        )

    async def test_implicit_line(self) -> None:
        survey = await directory({("example.org", "A"): ["198.51.100.20"]}).survey("example.org")
        self.assertEqual(survey.lines(), ["no MX, implicit: example.org [198.51.100.20]"])

    async def test_what_went_wrong_is_told(self) -> None:
        survey = await directory({("example.net", "MX"): mx((5, "a.example"))}).survey(
            "example.net"
        )
        self.assertEqual(
            survey.lines(),
            [
                "MX 5 a.example (does not exist)",
                "550 5.4.4 No mail exchanger of example.net has an address",
            ],
        )
        null = await directory({("example.net", "MX"): mx((0, "."))}).survey("example.net")
        self.assertEqual(null.lines(), ["556 5.1.10 example.net accepts no mail (null MX)"])


class RealMachine(TestCase):
    async def test_own_addresses(self) -> None:
        own = SelfDetection(("GW.example.com.",), ("0.0.0.0", "::"))
        self.assertTrue(own.host("gw.EXAMPLE.com"))
        self.assertFalse(own.host("other.example.com"))
        for address, ours in (
            ("127.0.0.1", True),
            ("127.9.9.9", True),
            ("::1", True),
            ("192.0.2.1", False),
            ("2001:db8::1", False),
        ):
            self.assertEqual(own.address(address), ours, address)
        self.assertFalse(SelfDetection((), ("127.0.0.1",)).address("127.0.0.2"))


class ByTheSystemsNames(Resolving):
    """/etc/hosts and search domains are for hosts of next hops, and never for domains of mail."""

    def local(self, hosts: str = "", search: str = "") -> LocalNames:
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "hosts").write_text(hosts)
        (folder / "resolv.conf").write_text(f"search {search}\n")
        return LocalNames(lambda: 0.0, hosts=folder / "hosts", resolv_conf=folder / "resolv.conf")

    def hop(self, *hosts: str, mx: bool = False) -> NextHop:
        return NextHop("out", "smtp", tuple(HostPort(each, 25) for each in hosts), mx=mx)

    async def test_a_host_in_etc_hosts_is_found_without_the_dns(self) -> None:
        local = self.local("10.0.0.9 exchange.corp.example exchange\n2001:db8::9 exchange\n")
        zone: Zone = {("exchange.corp.example", "A"): ["192.0.2.1"]}
        for name, found in (
            ("exchange", ["exchange 10.0.0.9:25", "exchange [2001:db8::9]:25"]),
            ("Exchange.Corp.example", ["Exchange.Corp.example 10.0.0.9:25"]),
        ):
            self.assertEqual(await self.endpoints(zone, self.hop(name), local=local), found)

    async def test_a_short_name_is_looked_for_in_the_search_domains(self) -> None:
        local = self.local(search="a.example b.example")
        zone: Zone = {("mail.b.example", "A"): ["10.0.0.2"], ("mail", "A"): ["10.0.0.3"]}
        self.assertEqual(
            await self.endpoints(zone, self.hop("mail"), local=local), ["mail 10.0.0.2:25"]
        )
        zone["mail.a.example", "A"] = ["10.0.0.1"]
        self.assertEqual(
            await self.endpoints(zone, self.hop("mail"), local=local), ["mail 10.0.0.1:25"]
        )

    async def test_trouble_with_one_domain_is_not_the_next_ones_host(self) -> None:
        local = self.local(search="a.example b.example")
        zone: Zone = {("mail.a.example", "A"): TROUBLE, ("mail.b.example", "A"): ["10.0.0.2"]}
        outcome = await self.outcome(zone, self.hop("mail"), local=local)
        self.assertEqual(outcome.reply.code, 451)
        self.assertIn("SERVFAIL", outcome.why)

    async def test_where_it_was_looked_for_is_said(self) -> None:
        outcome = await self.outcome({}, self.hop("mail"), local=self.local(search="a.example"))
        self.assertEqual(outcome.reply.code, 451)
        self.assertIn("not in /etc/hosts, and no address of mail.a.example, mail", outcome.why)

    async def test_names_with_dots_are_whole(self) -> None:
        local = self.local(search="a.example")
        zone: Zone = {("mail.corp.a.example", "A"): ["10.0.0.1"]}
        outcome = await self.outcome(zone, self.hop("mail.corp"), local=local)
        self.assertIn("does not exist", outcome.why)

    async def test_mail_domains_and_exchangers_go_by_the_dns_alone(self) -> None:
        local = self.local("10.0.0.1 example.net mx.example.net\n", search="a.example")
        zone: Zone = {
            ("example.net", "MX"): mx((10, "mx.example.net")),
            ("mx.example.net", "A"): ["192.0.2.1"],
        }
        for where in ("example.net", self.hop("example.net", mx=True)):
            self.assertEqual(
                await self.endpoints(zone, where, local=local), ["mx.example.net 192.0.2.1:25"]
            )
        self.assertEqual((await self.outcome(zone, "short", local=local)).reply.status, "5.1.2")

    async def test_without_them_the_dns_alone_is_asked(self) -> None:
        outcome = await self.outcome({}, self.hop("mail"))
        self.assertIn("mail: does not exist", outcome.why)
