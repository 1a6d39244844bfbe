"""check_host() of RFC 7208, section by section; the records are in the test."""

from __future__ import annotations

import time
import unittest
from typing import Any, ClassVar

from relayd.authentication.asking import RecordQuery
from relayd.authentication.spf import SpfResult, check_host, spf_client
from relayd.authentication.spfmacro import macro_string
from relayd.authentication.spfrecord import _known_record, spf_record
from tests.unit.authentication import Zone, drive

D = "example.com"
HERE, THERE, SIX = "192.0.2.7", "198.51.100.9", "2001:db8::7"


def check(
    zone: Zone,
    address: str = HERE,
    sender: str = "strong-bad@" + D,
    helo: str = "mail.example.net",
    asked: list[RecordQuery] | None = None,
) -> SpfResult:
    client = spf_client(address, sender, helo, receiver="mx.example.org", time=1000)
    return drive(check_host(client), zone, asked)


def record(text: str) -> dict[tuple[str, str], Any]:
    """A zone in which example.com has this record."""
    return {(D, "TXT"): (text,)}


class Records(unittest.TestCase):
    def test_what_is_found_decides_which_record_counts(self) -> None:
        for texts, result in (
            ((), "none"),
            (("v=spf10 -all",), "none"),
            (("v=spf1-all",), "none"),
            (("something else", "V=sPf1 -all"), "fail"),
            (("v=spf1",), "neutral"),
            (("v=spf1 -all", "v=spf1 +all"), "permerror"),
            (None, "temperror"),
        ):
            with self.subTest(texts):
                self.assertEqual(check({(D, "TXT"): texts}).result, result)

    def test_a_domain_that_is_none_has_no_result(self) -> None:
        for domain in ("a..example.com", "x" * 64 + ".example.com", "localhost", "[192.0.2.7]", ""):
            with self.subTest(domain):
                self.assertEqual(check({}, sender=f"a@{domain}", helo="").result, "none")

    def test_null_senders_are_checked_by_helo_as_postmaster(self) -> None:
        zone = {("mail.example.net", "TXT"): ("v=spf1 exists:%{l}.%{o}.test -all",)}
        asked: list[RecordQuery] = []
        self.assertEqual(check(zone, sender="", asked=asked).result, "fail")
        self.assertEqual(asked[1].name, "postmaster.mail.example.net.test")

    def test_each_qualifier_has_its_result(self) -> None:
        for sign, result in (
            ("", "pass"),
            ("+", "pass"),
            ("-", "fail"),
            ("~", "softfail"),
            ("?", "neutral"),
        ):
            with self.subTest(sign):
                self.assertEqual(check(record(f"v=spf1 {sign}all")).result, result)

    def test_any_mistake_anywhere_is_a_permanent_error(self) -> None:
        for term in (
            "al",
            "all:x",
            "all/8",
            "a:",
            "a:/8",
            "a/33",
            "a/08",
            "a//129",
            "mx:",
            "include",
            "include:",
            "ip4",
            "ip4:",
            "ip4:192.0.2",
            "ip4:192.0.2.0/33",
            "ip4:192.0.2.0/",
            "ip4:192.0.2.0/08",
            "ip4:2001:db8::",
            "ip6:192.0.2.1",
            "ip6:2001:db8::/129",
            "ip6:fe80::1%eth0",
            "exists",
            "exists:",
            "redirect=",
            "redirect:x.test",
            "ptr:",
            "ptr/8",
            "moo",
            "-moo",
            "a:x.1",
            "a:x.-y",
            "a:example..%{d",
            "a:%{}",
            "a:%{q}.test",
            "a:%{d0}.test",
            "a:%x.test",
            "a:%",
            "a:%{c}.test",
            "exists:%{r}.test",
            "include:%{t}.test",
            "unknown=%{",
            "redirect=a.test redirect=b.test",
            "exp=a.test exp=a.test",
            "a:\u00e9.test",
            "\tall",
        ):
            with self.subTest(term):
                self.assertEqual(check(record(f"v=spf1 ip4:{HERE} {term}")).result, "permerror")

    def test_unknown_modifiers_say_nothing(self) -> None:
        self.assertEqual(check(record("v=spf1 moo.x=%{d}/%% default=-all +all")).result, "pass")


