"""One look at a directory: what is taken up, what is kept, and what somebody is asked about."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import unittest
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from relayd.directories import ldap
from relayd.directories.fetch import ASKS, FAILED, SAME, TAKEN, Fetched, fetch, pending
from relayd.directories.source import TableOrder
from relayd.rules.language.directory import DirectoryDef
from relayd.rules.tables.snapshot import Entries

QUERY = "SELECT a, t FROM f ORDER BY random()"
Row = tuple[object, object]


def rows(count: int) -> list[Row]:
    return [(f"u{number}@example.com", "x@example.net") for number in range(count)]


class FetchTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.path = self.folder / "tables" / "people"

    def fetch(self, given: Sequence[Row], query: str = QUERY, **words: object) -> Fetched:
        path = self.folder / "db"
        path.unlink(missing_ok=True)
        database = sqlite3.connect(path)
        database.execute("CREATE TABLE f (a, t)")
        database.executemany("INSERT INTO f VALUES (?, ?)", given)
        database.commit()
        database.close()
        return self.fetch_from("db", query, **words)

    def fetch_from(self, name: str, query: str = QUERY, **words: object) -> Fetched:
        directory = DirectoryDef("sqlite", name, query, **words)  # type: ignore[arg-type]
        order = TableOrder("people", directory, (str(self.folder),), str(self.path))
        return fetch(TableOrder.parse(order.text()))

    @property
    def kept(self) -> int:
        return Entries(self.path).head.entries

    def test_the_same_in_another_order_is_not_written(self) -> None:
        self.assertEqual(self.fetch(rows(20)).outcome, TAKEN)
        before = self.path.stat()
        self.assertEqual(self.fetch(rows(20)[::-1]).outcome, SAME)
        self.assertEqual(self.path.stat().st_ino, before.st_ino)
        self.assertGreater(self.path.stat().st_mtime_ns, before.st_mtime_ns)

    def test_half_is_taken_up_and_less_is_asked_about(self) -> None:
        self.fetch(rows(10))
        self.assertEqual(self.fetch(rows(5)).outcome, TAKEN)
        self.assertEqual(self.fetch(rows(2)), Fetched(ASKS, "has 2 of 5 entries left"))
        self.assertEqual(self.fetch(rows(2)), Fetched(ASKS, "has 2 of 5 entries left"))
        self.assertEqual(self.kept, 5)
        self.assertEqual(self.fetch(rows(5)).outcome, SAME)
        self.assertFalse(pending(self.path).exists())

    def test_none_is_asked_about_however_few_there_were(self) -> None:
        self.fetch(rows(1))
        self.assertEqual(self.fetch([]), Fetched(ASKS, "has lost all 1 entries"))
        self.assertEqual(self.fetch([], shrink=99), Fetched(ASKS, "has lost all 1 entries"))
        self.assertEqual(self.fetch([], shrink=100).outcome, TAKEN)

    def test_shrink_says_how_much_may_go(self) -> None:
        self.fetch(rows(10))
        self.assertEqual(self.fetch(rows(9), shrink=5).outcome, ASKS)
        self.assertEqual(self.fetch(rows(3), shrink=80).outcome, TAKEN)

    def test_other_columns_are_asked_about_and_three_are_none(self) -> None:
        self.fetch(rows(10))
        found = self.fetch_from("db", "SELECT a, t, t FROM f")
        self.assertEqual(found.outcome, FAILED)
        self.assertIn("the query gives 3 columns", found.why)
        self.assertEqual(self.kept, 10)

    def test_another_statement_begins_anew(self) -> None:
        self.fetch(rows(10))
        self.assertEqual(self.fetch_from("db", "SELECT a, t FROM f LIMIT 1").outcome, TAKEN)

    def test_a_bad_row_is_passed_over_and_strict_refuses(self) -> None:
        bad: list[Row] = [("no one", "x@example.net"), (b"\xff@a.example", "x@example.net")]
        self.assertEqual(self.fetch([*rows(3), *bad]).outcome, TAKEN)
        self.assertEqual(Entries(self.path).head.skipped.count, 2)
        again = self.fetch([*rows(4), *bad], strict=True)
        self.assertEqual(again.outcome, FAILED)
        self.assertIn("strict", again.why)
        self.assertEqual(self.kept, 3)

    def test_what_cannot_be_read_leaves_what_there_was(self) -> None:
        self.fetch(rows(3))
        self.assertEqual(self.fetch_from("gone").outcome, FAILED)
        self.assertEqual(self.fetch_from("db", "SELECT nothing").outcome, FAILED)
        self.assertEqual(self.kept, 3)
        self.assertEqual([each.name for each in self.path.parent.iterdir()], ["people"])

    def test_a_full_disk_leaves_what_there_was(self) -> None:
        self.fetch(rows(3))
        with mock.patch("relayd.directories.fetch.write", side_effect=OSError(28, "No space")):
            self.assertEqual(self.fetch(rows(4)), Fetched(FAILED, "No space"))
        self.assertEqual(self.kept, 3)

    def test_a_missing_library_is_said_plainly(self) -> None:
        for kind, library in (
            ("postgresql", "psycopg"), ("mysql", "pymysql"), ("ldap", "ldap3"),
        ):  # fmt: skip
            with self.subTest(kind), mock.patch.dict("sys.modules", {library: None}):
                directory = DirectoryDef(kind, "ldap://localhost", "x")
                order = TableOrder("people", directory, (str(self.folder),), str(self.path))
                found = fetch(order)
                self.assertEqual(found.outcome, FAILED)
                self.assertIn("apt install python3-", found.why)


class LdapTest(unittest.TestCase):
    def test_of_proxy_addresses_those_of_smtp_count_without_their_kind(self) -> None:
        kinds = [b"SMTP:Ann@example.com", b"smtp:a@example.com", b"x500:/o=x", b"SIP:a@b.example"]
        entry = {"proxyAddresses": kinds, "mail": [b"box@example.com"]}
        rows = [*ldap._rows(entry, "proxyaddresses", "")]
        self.assertEqual(rows, [(b"Ann@example.com",), (b"a@example.com",)])
        rows = [*ldap._rows(entry, "mail", "proxyAddresses")]
        self.assertEqual(rows, [(b"box@example.com", "Ann@example.com, a@example.com")])
