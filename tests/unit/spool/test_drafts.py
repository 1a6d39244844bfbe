"""Drafts in files that are read back and replaced: whole or not at all, and nothing is left."""

from __future__ import annotations

import contextlib
import errno
import os
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from relayd.spool.disk.content import ContentFiles, Room
from relayd.spool.errors import SpoolError, SpoolFull
from tests.spooling import Harness, octets, opened, submission

LARGE = b"x" * 100_000
OTHER = b"y" * 200_000
FULL = OSError(errno.ENOSPC, "No space left on device")


class DraftFiles(unittest.TestCase):
    def setUp(self) -> None:
        temporary = TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name) / "spool"
        self.addCleanup(lambda: self.assertEqual(_descriptors(self.directory), []))

    def files(self, harness: Harness) -> list[str]:
        return sorted(
            each.name for each in harness.spool._files.directory.rglob("*") if each.is_file()
        )

    def pair(self, harness: Harness, first: bytes = LARGE, second: bytes = OTHER) -> Any:
        """A draft and what it may become, each in a file if it is large."""
        harness.spool._files.room = Room(0)
        draft = harness.spool.create()
        draft.write(first)
        fresh = draft.anew()
        fresh.write(second)
        return draft, fresh

    def test_rollback_leaves_no_file_whenever_it_comes(self) -> None:
        with opened(self.directory) as harness:
            for first in (b"small", LARGE):
                for second in (b"small", OTHER):
                    draft, fresh = self.pair(harness, first, second)
                    fresh.rollback()
                    draft.rollback()
                    self.assertEqual(self.files(harness), [])
                    draft, fresh = self.pair(harness, first, second)
                    draft.become(fresh)
                    self.assertEqual(len(self.files(harness)), second is OTHER)
                    draft.rollback()
                    self.assertEqual(self.files(harness), [])

    def test_committed_there_is_one_file_with_the_messages_name(self) -> None:
        with opened(self.directory) as harness:
            draft, fresh = self.pair(harness)
            draft.become(fresh)
            message, _ = harness.bridge.wait(draft.commit(submission()))
            self.assertEqual(self.files(harness), [str(message)])
            self.assertEqual(octets(message.content), OTHER)

    def test_a_subdirectory_that_is_gone_is_made_anew(self) -> None:
        with opened(self.directory) as harness:
            draft, fresh = self.pair(harness, first=b"small")
            with contextlib.suppress(FileNotFoundError):
                harness.spool._files.path(draft.ident).parent.rmdir()
            draft.become(fresh)
            message, _ = harness.bridge.wait(draft.commit(submission()))
            self.assertEqual(octets(message.content), OTHER)

    def test_what_a_crash_left_of_both_is_gone_after_the_next_start(self) -> None:
        with opened(self.directory) as harness:
            draft, fresh = self.pair(harness)
            self.assertEqual(len(self.files(harness)), 2)
            for each in (draft, fresh):  # the process dies
                os.close(each._fd)
                each._fd = -1
        with opened(self.directory) as harness:
            harness.bridge.until(lambda: not self.files(harness))

    def test_no_space_for_the_other_is_told_and_nothing_of_it_stays(self) -> None:
        with opened(self.directory) as harness:
            draft, fresh = self.pair(harness)
            for place in ("writev", "open"):
                another = draft.anew()
                with patch.object(os, place, side_effect=FULL), self.assertRaises(SpoolFull):
                    another.write(OTHER)
                with self.assertRaises(SpoolFull):
                    draft.become(another)
                another.rollback()
            fresh.rollback()
            self.assertEqual(b"".join(draft.chunks()), LARGE)  # it is as it was
            draft.rollback()
            self.assertEqual(self.files(harness), [])

    def test_a_change_of_places_that_fails_leaves_nothing_to_commit(self) -> None:
        with opened(self.directory) as harness:
            draft, fresh = self.pair(harness)
            with (
                patch.object(ContentFiles, "move", side_effect=FULL),
                self.assertRaises(SpoolFull),
            ):
                draft.become(fresh)
            fresh.rollback()
            with self.assertRaises(SpoolFull):
                harness.bridge.wait(draft.commit(submission()))
            self.assertEqual(self.files(harness), [])

    def test_what_cannot_be_read_back_cannot_be_committed(self) -> None:
        def truncated(path: Path) -> None:
            os.truncate(path, 10)

        def spoiled(path: Path) -> None:
            path.write_bytes(b"z" + LARGE[1:])

        for harm in (truncated, spoiled, Path.unlink):
            with opened(self.directory) as harness:
                draft, fresh = self.pair(harness)
                fresh.rollback()
                harm(harness.spool._files.path(draft.ident))
                with self.assertRaises(SpoolError):
                    b"".join(draft.chunks())
                with self.assertRaises(SpoolError):
                    harness.bridge.wait(draft.commit(submission()))
                self.assertEqual(self.files(harness), [])

    def test_a_file_is_read_in_pieces(self) -> None:
        with opened(self.directory) as harness:
            draft, fresh = self.pair(harness, first=LARGE * 30)
            fresh.rollback()
            self.assertLessEqual(max(map(len, draft.chunks())), 65536)
            draft.rollback()


def _descriptors(below: Path) -> list[str]:
    """The files there that this process has open."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(each.readlink()))
    return [each for each in found if each.startswith(f"{below}/")]