class Kept(unittest.TestCase):
    def test_a_large_record_is_not_kept(self) -> None:
        """A stranger who publishes many fills no memory with them."""
        before = _known_record.cache_info().currsize
        large = "v=spf1 " + "?a " * 5_000 + "-all"
        self.assertEqual(len(spf_record(large).mechanisms), 5_001)
        self.assertEqual(_known_record.cache_info().currsize, before)


class Mechanisms(unittest.TestCase):
    def test_networks_fit_by_their_prefix(self) -> None:
        for term, address, result in (
            ("ip4:192.0.2.0/24", HERE, "pass"),
            ("ip4:192.0.2.7", HERE, "pass"),
            ("ip4:192.0.2.6", HERE, "neutral"),
            ("ip4:0.0.0.0/0", THERE, "pass"),
            ("ip4:0.0.0.0/0", SIX, "neutral"),
            ("ip6:2001:db8::/32", SIX, "pass"),
            ("ip6:::/0", HERE, "neutral"),
            ("ip4:192.0.2.7", "::ffff:192.0.2.7", "pass"),
        ):
            with self.subTest(term, address=address):
                self.assertEqual(check(record(f"v=spf1 {term}"), address).result, result)

    def test_addresses_of_a_name_in_the_clients_family(self) -> None:
        zone = record("v=spf1 a a:other.example.com/24//64")
        zone |= {(D, "A"): (THERE,), ("other.example.com", "A"): ("192.0.2.200",)}
        zone |= {("other.example.com", "AAAA"): ("2001:db8::1",)}
        self.assertEqual(check(zone).result, "pass")
        self.assertEqual(check(zone, SIX).result, "pass")
        self.assertEqual(check(zone, "192.0.3.1").result, "neutral")

    def test_exchangers_and_their_limit(self) -> None:
        zone = record("v=spf1 mx -all") | {("b.example.com", "A"): (HERE,)}
        zone[D, "MX"] = ((10, "a.example.com"), (20, "b.example.com"))
        self.assertEqual(check(zone).result, "pass")
        zone[D, "MX"] = tuple((n, f"{n}.example.com") for n in range(11))
        self.assertEqual(check(zone).result, "permerror")

    def test_what_an_include_makes_of_the_others_result(self) -> None:
        for text, result in (
            ("v=spf1 +all", "pass"),
            ("v=spf1 -all", "softfail"),
            ("v=spf1 ~all", "softfail"),
            ("v=spf1 ?all", "softfail"),
            ("v=spf1 oops", "permerror"),
            ("nothing", "permerror"),
        ):
            with self.subTest(text):
                zone = record("v=spf1 include:other.test ~all") | {("other.test", "TXT"): (text,)}
                self.assertEqual(check(zone).result, result)
        zone = record("v=spf1 include:other.test ~all") | {("other.test", "TXT"): None}
        self.assertEqual(check(zone).result, "temperror")

    def test_a_redirect_takes_the_place_of_what_does_not_fit(self) -> None:
        zone = record(f"v=spf1 redirect=other.test ip4:{THERE}")
        zone |= {("other.test", "TXT"): ("v=spf1 -all",)}
        self.assertEqual(check(zone).result, "fail")
        self.assertEqual(check(zone, THERE).result, "pass")
        self.assertEqual(check(record("v=spf1 redirect=none.test")).result, "permerror")
        self.assertEqual(check(record("v=spf1 ?all redirect=none.test")).result, "neutral")

    def test_reverse_names_must_lead_back(self) -> None:
        zone = record("v=spf1 ptr -all")
        zone["7.2.0.192.in-addr.arpa", "PTR"] = ("forged.example.com", "mail.example.com")
        self.assertEqual(check(zone).result, "fail")
        zone["mail.example.com", "A"] = (HERE,)
        self.assertEqual(check(zone).result, "pass")
        zone["forged.example.com", "A"] = None  # its trouble is none of the other's
        self.assertEqual(check(zone).result, "pass")
        zone["7.2.0.192.in-addr.arpa", "PTR"] = ("mail.example.com.evil.test",)
        zone["mail.example.com.evil.test", "A"] = (HERE,)
        self.assertEqual(check(zone).result, "fail")

    def test_trouble_in_the_dns_is_said_and_no_result(self) -> None:
        for term, name, rdtype in (
            ("a", D, "A"),
            ("mx", D, "MX"),
            ("exists:x.test", "x.test", "A"),
        ):
            with self.subTest(term):
                zone = record(f"v=spf1 {term} +all") | {(name, rdtype): None}
                self.assertEqual(check(zone).result, "temperror")


