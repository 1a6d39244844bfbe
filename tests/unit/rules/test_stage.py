"""The index changes nothing: the candidates it gives hold the first rule that a scan would find."""

from __future__ import annotations

import ipaddress
import unittest
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.client import Client
from relayd.rules.check.shadow import hidden_rules
from relayd.rules.conditions.client import FromClient
from relayd.rules.conditions.mailbox import FromSender, ToRecipient
from relayd.rules.conditions.name import ByLogin
from relayd.rules.language.model import NOWHERE, AdmissionRule
from relayd.rules.language.pattern import (
    Anything,
    Domain,
    Exact,
    LocalPart,
    Net,
    Null,
    SubDomains,
    Text,
)
from relayd.rules.language.source import Place
from relayd.rules.ruleset import build
from relayd.rules.stage import Stage
from relayd.rules.subject import Subject
from relayd.rules.view import View
from tests.unit.rules import sample

LOCALS = ["a", "b", "a+x", "b+y"]
DOMAINS = ["example.com", "sub.example.com", "x.sub.example.com", "example.org"]
MAILBOXES = st.builds(Mailbox, st.sampled_from(LOCALS), st.sampled_from(DOMAINS))
PATTERNS = st.one_of(
    st.builds(Exact, MAILBOXES),
    st.builds(Domain, st.sampled_from(DOMAINS)),
    st.builds(SubDomains, st.sampled_from(DOMAINS)),
    st.builds(LocalPart, st.sampled_from(LOCALS)),
    st.just(Anything()),
)
NETWORKS = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "::/0", "2001:db8::/32", "0.0.0.0/0"]
NETS = st.sampled_from(NETWORKS).map(lambda text: Net(ipaddress.ip_network(text)))


def _tuple(items: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(items, min_size=1, max_size=2).map(tuple)


CONDITIONS = st.one_of(
    st.builds(ToRecipient, _tuple(PATTERNS), st.booleans()),
    st.builds(FromSender, _tuple(st.one_of(PATTERNS, st.just(Null()))), st.booleans()),
    st.builds(FromClient, _tuple(NETS), st.booleans()),
    st.builds(ByLogin, _tuple(st.just(Text("Bob"))), st.booleans()),
)
RULES = st.lists(
    st.builds(
        lambda tests: AdmissionRule("accept", tuple(tests)),
        st.lists(CONDITIONS, min_size=1, max_size=3),
    ),
    max_size=12,
)
FACTS = (
    st.sampled_from(["10.1.2.3", "10.1.9.9", "10.9.9.9", "2001:db8::1", "::ffff:10.1.2.3", "odd"]),
    st.one_of(st.none(), MAILBOXES),
    MAILBOXES,
    st.sampled_from(["", "bob"]),
)


def seen(client: str, sender: ReversePath, to: Mailbox, login: str) -> View:
    """The view of these facts, with + for tags."""
    path = None if sender is None else Subject(sender)
    return View(Client(client, login=login), path, Subject(to, "+"))


class IndexTests(unittest.TestCase):
    @settings(max_examples=200, deadline=None)
    @given(RULES, *FACTS)
    def test_index_and_scan_agree(
        self, rules: list[AdmissionRule], client: str, sender: ReversePath, to: Mailbox, login: str
    ) -> None:
        """first() over the index is the first rule all of whose conditions hold."""
        stage = Stage(rules, lambda rule: rule.tests, {})
        view = seen(client, sender, to, login)
        found = stage.first(view)
        scan = [
            number
            for number, rule in enumerate(rules)
            if all(each.compiled({})(view) for each in rule.tests)
        ]
        self.assertEqual(None if found is None else found.number, scan[0] if scan else None)

    def test_a_thousand_rules_leave_few_candidates(self) -> None:
        """What a message costs does not grow with rules that cannot fit it."""
        text = "".join(
            f"reject to old{n}@example.com 550\naccept to @d{n}.example\naccept to @.s{n}.example\n"
            f"reject from 192.0.{n}.0/24\nreject sender x@s{n}.example\nforward a{n}@example.com -> b@c.example\n"
            for n in range(170)
        )
        many = sample.rules(text + "accept to @example.com\n")
        view = seen("203.0.113.9", Mailbox("q", "out.example"), Mailbox("old7", "example.com"), "")
        self.assertEqual([e.number for e in many.admission.candidates(view)], [35, 850])
        self.assertEqual(len(many.forward.candidates(view)), 0)

    @settings(max_examples=200, deadline=None)
    @given(RULES, *FACTS)
    def test_a_shadowed_rule_is_never_reached(
        self, rules: list[AdmissionRule], client: str, sender: ReversePath, to: Mailbox, login: str
    ) -> None:
        """What the check calls unreachable is not the first match of any facts."""
        placed = [
            replace(rule, place=Place(NOWHERE.source, number)) for number, rule in enumerate(rules)
        ]
        ruleset = build(placed, {}, "x.example")
        never = {each.place.line for _, rules in hidden_rules(ruleset) for each in rules}
        found = ruleset.admission.first(seen(client, sender, to, login))
        self.assertNotIn(None if found is None else found.rule.place.line, never)
