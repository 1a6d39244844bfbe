"""Rules that look at the content: `size`, `field`, `dkim`, `dmarc`, and when they are asked."""

from __future__ import annotations

import unittest
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.client import Client
from relayd.mail.plan import Plan, Verdict
from relayd.rules.check.check import content_problems
from relayd.rules.check.expect import failures
from relayd.rules.check.loops import loops
from relayd.rules.check.opendoor import open_doors
from relayd.rules.check.shadow import never_held, shadowed
from relayd.rules.conditions.condition import Condition
from relayd.rules.conditions.headerfield import MOST_CHARACTERS, bounded, header_field
from relayd.rules.conditions.senderpolicy import SENDER_POLICY
from relayd.rules.conditions.signatures import DKIM, DMARC, DMARC_WORDS, SignedResult
from relayd.rules.conditions.size import SIZE, BySize
from relayd.rules.evaluate import Facts, evaluate, examine
from relayd.rules.fact import Fact, Known
from relayd.rules.language.lexer import lex
from relayd.rules.language.pattern import SizeBound
from relayd.rules.language.source import Complaint, Problem, Source
from relayd.rules.language.statedfact import stated_facts
from relayd.rules.ruleset import Ruleset, build, without_unknown
from relayd.rules.tables.table import Unknown
from relayd.rules.view import View
from tests.unit.rules.sample import RULES
from tests.unit.rules.strategies import CONTENT
from tests.unit.rules.test_grammar import parse

ANN, INFO = Mailbox("ann", "example.org"), Mailbox("info", "example.com")
HERE = Client("192.0.2.7")
SUBJECT = header_field("Subject")


def rules(text: str) -> Ruleset:
    return build(parse(text), {}, "gw.example.com")


def at_rcpt(ruleset: Ruleset, recipient: Mailbox = INFO) -> Plan:
    return evaluate(ruleset, Facts(HERE, ANN, recipient))


def at_the_dot(
    ruleset: Ruleset, recipient: Mailbox = INFO, *, sender: ReversePath = ANN, **told: object
) -> Plan:
    facts: dict[Fact, object] = {SIZE: 1000, DKIM: (), DMARC: "none", SUBJECT: ("hello",)}
    names = {"size": SIZE, "dkim": DKIM, "dmarc": DMARC, "subject": SUBJECT}
    facts |= {names[name]: value for name, value in told.items()}
    return evaluate(ruleset, Facts(HERE, sender, recipient, 0.0, facts, Known.CONTENT))


def problems(text: str) -> list[Problem]:
    """Of spelling and of sense."""
    lexed = lex(Source.of(text, "x"))
    if lexed.problems:
        return lexed.problems
    try:
        return content_problems(parse(text))
    except Complaint as complaint:
        return [complaint.problem]


