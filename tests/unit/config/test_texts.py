"""Text files as they were: a configuration is read again from what was read before."""

from __future__ import annotations

import shutil
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd import config
from relayd.config.texts import RecordedTexts, RememberedTexts
from tests.unit.rules.sample import outcome, write_site


class TextsTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.path = write_site(self.folder / "relayd")
        texts = RecordedTexts()
        self.settings = config.load(self.path, texts=texts)
        self.assertIs(self.settings.texts, texts)
        self.packed = texts.taken()

    def again(self) -> config.Settings:
        return config.load(self.path, texts=RememberedTexts(self.packed))

    def test_what_became_of_the_files_does_not_matter(self) -> None:
        def emptied() -> None:
            (self.folder / "relayd" / "aliases").write_text("")

        def broken() -> None:
            self.path.write_text("nonsense")

        def one_more() -> None:
            (self.path.parent / "rules.d" / "05-new.rules").write_text("accept any\n")

        def gone() -> None:
            shutil.rmtree(self.path.parent)

        for change in (emptied, broken, one_more, gone):
            with self.subTest(change.__name__):
                change()
                again = self.again()
                self.assertEqual(again.ruleset.hash, self.settings.ruleset.hash)
                self.assertEqual(again.files, self.settings.files)
                self.assertEqual(
                    outcome(again.ruleset, "carol@example.com"), "carol@example.net direct"
                )

    def test_what_is_not_whole_is_not_taken(self) -> None:
        for packed in (b"", self.packed[:-1], self.packed[:20], self.packed + b"x"):
            with self.assertRaises(ValueError):
                RememberedTexts(packed)

    def test_they_are_taken_once(self) -> None:
        texts = RecordedTexts()
        config.load(self.path, texts=texts)
        self.assertEqual(texts.taken(), self.packed)
        self.assertLess(len(texts.taken()), 50)
