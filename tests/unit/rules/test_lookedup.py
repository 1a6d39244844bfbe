"""`listed`, `spf` and `defer`: what others know of a client and a sender."""

from __future__ import annotations

import unittest
from collections.abc import Mapping
from ipaddress import IPv4Address

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.rules.check.check import name_problems
from relayd.rules.check.expect import failures
from relayd.rules.check.opendoor import open_doors
from relayd.rules.conditions.condition import Condition
from relayd.rules.conditions.listing import WHOSE, ByListing, listing
from relayd.rules.conditions.senderpolicy import RESULTS, SENDER_POLICY, BySenderPolicy
from relayd.rules.dnslist import counts
from relayd.rules.evaluate import Facts, evaluate
from relayd.rules.fact import Fact
from relayd.rules.language.lexer import lex
from relayd.rules.language.model import AdmissionRule, DnsListDef, Item
from relayd.rules.language.pattern import ListedBy, Text
from relayd.rules.language.source import Complaint, Problem, Source
from relayd.rules.ruleset import build
from tests.unit.rules.strategies import some
from tests.unit.rules.test_grammar import parse

LISTS = "dnsbl zen zen.test\ndnswl friends friends.test\n"
LISTED = st.sampled_from(["zen", "friends", "my-list.1"])
NAMES = some(st.one_of(LISTED.map(Text), st.builds(ListedBy, LISTED, st.sampled_from([*WHOSE]))))
WORDS = some(st.sampled_from(RESULTS).map(Text))
CONDITIONS = st.one_of(
    st.builds(ByListing, NAMES, st.booleans()), st.builds(BySenderPolicy, WORDS, st.booleans())
)


class KeyInAZone(unittest.TestCase):
    """The name of a zone may begin with a key: whoever reads a complaint is not to see it."""

    def test_no_complaint_shows_it(self) -> None:
        for text in (
            "dnsbl zen KEY.zen.dq.example.net 127.0.0.999",
            "dnsbl zen KEY.zen.dq.example.net on failure accept",
            "dnsbl bad KEY..dq.example.net",
            "dnsbl KEY.zen.dq.example.net",
            "dnsblist zen KEY.zen.dq.example.net",
            "DNSWL zen\n  KEY.zen.dq.example.net 127.0.0.999",
        ):
            with self.subTest(text), self.assertRaises(Complaint) as caught:
                parse(text)
            said = str(caught.exception.problem)
            self.assertIn("^", said)
            self.assertNotIn("KEY", said)


