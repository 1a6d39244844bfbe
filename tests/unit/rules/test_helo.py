"""`helo`: what a client calls itself, by name and by expression."""

from __future__ import annotations

import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.rules.check.opendoor import open_doors
from relayd.rules.conditions.name import ByHelo
from relayd.rules.evaluate import Facts, evaluate
from relayd.rules.language.model import AdmissionRule
from relayd.rules.language.pattern import Anything, Regex, Text
from relayd.rules.ruleset import build
from tests.unit.rules.sample import problems
from tests.unit.rules.strategies import some
from tests.unit.rules.test_grammar import parse

OPERANDS = some(
    st.one_of(
        st.sampled_from(["mx.example.com", ".example.net"]).map(Text),
        st.builds(Regex, st.just("^dyn-")),
        st.just(Anything()),
    )
)


class HeloTests(unittest.TestCase):
    def fits(self, operands: str, helo: str) -> bool:
        ruleset = build(parse(f"reject helo {operands}\naccept any"), {}, "gw.example.com")
        facts = Facts(Client("192.0.2.7", helo=helo), None, Mailbox("info", "example.com"))
        return evaluate(ruleset, facts).reply.code == 550

    @settings(max_examples=50, deadline=None)
    @given(OPERANDS, st.booleans())
    def test_it_prints_as_it_is_read(self, operands: tuple, negated: bool) -> None:  # type: ignore[type-arg]
        test = ByHelo(operands, negated)
        [rule] = parse(f"reject when {test}")
        assert isinstance(rule, AdmissionRule)
        self.assertEqual(rule.when, (test,))

    def test_by_expression_in_small_letters(self) -> None:
        self.assertTrue(self.fits('regex "^dyn-"', "DYN-1.isp.example"))
        self.assertFalse(self.fits('regex "^dyn-"', "mx.dyn-1.example"))
        self.assertTrue(self.fits(r'mx.example.com, regex "^\[192\."', "[192.0.2.1]"))
        self.assertFalse(self.fits('regex "."', ""))

    def test_a_broken_expression_is_told(self) -> None:
        self.assertTrue(problems('reject helo regex "("'))

    def test_an_expression_that_anybody_may_fit_is_a_door(self) -> None:
        ruleset = build(parse('accept helo regex "secret"'), {}, "gw.example.com")
        self.assertTrue(open_doors(ruleset, ["0.0.0.0:25"]))
