"""What `check` says of a rule set is what happens: no rule that it calls unreachable has a say."""

from __future__ import annotations

import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.rules.check.loops import loops
from relayd.rules.check.shadow import hidden_rules, never_held
from relayd.rules.evaluate import LOOPED, Facts, evaluate
from relayd.rules.ruleset import build
from tests.unit.rules.test_grammar import parse

LOCALS = ["a", "b", "a+x", "c"]
DOMAINS = ["x.example", "y.example", "sub.x.example"]
NAMED = st.builds("{}@{}".format, st.sampled_from(LOCALS), st.sampled_from(DOMAINS))
PATTERNS = st.one_of(
    NAMED,
    st.sampled_from(DOMAINS).map("@{}".format),
    st.sampled_from(LOCALS).map("{}@".format),
    st.sampled_from(["@.x.example", "@.example", "any", 'regex "^a"', 'regex "@x\\."']),
)
TARGETS = st.one_of(NAMED, st.sampled_from(DOMAINS).map("@{}".format))


def listed(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """One or two, with a comma between."""
    return st.lists(items, min_size=1, max_size=2, unique=True).map(", ".join)


CONDITIONS = st.one_of(
    listed(PATTERNS).map("to {}".format),
    listed(st.one_of(PATTERNS, st.just("null"))).map("sender {}".format),
    listed(st.sampled_from(["10.0.0.0/8", "10.1.2.3", "any", "::/0", "0.0.0.0/0"])).map(
        "from {}".format
    ),
    st.sampled_from(["login bob", "login any", "helo a.example", "tls", "any"]),
)
NOT = st.sampled_from(["", "", "not "])
WHEN = st.one_of(
    st.just(""),
    st.lists(st.builds("{}{}".format, NOT, CONDITIONS), min_size=1, max_size=2).map(
        lambda tests: " when " + " and ".join(tests)
    ),
)
ADMISSIONS = st.builds(
    "{} {}{}".format,
    st.sampled_from(["accept", "accept", "reject", "hold", "discard"]),
    st.lists(CONDITIONS, min_size=1, max_size=2).map(" ".join),
    WHEN,
)
RULES = st.one_of(
    ADMISSIONS,
    st.builds("forward {} -> {}{}".format, listed(PATTERNS), listed(TARGETS), WHEN),
    st.builds("rewrite recipient {} -> {}{}".format, listed(PATTERNS), TARGETS, WHEN),
    st.builds("rewrite sender {} -> {}{}".format, listed(PATTERNS), TARGETS, WHEN),
    st.builds("route {} direct{}".format, CONDITIONS, WHEN),
    st.just("subaddress +"),
)
SETS = st.lists(RULES, min_size=2, max_size=8).map(lambda rules: [*rules, "accept any"])
MAILBOXES = st.builds(Mailbox, st.sampled_from(LOCALS), st.sampled_from(DOMAINS))
FACTS = st.builds(
    Facts,
    st.builds(
        Client,
        st.sampled_from(["10.1.2.3", "10.9.9.9", "192.0.2.1", "2001:db8::1"]),
        login=st.sampled_from(["", "bob", "eve"]),
        helo=st.sampled_from(["", "a.example"]),
        tls=st.sampled_from(["", "TLSv1.3"]),
    ),
    st.one_of(st.none(), MAILBOXES),
    MAILBOXES,
)


class AgreementTests(unittest.TestCase):
    """Local parts with a route in them are left out: what stands behind an `accept` for the same
    domain is told of although it sees those, for hardly anybody means it.
    """

    @settings(max_examples=300, deadline=None)
    @given(SETS, st.lists(FACTS, min_size=5, max_size=12))
    def test_of_whole_rule_sets(self, lines: list[str], asked: list[Facts]) -> None:
        ruleset = build(parse("\n".join(lines)), {}, "gw.example.com")
        never = {str(each.place) for each in never_held(ruleset)}
        never |= {str(each.place) for _, rules in hidden_rules(ruleset) for each in rules}
        for facts in asked:
            plan = evaluate(ruleset, facts)
            said = {step.place for step in plan.trail}
            self.assertEqual(said & never, set(), (lines, facts))
            self.assertFalse(any("bug" in step.note for step in plan.trail), plan.trail)

    @settings(max_examples=300, deadline=None)
    @given(SETS)
    def test_of_circles(self, lines: list[str]) -> None:
        """For the stranger whom `check` has in mind, a circle is refused if and only if it is told."""
        bare = [line for line in lines if line.startswith(("forward", "subaddress"))]
        ruleset = build(parse("\n".join([*bare, "accept any"])), {}, "gw.example.com")
        locals_ = [*LOCALS, "b+x", "somebody"]
        domains = [*DOMAINS, "sub.sub.x.example", "sub.example", "somewhere.invalid"]
        refused = [
            f"{local}@{domain}"
            for local in locals_
            for domain in domains
            if evaluate(ruleset, Facts(Client("192.0.2.1"), None, Mailbox(local, domain))).reply
            is LOOPED
        ]
        self.assertEqual(bool(loops(ruleset)), bool(refused), (bare, refused))
