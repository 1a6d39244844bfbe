"""`limit` and `over`, `first-seen`, `unknown at`: read, printed, stated, and what they decide."""

from __future__ import annotations

import unittest
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd import config
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.rules.check.expect import failures
from relayd.rules.check.opendoor import open_doors
from relayd.rules.conditions.condition import Condition
from relayd.rules.conditions.counted import ByCount, count_of
from relayd.rules.conditions.firstseen import ByFirstSight, first_seen
from relayd.rules.conditions.listing import listing
from relayd.rules.conditions.reversename import REVERSE_NAME
from relayd.rules.conditions.senderpolicy import SENDER_POLICY
from relayd.rules.conditions.verified import UnknownAt, unknown_at
from relayd.rules.evaluate import Facts, evaluate
from relayd.rules.fact import Fact
from relayd.rules.language.model import Counted, LimitDef
from relayd.rules.language.pattern import Text
from relayd.rules.ruleset import Ruleset, build
from relayd.rules.view import Unasked
from tests.unit.rules.strategies import some
from tests.unit.rules.test_checks_block import BEFORE, WHO
from tests.unit.rules.test_grammar import parse

SITE = """\
hostname  gw.example.com
table     ours { info@example.com }
next-hop  exchange smtp ex1.corp.example:25
include   rules.d/*.rules
accept    to <ours>
accept    login any
route     to <ours>                        via exchange
expect    to info@example.com                                     -> info@example.com via exchange
expect    to info@example.com when over burst                     -> defer
expect    to info@example.com when over hourly                    -> accept
expect    login ann to x@example.net when over hourly             -> hold
expect    to info@example.com when first-seen 5m                  -> defer
expect    to info@example.com when first-seen 5m and spf pass     -> accept
expect    to info@example.com when unknown at exchange            -> reject 550 5.1.1
expect    to info@example.com when not unknown at exchange        -> accept
"""

NAMES = st.sampled_from(["hourly", "burst", "fresh-1.x"]).map(Text)
TIMES = st.sampled_from(["1s", "90s", "5m", "1h30m", "1d"])
CONDITIONS: st.SearchStrategy[Condition] = st.one_of(
    st.builds(ByCount, some(NAMES), st.booleans()),
    st.builds(ByFirstSight, st.tuples(TIMES.map(Text)), st.booleans()),
    st.builds(UnknownAt, st.tuples(NAMES), st.booleans()),
)
LIMITS_OF_ANY_KIND = st.builds(
    LimitDef,
    st.sampled_from(["hourly", "burst"]),
    st.integers(1, 10**9),
    TIMES,
    st.sampled_from(Counted),
    st.booleans(),
)


class Language(unittest.TestCase):
    @settings(max_examples=100, deadline=None)
    @given(st.lists(CONDITIONS, min_size=1, max_size=3), st.sampled_from(["reject", "defer"]))
    def test_conditions_print_as_they_are_read(self, tests: list[Condition], verb: str) -> None:
        rule = parse(f"{verb} when {' and '.join(map(str, tests))}")[0]
        self.assertEqual(rule.when, tuple(tests))  # type: ignore[union-attr]
        self.assertEqual(parse(str(rule)), [rule])

    @settings(max_examples=100, deadline=None)
    @given(LIMITS_OF_ANY_KIND)
    def test_limits_print_as_they_are_read(self, limit: LimitDef) -> None:
        self.assertEqual(parse(str(limit)), [limit])

    def test_recipients_is_what_a_limit_counts_by_itself(self) -> None:
        (short,) = parse("limit a 5/1h per login")
        self.assertEqual(parse("limit a 5/1h recipients per login"), [short])
        assert isinstance(short, LimitDef)
        self.assertEqual((short.what, short.seconds), ("recipients", 3600.0))


class AsAnOperatorWritesIt(unittest.TestCase):
    def load(self, block: str, site: str = SITE) -> config.Settings:
        with TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "rules.d").mkdir()
            (folder / "relayd.conf").write_text(site)
            (folder / "rules.d" / "05-checks.rules").write_text(block)
            return config.load(folder / "relayd.conf")

    def test_it_loads_and_its_tests_pass(self) -> None:
        self.assertEqual(self.load(WHO + BEFORE).warnings, ())

    def test_a_test_that_comes_out_otherwise_is_an_error(self) -> None:
        with self.assertRaises(config.ConfigErrors):
            self.load(WHO + BEFORE, SITE.replace("when over burst                     -> defer",
                                                    "when over burst -> accept"))  # fmt: skip

    def test_first_seen_does_without_names_of_clients(self) -> None:
        self.load(WHO + BEFORE, SITE + "client-names no\n")