class Limits(unittest.TestCase):
    def test_ten_terms_may_ask_the_dns(self) -> None:
        """Over all records of one check, whatever the terms are."""
        zone = record("v=spf1 " + "a " * 10 + "+all") | {(D, "A"): (THERE,)}
        self.assertEqual(check(zone).result, "pass")
        zone = record("v=spf1 " + "a " * 11 + "+all") | {(D, "A"): (THERE,)}
        self.assertEqual(check(zone).result, "permerror")
        zone = record("v=spf1 include:i.test a a a a a redirect=r.test") | {(D, "A"): (THERE,)}
        zone |= {("i.test", "TXT"): ("v=spf1 a a a -all",), ("i.test", "A"): (THERE,)}
        zone |= {("r.test", "TXT"): ("v=spf1 +all",)}
        self.assertEqual(check(zone).result, "pass")
        zone |= {("r.test", "TXT"): ("v=spf1 exists:i.test +all",)}
        self.assertEqual(check(zone, SIX).result, "permerror")

    def test_a_record_that_includes_itself_ends(self) -> None:
        asked: list[RecordQuery] = []
        zone = record("v=spf1 include:example.com")
        self.assertEqual(check(zone, asked=asked).result, "permerror")
        self.assertLess(len(asked), 13)

    def test_two_lookups_may_find_nothing(self) -> None:
        zone = record("v=spf1 a:1.test a:2.test +all")
        self.assertEqual(check(zone).result, "pass")
        zone = record("v=spf1 a:1.test a:2.test a:3.test +all")
        self.assertEqual(check(zone).result, "permerror")

    def test_no_record_makes_us_ask_for_more_than_a_few_dozen_names(self) -> None:
        """Ten terms, each with ten exchangers: the worst there is."""
        zone: dict[tuple[str, str], Any] = record("v=spf1 " + "mx " * 10 + "+all")
        zone[D, "MX"] = tuple((n, f"{n}.example.com") for n in range(10))
        zone |= {(f"{n}.example.com", "A"): (THERE,) for n in range(10)}
        asked: list[RecordQuery] = []
        self.assertEqual(check(zone, asked=asked).result, "pass")
        self.assertLessEqual(len(asked), 111)

    def test_a_record_of_macros_costs_no_more_than_its_length(self) -> None:
        long = "a@" + "x" * 60 + ".example.com"
        zone = {
            ("x" * 60 + ".example.com", "TXT"): ("v=spf1 exists:" + "%{s}." * 5000 + "test -all",)
        }
        before = time.process_time()
        self.assertEqual(check(zone, sender=long).result, "fail")
        self.assertLess(time.process_time() - before, 1.0)


