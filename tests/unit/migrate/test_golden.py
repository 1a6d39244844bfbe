"""What the import makes of small configurations; tests/golden/postfix says of which."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from tests.scenarios import postfixgolden as golden


class Golden(unittest.TestCase):
    def setUp(self) -> None:
        kept = tempfile.TemporaryDirectory(prefix="relayd-test-")
        self.addCleanup(kept.cleanup)
        self.room = Path(kept.name)

    def test_each_becomes_what_its_file_says(self) -> None:
        for name in golden.names():
            with self.subTest(name):
                folder = golden.copied(name, self.room)
                told = golden.Imported.of(folder).told(folder)
                self.assertEqual(told, (golden.GOLDEN / name / "import").read_text("utf-8"))

    def test_there_are_enough_of_them(self) -> None:
        self.assertGreaterEqual(len(golden.names()), 30)
