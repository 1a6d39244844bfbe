"""Who is asked, and `score`, `says` and `symbol`: what rules make of what filters say."""

from __future__ import annotations

import unittest
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.rules.check.check import content_problems, name_problems
from relayd.rules.check.expect import failures
from relayd.rules.check.filtering import filter_problems
from relayd.rules.conditions.condition import Condition
from relayd.rules.conditions.filtering import (
    WORDS,
    ByFilterWord,
    ByScore,
    BySymbol,
    said_of,
    score_of,
    symbol_of,
    word_of,
)
from relayd.rules.conditions.size import SIZE
from relayd.rules.evaluate import Facts, evaluate, examine
from relayd.rules.fact import Fact, Known
from relayd.rules.language.filtering import FAILURES
from relayd.rules.language.model import Ask, FilterDef
from relayd.rules.language.pattern import Text
from relayd.rules.ruleset import build
from relayd.rules.subject import Subject
from relayd.rules.view import View
from tests.unit.rules.strategies import LEADING, WHEN, some
from tests.unit.rules.test_grammar import parse

NAMES = st.sampled_from(["scan", "virus", "my-filter.1", "dkim"])
NUMBERS = st.one_of(
    st.integers(-999, 9999).map(str), st.sampled_from(["0.5", "7.25", "-1.5"])
)  # as they print
CONDITIONS = st.one_of(
    st.builds(
        lambda name, comparison, number, negated: ByScore(
            tuple(map(Text, filter(None, (name, comparison, number)))), negated
        ),
        NAMES, st.sampled_from([">=", ">", "<=", "<", ""]), NUMBERS, st.booleans(),
    ),
    st.builds(
        lambda name, word, negated: ByFilterWord((Text(name), Text(word)), negated),
        NAMES, st.sampled_from(WORDS), st.booleans(),
    ),
    st.builds(
        lambda name, symbol, negated: BySymbol((Text(name), Text(symbol)), negated),
        NAMES, st.sampled_from(["BAYES_SPAM", "A.b-1"]), st.booleans(),
    ),
)  # fmt: skip
PLACES = {
    "milter": st.sampled_from(["unix:/run/x", "127.0.0.1:8891", "[::1]:8891", "f.example:1"]),
    "rspamd": st.sampled_from(["http://127.0.0.1:11333", "http://[::1]:1", "http://r.example:2"]),
}
DEFINITIONS = st.sampled_from(["milter", "rspamd", "clamd", "policy"]).flatmap(
    lambda kind: st.builds(
        FilterDef,
        st.just(kind), NAMES, PLACES.get(kind, PLACES["milter"]),
        st.sampled_from(["", *FAILURES]), st.integers(0, 480),
    )
)  # fmt: skip
ASKS = st.builds(
    Ask,
    st.lists(NAMES, min_size=1, max_size=3, unique=True).map(tuple),
    st.one_of(st.just(()), LEADING),
    when=WHEN,
)
DEFINED = "rspamd scan http://127.0.0.1:1\nclamd virus 127.0.0.1:2\nask scan, virus\n"


class Printed(unittest.TestCase):
    @settings(max_examples=200, deadline=None)
    @given(st.one_of(DEFINITIONS, ASKS))
    def test_statements_print_as_they_are_read(self, item: FilterDef | Ask) -> None:
        self.assertEqual(parse(str(item)), [item])

    @settings(max_examples=200, deadline=None)
    @given(some(CONDITIONS))
    def test_conditions_print_as_they_are_read(self, tests: tuple[Condition, ...]) -> None:
        (rule,) = parse(f"hold when {' and '.join(map(str, tests))}")
        self.assertEqual(rule.when, tests)  # type: ignore[union-attr]
        self.assertEqual(parse(str(rule)), [rule])

    def test_ports_that_need_not_be_said(self) -> None:
        (clamd,) = parse("clamd virus 127.0.0.1")
        self.assertEqual(str(clamd), "clamd virus 127.0.0.1:3310")
        (rspamd,) = parse("rspamd scan http://localhost/ timeout 2m on failure hold")
        self.assertEqual(
            str(rspamd), "rspamd scan http://localhost:11333 on failure hold timeout 120s"
        )


