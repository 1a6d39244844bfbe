"""A sender's own routes: no rule that opens whole domains to strangers takes them."""

from __future__ import annotations

import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd.mail.address import Mailbox
from tests.unit.rules.sample import outcome, plan, problems, rules

ROUTED = (
    "x%evil.test@ours.test",
    "evil.test!x@ours.test",
    '"x@evil.test"@ours.test',
    '"x@evil.test@ours.test"@ours.test',
    "x%evil.test%other.test@ours.test",
    "ours.test!evil.test!x@ours.test",
    "x%@ours.test",
    "%@ours.test",
    "x!@ours.test",
    "x%evil.test@OURS.test",
    '"@evil.test:x@third.test"@ours.test',
    "info+x%evil.test@ours.test",
    "postmaster%evil.test@ours.test",
)
REFUSED = "reject 550 5.7.1"


class SenderRoutes(unittest.TestCase):
    def assert_closed(self, text: str, domain: str = "ours.test") -> None:
        ruleset = rules(text)
        for routed in ROUTED:
            address = str(Mailbox(Mailbox.parse(routed).local, domain))
            self.assertEqual(outcome(ruleset, address), REFUSED, f"{text}: {address}")
            self.assertEqual(outcome(ruleset, address, sender=""), REFUSED)
        self.assertEqual(outcome(ruleset, f"x@{domain}"), f"x@{domain} direct")

    def test_a_whole_domain_is_closed_to_them(self) -> None:
        for text in (
            "accept to @ours.test\n",
            "accept to @ours.test, info@ours.test\nsubaddress +\n",
            "table ours { ours.test }\naccept to <ours>\n",
            "table ours { @ours.test }\naccept to <ours>\n",
            'accept to regex "@ours[.]test$"\n',
            'accept to regex ".*" when not to @secret.test\n',
            "accept any when to @ours.test\n",
            "accept to @ours.test when tls\naccept to @ours.test when not tls\n",
            "accept from 0.0.0.0/0, ::/0 to @ours.test\n",
            "accept from any to @ours.test\n",
            "accept to @ours.test when not from 10.0.0.0/8\n",
            "accept to @ours.test when not login any\n",
            "accept to any when not to @secret.test\n",
            "accept sender any to @ours.test\n",
        ):
            with self.subTest(text=text):
                self.assertEqual(problems(text), [])
                self.assert_closed(text)

    def test_sub_domains_too(self) -> None:
        self.assert_closed("accept to @.ours.test\n", "mail.ours.test")

    def test_a_whole_domain_of_a_map_is_closed_to_them(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name)
        (path / "virtual").write_text(
            "legacy.test anything\n@legacy.test @ours.test\na%b@legacy.test x@ours.test\n"
        )
        ruleset = rules("table v virtual file virtual\naccept to <v>\nforward <v>\n", path)
        self.assertEqual(outcome(ruleset, "x%evil.test@legacy.test"), REFUSED)
        self.assertEqual(outcome(ruleset, "x@legacy.test"), "x@ours.test direct")
        self.assertEqual(outcome(ruleset, "a%b@legacy.test"), "x@ours.test direct")

    def test_a_route_does_not_survive_a_rewrite_or_a_forward(self) -> None:
        for rule in (
            "rewrite recipient @legacy.test -> @ours.test\n",
            "forward @legacy.test -> @ours.test\n",
            'forward regex "^(.+)@legacy[.]test$" -> "\\1@ours.test"\n',
        ):
            ruleset = rules(f"accept to @legacy.test, @ours.test\n{rule}")
            self.assertEqual(outcome(ruleset, "x%evil.test@legacy.test"), REFUSED, rule)
            self.assertEqual(outcome(ruleset, "x@legacy.test"), "x@ours.test direct")

    def test_a_listed_mailbox_of_that_name_is_like_any_other(self) -> None:
        name = "x%evil.test@ours.test"
        for text in (
            f"accept to {name}, @ours.test\n",
            f"accept to {name}\naccept to @ours.test\n",
            f"accept to @ours.test\naccept to {name}\n",
            f'table ours {{ ours.test, "{name}" }}\naccept to <ours>\n',
            "accept to x%evil.test@\n",
        ):
            with self.subTest(text=text):
                self.assertEqual(problems(text), [])
                ruleset = rules(text)
                self.assertEqual(outcome(ruleset, name), f"{name} direct")
                self.assertEqual(outcome(ruleset, "x%third.test@ours.test"), REFUSED)

    def test_clients_that_we_know_may(self) -> None:
        name = "x%evil.test@ours.test"
        for text, facts in (
            ("accept from 10.0.0.0/8\n", {"client": "10.1.2.3"}),
            ("accept from 10.0.0.0/8 to @ours.test\n", {"client": "10.1.2.3"}),
            ("table in { 10.0.0.0/8 }\naccept from <in>\n", {"client": "10.1.2.3"}),
            # above the rule that knows them stands the one for all
            ("accept to @ours.test\naccept from 10.0.0.0/8\n", {"client": "10.1.2.3"}),
            ("accept to @ours.test\n", {"login": "bob"}),
            ("accept login any\n", {"login": "bob"}),
        ):
            with self.subTest(text=text):
                ruleset = rules(text)
                self.assertEqual(outcome(ruleset, name, **facts), f"{name} direct")
                self.assertEqual(outcome(ruleset, name), REFUSED)

    def test_who_is_known_for_something_else_may_not(self) -> None:
        for text in (
            "accept from 10.0.0.0/8 to @other.test\naccept to @ours.test\n",
            "accept from 10.0.0.0/8 sender @partner.test\naccept to @ours.test\n",
            "accept from 10.0.0.0/8 when tls\naccept to @ours.test\n",
        ):
            ruleset = rules(text)
            self.assertEqual(outcome(ruleset, "x%evil.test@ours.test", client="10.1.2.3"), REFUSED)

    def test_where_mail_may_go_everywhere_nobody_needs_a_trick(self) -> None:
        for text in ("accept any\n", "accept to any\n", "accept sender @partner.example\n"):
            name = "x%evil.test@ours.test"
            self.assertEqual(outcome(rules(text), name), f"{name} direct", text)

    def test_rules_that_refuse_or_throw_away_are_asked_as_ever(self) -> None:
        ruleset = rules(
            'reject to @a.test 550 5.1.6 "Moved"\ndiscard to @b.test\nhold to @c.test\n'
            "accept to @a.test, @b.test, @c.test\n"
        )
        self.assertEqual(outcome(ruleset, "x%y@a.test"), "reject 550 5.1.6")
        self.assertEqual(outcome(ruleset, "x%y@b.test"), "discard")
        self.assertEqual(outcome(ruleset, "x%y@c.test"), REFUSED)

    def test_the_trail_says_why_and_expect_can_ask_it(self) -> None:
        text = (
            "accept to @ours.test\n"
            "expect to x%evil.test@ours.test -> reject 550 5.7.1\n"
            "expect from 10.0.0.1 to x@ours.test -> accept\n"
        )
        self.assertEqual(problems(text), [])
        decided = plan(rules(text), "x%evil.test@ours.test")
        self.assertEqual(
            str(decided.reply), "550 5.7.1 Relaying denied: no routes in the local part"
        )
        passed, refused = decided.trail
        self.assertEqual(
            (passed.rule, passed.note),
            ("accept to @ours.test", "not with a route in the local part"),
        )
        self.assertIn("only for clients we know", refused.note)
        self.assertNotEqual(
            problems("accept to @ours.test\nexpect to a!b@ours.test -> accept\n"), []
        )
