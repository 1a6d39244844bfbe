"""Which shards of the spool a worker takes up."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from relayd.service.app import shards_of


class Shards(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.spool = Path(folder.name)

    def test_those_of_workers_that_are_no_more_are_shared_out(self) -> None:
        for number in range(5):
            (self.spool / f"shard-{number}").mkdir()
        self.assertEqual(shards_of(self.spool, 0, 2), (0, 2, 4))
        self.assertEqual(shards_of(self.spool, 1, 2), (1, 3))

    def test_a_foreign_file_with_the_name_of_a_shard_does_not_keep_relayd_from_starting(
        self,
    ) -> None:
        (self.spool / "shard-99").write_bytes(b"not a directory")
        (self.spool / "shard-x").mkdir()
        self.assertEqual(shards_of(self.spool, 0, 1), (0,))
