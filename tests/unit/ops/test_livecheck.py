"""Our own names as the world sees them, asked of a real DNS server on loopback."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred

from relayd.authentication.dkimsigning import SigningKey, new_private_key, private_key
from relayd.config import Listener, Settings, load_text
from relayd.ops import livecheck, ownnames
from relayd.ops.livecheck import LiveCheck, judged_tls, look
from relayd.ops.observation import Grade, Observation
from relayd.ops.offeredtls import Offered, offered
from relayd.tls.client import ClientContexts
from relayd.tls.presented import Presented
from tests.certs import DAY, Authority, Issued
from tests.dnsserver import DnsServer
from tests.ports import free_port
from tests.support import TestCase
from tests.unit.tls.test_server import Server, files

reactor: Any = _reactor
RULES = """
hostname gw.example
listen 127.0.0.1:2525
source bulk 127.0.0.9, ::1 helo bulk.example
accept from 10.0.0.0/8
accept to @ours.example, @other.example
may-send-as @news.example when login bob
route sender @news.example direct from bulk
route sender @isp.example via isp
route any direct
next-hop isp smtp 192.0.2.99
"""
V4, V6 = "9.0.0.127.in-addr.arpa.", f"1.{'0.' * 31}ip6.arpa."
GOOD = f"""
{V4} PTR bulk.example.
{V6} PTR bulk.example.
1.2.0.192.in-addr.arpa. PTR gw.example.
bulk.example. A 127.0.0.9
bulk.example. AAAA ::1
bulk.example. TXT "v=spf1 a -all"
gw.example. A 192.0.2.1
gw.example. TXT "v=spf1 a -all"
news.example. TXT "unrelated"
news.example. TXT "v=spf1 a:bulk.example -all"
ours.example. MX 10 gw.example.
other.example. MX 20 elsewhere.example.
other.example. MX 10 GW.example.
elsewhere.example. A 198.51.100.1
"""


class Case(TestCase):
    timeout = 240

    def setUp(self) -> None:
        self.dns = DnsServer(reactor, GOOD)
        self.dns.start()
        self.addCleanup(self.dns.stop)
        self.patch(livecheck, "_towards", lambda version: "")  # no way to the world, as in a test

    def settings(self, rules: str = RULES) -> Settings:
        host, port = self.dns.address
        return load_text(f"resolver {host}:{port}\n{dedent(rules)}", Path("/nowhere"))

    async def found(self, zone: str = GOOD, rules: str = RULES) -> list[Observation]:
        self.dns.load(zone)
        return await look(reactor, self.settings(rules))

    async def trouble(self, *changes: str, rules: str = RULES) -> list[str]:
        """The lines of what is not ok, once the zone is changed: pairs of what, and for what."""
        zone = GOOD
        for old, new in zip(changes[::2], changes[1::2], strict=True):
            self.assertIn(old, zone)
            zone = zone.replace(old, new)
        return [str(each) for each in await self.found(zone, rules) if each.grade is not Grade.OK]


class AsItIs(Case):
    async def test_all_is_well(self) -> None:
        found = await self.found()
        self.assertEqual([str(each) for each in found if each.grade is not Grade.OK], [])
        self.assertEqual(
            {(each.what, each.about) for each in found if each.what != "mx"},
            {
                ("ptr", "127.0.0.9 (source bulk)"),
                ("ptr", "::1 (source bulk)"),
                ("ptr", "192.0.2.1 (gw.example)"),
                ("helo", "127.0.0.9 (source bulk)"),
                ("helo", "::1 (source bulk)"),
                ("helo", "192.0.2.1 (gw.example)"),
                ("spf", "news.example from 127.0.0.9 (source bulk)"),
                ("spf", "news.example from ::1 (source bulk)"),
                ("spf", "bulk.example from 127.0.0.9 (source bulk)"),
                ("spf", "bulk.example from ::1 (source bulk)"),
                ("spf", "gw.example from 192.0.2.1 (gw.example)"),
            },
        )
        self.assertEqual(
            [each.about for each in found if each.what == "mx"], ["ours.example", "other.example"]
        )

    async def test_each_question_is_asked_once_and_of_nobody_but_the_dns(self) -> None:
        await self.found()
        self.assertEqual(len(self.dns.queries), len(set(self.dns.queries)))
        asked = len(self.dns.queries)
        await self.found()  # somebody has mended it meanwhile: nothing is remembered
        self.assertEqual(len(self.dns.queries), 2 * asked)

    async def test_spf_by_source_and_what_to_publish(self) -> None:
        lines = await self.trouble('"v=spf1 a:bulk.example -all"', '"v=spf1 ip4:127.0.0.9 ~all"')
        self.assertEqual(
            lines,
            [
                "warning    spf      news.example from ::1 (source bulk): softfail (news.example:"
                ' all); wanted: pass; publish: news.example. IN TXT "v=spf1 ip6:::1 ip4:127.0.0.9'
                ' ~all"'
            ],
        )
        lines = await self.trouble('news.example. TXT "v=spf1 a:bulk.example -all"', "")
        self.assertEqual(len(lines), 2)
        for line in lines:
            self.assertTrue(line.startswith("error"), line)
            self.assertIn('news.example. IN TXT "v=spf1 ip4:127.0.0.9 ip6:::1 -all"', line)

    async def test_spf_that_refuses_us_or_is_broken(self) -> None:
        lines = await self.trouble('"v=spf1 a:bulk.example -all"', '"v=spf1 -all"')
        self.assertEqual([line.split()[0] for line in lines], ["error", "error"])
        self.assertIn("fail (news.example: all)", lines[0])
        for broken in ('"v=spf1 ipv4:192.0.2.1 -all"', '"v=spf1 -all"\nnews.example. TXT "v=spf1"'):
            lines = await self.trouble('"v=spf1 a:bulk.example -all"', broken)
            self.assertEqual(len(lines), 2)
            self.assertIn("permerror", lines[0])
            self.assertNotIn("publish", lines[0])  # what is there wants a person

    async def test_spf_of_the_name_that_reports_are_sent_under(self) -> None:
        (line,) = await self.trouble('gw.example. TXT "v=spf1 a -all"', "")
        self.assertTrue(line.startswith("warning    spf      gw.example from 192.0.2.1"), line)

    async def test_reverse_names(self) -> None:
        record = f"publish: {V4} IN PTR bulk.example."
        (line,) = await self.trouble(f"{V4} PTR bulk.example.", "")
        self.assertIn(f"error      ptr      127.0.0.9 (source bulk): no reverse name; wanted: bulk"
                      f".example; {record}", line)  # fmt: skip
        (line,) = await self.trouble(
            f"{V4} PTR bulk.example.", f"{V4} PTR dsl.example.\ndsl.example. A 127.0.0.9"
        )
        self.assertTrue(line.startswith("warning    ptr "), line)
        self.assertIn(record, line)
        (line,) = await self.trouble(f"{V4} PTR bulk.example.", f"{V4} PTR dsl.example.")
        self.assertTrue(line.startswith("error      ptr "), line)
        self.assertIn("publish: dsl.example. IN A 127.0.0.9", line)

    async def test_the_helo_name_leads_back(self) -> None:
        lines = await self.trouble("bulk.example. AAAA ::1", "", 'TXT "v=spf1 a:bulk.example -all"',
                                   'TXT "v=spf1 a:bulk.example ip6:::1 -all"')  # fmt: skip
        self.assertEqual(
            [line[:40] for line in lines],
            [
                "error      ptr      ::1 (source bulk): b",
                "error      helo     ::1 (source bulk): b",
                "error      spf      bulk.example from ::",
            ],
        )
        self.assertIn("publish: bulk.example. IN AAAA ::1", lines[1])

    async def test_mx(self) -> None:
        for mx, grade, words in (
            ("", "error", "no MX, no address"),
            ("ours.example. A 198.51.100.1", "error", "and 198.51.100.1 is not here"),
            ("ours.example. A 192.0.2.1", "warning", "no MX; its own address leads here"),
            ("ours.example. MX 0 .", "error", "null MX"),
            ("ours.example. MX 10 elsewhere.example.", "warning", "elsewhere.example; wanted: gw"),
        ):
            (line,) = await self.trouble("ours.example. MX 10 gw.example.", mx)
            self.assertTrue(line.startswith(f"{grade:9}  mx "), line)
            self.assertIn(words, line)
            self.assertIn("publish: ours.example. IN MX 10 gw.example.", line)
        lost = "ours.example. MX 10 gw.example.\nours.example. MX 5 lost.example."
        (line,) = await self.trouble("ours.example. MX 10 gw.example.", lost)
        self.assertIn("error      mx       ours.example: lost.example has no address", line)

    async def test_a_source_that_this_machine_has_not(self) -> None:
        lines = await self.trouble(
            *("127.0.0.9", "192.0.2.77", f"{V4} PTR", "77.2.0.192.in-addr.arpa. PTR"),
            rules=RULES.replace("127.0.0.9", "192.0.2.77"),
        )
        self.assertEqual(len(lines), 1, lines)
        self.assertIn("source   192.0.2.77 (source bulk): no address of this host", lines[0])

    async def test_behind_nat_it_is_what_our_names_resolve_to(self) -> None:
        rules = RULES.replace("127.0.0.9, ::1", "10.1.2.3")
        found = await self.found(rules=rules)
        about = {each.about for each in found if each.what in ("ptr", "helo")}
        self.assertIn("127.0.0.9 (source bulk)", about)
        self.assertNotIn("10.1.2.3 (source bulk)", about)
        lines = [str(each) for each in found if each.what == "source"]
        self.assertIn("10.1.2.3 (source bulk): no address of this host", lines[0])

    async def test_our_own_name_resolves_to_nothing(self) -> None:
        lines = await self.trouble("gw.example. A 192.0.2.1", "")
        self.assertIn("error      helo     gw.example: resolves to nothing", lines[0])

    async def test_trouble_of_the_dns_is_no_fault_of_ours(self) -> None:
        self.patch(livecheck, "_ROUNDS", (1.0,))
        for kind in ("servfail", "refused", "garbage"):
            self.dns.mend()
            self.dns.fault(kind)
            found = await self.found()
            self.assertEqual({each.grade for each in found}, {Grade.UNKNOWN}, kind)
            self.assertGreater(len(found), 8)
        self.patch(livecheck, "_ROUNDS", (5.0,))
        self.dns.mend()
        self.dns.fault("servfail", "news.example", "TXT")
        lines = await self.trouble()
        self.assertEqual([line.split("  ")[0] for line in lines], ["not known", "not known"])

    async def test_silence_is_waited_for_so_long_and_no_longer(self) -> None:
        self.patch(livecheck, "TIME", 0.5)
        self.dns.fault("drop", "news.example")
        self.dns.fault("drop", "ours.example")
        began = time.monotonic()
        lines = await self.trouble()
        self.assertLess(time.monotonic() - began, 25)  # of the thirty that it has usually
        self.assertEqual(
            {line.split(":")[1] for line in lines[:2]}, {" no answer within 0.5 seconds"}
        )
        self.assertIn("not known  mx       ours.example", "\n".join(lines))
        self.assertNotIn("error", "\n".join(lines))


class Signing(Case):
    rules = RULES + 'dkim mine domain ours.example selector s1 key file "k"\n'

    def check(self) -> LiveCheck:
        self.key = SigningKey("ours.example", "s1", private_key(new_private_key(ed25519=False)))
        return LiveCheck(reactor, self.settings())

    async def lines(self, zone: str) -> list[str]:
        self.dns.load(zone)
        check = self.check() if not hasattr(self, "key") else LiveCheck(reactor, self.settings())
        return [str(each) for each in await check._dkim(self.key, "the key", Grade.ERROR)]

    async def test_a_key_is_right_missing_or_another(self) -> None:
        (line,) = await self.lines("")
        name = "s1._domainkey.ours.example"
        self.assertIn(f"error      dkim     {name}: there is no record; wanted: the key", line)
        # a long record in one line, each string of it short enough
        self.assertIn(f'publish: {name}. IN TXT ( "v=DKIM1', line)
        self.assertLess(max(map(len, line.split('"'))), 256)
        record = line.partition(" IN TXT ")[2].strip("() ").replace('" "', "")
        text = record.strip('"')
        self.assertEqual(text, self.key.record)
        strings = f'"{text[:200]}" "{text[200:]}"'
        (line,) = await self.lines(f"{name}. TXT {strings}")
        self.assertTrue(line.startswith("ok "), line)
        (line,) = await self.lines(f'{name}. TXT "t=y; " {strings}')
        self.assertTrue(line.startswith(("warning", "error")), line)
        other = SigningKey("ours.example", "s1", private_key(new_private_key(ed25519=True)))
        (line,) = await self.lines(f'{name}. TXT "{other.record}"')
        self.assertIn("it is another key", line)

    async def test_dmarc(self) -> None:
        check = LiveCheck(reactor, self.settings())
        (line,) = await check._dmarc("ours.example")
        self.assertEqual(
            str(line),
            "warning    dmarc    ours.example: no record; wanted: a policy; publish:"
            ' _dmarc.ours.example. IN TXT "v=DMARC1; p=none; rua=mailto:postmaster@ours.example"',
        )
        self.dns.load('_dmarc.ours.example. TXT "v=DMARC1; p=reject"')
        (line,) = await LiveCheck(reactor, self.settings())._dmarc("mail.ours.example")
        self.assertEqual(line.seen, "p=reject, of ours.example")


class Certified(Case):
    """What our own listener shows, held against what is published."""

    async def shown(self, issued: Issued, *, implicit: bool = False) -> Offered:
        folder = Path(self.mktemp())
        server = Server(implicit=implicit)
        self.addCleanup(lambda: Deferred.fromCoroutine(server.stop()))
        server.certificates.apply([files(issued, folder, "gw")], "1.2")
        options = (("tls", "implicit"),) if implicit else ()
        listener = Listener("127.0.0.1", server.number, options)
        contexts = ClientContexts()
        return await offered(reactor, self.settings(), contexts, listener, "gw.example")

    async def test_by_starttls_and_from_the_first_octet(self) -> None:
        for implicit in (False, True):
            shown = await self.shown(Authority().issue("gw.example"), implicit=implicit)
            assert shown.certificate is not None, shown
            self.assertEqual(shown.certificate.names, ("gw.example",))
            self.assertTrue(shown.tls.startswith("TLSv1.3 "), shown)
            self.assertIn("certificate", shown.flaw)  # of an authority that nobody knows
            self.assertIs(shown.submission, implicit)

    async def test_nobody_listens_there(self) -> None:
        listener = Listener("127.0.0.1", free_port())
        shown = await offered(reactor, self.settings(), ClientContexts(), listener, "gw.example")
        self.assertIn("refused", shown.silent)

    async def test_tlsa_records(self) -> None:
        issued = Authority().issue("gw.example")
        shown = await self.shown(issued)
        self.dns.secure = True
        for data, grade in ((issued.spki_sha256, Grade.OK), ("00" * 32, Grade.ERROR)):
            self.dns.load(f"_25._tcp.gw.example. TLSA 3 1 1 {data}")
            check = LiveCheck(reactor, self.settings())
            (found,) = await check._tlsa("gw.example", [shown])
            self.assertIs(found.grade, grade, found)
            (found,) = await check._tlsa("gw.example", [])
            self.assertIs(found.grade, Grade.UNKNOWN)
        self.dns.load("")
        self.assertEqual(await LiveCheck(reactor, self.settings())._tlsa("gw.example", []), [])


class Names(Case):
    def test_which_domain_leaves_from_which_source(self) -> None:
        rules = """
        hostname gw.example
        source one 192.0.2.1 helo one.example
        source two 192.0.2.2 helo two.example
        next-hop isp smtp 192.0.2.99
        accept from 10.0.0.0/8
        route sender @a.example direct from one
        route sender @b.example direct from one when login bob
        route sender @c.example via isp
        route to @x.example direct from two
        route sender @.sub.example, ann@d.example direct from one
        rewrite sender @old.example -> @new.example
        route any direct
        """
        found = ownnames.sent_as(self.settings(rules))
        self.assertEqual(
            found,
            {
                "a.example": ("one",),
                "b.example": ("one", "two", ""),
                "c.example": (),
                "d.example": ("two", "one", ""),
                "new.example": ("two", ""),
            },
        )

    def test_where_all_goes_by_an_isp_our_own_address_is_nobody_s(self) -> None:
        rules = "hostname gw.example\nnext-hop isp smtp 192.0.2.99\naccept from 10.0.0.0/8\n"
        self.assertEqual(ownnames.sources(self.settings(rules + "route any via isp\n")), {})
        found = ownnames.sources(self.settings(rules + "route any direct, via isp\n"))
        self.assertEqual(list(found), [""])

    def test_domains_of_tables(self) -> None:
        rules = """
        hostname gw.example
        table ours { @one.example, info@two.example, @.three.example }
        accept to <ours>
        accept to @four.example when not helo "localhost"
        accept from 10.0.0.0/8 to @inside.example
        """
        self.assertEqual(
            ownnames.accepted(self.settings(rules)), ("one.example", "two.example", "four.example")
        )


class Certificates(TestCase):
    def judged(self, *, listener: str = "", seen: str = "gw.example", **facts: Any) -> str:  # noqa: ANN401
        options: Any = (("submission", "yes"),) if listener else ()
        authority = Authority()
        issued = authority.issue(seen, **facts)
        shown = Offered(
            Listener("192.0.2.1", 25, options),
            *("gw.example", "", "", "TLSv1.3 X", ""),
            certificate=Presented([issued.certificate]),
        )
        return str(judged_tls(shown, datetime.datetime.now(datetime.UTC)))

    def test_dates_and_names(self) -> None:
        self.assertTrue(
            self.judged(end=90 * DAY).startswith("ok         tls      192.0.2.1:25 as gw.example")
        )
        self.assertTrue(self.judged(start=-3 * DAY, end=-DAY).startswith("error "))
        self.assertTrue(self.judged(end=3 * DAY).startswith("warning "))
        self.assertTrue(self.judged(seen="x.example").startswith("warning "))
        self.assertTrue(self.judged(seen="x.example", listener="submission").startswith("error "))

    def test_nobody_there_is_not_known(self) -> None:
        shown = Offered(Listener("192.0.2.1", 25), "gw.example", "Connection refused")
        self.assertIs(judged_tls(shown, datetime.datetime.now(datetime.UTC)).grade, Grade.UNKNOWN)
