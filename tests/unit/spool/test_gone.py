"""The database is taken away under a running relayd: what was acknowledged is still there."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from relayd.spool.errors import SpoolError
from relayd.spool.view import QueueFilter
from tests.spooling import Harness, opened, summaries


class GoneTests(unittest.TestCase):
    def setUp(self) -> None:
        temporary = TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        patching = patch("relayd.spool.sqlite.writer.LOOK", 0.0)
        patching.start()
        self.addCleanup(patching.stop)

    def holds_after(self, *accidents: Callable[[], object]) -> None:
        """Five messages, an accident, five more: all ten are there, now and after a restart."""
        with opened(self.directory) as harness:
            events: list[str] = []
            harness.spool.on_trouble = events.append
            harness.spool.on_recovery = lambda: events.append("recovered")
            idents = {harness.put()[0].ident for _ in range(5)}
            for accident in accidents:
                accident()
                with self.assertRaises(SpoolError):
                    for _ in range(5):
                        harness.put()
                harness.bridge.until(lambda: events[-1:] == ["recovered"])
                self.assertIn("taken away", events[-2])
            idents |= {harness.put()[0].ident for _ in range(5)}
            self.assertEqual(self.waiting(harness), idents)
        with opened(self.directory) as harness:
            self.assertEqual(self.waiting(harness), idents)

    def waiting(self, harness: Harness) -> set[int]:
        page = harness.bridge.wait(harness.spool.listing(QueueFilter(), 0, 100))
        return {int(each.ident) for each in summaries(page)}

    def remove(self, *suffixes: str) -> None:
        for suffix in suffixes:
            found = list((self.directory / "shard-0").glob(f"queue*.db{suffix}"))
            self.assertTrue(found)
            for path in found:
                path.unlink()

    def test_the_file_is_removed(self) -> None:
        self.holds_after(lambda: self.remove(""))

    def test_the_file_and_all_beside_it_are_removed(self) -> None:
        self.holds_after(lambda: self.remove("", "-wal", "-shm"))

    def test_its_log_is_removed(self) -> None:
        self.holds_after(lambda: self.remove("-wal"))

    def test_twice(self) -> None:
        self.holds_after(lambda: self.remove(""), lambda: self.remove("", "-wal"))

    def test_another_database_takes_its_place(self) -> None:
        shard = self.directory / "shard-0"
        (other := self.directory / "other").mkdir()
        with opened(other) as harness:
            harness.put()
        self.holds_after(lambda: (other / "shard-0/queue.db").rename(shard / "queue.db"))
        self.assertEqual(len(list((shard / "damaged").glob("queue*.db"))), 1)

    def test_the_folder_is_away_for_a_while(self) -> None:
        shard = self.directory / "shard-0"
        with opened(self.directory) as harness:
            events: list[str] = []
            harness.spool.on_trouble = events.append
            harness.spool.on_recovery = lambda: events.append("recovered")
            ident = harness.put()[0].ident
            shard.rename(self.directory / "away")
            for _ in range(2):
                with self.assertRaises(SpoolError):
                    for _ in range(5):
                        harness.put()
            self.assertFalse(shard.exists())
            (self.directory / "away").rename(shard)
            harness.bridge.until(lambda: events[-1:] == ["recovered"])
            self.assertEqual(self.waiting(harness), {ident})
