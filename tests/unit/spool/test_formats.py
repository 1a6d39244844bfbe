"""Older formats of the spool: brought up to date when it is opened, and made by an export."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from relayd import __version__
from relayd.spool import formats
from relayd.spool.errors import SpoolError, SpoolLocked
from relayd.spool.export import export
from tests.spooling import Harness, opened, plain

BIG = b"x" * 200_000


def tables(path: Path) -> list[Any]:
    """The tables, as SQLite keeps them."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT name, sql, rootpage FROM sqlite_schema").fetchall()


def meta(path: Path) -> tuple[int, dict[str, Any]]:
    """The format, and the table of that name."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return formats.format_of(connection), dict(connection.execute("SELECT * FROM meta"))


def waiting(harness: Harness) -> list[Any]:
    """All that waits, with its content."""
    return plain(harness.bridge.wait(harness.spool.due("inside", 1e12, 100)))


class FormatTests(unittest.TestCase):
    def setUp(self) -> None:
        temporary = TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name) / "spool"
        self.copy = Path(temporary.name) / "copy"

    def fill(self) -> list[Any]:
        with opened(self.directory) as harness:
            harness.put()
            harness.put(BIG)
            return waiting(harness)

    def test_there_is_a_step_from_every_format_to_the_next(self) -> None:
        self.assertEqual([*formats.STEPS], [*range(formats.OLDEST, formats.VERSION)])

    def test_every_older_format_holds_the_same_mail_and_is_brought_up_to_date(self) -> None:
        before = self.fill()
        now = meta(self.directory / "shard-0/queue.db")
        self.assertEqual(now[1]["written_by"], __version__)
        for number in range(formats.OLDEST, formats.VERSION + 1):
            with self.subTest(number):
                copy = self.copy / str(number)
                done = export(self.directory, copy, number)
                self.assertEqual((done.shards, done.messages), (1, 2))
                self.assertEqual(meta(copy / "shard-0/queue.db")[0], number)
                with opened(copy) as harness:
                    self.assertEqual(waiting(harness), before)
                    self.assertEqual(harness.log.heard, [])
                self.assertEqual(meta(copy / "shard-0/queue.db"), now)
                self.assertEqual(
                    tables(copy / "shard-0/queue.db"), tables(self.directory / "shard-0/queue.db")
                )

    def test_format_1_is_as_the_relayd_that_knew_no_other_wrote_it(self) -> None:
        self.fill()
        export(self.directory, self.copy, 1)
        number, found = meta(self.copy / "shard-0/queue.db")
        self.assertEqual((number, found["schema_version"]), (1, 1))
        self.assertNotIn("written_by", found)

    def test_the_spool_stays_as_it_is_and_its_owner_the_copy_s(self) -> None:
        before = self.fill()
        export(self.directory, self.copy, formats.OLDEST)
        for path in (self.copy, *self.copy.rglob("*")):
            self.assertEqual(path.stat().st_mode & 0o077, 0, path)
            self.assertEqual(path.stat().st_uid, os.getuid())
        with opened(self.directory) as harness:
            self.assertEqual(waiting(harness), before)

    def test_a_spool_in_use_is_not_copied(self) -> None:
        with opened(self.directory), self.assertRaises(SpoolLocked):
            export(self.directory, self.copy, formats.OLDEST)
        with (
            opened(self.directory, lock=self.directory / "shard-0" / "lock"),
            self.assertRaises(SpoolLocked),
        ):
            export(self.directory, self.copy, formats.OLDEST)
        self.assertFalse(self.copy.exists())

    def test_what_cannot_be_done_is_said(self) -> None:
        with self.assertRaisesRegex(SpoolError, "there is no spool"):
            export(self.directory, self.copy, formats.OLDEST)
        self.fill()
        with self.assertRaisesRegex(SpoolError, "knows 1 to"):
            export(self.directory, self.copy, formats.VERSION + 1)
        with self.assertRaisesRegex(SpoolError, "is not empty"):
            export(self.directory, self.directory, formats.OLDEST)
        (self.copy / "shard-0").mkdir(parents=True)
        with self.assertRaisesRegex(SpoolError, "there is no mail"):
            export(self.copy, self.directory / "more", formats.OLDEST)

    @unittest.skipIf(os.geteuid() != 0, "gives a spool to another user: needs root")
    def test_root_exports_a_spool_of_anothers_with_the_others_rights(self) -> None:
        owner = 64321
        self.fill()
        outside = self.directory.parent
        outside.chmod(0o755)
        treasure = outside / "treasure"
        (treasure / "inside").mkdir(parents=True)
        (treasure / "inside" / "secret").write_text("root's own")
        (treasure / "inside" / "secret").chmod(0o600)
        content = self.directory / "shard-0" / "content"
        (content / "folder").symlink_to(treasure / "inside")
        (content / "file").symlink_to(treasure / "inside" / "secret")
        for folder, _, names in os.walk(self.directory):
            for path in (Path(folder), *(Path(folder, name) for name in names)):
                os.chown(path, owner, owner, follow_symlinks=False)
        done = export(self.directory, self.copy, formats.VERSION)
        self.assertEqual(done.messages, 2)
        self.assertEqual(os.geteuid(), 0)
        self.assertTrue((self.copy / "shard-0/content/folder").is_symlink())
        found = (treasure / "inside" / "secret").stat()
        self.assertEqual((found.st_uid, found.st_nlink), (0, 1))
        for path in (self.copy, self.copy / "shard-0/queue.db"):
            self.assertEqual(path.stat().st_uid, owner)
        # ... and where root alone may read there is nothing to be had
        (self.directory / "shard-0" / "damaged").rmdir()
        (self.directory / "shard-0" / "damaged").symlink_to(treasure / "inside")
        treasure.chmod(0o700)
        with self.assertRaises(SpoolError):
            export(self.directory, outside / "other", formats.VERSION)

    def test_a_newer_format_names_who_wrote_it_and_the_way_back(self) -> None:
        self.fill()
        with contextlib.closing(sqlite3.connect(self.directory / "shard-0/queue.db")) as newer:
            newer.execute(f"PRAGMA user_version = {formats.VERSION + 1}")
            newer.execute("UPDATE meta SET value = '9.9' WHERE name = 'written_by'")
            newer.commit()
        for act in (
            lambda: Harness(self.directory).spool.open(),
            lambda: export(self.directory, self.copy, formats.OLDEST),
        ):
            with self.assertRaisesRegex(SpoolError, r"newer relayd \(9.9\).*relayctl spool export"):
                act()