class LookedUp(unittest.TestCase):
    def code(self, text: str, told: Mapping[Fact, object]) -> str:
        ruleset = build(parse(text), {}, "gw.example.com")
        facts = Facts(Client("192.0.2.7"), None, Mailbox("info", "example.com"), gathered=told)
        return str(evaluate(ruleset, facts).reply)[:9]

    @settings(max_examples=100, deadline=None)
    @given(st.lists(CONDITIONS, min_size=1, max_size=3), st.sampled_from(["reject", "defer"]))
    def test_it_prints_as_it_is_read(self, tests: list[Condition], verb: str) -> None:
        rule = parse(f"{verb} when {' and '.join(map(str, tests))}")[0]
        self.assertEqual(rule.when, tuple(tests))  # type: ignore[union-attr]
        self.assertEqual(parse(str(rule)), [rule])

    def test_lists_print_as_they_are_read(self) -> None:
        for text in ("dnsbl zen zen.test", "dnswl a b.test 127.0.0.2, 127.0.0.4-9, 127.1.0.0/16"):
            (item,) = parse(text)
            self.assertIsInstance(item, DnsListDef)
            self.assertEqual((str(item), parse(str(item))), (text, [item]))

    def test_the_reply_stands_in_front_of_when_or_behind_it(self) -> None:
        before = parse('reject to @a.test 554 5.7.1 "No" when listed zen')
        self.assertEqual(parse('reject to @a.test when listed zen 554 5.7.1 "No"'), before)
        self.assertEqual(
            parse('hold login any when listed zen "why"'),
            parse('hold login any "why" when listed zen'),
        )
        self.assertEqual(parse('defer "Later" when tls'), parse('defer when tls "Later"'))

    def test_what_is_wrong_is_said_where_it_is(self) -> None:
        for text, column in (
            ("defer from any 550", 16), ("defer from any 250", 16), ("reject", 7), ("defer 451", 7),
            ("reject when", 12), ("accept when spf maybe", 17), ("accept when listed <zen>", 20),
            ('accept when tls "x"', 17), ("dnsbl zen", 10), ("dnsbl zen a..b", 11),
            ("dnsbl zen zen.test 192.0.2.1", 20), ("dnsbl zen zen.test 127.0.0.9-2", 20),
            ("dnsbl zen zen.test zen", 20), ("expect to a@b.test when tls -> defer", 20),
            ("expect to a@b.test when spf pass, fail -> defer", 20),
            ("expect to a@b.test -> defer 550", 29),
        ):  # fmt: skip
            with self.subTest(text):
                problems = lex(Source.of(text, "x")).problems or self._problems(text)
                self.assertEqual([each.place.column for each in problems], [column], problems)

    def _problems(self, text: str) -> list[Problem]:
        try:
            parse(text)
        except Complaint as complaint:
            return [complaint.problem]
        return []

    def test_names_that_nobody_gave(self) -> None:
        text = "accept when listed zen\nexpect to a@b.test when not listed zne -> reject\n"
        problems = name_problems(parse("dnsbl zen zen.test\n" + text))
        self.assertEqual([each.what for each in problems], ["there is no dnsbl zne"])
        self.assertIn("zen", problems[0].expected)
        twice = name_problems(parse("dnsbl a b.test\ndnswl a c.test"))
        self.assertEqual(len(twice), 1)

    def test_what_is_told_decides(self) -> None:
        text = (
            LISTS
            + "reject when listed zen and not listed friends\ndefer when spf fail, softfail\naccept any"
        )
        zen, friends = listing("zen"), listing("friends")
        for told, code in (
            ({zen: False, friends: False, SENDER_POLICY: "pass"}, "250 2.1.5"),
            ({zen: True, friends: False, SENDER_POLICY: "pass"}, "550 5.7.1"),
            ({zen: True, friends: True, SENDER_POLICY: "pass"}, "250 2.1.5"),
            ({zen: False, friends: True, SENDER_POLICY: "softfail"}, "451 4.7.1"),
            ({zen: False, friends: True}, "451 4.3.0"),
            ({}, "451 4.3.0"),
        ):
            with self.subTest(told):
                self.assertEqual(self.code(text, told), code)

    def test_a_rule_set_says_what_is_to_be_asked_for(self) -> None:
        ruleset = build(parse(LISTS + "reject when listed zen\naccept when rdns none"), {}, "gw")
        self.assertEqual(ruleset.asked, {listing("zen")})
        self.assertEqual(set(ruleset.lists), {"zen", "friends"})
        self.assertEqual(build(parse(LISTS + "accept any"), {}, "gw").asked, frozenset())

    def test_by_whose_name_a_list_is_asked_says_from_when_on_it_is_known(self) -> None:
        for whose, known in WHOSE.items():
            ruleset = build(parse(f"dnsbl dbl d.test\nreject when listed dbl by {whose}"), {}, "gw")
            self.assertEqual(ruleset.asked, {listing("dbl", whose)})
            self.assertEqual({each.known for each in ruleset.asked}, {known})
        told = {listing("dbl", "sender"): True, listing("dbl"): False}
        for rule, code in (("listed dbl by sender", "550 5.7.1"), ("listed dbl", "250 2.1.5")):
            self.assertEqual(
                self.code(f"dnsbl dbl d.test\nreject when {rule}\naccept any", told), code
            )

    def test_tests_state_what_others_would_say(self) -> None:
        rules = LISTS + "reject when listed zen\ndefer when spf fail\naccept to @b.test\n"
        for test, fails in (
            ("to a@b.test -> accept", 0), ("to a@b.test when listed zen -> reject 550", 0),
            ("to a@b.test when spf fail -> defer", 0), ("to a@b.test when spf fail -> reject 451", 0),
            ("to a@b.test when spf fail and listed zen -> defer", 1),
            ("to a@b.test when listed zen -> accept", 1), ("to a@b.test -> defer", 1),
        ):  # fmt: skip
            with self.subTest(test):
                ruleset = build(parse(rules + "expect " + test), {}, "gw")
                self.assertEqual(len(failures(ruleset)), fails)

    def test_what_anybody_may_say_or_have_is_no_door(self) -> None:
        for test, wrong in (("spf pass", 1), ("not listed zen", 1), ("listed friends", 1)):
            ruleset = build(parse(f"{LISTS}accept any when {test}"), {}, "gw.example.com")
            self.assertEqual(len(open_doors(ruleset)), wrong, test)

    def test_ranges_of_answers(self) -> None:
        for text in ("127.0.0.2-1", "127.0.0.300", "10.0.0.0/8", "127.0.0.2-", "-", "127.0.0.1/8"):
            with self.subTest(text), self.assertRaises(ValueError):
                counts(text)

    def test_ranges_in_any_octet(self) -> None:
        for text, fits, misses in (
            ("127.0.0-255.1-3", "127.0.12.3", "127.0.12.4"),
            ("127.0-1.5.0-255", "127.1.5.9", "127.1.6.9"),
            ("127.0.0.2-11", "127.0.0.11", "127.0.1.2"),
        ):
            self.assertTrue(counts(text)(IPv4Address(fits)))
            self.assertFalse(counts(text)(IPv4Address(misses)))
        for text in ("127.0-0-1.0.1", "127.1-0.0.1", "127-128.0.0.1", "127.0.0-256.1"):
            with self.subTest(text), self.assertRaises(ValueError):
                counts(text)

    def test_it_is_an_admission_rule_like_any_other(self) -> None:
        item: Item = parse("defer to @a.test")[0]
        assert isinstance(item, AdmissionRule)
        assert item.reply is not None
        self.assertEqual((item.verb, str(item.reply)[:9]), ("defer", "451 4.7.1"))
