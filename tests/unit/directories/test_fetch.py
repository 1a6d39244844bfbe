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
from relayd.directories.source import SourceError, TableOrder
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

    def change(self, *statements: str) -> None:
        database = sqlite3.connect(self.folder / "db")
        for each in statements:
            database.execute(each)
        database.commit()
        database.close()

    def test_a_database_whose_file_is_as_it_was_is_not_read(self) -> None:
        with mock.patch("relayd.directories.sqlite.YOUNG", -1.0):
            self.assertEqual(self.fetch(rows(20)).outcome, TAKEN)
            with mock.patch("relayd.directories.fetch._copy", side_effect=AssertionError):
                self.assertEqual(self.fetch_from("db").outcome, SAME)
            self.change("INSERT INTO f VALUES ('new@example.com', 'x@example.net')")
            self.assertEqual(self.fetch_from("db").outcome, TAKEN)
            self.change("PRAGMA journal_mode = WAL")
            self.fetch_from("db")
            open_ = sqlite3.connect(self.folder / "db")  # so that the log stays a file of its own
            self.addCleanup(open_.close)
            open_.execute("SELECT * FROM f").fetchall()
            self.change("INSERT INTO f VALUES ('more@example.com', 'x@example.net')")
            self.assertEqual(self.fetch_from("db").outcome, TAKEN)
            self.assertEqual(self.kept, 22)

    def test_one_that_was_written_just_now_is_read_all_the_same(self) -> None:
        """It might be written once more within one tick of the file system's clock."""
        self.fetch(rows(20))
        with mock.patch("relayd.directories.fetch._copy", side_effect=SourceError("read")):
            self.assertEqual(self.fetch_from("db"), Fetched(FAILED, "read"))

    def test_rows_are_read_when_the_version_is_another(self) -> None:
        version = {"version": "SELECT count(*), max(a) FROM f"}
        self.assertEqual(self.fetch(rows(20), **version).outcome, TAKEN)
        with mock.patch("relayd.directories.fetch._copy", side_effect=AssertionError):
            self.assertEqual(self.fetch_from("db", **version).outcome, SAME)
        self.change("DELETE FROM f WHERE a = 'u3@example.com'")
        self.assertEqual(self.fetch_from("db", **version).outcome, TAKEN)
        self.assertEqual(self.kept, 19)
        other = {"version": "SELECT count(*) FROM f"}  # says nothing of what was read by another
        with mock.patch("relayd.directories.fetch._copy", side_effect=SourceError("read")):
            self.assertEqual(self.fetch_from("db", **other), Fetched(FAILED, "read"))

    def test_a_version_without_a_row_or_that_fails_keeps_what_there_is(self) -> None:
        self.fetch(rows(20))
        for query, why in (
            ("SELECT a FROM f WHERE 0", "the query of version gives no row: expected one"),
            ("SELECT none FROM f", "db: no such column: none"),
        ):
            self.assertEqual(self.fetch_from("db", version=query), Fetched(FAILED, why))
        self.assertEqual(self.kept, 20)

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