class Words(unittest.TestCase):
    @settings(max_examples=200, deadline=None)
    @given(st.lists(CONTENT, min_size=1, max_size=3))
    def test_it_prints_as_it_is_read(self, tests: list[Condition]) -> None:
        rule = parse(f"hold when {' and '.join(map(str, tests))}")[0]
        self.assertEqual(rule.when, tuple(tests))  # type: ignore[union-attr]
        self.assertEqual(parse(str(rule)), [rule])

    def test_sizes_have_the_units_of_settings(self) -> None:
        for text, octets, shown in (
            ("20MB", 20_000_000, "20MB"), ("20MiB", 20 << 20, "20MiB"), ("4096", 4096, "4KiB"),
            ("5000", 5000, "5000"), ("1gb", 10**9, "1GB"), ("2048kib", 2 << 20, "2MiB"),
        ):  # fmt: skip
            with self.subTest(text):
                (rule,) = parse(f"hold when size > {text}")
                bound = SizeBound(">", octets)
                self.assertEqual(rule.when[0].operands, (bound,))  # type: ignore[union-attr]
                self.assertEqual(str(bound), f"> {shown}")

    def test_what_is_wrong_is_said_where_it_is(self) -> None:
        for text, column in (
            ("hold when size", 15), ("hold when size 20MB", 16), ("hold when size = 1", 16),
            ("hold when size > 20M", 18), ("hold when size > 0", 18), ("hold when size > 1, 2", 19),
            ("hold when dkim", 15), ("hold when dkim good", 16), ("hold when dkim pass @a..b", 21),
            ("hold when dkim pass a.test", 21), ("hold when dmarc fail", 17),
            ("hold when dmarc", 16), ("hold when field", 16), ('hold when field "x"', 17),
            ("hold when field Subject", 24), ("hold when field Subject x", 25),
            ('hold when field Subject: "x"', 17), ('hold when field A "(x"', 20),
            ('hold when field A "(x+)+y"', 19), ('hold when field A "aX"', 21),
            ("reject to a@b.test when size > 1", 8), ("accept when dkim pass and to @b.test", 27),
            ('defer to @b.test 451 "x" when field A "b"', 7),
            ("srs except sender @a.test when size > 1", 32),
            ("may-send-as any when size > 1", 17),
            ("expect to a@b.test when not dkim pass -> hold", 20),
            ("expect to a@b.test when dmarc pass, none -> hold", 20),
            ("expect to a@b.test when dkim pass @.b.test -> hold", 20),
        ):  # fmt: skip
            with self.subTest(text):
                self.assertEqual([each.place.column for each in problems(text)], [column])

    def test_what_looks_at_the_content_and_may(self) -> None:
        for text in (
            "hold to a@b.test when size > 1", "discard to a@b.test when dkim none",
            "route to @b.test via x when dmarc reject", "forward a@b.test -> c@d.test when size < 1MB",
            "rewrite sender @b.test -> @d.test when size > 1", 'header add A "b" when size > 1',
            "rewrite recipient @b.test -> @d.test when size > 1",
            "rewrite header From @b.test -> @d.test when size > 1",
            "reject from 192.0.2.1 when size > 1 and sender @b.test", "accept dkim pass @b.test",
        ):  # fmt: skip
            with self.subTest(text):
                self.assertEqual(problems(text), [])

    def test_stated(self) -> None:
        for text, fact, value in (
            ("size > 20MB", SIZE, 20_000_001), ("size < 10", SIZE, 9), ("not size > 10", SIZE, 10),
            ("dkim none", DKIM, ()), ("dkim pass", DKIM, (SignedResult("pass"),)),
            (
                "dkim pass @Example.org, fail @b.test", DKIM,
                (SignedResult("pass", "example.org"), SignedResult("fail", "b.test")),
            ),
            ("dmarc reject", DMARC, "reject"), ('field SUBJECT "spam"', SUBJECT, ("spam",)),
            ('not field subject "spam"', SUBJECT, ()),
        ):  # fmt: skip
            with self.subTest(text):
                self.assertEqual(stated_facts(text), {fact: value})

    @settings(max_examples=200, deadline=None)
    @given(CONTENT)
    def test_it_holds_where_it_is_stated(self, condition: Condition) -> None:
        try:
            fact, value = condition.stated()
        except ValueError:
            return
        view = View(HERE, None, None, {fact: value})  # type: ignore[arg-type]
        if fact.spelled == "field":
            return  # what it says is text, and need not fit itself
        try:
            self.assertTrue(condition.compiled({})(view))
        except Unknown:
            self.assertIn("temperror", str(condition))

    def test_facts_in_words(self) -> None:
        signed = (SignedResult("pass", "a.test"), SignedResult("fail"))
        self.assertEqual(DKIM.said(signed), "dkim pass @a.test, fail")
        self.assertEqual(DKIM.said(()), "dkim none")
        self.assertEqual(SUBJECT.said(("a", "b")), "field subject a, b")

    def test_sizes_cover_each_other(self) -> None:
        def size(sign: str, octets: int) -> BySize:
            return BySize((SizeBound(sign, octets),))

        self.assertTrue(size(">", 10).covers(size(">", 20), {}))
        self.assertFalse(size(">", 20).covers(size(">", 10), {}))
        self.assertTrue(size("<", 20).covers(size("<", 10), {}))
        self.assertFalse(size("<", 20).covers(size(">", 10), {}))


class Answers(unittest.TestCase):
    def holds(self, text: str, told: Mapping[Fact, object]) -> str:
        (rule,) = parse(f"hold when {text}")
        view = View(HERE, None, None, told)  # type: ignore[arg-type]
        try:
            (test,) = (each.compiled({}) for each in rule.when)  # type: ignore[union-attr]
            return "yes" if test(view) else "no"
        except Unknown:
            return "unknown"

    def test_the_best_signature_counts(self) -> None:
        for results, word, answer in (
            ("fail pass", "pass", "yes"), ("fail pass", "fail", "no"), ("fail", "fail", "yes"),
            ("", "none", "yes"), ("permerror neutral", "neutral", "yes"), ("pass temperror", "pass", "yes"),
            ("fail temperror", "temperror", "yes"), ("fail temperror", "fail", "unknown"),
            ("temperror", "pass", "unknown"), ("permerror", "none", "no"),
        ):  # fmt: skip
            with self.subTest(results, word=word):
                signed = tuple(SignedResult(each, "a.test") for each in results.split())
                self.assertEqual(self.holds(f"dkim {word}", {DKIM: signed}), answer)

    def test_of_a_domain(self) -> None:
        signed = (SignedResult("pass", "mail.a.test"), SignedResult("temperror", "b.test"))
        for text, answer in (
            ("dkim pass @mail.a.test", "yes"), ("dkim pass @a.test", "no"),
            ("dkim pass @.a.test", "yes"), ("dkim none @c.test", "yes"),
            ("dkim pass @b.test", "unknown"), ("dkim pass @b.test, pass @.a.test", "yes"),
            ("not dkim pass @c.test", "yes"),
        ):  # fmt: skip
            with self.subTest(text):
                self.assertEqual(self.holds(text, {DKIM: signed}), answer)

    def test_what_nobody_could_say_is_unknown(self) -> None:
        for text, fact in (("dkim pass", DKIM), ("dmarc pass", DMARC), ("not dmarc pass", DMARC)):
            self.assertEqual(self.holds(text, {fact: None}), "unknown")
            self.assertEqual(self.holds(text, {}), "unknown")

    def test_text_is_cut_where_expressions_would_take_long(self) -> None:
        self.assertEqual([len(each) for each in bounded(["x" * 5000] * 9)], [1000, 1000])
        self.assertEqual(bounded(["A", "b"]), ("a", "b"))
        self.assertEqual(bounded([]), ())
        self.assertEqual(MOST_CHARACTERS, 1000)