class Macros(unittest.TestCase):
    """The table of RFC 7208 section 7.4."""

    VALUES: ClassVar = {
        "s": "strong-bad@email.example.com",
        "o": "email.example.com",
        "d": "email.example.com",
        "l": "strong-bad",
        "i": "192.0.2.3",
        "v": "in-addr",
        "h": "a&b.example",
    }

    def test_each_expansion(self) -> None:
        for text, expanded in (
            ("%{s}", "strong-bad@email.example.com"),
            ("%{o}", "email.example.com"),
            ("%{d}", "email.example.com"),
            ("%{d4}", "email.example.com"),
            ("%{d3}", "email.example.com"),
            ("%{d2}", "example.com"),
            ("%{d1}", "com"),
            ("%{dr}", "com.example.email"),
            ("%{d2r}", "example.email"),
            ("%{l}", "strong-bad"),
            ("%{l-}", "strong.bad"),
            ("%{lr}", "strong-bad"),
            ("%{lr-}", "bad.strong"),
            ("%{l1r-}", "strong"),
            ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
            ("%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"),
            ("%%%_%-", "% %20"),
            ("%{H}", "a%26b.example"),
            ("%{L}", "strong-bad"),
        ):
            with self.subTest(text):
                self.assertEqual(macro_string(text).expand(self.VALUES), expanded)

    def test_addresses_of_version_six_come_apart(self) -> None:
        asked: list[RecordQuery] = []
        zone = record("v=spf1 exists:%{ir}.%{v}.test -all")
        check(zone, "2001:db8::cb01", asked=asked)
        nibbles = "1.0.B.C." + "0." * 20 + "8.B.D.0.1.0.0.2"
        self.assertEqual(asked[1].name, nibbles + ".ip6.test")

    def test_a_long_name_loses_its_left(self) -> None:
        asked: list[RecordQuery] = []
        zone = record("v=spf1 exists:" + "%{d}." * 30 + "end.test -all")
        check(zone, asked=asked)
        self.assertEqual(asked[1].name, ("example.com." * 21)[8:] + "end.test")
        self.assertLessEqual(len(asked[1].name), 253)

    def test_the_validated_name_is_asked_for_where_a_record_wants_it(self) -> None:
        zone = record("v=spf1 exists:%{p}.x.test -all")
        zone["7.2.0.192.in-addr.arpa", "PTR"] = ("other.test", "mail.example.com")
        zone |= {("other.test", "A"): (HERE,), ("mail.example.com", "A"): (HERE,)}
        asked: list[RecordQuery] = []
        check(zone, asked=asked)
        self.assertEqual(asked[-1].name, "mail.example.com.x.test")
        asked.clear()
        check(record("v=spf1 exists:%{p}.x.test -all"), asked=asked)
        self.assertEqual(asked[-1].name, "unknown.x.test")

    def test_local_parts_that_no_name_can_hold_fit_nowhere(self) -> None:
        """RFC 8616 section 4."""
        zone = record("v=spf1 exists:%{l}.test ip4:192.0.2.7 -all")
        self.assertEqual(check(zone, sender="j\u00fcrgen@" + D).result, "pass")


class Explanations(unittest.TestCase):
    def test_the_domains_own_words_go_with_a_failure(self) -> None:
        zone = record("v=spf1 -all exp=why.%{d}")
        zone["why.example.com", "TXT"] = ("%{c} may not send for %{o}, says %{r}%_at %{t}",)
        self.assertEqual(
            check(zone).explanation,
            "192.0.2.7 may not send for example.com, says mx.example.org at 1000",
        )

    def test_whatever_is_wrong_with_them_the_result_stays(self) -> None:
        for texts in ((), ("a", "b"), ("%{x}",), ("caf\u00e9",), ("a\r\nb",), None):
            with self.subTest(texts):
                zone = record("v=spf1 -all exp=why.example.com")
                zone["why.example.com", "TXT"] = texts
                result = check(zone)
                self.assertEqual((result.result, result.explanation), ("fail", ""))

    def test_those_of_an_include_are_not_its_own(self) -> None:
        zone = record("v=spf1 include:other.test -all") | {("e.test", "TXT"): ("theirs",)}
        zone |= {("other.test", "TXT"): ("v=spf1 -all exp=e.test",)}
        self.assertEqual(check(zone).explanation, "")