class Decided(unittest.TestCase):
    RULES = WHO + (
        "next-hop exchange smtp ex1:25\ntable ours { example.com }\n"
        + BEFORE
        + "accept to <ours>\naccept login any\nroute any via exchange\n"
    )

    def ruleset(self, text: str = "") -> Ruleset:
        items = parse(text or self.RULES)
        with TemporaryDirectory() as name:
            path = Path(name) / "relayd.conf"
            path.write_text("hostname gw.example.com\n" + "\n".join(map(str, items)))
            return config.load(path).ruleset

    def code(self, told: Mapping[Fact, object], *, login: str = "", asks: bool = False) -> str:
        client = Client("192.0.2.7", login=login)
        told = {listing("zen"): False, listing("friends"): False, **told}
        facts = Facts(client, None, Mailbox("info", "example.com"), gathered=told, asks=asks)
        plan = evaluate(self.ruleset(), facts)
        return f"{plan.verdict.value} {plan.reply}"[:16]

    def test_what_is_told_decides(self) -> None:
        calm: dict[Fact, object] = {
            count_of("burst"): False,
            count_of("hourly"): False,
            first_seen("5m"): False,
            SENDER_POLICY: "none",
            unknown_at("exchange"): False,
        }
        for change, login, code in (
            ({}, "", "accept 250 2.1.5"),
            ({count_of("burst"): True}, "", "refuse 451 4.7.1"),
            ({count_of("hourly"): True}, "", "accept 250 2.1.5"),
            ({count_of("hourly"): True}, "ann", "hold 250 2.1.5 R"),
            ({first_seen("5m"): True}, "", "refuse 451 4.7.1"),
            ({first_seen("5m"): True, SENDER_POLICY: "pass"}, "", "accept 250 2.1.5"),
            ({unknown_at("exchange"): True}, "", "refuse 550 5.1.1"),
            ({unknown_at("exchange"): None}, "", "refuse 451 4.3.0"),
            ({count_of("burst"): None}, "", "refuse 451 4.3.0"),
        ):
            with self.subTest(change, login=login):
                self.assertEqual(self.code(calm | change, login=login), code)

    def test_what_is_not_asked_yet_is_asked_for_one_by_one_in_the_order_of_the_rules(self) -> None:
        told: dict[Fact, object] = {SENDER_POLICY: "none"}
        asked = []
        for _ in range(9):
            try:
                self.assertEqual(self.code(told, asks=True), "accept 250 2.1.5")
                break
            except Unasked as unasked:
                asked.append(unasked.fact)
                told[unasked.fact] = False
        self.assertEqual(
            [fact.condition for fact in asked],
            ["over burst", "first-seen 5m", "unknown at exchange"],
        )
        self.assertEqual(asked[-1].about, "info@example.com")

    def test_what_does_not_matter_is_not_asked_for(self) -> None:
        told = {count_of("burst"): False, SENDER_POLICY: "pass"}
        with self.assertRaises(Unasked) as caught:
            self.code(told, asks=True)
        self.assertEqual(caught.exception.fact.condition, "unknown at exchange")

    def test_without_anybody_to_ask_it_is_unknown(self) -> None:
        self.assertEqual(self.code({}), "refuse 451 4.3.0")

    def test_a_first_sight_is_better_with_a_name_and_policy(self) -> None:
        ruleset = build(parse("defer when first-seen 5m\naccept to a@b.test"), {}, "gw")
        self.assertLessEqual({REVERSE_NAME, SENDER_POLICY}, ruleset.needs)
        self.assertIn(SENDER_POLICY, ruleset.asked)

    def test_who_is_not_over_a_limit_is_still_anybody(self) -> None:
        for test in ("not over hourly", "not first-seen 5m", "not unknown at x"):
            text = f"limit hourly 5/1h per login\nnext-hop x smtp h:25\naccept any when {test}"
            self.assertEqual(len(open_doors(build(parse(text), {}, "gw.example.com"))), 1, test)

    def test_what_a_test_does_not_state_is_as_of_anybody(self) -> None:
        text = self.RULES.replace("<ours>", "@example.com").replace(
            "table ours { example.com }", ""
        )
        for test, fails in (
            ("to a@example.com -> a@example.com via exchange", 0),
            ("to a@example.com when over burst -> defer", 0),
            ("to a@example.com when unknown at exchange and over burst -> defer", 0),
            ("to a@example.com when unknown at exchange -> defer", 1),
        ):
            with self.subTest(test):
                self.assertEqual(
                    len(failures(build(parse(f"{text}expect {test}"), {}, "gw"))), fails
                )