class When(unittest.TestCase):
    """At RCPT without the content; at the final dot with everything."""

    def test_at_rcpt_they_are_left_out(self) -> None:
        ruleset = rules(
            "reject when size > 1\naccept to @example.com\nhold any when dmarc reject\n"
            'header add A "b" when size > 1\nforward info@example.com -> a@b.test when size > 1\n'
            "route any via x when size > 1\nrewrite sender any -> a@b.test when size > 1"
        )
        plan = at_rcpt(ruleset)
        self.assertEqual([step.stage for step in plan.trail], ["accept", "route"])
        (destination,) = plan.destinations
        self.assertEqual((destination.mailbox, destination.next_hop), (INFO, "direct"))
        self.assertEqual(destination.header_rules, ())

    def test_nobody_is_let_in_by_them(self) -> None:
        ruleset = rules("accept when dkim pass")
        self.assertEqual(at_rcpt(ruleset).reply.code, 550)
        signed = (SignedResult("pass"),)
        self.assertEqual(at_the_dot(ruleset, dkim=signed).reply.code, 550)

    def test_where_the_rules_stand_does_not_matter_to_those_of_rcpt(self) -> None:
        for text in (
            "reject when size > 1\naccept to @example.com",
            "accept to @example.com\nreject when size > 1",
        ):
            self.assertEqual(at_rcpt(rules(text)).verdict, Verdict.ACCEPT)
            self.assertEqual(at_the_dot(rules(text)).verdict, Verdict.REFUSE)

    def test_the_first_of_them_decides(self) -> None:
        ruleset = rules(
            "accept to @example.com\naccept when dkim pass @good.test\n"
            'defer when size > 900 "Later"\nreject when dmarc reject'
        )
        for told, code in (
            ({}, 451),
            ({"dkim": (SignedResult("pass", "good.test"),)}, 250),
            ({"size": 1, "dmarc": "reject"}, 550),
            ({"size": 1}, 250),
            ({"dkim": None}, 451),
        ):
            with self.subTest(told):
                plan = at_the_dot(ruleset, **told)
                self.assertEqual(plan.reply.code, code)

    def test_for_all_at_once(self) -> None:
        ruleset = rules(
            "accept to @example.com\nreject when size > 900 and not sender @example.org"
        )
        for sender, verdict in (
            (ANN, Verdict.ACCEPT),
            (None, Verdict.REFUSE),
            (Mailbox("x", "example.net"), Verdict.REFUSE),
        ):
            facts = Facts(HERE, sender, Mailbox("", ""), 0.0, {SIZE: 1000}, Known.CONTENT)
            self.assertEqual(examine(ruleset, facts).verdict, verdict)
        facts = Facts(HERE, None, Mailbox("", ""), 0.0, {}, Known.CONTENT)
        self.assertEqual(str(examine(ruleset, facts).reply)[:9], "451 4.3.0")

    def test_what_is_held_or_thrown_away(self) -> None:
        ruleset = rules(
            'discard to gone@example.com when size > 900\nhold to @example.com "a" when size > 900\n'
            "accept to @example.com\nhold any when dmarc reject"
        )
        self.assertEqual(at_the_dot(ruleset).verdict, Verdict.HOLD)
        self.assertEqual(at_the_dot(ruleset, size=1).verdict, Verdict.ACCEPT)
        self.assertEqual(at_the_dot(ruleset, size=1, dmarc="reject").verdict, Verdict.HOLD)
        gone = Mailbox("gone", "example.com")
        self.assertEqual(at_the_dot(ruleset, gone).verdict, Verdict.DISCARD)
        held = [step.rule for step in at_the_dot(ruleset, dmarc="reject").trail]
        self.assertEqual(sum(each.startswith("hold") for each in held), 1)

    def test_what_was_refused_before_is_not_asked_about(self) -> None:
        ruleset = rules("reject to @example.com 550 5.1.1\nhold any when size > 1")
        self.assertEqual(at_the_dot(ruleset).reply.status, "5.1.1")

    def test_own_mail_is_not_looked_at(self) -> None:
        from relayd.rules.evaluate import plan_own

        ruleset = rules("reject when size > 1\nroute any via x when size > 1\nroute any via y")
        plan = plan_own(ruleset, Facts(HERE, None, INFO))
        self.assertEqual([each.next_hop for each in plan.destinations], ["y"])

    def test_what_is_not_looked_at_costs_nothing(self) -> None:
        ruleset = build(parse("accept any when spf pass"), {}, "gw")
        self.assertEqual(
            (ruleset.examined, ruleset.content, ruleset.at_rcpt), (frozenset(), None, None)
        )

    def test_dmarc_wants_spf(self) -> None:
        ruleset = rules("accept any\nreject when dmarc reject")
        self.assertEqual((ruleset.asked, ruleset.examined), ({SENDER_POLICY}, {DMARC}))
        self.assertEqual(rules("hold when dkim fail").asked, frozenset())

    def test_only_what_is_told(self) -> None:
        ruleset = rules("accept to @example.com\nreject when dmarc reject\nhold any when size > 1")
        known = without_unknown(ruleset, {SIZE})
        facts = Facts(HERE, ANN, INFO, 0.0, {SIZE: 1000}, Known.CONTENT)
        self.assertEqual(evaluate(known, facts).verdict, Verdict.HOLD)
        self.assertEqual(evaluate(ruleset, facts).reply.code, 451)