class Told(unittest.TestCase):
    def reply(self, rules: str, told: Mapping[Fact, object]) -> str:
        ruleset = build(parse(DEFINED + rules), {}, "gw.example.com")
        nobody = Mailbox("", "")
        facts = Facts(Client("192.0.2.7"), None, nobody, gathered=told, known=Known.CONTENT)
        return str(examine(ruleset, facts).reply)[:9]

    def test_what_they_say_decides_at_the_end(self) -> None:
        rules = (
            "defer when score scan >= 6 and not symbol scan FRIEND\nreject when says virus reject"
        )
        score, word, friend = score_of("scan"), word_of("virus"), symbol_of("scan", "FRIEND")
        for told, reply in (
            ({score: 5.9, friend: False, word: ""}, "250 2.1.5"),
            ({score: 6.0, friend: False, word: ""}, "451 4.7.1"),
            ({score: 6.0, friend: True, word: "reject"}, "550 5.7.1"),
            ({score: "", friend: False, word: "defer"}, "250 2.1.5"),  # it was not asked
            ({score: None, friend: False, word: ""}, "451 4.3.0"),
            ({score: 6.0, friend: False}, "451 4.7.1"),
            ({score: 1.0, friend: False}, "451 4.3.0"),
        ):
            with self.subTest(told):
                self.assertEqual(self.reply(rules, told), reply)

    def test_at_rcpt_they_are_not_looked_at(self) -> None:
        ruleset = build(parse(DEFINED + "accept any\nhold when score scan >= 6"), {}, "gw")
        plan = evaluate(ruleset, Facts(Client("192.0.2.7"), None, Mailbox("a", "b.test")))
        self.assertEqual(plan.reply.code, 250)
        self.assertEqual(ruleset.asked, frozenset())

    def test_only_what_rules_look_at_is_kept(self) -> None:
        needed = frozenset({score_of("scan"), symbol_of("scan", "A"), symbol_of("scan", "B")})
        self.assertEqual(
            said_of(needed, "scan", "reject", 7.5, frozenset({"A", "C"})),
            {score_of("scan"): 7.5, symbol_of("scan", "A"): True, symbol_of("scan", "B"): False},
        )
        self.assertEqual(said_of(needed, "virus", "reject", None, frozenset()), {})
        self.assertEqual(
            said_of(frozenset({score_of("virus")}), "virus", "", None, frozenset()),
            {score_of("virus"): ""},
        )

    def test_tests_state_what_they_would_say(self) -> None:
        rules = DEFINED + 'accept to @b.test\nhold when score scan >= 15 "spam?"\n'
        for test, fails in (
            ("to a@b.test -> accept", 0), ("to a@b.test when score scan 20 -> hold", 0),
            ("to a@b.test when score scan 14.9 -> hold", 1),
            ("to a@b.test when score scan 20 -> accept", 1),
        ):  # fmt: skip
            with self.subTest(test):
                ruleset = build(parse(rules + "expect " + test), {}, "gw")
                self.assertEqual(len(failures(ruleset)), fails)

    def test_a_higher_threshold_is_covered_by_a_lower_one(self) -> None:
        tests = [parse(f"hold when score {each}")[0].when[0] for each in  # type: ignore[union-attr]
                 ("scan >= 6", "scan >= 15", "virus >= 15", "scan <= 3", "scan > 15")]  # fmt: skip
        covered = {(a, b) for a in range(5) for b in range(5) if tests[a].covers(tests[b], {})}
        self.assertEqual(covered, {(n, n) for n in range(5)} | {(0, 1)})


