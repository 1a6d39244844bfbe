"""Tables from directories: what a statement makes, and a start without what they held."""

from __future__ import annotations

import tempfile
import time
import unittest
from pathlib import Path

from relayd import config
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.rules.evaluate import Facts, evaluate
from relayd.rules.tables.snapshot import SnapshotHead, SnapshotTable, write

STATEMENTS = """\
table people postgresql "service=mail" query "SELECT alias, target FROM forwards" refresh 30s
table domains mysql "service=mail" query "SELECT name FROM domains" refresh 60s
table staff ldap ldaps://ldap.example.com base "ou=people,dc=example,dc=com" \
filter "(objectClass=inetOrgPerson)" key mail value mailForwardingAddress refresh 300s
table panel http https://panel.example.com/forwards.json secret file panel.token refresh 60s \
stale 86400s shrink 80% strict
table local sqlite file mail.db query "SELECT a, b FROM f" refresh 60s
table quick postgresql "service=mail" query "SELECT a FROM f" refresh 1s \
version "SELECT max(changed), count(*) FROM f"
"""
BLOCK = """\
table  people    postgresql "service=mail" query "SELECT alias, target FROM forwards" refresh 30s
table  domains   mysql "service=mail" query "SELECT name FROM domains" refresh 1m
table  staff     ldap ldaps://ldap.example.com base "ou=people,dc=example,dc=com" \
filter "(objectClass=inetOrgPerson)" key mail value mailForwardingAddress refresh 5m
table  panel     http https://panel.example.com/forwards.json secret file panel.token refresh 1m
table  huge      postgresql "service=mail" query "SELECT target FROM forwards WHERE alias = $1" \
live cache 5m
include customers/*.rules  scoped
"""
RULES = """\
accept to <domains>
forward <people>
next-hop sink smtp 127.0.0.1:9
route any via sink
expect to info@example.com -> ann@example.net
"""


class DirectoriesTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def load(self, text: str) -> config.Settings:
        path = self.folder / "relayd.conf"
        path.write_text(f"hostname gw.example.com\nspool {self.folder}/spool\n{text}")
        return config.load(path)

    def test_each_statement_reads_as_it_is_written(self) -> None:
        items = self.load(STATEMENTS + "accept to <domains>\n").ruleset.items
        self.assertEqual("".join(f"{each}\n" for each in items[:6]), STATEMENTS)

    def test_one_that_was_never_read_refuses_no_start_whatever_is_expected(self) -> None:
        table = self.load(STATEMENTS + RULES).ruleset.tables["people"]
        assert isinstance(table, SnapshotTable)
        self.assertFalse(table.known)

    def test_what_was_passed_over_is_a_warning(self) -> None:
        folder = self.folder / "spool" / "tables"
        folder.mkdir(parents=True)
        write(folder / "people", "people", ["a@@b x@example.net"], SnapshotHead("", 2, 0, 0.0, ""))
        warnings = self.load(STATEMENTS + "accept to <domains>\n").warnings
        self.assertIn('table people, entry "a@@b" is passed over', "\n".join(map(str, warnings)))

    def hold(self, name: str, columns: int, *lines: str) -> None:
        """What the directory is said to have held when it was read last."""
        folder = self.folder / "spool" / "tables"
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / name, name, lines, SnapshotHead("", columns, 0, time.time(), ""))

    def test_a_test_that_fails_by_what_a_directory_holds_refuses_no_start(self) -> None:
        self.hold("domains", 1, "example.com")
        self.hold("people", 2, "info@example.com bob@example.net")
        told = "\n".join(map(str, self.load(STATEMENTS + RULES).warnings))
        self.assertIn("the test fails: it comes out as bob@example.net via sink, by what", told)
        self.assertIn("expect to info@example.com -> ann@example.net\n    ^", told)

    def test_a_test_that_fails_whatever_it_holds_is_a_mistake(self) -> None:
        self.hold("domains", 1, "example.com")
        with self.assertRaisesRegex(config.ConfigErrors, "the test fails"):
            self.load(STATEMENTS + "reject to @b.example\naccept to <domains>\n"
                      "expect to a@b.example -> a@b.example\n")  # fmt: skip

    def test_a_circle_or_another_number_of_columns_refuses_no_start(self) -> None:
        self.hold("domains", 1, "example.com")
        for columns, lines in (
            (2, ("info@example.com b@example.com", "b@example.com info@example.com")),
            (1, ("info@example.com",)),
        ):
            with self.subTest(columns):
                self.hold("people", columns, *lines)
                self.load(STATEMENTS + RULES)

    def test_the_statements_load_as_they_are_written_and_answer_what_is_expected(self) -> None:
        """All five of docs and design, once their sources were read."""
        (self.folder / "customers").mkdir()
        (self.folder / "customers" / "example.com.rules").write_text(
            "accept to info@example.com\nexpect to info@example.com -> info@example.com\n"
        )
        self.hold("people", 2, "info@example.org ann@example.net bob@example.net")
        self.hold("domains", 1, "example.org")
        self.hold("staff", 2, "boss@example.org boss@mail.example.net")
        self.hold("panel", 2, "sales@example.org team@shop.example")
        rules = f"""{BLOCK}
accept to <domains>
accept to <huge>
forward <people>
forward <staff>
forward <panel>
next-hop sink smtp 127.0.0.1:9
route any via sink
expect to info@example.org -> ann@example.net via sink, bob@example.net via sink
expect to boss@example.org -> boss@mail.example.net via sink
expect to sales@example.org -> team@shop.example via sink
expect to info@example.com -> info@example.com via sink
expect to x@elsewhere.invalid -> reject
"""
        settings = self.load(rules)
        failing = [str(each) for each in settings.warnings if "test fails" in str(each)]
        self.assertEqual(failing, [])
        for right, wrong in (
            ("boss@mail.example.net", "x@mail.example.net"),
            ("team@shop.example", "x@shop.example"),
            ("bob@example.net via", "x@example.net via"),
        ):
            with self.subTest(wrong):
                told = "\n".join(map(str, self.load(rules.replace(right, wrong)).warnings))
                self.assertIn("the test fails", told)

    def test_so_it_is_with_the_tests_in_a_customers_file(self) -> None:
        self.hold("domains", 1, "b.example")
        self.hold("people", 1, "bob@example.com")
        (self.folder / "customers").mkdir()
        (self.folder / "customers" / "example.com.rules").write_text(
            "accept to info@example.com\naccept to @example.com when to <people>\n"
            "expect to ann@example.com -> ann@example.com\n"
        )
        shared = STATEMENTS.replace("refresh 30s", "refresh 30s shared")
        settings = self.load(f"{shared}include customers/*.rules scoped\n")
        facts = Facts(Client("192.0.2.9"), None, Mailbox.parse("info@example.com"))
        self.assertEqual(evaluate(settings.ruleset, facts).reply.code, 250)
