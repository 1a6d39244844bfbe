"""The last good configuration: what is kept of it, by whom it is believed, and that it is whole."""

from __future__ import annotations

import json
import os
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from relayd import config
from relayd.config.lastgood import NAME, LastGoodError, LastGoodFile, last_good
from relayd.config.texts import RecordedTexts
from relayd.login.scram import Verifier
from relayd.login.users import line_of
from tests.unit.rules.sample import outcome, write_site

US = os.geteuid()


class LastGoodTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.spool = self.folder / "spool"
        self.spool.mkdir(mode=0o700)
        self.kept = self.spool / NAME
        self.path = write_site(self.folder / "relayd")
        self.file = LastGoodFile(self.spool, self.path)

    def packed(self) -> bytes:
        texts = RecordedTexts()
        config.load(self.path, texts=texts)
        return texts.without_secrets()

    def written(self) -> tuple[int, int]:
        found = self.kept.stat()
        return found.st_ino, found.st_mtime_ns

    def again(self) -> config.Settings:
        found = last_good(self.spool, self.path, US)
        assert found is not None
        return config.load(self.path, texts=RecordedTexts(found.texts))

    def why_not(self, owner: int = US) -> str:
        with self.assertRaises(LastGoodError) as caught:
            last_good(self.spool, self.path, owner)
        return str(caught.exception)


class KeptTest(LastGoodTest):
    def test_rules_and_tables_are_kept(self) -> None:
        good = config.load(self.path)
        self.file.keep(self.packed(), 17.0)
        self.path.write_text("nonsense")
        (self.path.parent / "aliases").unlink()
        self.assertEqual(self.again().ruleset.hash, good.ruleset.hash)
        self.assertEqual(
            outcome(self.again().ruleset, "carol@example.com"), "carol@example.net direct"
        )
        found = last_good(self.spool, self.path, US)
        assert found is not None
        self.assertEqual(found.since, 17.0)

    def test_nobody_else_may_read_it(self) -> None:
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.file.keep(self.packed(), 0.0)
        self.assertEqual(self.kept.stat().st_mode, 0o100600)

    def test_what_is_the_same_is_not_written_again(self) -> None:
        """Not by another process either; and it is good since it was kept first."""
        self.file.keep(self.packed(), 17.0)
        first = self.written()
        self.file.keep(self.packed(), 18.0)
        LastGoodFile(self.spool, self.path).keep(self.packed(), 19.0)
        self.assertEqual(self.written(), first)

    def test_what_differs_takes_its_place(self) -> None:
        self.file.keep(self.packed(), 17.0)
        rules = self.path.parent / "rules.d" / "10-site.rules"
        rules.write_text(rules.read_text() + "reject sender x@example.org\n")
        good = config.load(self.path)
        self.file.keep(self.packed(), 18.0)
        self.path.write_text("nonsense")
        self.assertEqual(self.again().ruleset.hash, good.ruleset.hash)
        self.assertEqual([*self.spool.iterdir()], [self.kept])

    def test_a_disk_that_fails_leaves_the_one_before(self) -> None:
        self.file.keep(b'{"sizes": {}, "there": [], "found": {}}\n', 17.0)
        before = self.kept.read_bytes()
        for call in ("fsync", "rename"):
            with (
                self.subTest(call),
                mock.patch(f"os.{call}", side_effect=OSError(28, "No space left on device")),
                self.assertRaises(OSError),
            ):
                self.file.keep(self.packed(), 18.0)
            self.assertEqual(self.kept.read_bytes(), before)
            self.assertEqual([*self.spool.iterdir()], [self.kept])
        self.file.keep(self.packed(), 19.0)
        self.assertNotEqual(self.kept.read_bytes(), before)

    def test_what_a_crash_has_left_is_no_hindrance(self) -> None:
        beside, precious = self.kept.with_name(f"{NAME}.new"), self.folder / "precious"
        precious.write_text("mine")
        beside.symlink_to(precious)
        self.file.keep(self.packed(), 17.0)
        self.assertEqual(precious.read_text(), "mine")
        self.assertEqual([*self.spool.iterdir()], [self.kept])

    def test_a_damaged_one_is_replaced(self) -> None:
        self.file.keep(self.packed(), 17.0)
        self.kept.write_bytes(self.kept.read_bytes()[:-1])
        LastGoodFile(self.spool, self.path).keep(self.packed(), 18.0)
        self.again()

    def test_no_password_is_kept_and_one_that_is_taken_back_stays_so(self) -> None:
        staff, rules = self.path.parent / "staff", self.path.parent / "rules.d" / "20-staff.rules"
        verifier = Verifier(b"salt", 4096, b"s" * 32, b"k" * 32)
        staff.write_text("".join(line_of(name, verifier) + "\n" for name in ("ann", "bob")))
        staff.chmod(0o600)
        rules.write_text("table staff users file staff\n")
        self.file.keep(self.packed(), 17.0)
        self.assertNotIn(b"SCRAM", self.kept.read_bytes())
        staff.write_text(line_of("bob", verifier) + "\n")
        self.path.write_text("nonsense")
        self.assertFalse(self.again().ruleset.tables["staff"].word("ann"))
        self.assertTrue(self.again().ruleset.tables["staff"].word("bob"))
        staff.unlink()
        with self.assertRaisesRegex(config.ConfigErrors, "cannot read staff"):
            self.again()


class BelievedTest(LastGoodTest):
    def setUp(self) -> None:
        super().setUp()
        self.assertIsNone(last_good(self.spool, self.path, US))
        self.assertIsNone(last_good(self.folder / "nowhere", self.path, US))
        self.file.keep(self.packed(), 17.0)

    def test_one_that_is_torn_is_not(self) -> None:
        whole = self.kept.read_bytes()
        for torn in (
            b"",
            whole[:-1],
            whole[:20],
            whole + b"x",
            whole.replace(b"accept", b"reject"),
        ):
            with self.subTest(torn[-20:]):
                self.kept.write_bytes(torn)
                self.assertEqual(self.why_not(), "it is damaged")

    def test_one_of_another_version_is_not(self) -> None:
        head, _, rest = self.kept.read_bytes().partition(b"\n")
        self.kept.write_bytes(
            json.dumps({**json.loads(head), "relayd": "0.0.1"}).encode() + b"\n" + rest
        )
        self.assertIn("it was kept by relayd 0.0.1, this is ", self.why_not())

    def test_that_of_another_relayd_is_none(self) -> None:
        self.assertIsNone(last_good(self.spool, self.folder / "other.conf", US))

    def test_what_is_open_to_others_is_not(self) -> None:
        for mode in (0o640, 0o602):
            self.kept.chmod(mode)
            self.assertEqual(self.why_not(), f"it is open to others (mode {mode:04o})")

    def test_what_belongs_to_another_is_not(self) -> None:
        self.assertEqual(self.why_not(US + 1), "it belongs to another user")

    def test_what_is_no_file_is_not(self) -> None:
        self.kept.rename(self.spool / "other")
        self.kept.symlink_to(self.spool / "other")
        self.assertEqual(self.why_not(), "Too many levels of symbolic links")
        for make in (os.mkdir, os.mkfifo):
            with self.subTest(make.__name__):
                (self.kept.rmdir if self.kept.is_dir() else self.kept.unlink)()
                make(self.kept, 0o600)
                self.assertEqual(self.why_not(), "it is no file")
