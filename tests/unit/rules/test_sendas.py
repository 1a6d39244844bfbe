"""Which senders a login may use."""

from __future__ import annotations

import unittest

from relayd.login.scram import Verifier
from relayd.login.users import line_of
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.rules.check.check import name_problems, table_problems
from relayd.rules.language.grammar import VERBS, read_statement
from relayd.rules.language.lexer import lex
from relayd.rules.language.source import Complaint, Problem, Source
from relayd.rules.ruleset import build
from relayd.rules.tables.table import Table
from relayd.rules.tables.tablefile import read_table

OWNERS = "info@example.com alice, bob@example.com\n@lists.example.com carol\n"
USERS = "\n".join(
    line_of(name, Verifier(b"salt", 4096, b"s" * 32, b"k" * 32)) for name in ("alice", "bob@x.org")
)


def tables() -> dict[str, Table]:
    problems: list[Problem] = []
    made = {
        "owners": read_table("owners", "virtual", Source.of(OWNERS, "owners"), problems),
        "staff": read_table("staff", "list", Source.of("alice\nbob@example.com\n", "s"), problems),
        "users": read_table("users", "users", Source.of(USERS, "users"), problems),
    }
    assert not problems, problems
    return made


def may(rules: str, login: str, sender: str, address: str = "192.0.2.1") -> str:
    items = [read_statement(each, VERBS) for each in lex(Source.of(rules, "r")).statements]
    ruleset = build(items, tables(), "gw.example.com")
    path = Mailbox.parse(sender) if sender else None
    reply = ruleset.send_as.refusal(Client(address, login=login), path)
    return "yes" if reply is None else str(reply)[:9]


class SendAsTests(unittest.TestCase):
    def test_table_of_cases(self) -> None:
        only_news = "may-send-as @news.example when login news"
        for rules, login, sender, expected in (
            ("", "alice@example.com", "alice@example.com", "yes"),
            ("", "alice@example.com", "ALICE@Example.COM", "yes"),
            ("", "alice@example.com", "", "yes"),
            ("", "alice@example.com", "bob@example.com", "553 5.7.1"),
            ("", "alice@example.com", "alice@example.org", "553 5.7.1"),
            ("", "alice", "alice@gw.example.com", "yes"),
            ("", "alice", "alice@example.com", "553 5.7.1"),
            ("", "alice@example.com", "alice+x@example.com", "553 5.7.1"),
            ("subaddress +", "alice@example.com", "alice+x@example.com", "yes"),
            ("subaddress +", "alice@example.com", "bob+x@example.com", "553 5.7.1"),
            ("", "", "anybody@example.com", "yes"),  # not logged in: the rules at RCPT decide
            ("may-send-as own", "alice@example.com", "bob@example.com", "553 5.7.1"),
            ("may-send-as any", "alice@example.com", "bob@example.com", "yes"),
            (only_news, "news", "x@news.example", "yes"),
            (only_news, "alice", "x@news.example", "553 5.7.1"),
            (only_news, "news", "x@other.example", "553 5.7.1"),
            (only_news, "news", "news@gw.example.com", "yes"),
            ("may-send-as any when login <staff>", "alice", "x@y.example", "yes"),
            ("may-send-as any when login <staff>", "eve", "x@y.example", "553 5.7.1"),
            ("may-send-as any when login <users>", "alice", "x@y.example", "yes"),
            ("may-send-as any when login <users>", "carol", "x@y.example", "553 5.7.1"),
            ("may-send-as <owners>", "alice", "info@example.com", "yes"),
            ("may-send-as <owners>", "bob@example.com", "info@example.com", "yes"),
            ("may-send-as <owners>", "bob", "info@example.com", "553 5.7.1"),
            ("may-send-as <owners>", "carol", "any@lists.example.com", "yes"),
            ("may-send-as <owners>", "alice", "any@lists.example.com", "553 5.7.1"),
            ("may-send-as <staff>", "eve", "bob@example.com", "yes"),
        ):
            with self.subTest(rules=rules, login=login, sender=sender):
                self.assertEqual(may(rules, login, sender), expected)

    def test_statements_print_as_they_are_read(self) -> None:
        for text in (
            "may-send-as own",
            "may-send-as any when login <staff> and not from 192.0.2.0/24",
            "may-send-as @example.com, <owners>",
            "table people dovecot-auth unix:/run/dovecot/auth-client",
            "table users users file users",
        ):
            [statement] = lex(Source.of(text, "r")).statements
            self.assertEqual(str(read_statement(statement, VERBS)), text)

    def test_what_makes_no_sense(self) -> None:
        for text in (
            "may-send-as",
            "may-send-as null",
            "may-send-as any when to a@example.com",
            "table people dovecot-auth /run/dovecot/auth-client",
            "table people dovecot-auth unix:auth-client",
        ):
            [statement] = lex(Source.of(text, "r")).statements
            with self.assertRaises(Complaint):
                read_statement(statement, VERBS)

    def test_an_unknown_table_is_named(self) -> None:
        [statement] = lex(Source.of("may-send-as <nobody>", "r")).statements
        [problem] = name_problems([read_statement(statement, VERBS)])
        self.assertIn("there is no table nobody", str(problem))

    def test_a_complaint_about_users_shows_no_credentials(self) -> None:
        problems: list[Problem] = []
        text = "alice:SCRAM-SHA-256$4096:c2FsdA==$SECRETSECRET:KEYKEY\nbob:hunter2\n"
        read_table("users", "users", Source.of(text, "users"), problems)
        shown = "\n".join(map(str, problems))
        self.assertIn("users:1:1", shown)
        for secret in ("SECRET", "KEYKEY", "hunter2", "c2Fs"):
            self.assertNotIn(secret, shown)

    def test_networks_are_not_asked_of_users(self) -> None:
        [statement] = lex(Source.of("accept from <users>", "r")).statements
        problems = table_problems([read_statement(statement, VERBS)], tables())
        self.assertIn("holds no network", str(problems[0]))