class Checked(unittest.TestCase):
    def test_tests_state_the_content(self) -> None:
        text = (
            "accept to @example.com\nreject when dmarc reject\nhold to any when size > 20MB\n"
            'discard to any when field subject "spam"\nroute to any via junk when dkim fail\n'
        )
        for test, fails in (
            ("to info@example.com -> info@example.com direct", 0),
            ("to info@example.com when dmarc reject -> reject 550", 0),
            ("to info@example.com when size > 20MB -> hold", 0),
            ("to info@example.com when size < 20MB -> accept", 0),
            ('to info@example.com when field Subject "the spam" -> discard', 0),
            ("to info@example.com when dkim fail @x.test -> info@example.com via junk", 0),
            ("to info@example.com when dmarc reject -> accept", 1),
        ):
            with self.subTest(test):
                self.assertEqual(len(failures(rules(f"{text}expect {test}"))), fails)

    def test_what_comes_later_is_reached(self) -> None:
        for text, hidden in (
            ("accept any\nreject when size > 1", 0),
            ("accept to @example.com\nhold to @example.com when size > 1", 0),
            ("discard to @example.com\nhold to @example.com when size > 1", 1),
            ("reject any\nhold to @example.com when size > 1", 1),
            ("hold any\nhold to @example.com when size > 1", 1),
            ("reject when size > 1\nreject when size > 2", 1),
            ("hold any when size > 1\nreject when size > 2", 0),
            ("accept when size > 1\nhold any when size > 2", 1),
            ("route any direct\nroute any via x when size > 1", 1),
            ("route any via x when size > 1\nroute any direct", 0),
        ):
            with self.subTest(text):
                self.assertEqual(len(shadowed(rules(text))), hidden)

    def test_no_door_is_opened_or_shut(self) -> None:
        self.assertEqual(open_doors(rules("accept when dkim pass")), [])
        self.assertEqual(len(open_doors(rules("reject when size > 1\naccept any"))), 1)

    def test_circles_are_found_beside_them(self) -> None:
        text = (
            "accept any\nforward a@example.com -> b@example.com\n"
            "forward b@example.com -> a@example.com\n"
        )
        later = "forward a@example.com -> c@example.net when size > 1\n"
        self.assertEqual(len(loops(rules(text))), 1)
        self.assertEqual(len(loops(rules(later + text))), 1)

    def test_what_excludes_each_other(self) -> None:
        text = "hold any when dmarc pass and not dmarc pass"
        self.assertEqual(len(never_held(rules(text))), 1)
        self.assertEqual(never_held(rules("hold any when size > 1 and not size > 5")), [])

    def test_the_example_stays_as_it_is(self) -> None:
        self.assertFalse(any(each.examines for each in parse(RULES) if hasattr(each, "examines")))

    def test_each_word_of_dmarc_is_its_own(self) -> None:
        for word in DMARC_WORDS:
            ruleset = rules(f"accept to any\nhold any when dmarc {word}")
            for told in DMARC_WORDS:
                verdict = Verdict.HOLD if told == word else Verdict.ACCEPT
                self.assertEqual(at_the_dot(ruleset, dmarc=told).verdict, verdict)
