"""`rdns`: the client's confirmed reverse name, a fact that somebody must be asked for."""

from __future__ import annotations

import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.rules.check.check import unanswered
from relayd.rules.check.opendoor import open_doors
from relayd.rules.check.shadow import shadowed
from relayd.rules.conditions.reversename import REVERSE_NAME, ByReverseName
from relayd.rules.evaluate import Facts, evaluate
from relayd.rules.language.model import AdmissionRule, Item
from relayd.rules.language.pattern import Anything, InTable, Regex, Text
from relayd.rules.ruleset import build
from relayd.rules.tables.table import BrokenTable
from tests.unit.rules.sample import problems
from tests.unit.rules.strategies import some
from tests.unit.rules.test_grammar import parse

OPERANDS = some(
    st.one_of(
        st.sampled_from(["none", "mail.example.com", ".example.net", "müller.example"]).map(Text),
        st.builds(Regex, st.just("^dyn-")),
        st.builds(InTable, st.just("known")),
        st.just(Anything()),
    )
)


class ReverseNameTests(unittest.TestCase):
    def plan(self, text: str, name: str | None) -> str:
        """The reply's code for a client of this reverse name; None: nobody could say."""
        ruleset = build(parse(text), {}, "gw.example.com")
        gathered = None if name is None else {REVERSE_NAME: name}
        recipient = Mailbox("info", "example.com")
        facts = Facts(Client("192.0.2.7"), None, recipient, gathered=gathered)
        return str(evaluate(ruleset, facts).reply)[:9]

    def fits(self, operands: str, name: str) -> bool:
        return self.plan(f"reject rdns {operands}\naccept any", name) == "550 5.7.1"

    @settings(max_examples=100, deadline=None)
    @given(OPERANDS, st.booleans())
    def test_it_prints_as_it_is_read(self, operands: tuple, negated: bool) -> None:  # type: ignore[type-arg]
        test = ByReverseName(operands, negated)
        rule: Item = AdmissionRule("accept", (ByReverseName(operands),), when=(test,))
        self.assertEqual(parse(str(rule)), [rule])

    def test_names_and_what_lies_below_a_domain(self) -> None:
        for operands, name, fits in (
            ("mail.example.com", "mail.example.com", True),
            ("Mail.Example.com", "mail.example.com", True),
            ("mail.example.com", "a.mail.example.com", False),
            (".example.com", "a.mail.example.com", True),
            (".example.com", "example.com", False),
            (".example.com", "badexample.com", False),
            ("müller.example", "xn--mller-kva.example", True),
            ('regex "^dyn-"', "dyn-7.example.com", True),
            ('regex "^dyn-"', "a.dyn-7.example.com", False),
            ("a.example, .b.example", "x.b.example", True),
            ("any", "a.example", True),
            ("none", "a.example", False),
        ):
            self.assertIs(self.fits(operands, name), fits, (operands, name))

    def test_no_name_is_none_and_nothing_else(self) -> None:
        for operands in ("any", ".example.com", "a.example", 'regex "^"'):
            self.assertFalse(self.fits(operands, ""), operands)
        self.assertTrue(self.fits("none", ""))
        self.assertEqual(self.plan("accept any when not rdns none", "")[:3], "550")

    def test_what_nobody_could_say_is_unknown(self) -> None:
        for test in ("rdns none", "rdns any", "rdns .example.com"):
            self.assertEqual(self.plan(f"reject {test}\naccept any", None), "451 4.3.0")
            self.assertEqual(self.plan(f"accept any when not {test}", None), "451 4.3.0")
        self.assertEqual(self.plan("accept any\nreject rdns none", None)[:3], "250")  # not asked

    def test_no_wins_over_unknown(self) -> None:
        text = "reject to @elsewhere.example when rdns none\naccept any"
        self.assertEqual(self.plan(text, None)[:3], "250")

    def test_a_table_of_names(self) -> None:
        rules = "reject rdns <known>\naccept any"
        broken = build(
            parse(rules), {"known": BrokenTable("known", "x:1", "gone")}, "gw.example.com"
        )
        facts = Facts(Client("192.0.2.7"), None, Mailbox("a", "b.example"))
        for gathered in ({REVERSE_NAME: "a.example"}, None):
            told = Facts(facts.client, None, facts.recipient, gathered=gathered)
            self.assertEqual(evaluate(broken, told).reply.code, 451)

    def test_a_rule_set_says_that_it_wants_to_know(self) -> None:
        ruleset = build(parse("accept any when rdns any"), {}, "gw.example.com")
        self.assertEqual(ruleset.needs, {REVERSE_NAME})

    def test_any_name_is_not_none(self) -> None:
        ruleset = build(parse("hold rdns any\nhold rdns none\nhold rdns .a.example"), {}, "gw")
        self.assertEqual([each.place.line for each in shadowed(ruleset)], [3])

    def test_whoever_has_any_name_is_everyone(self) -> None:
        for test, wrong in (("any", 1), ("none", 1), ("mail.example.com", 0), (".example.com", 0)):
            ruleset = build(parse(f"accept rdns {test}"), {}, "gw.example.com")
            self.assertEqual(len(open_doors(ruleset)), wrong, test)

    def test_it_is_an_error_where_nobody_looks_it_up(self) -> None:
        text = "accept to @example.com when not rdns none"
        self.assertEqual(
            [str(each).partition("\n")[0] for each in unanswered(parse(text), {REVERSE_NAME})],
            [
                "x:1:33: the client's reverse name is not looked up: this would never be "
                "known, and mail refused with 451 4.3.0; expected another condition"
            ],
        )
        self.assertEqual(problems(text), [])

    def test_the_name_of_a_client_is_a_fact_about_him(self) -> None:
        ruleset = build(parse("reject rdns none\naccept rdns .example.net\naccept any"), {}, "gw")
        for client, code in (
            (Client("192.0.2.7", rdns=""), 550),
            (Client("192.0.2.7", rdns="a.example.net"), 250),
            (Client("192.0.2.7"), 451),
            (Client(""), 250),  # mail of our own
        ):
            facts = Facts(client, None, Mailbox("a", "b.example"))
            self.assertEqual(evaluate(ruleset, facts).reply.code, code, client)

    def test_the_trail_says_the_name(self) -> None:
        ruleset = build(parse("accept rdns .example.net"), {}, "gw")
        facts = Facts(Client("192.0.2.7", rdns="a.example.net"), None, Mailbox("a", "b.example"))
        self.assertIn("a.example.net", evaluate(ruleset, facts).trail[0].note)

    def test_an_expect_states_the_name(self) -> None:
        text = "reject rdns none\naccept rdns .example.net\naccept to @ours.example\n"
        for said, code in (("rdns none ", 0), ("rdns a.example.net ", 1), ("", 1)):
            expect = f"expect from 192.0.2.7 {said}to a@ours.example -> reject"
            self.assertEqual(len(problems(text + expect)), code, said)
            (read,) = parse(expect)
            self.assertEqual(str(read), expect)

    def test_complaints(self) -> None:
        for text, told in (
            ("reject rdns", "expected none, a host name, .domain, <table>, regex or any"),
            ("reject rdns @example.com", 'did you mean "example.com"?'),
            ("reject rdns @.example.com", 'did you mean ".example.com"?'),
            ("reject rdns a..b", "is no domain"),
        ):
            self.assertIn(told, problems(text)[0])
