"""What every condition can say about itself, and what follows from it for whole rules."""

from __future__ import annotations

import unittest
from pathlib import Path

from hypothesis import given, settings

from relayd import config
from relayd.mail.address import Mailbox
from relayd.rules.conditions.condition import Condition
from relayd.rules.conditions.registry import ALL, CONDITIONS
from relayd.rules.fact import CERTIFICATE, RECIPIENT, SENDER, Known
from tests.unit.rules.sample import rules
from tests.unit.rules.test_stage import CONDITIONS as SOME
from tests.unit.rules.test_stage import FACTS, seen


class RegistryTests(unittest.TestCase):
    def test_each_is_one_class_with_one_word(self) -> None:
        self.assertEqual(len(CONDITIONS), len(ALL))
        for word, kind in CONDITIONS.items():
            self.assertTrue(kind.__doc__ and kind.__doc__.startswith(f"`{word}"), kind)

    def test_when_it_is_known(self) -> None:
        late = {word: kind().known for word, kind in CONDITIONS.items() if kind().known > 0}
        content = dict.fromkeys(
            ("arc", "dkim", "dmarc", "score", "says", "symbol", "size", "field", "breaks"),
            Known.CONTENT,
        )
        at_mail = dict.fromkeys(("sender", "spf"), Known.SENDER)
        at_rcpt = dict.fromkeys(
            ("to", "over", "first-seen", "unknown", "forwarded"), Known.RECIPIENT
        )
        self.assertEqual(late, at_mail | at_rcpt | content)

    def test_a_rule_set_says_what_it_looks_at(self) -> None:
        self.assertEqual(rules("accept to @example.com").needs, {RECIPIENT})
        self.assertEqual(
            rules("accept to @example.com when certificate any and not sender null").needs,
            {RECIPIENT, CERTIFICATE, SENDER},
        )
        self.assertEqual(rules("accept any\nroute any direct").needs, frozenset())


class ExclusionTests(unittest.TestCase):
    @settings(max_examples=300, deadline=None)
    @given(SOME, SOME, *FACTS)
    def test_what_excludes_each_other_never_holds_together(
        self,
        one: Condition,
        other: Condition,
        client: str,
        sender: Mailbox,
        to: Mailbox,
        login: str,
    ) -> None:
        view = seen(client, sender, to, login)
        if one.compiled({})(view) and other.compiled({})(view):
            self.assertFalse(one.never_with(other, {}))

    @settings(max_examples=300, deadline=None)
    @given(SOME, SOME, *FACTS)
    def test_what_covers_another_holds_wherever_it_does(
        self,
        one: Condition,
        other: Condition,
        client: str,
        sender: Mailbox,
        to: Mailbox,
        login: str,
    ) -> None:
        view = seen(client, sender, to, login)
        if other.compiled({})(view) and one.covers(other, {}):
            self.assertTrue(one.compiled({})(view))

    def warnings(self, text: str) -> list[str]:
        settings = config.load_text(f"hostname gw.example.com\n{text}", Path("/nowhere"))
        return [str(each.what) for each in settings.warnings]

    def test_a_rule_that_never_holds_is_a_warning(self) -> None:
        for rule, told in {
            "accept to a@example.com when not to @example.com": '"to a@example.com" and "not to @example.com"',
            "accept from 10.1.0.0/16 when not from 10.0.0.0/8": '"from 10.1.0.0/16" and "not from 10.0.0.0/8"',
            "hold login bob when not login any": '"login bob" and "not login any"',
            "forward a@example.com -> b@example.com when not to a@example.com":
                '"to a@example.com" and "not to a@example.com"',
            "header add X-A b when sender null and not sender any": '"sender null" and "not sender any"',
        }.items():  # fmt: skip
            self.assertIn(f"this rule never holds: it asks for {told}", self.warnings(rule), rule)

    def test_one_that_may_hold_is_none(self) -> None:
        for rule in (
            "accept to @example.com when not to a@example.com",
            "accept to @example.com when not sender @example.com",
            "accept from 10.0.0.0/8 when not login any",
        ):
            self.assertFalse([each for each in self.warnings(rule) if "never holds" in each], rule)

    def test_not_any_takes_nothing_from_the_rules_behind(self) -> None:
        self.assertEqual(
            len(rules("reject to @a.example when not any\naccept to @a.example").items), 2
        )
