"""`RCPT TO:<Postmaster>`: whose it is, whatever the rules say or leave out."""

from __future__ import annotations

import unittest

from tests.unit.rules.sample import outcome, rules

FORWARD = "forward postmaster@ -> chief@far.example\n"


class PostmasterTests(unittest.TestCase):
    def test_where_it_goes(self) -> None:
        for text, expected in (
            # the one of our own name, where the rules take it
            ("accept to @gw.example.com\n", "Postmaster@gw.example.com direct"),
            ("accept any\n" + FORWARD, "chief@far.example direct"),
            # taken also where no rule takes it
            (FORWARD, "chief@far.example direct"),
            (
                "accept to @example.com\nforward postmaster@gw.example.com -> ann@example.com\n",
                "ann@example.com direct",
            ),
            # else the one of the first domain that is ours
            ("accept to @example.com, @example.org\n", "Postmaster@example.com direct"),
            (
                "table t { lists.example, x.example }\naccept to <t>\n",
                "Postmaster@lists.example direct",
            ),
            (
                "accept from 10.0.0.0/8 to @far.example\naccept to @example.com\n"
                "forward postmaster@example.com -> ann@example.com\n",
                "ann@example.com direct",
            ),
            # turned away only by a rule that says so
            (f"reject to postmaster@\n{FORWARD}", "reject 550 5.7.1"),
            (f"reject from 203.0.113.0/24 554 5.7.1\n{FORWARD}", "reject 554 5.7.1"),
            ("accept to @example.com\nreject to postmaster@gw.example.com\n", "reject 550 5.7.1"),
            # and later, when there is nothing at all
            ("", "reject 451 4.3.5"),
            ("accept from 10.0.0.0/8\n", "reject 451 4.3.5"),
            ("accept to @.other.example\n", "reject 451 4.3.5"),
        ):
            with self.subTest(text):
                self.assertEqual(outcome(rules(text), "Postmaster"), expected)

    def test_nobody_else_is_let_in_with_it(self) -> None:
        for mailbox in ("postmaster@gw.example.com", "postmaster@elsewhere.example"):
            self.assertEqual(outcome(rules(FORWARD), mailbox), "reject 550 5.7.1", mailbox)
