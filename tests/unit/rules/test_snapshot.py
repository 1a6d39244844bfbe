"""Snapshots of directories: the same answers as of a table in memory, from a file."""

from __future__ import annotations

import os
import shutil
import tempfile
import unittest
from collections.abc import Sequence
from pathlib import Path

from relayd.mail.address import Mailbox
from relayd.rules.language.source import Problem, Source
from relayd.rules.subject import Subject
from relayd.rules.tables.snapshot import CHUNK, LOOK, SnapshotHead, SnapshotTable, write
from relayd.rules.tables.table import Unknown
from relayd.rules.tables.tablefile import read_table

LIST = (
    *("example.com", "ann@example.org", ".sub.example", "10.0.0.0/8", "192.0.2.1", "2001:db8::/32"),
    *("Bob@Example.net", "postmaster@", "10.1.0.0/16", "lonely"),
)
MAP = (
    "info@example.com a@example.net, b@example.net",
    "@example.org @example.net",
    "bare c@example.net",
    "example.net anything",
)
MAILBOXES = (
    *("x@example.com", "ann@example.org", "bob@example.net", "y@a.sub.example", "z@sub.example"),
    *("postmaster@anywhere.example", "info@example.com", "bare@here.example", "q@example.org"),
    *("Info@Example.COM", "info+tag@example.com"),
)
CLIENTS = ("10.1.2.3", "10.9.9.9", "192.0.2.1", "192.0.2.2", "2001:db8::7", "::ffff:10.1.2.3", "x")
WORDS = ("example.com", "@example.com", "lonely", "LONELY", "ann@example.org", "10.0.0.0/8", "bare")


class SnapshotTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.path = self.folder / "people"
        self.now = self.seconds = 1000.0

    def put(self, lines: Sequence[str], columns: int) -> SnapshotHead:
        new = self.path.with_name("new")
        head = write(new, "people", lines, SnapshotHead("", columns, 0, 0.0, ""))
        os.utime(new, (self.now, self.now))
        new.replace(self.path)
        return head

    def table(self, stale: float = 100.0) -> SnapshotTable:
        return SnapshotTable(
            "people", "ldap", self.path, stale, lambda: self.now, lambda: self.seconds
        )

    def test_a_list_answers_as_one_in_memory(self) -> None:
        self.put(LIST, 1)
        self.agrees("list", LIST)

    def test_a_map_answers_as_one_in_memory(self) -> None:
        self.put(MAP, 2)
        self.agrees("virtual", MAP)

    def agrees(self, kind: str, lines: Sequence[str]) -> None:
        problems: list[Problem] = []
        wanted = read_table("people", kind, Source("x", "x", tuple(lines)), problems)
        self.assertEqual(problems, [])
        table = self.table()
        self.assertEqual(table.size, wanted.size)
        for text in MAILBOXES:
            subject = Subject(Mailbox.parse(text), "+")
            with self.subTest(text):
                self.assertEqual(bool(table.mailbox(subject)), bool(wanted.mailbox(subject)))
                self.assertEqual(table.owns(subject.key), wanted.owns(subject.key))
                if kind == "virtual":
                    found, right = (
                        each.find(subject, ("here.example",)) for each in (table, wanted)
                    )
                    self.assertEqual(found and found.targets, right and right.targets)
        for text in CLIENTS:
            with self.subTest(text):
                self.assertEqual(bool(table.client(text)), bool(wanted.client(text)))
        for text in WORDS:
            with self.subTest(text):
                self.assertEqual(bool(table.word(text)), bool(wanted.word(text)))

    def test_what_was_never_read_is_unknown(self) -> None:
        with self.assertRaisesRegex(Unknown, "not been read yet"):
            self.table().mailbox(Subject(Mailbox.parse("a@b.example")))

    def test_what_is_damaged_is_unknown(self) -> None:
        self.path.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
        with self.assertRaisesRegex(Unknown, "damaged"):
            self.table().word("a")

    def test_a_newer_one_is_noticed_within_a_second(self) -> None:
        self.put(["a@example.com x@example.net"], 2)
        table, subject = self.table(), Subject(Mailbox.parse("b@example.com"))
        self.assertIsNone(table.find(subject))
        self.put(["b@example.com x@example.net", "c@example.com x@example.net"], 2)
        self.assertIsNone(table.find(subject))
        self.seconds += LOOK
        self.assertIsNotNone(table.find(subject))

    def test_a_source_that_is_away_for_too_long_is_unknown(self) -> None:
        self.put(["a@example.com x@example.net"], 2)
        table, subject = self.table(stale=100), Subject(Mailbox.parse("a@example.com"))
        self.now += 99
        self.assertIsNotNone(table.find(subject))
        self.now, self.seconds = self.now + 2, self.seconds + LOOK
        with self.assertRaisesRegex(Unknown, "away for too long"):
            table.find(subject)
        os.utime(self.path, (self.now, self.now))  # it has said so again
        self.seconds += LOOK
        self.assertIsNotNone(table.find(subject))

    def test_a_list_says_not_what_becomes_of_whom(self) -> None:
        self.put(["a@example.com"], 1)
        with self.assertRaisesRegex(Unknown, "one column"):
            self.table().find(Subject(Mailbox.parse("a@example.com")))

    def becomes(self, address: str) -> list[str]:
        found = self.table().find(Subject(Mailbox.parse(address)))
        assert found is not None
        return list(map(str, found.targets))

    def test_wrong_entries_are_named(self) -> None:
        head = self.put(["ann@example.com x@example.net", "b@@d x@example.net"], 2)
        self.assertEqual(head.entries, 1)
        self.assertEqual([key for key, _ in head.skipped.rows], ["b@@d"])

    def test_an_address_with_several_rows_becomes_what_stands_in_all_of_them(self) -> None:
        far = [f"u{number}@example.com x@example.net" for number in range(CHUNK)]
        rows = ["U1@example.com y@example.net", "u1@example.com x@example.net, z@example.net"]
        head = self.put(["u0@example.com near@example.net", *far, *rows], 2)
        self.assertEqual((head.entries, head.skipped.count), (CHUNK, 0))
        self.assertEqual(self.becomes("u0@example.com"), ["near@example.net", "x@example.net"])
        self.assertEqual(
            self.becomes("u1@example.com"), ["x@example.net", "y@example.net", "z@example.net"]
        )
        self.assertEqual(self.becomes("u2@example.com"), ["x@example.net"])

    def test_a_domain_that_is_declared_twice_is_declared(self) -> None:
        far = [f"u{number}@example.com x@example.net" for number in range(CHUNK)]
        head = self.put(["example.com ours", *far, "example.com ours", "example.com ours"], 2)
        self.assertEqual(head.skipped.count, 0)

    def test_the_file_is_nobody_elses(self) -> None:
        self.put(MAP, 2)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)