class Asked(unittest.TestCase):
    def asks(self, rules: str, known: Known, **facts: str) -> list[bool | None]:
        """Of each filter, in order."""
        ruleset = build(parse(DEFINED.replace("ask scan, virus\n", "") + rules), {}, "gw")
        client = Client("192.0.2.7", login=facts.get("login", ""))
        sender = Subject(Mailbox.parse(facts.get("sender", "a@example.org")))
        recipient = Subject(Mailbox.parse(facts.get("to", "b@example.com")))
        assert ruleset.asks is not None
        view = View(client, sender, recipient, {})
        return [ruleset.asks.asks(name, view, known) for name in ruleset.asks.order]

    def test_from_when_on_it_is_known(self) -> None:
        rules = "ask virus when not login any\nask scan to @example.com when sender @example.org"
        for known, expected in (
            (Known.CLIENT, [True, None]), (Known.SENDER, [True, None]),
            (Known.RECIPIENT, [True, True]), (Known.CONTENT, [True, True]),
        ):  # fmt: skip
            self.assertEqual(self.asks(rules, known), expected)
        self.assertEqual(self.asks(rules, Known.RECIPIENT, login="bob"), [False, True])
        self.assertEqual(self.asks(rules, Known.RECIPIENT, to="b@else.example"), [True, False])

    def test_who_is_always_asked_has_a_rule_without_conditions(self) -> None:
        rules = "ask virus\nask scan, virus when login any"
        ruleset = build(parse(DEFINED.replace("ask scan, virus\n", "") + rules), {}, "gw")
        assert ruleset.asks is not None
        self.assertEqual(ruleset.asks.always, {"virus"})
        self.assertEqual(self.asks(rules, Known.CLIENT), [True, False])

    def test_several_rules_and_unknown_facts(self) -> None:
        rules = "ask scan login any\nask scan when listed zen\nask virus when spf fail"
        self.assertEqual(self.asks(rules, Known.CONTENT), [None, None])
        self.assertEqual(self.asks(rules, Known.CONTENT, login="bob"), [True, None])

    def test_by_what_is_in_the_content_or_others_said_of_it(self) -> None:
        rules = "ask scan when size < 1MB\nask virus when score scan >= 6"
        self.assertEqual(content_problems(parse(DEFINED + rules)), [])
        self.assertEqual(self.asks(rules, Known.RECIPIENT), [None, None])
        ruleset = build(parse(DEFINED.replace("ask scan, virus\n", "") + rules), {}, "gw")
        self.assertEqual(ruleset.examined, {SIZE, score_of("scan")})
        assert ruleset.asks is not None
        view = View(
            Client("192.0.2.7"),
            None,
            Subject(Mailbox("a", "b.test")),
            {SIZE: 5, score_of("scan"): 7.0},
        )
        self.assertEqual(
            [ruleset.asks.asks(name, view, Known.CONTENT) for name in ruleset.asks.order],
            [True, True],
        )

    def test_nobody_is_asked_by_what_is_said_after_him(self) -> None:
        for rules, wrong in (
            ("ask scan\nask virus when score scan >= 6", 0),
            ("ask virus when score scan >= 6\nask scan", 1),
            ("ask scan, virus when score scan >= 6", 1),
        ):
            text = DEFINED.replace("ask scan, virus\n", "") + rules
            self.assertEqual(len(filter_problems(parse(text))), wrong, rules)

    def test_a_name_that_is_like_none_may_be_of_any_kind(self) -> None:
        (problem,) = name_problems(parse("hold when score quarantine >= 3"))
        self.assertEqual(
            (problem.what, problem.expected),
            ("there is no filter quarantine",
             'expected a statement "rspamd, clamd, policy or milter quarantine ..."'),
        )  # fmt: skip

    def test_names_that_nobody_gave_and_filters_that_cannot_say(self) -> None:
        text = DEFINED + "hold when says vrius reject\nhold when score virus >= 3"
        problems = name_problems(parse(text)) + filter_problems(parse(text))
        self.assertEqual(
            [each.what for each in problems],
            ["there is no filter vrius", "virus is a clamd, which gives no scores"],
        )
        self.assertIn("virus", problems[0].expected)
        self.assertEqual(len(name_problems(parse("ask nobody"))), 1)
        self.assertEqual(len(name_problems(parse(DEFINED + "milter scan unix:/x"))), 1)
