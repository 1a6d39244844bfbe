"""The spool directory: one owner, its permissions, its versions, and what a crash leaves in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import stat
import subprocess
import sys
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd.mail.ident import ident_text, make_ident
from relayd.mail.message import RecipientState, Settlement
from relayd.spool import formats
from relayd.spool.disk import fanout as spread
from relayd.spool.disk.content import WARM_MOST
from relayd.spool.disk.space import Space
from relayd.spool.errors import SpoolError, SpoolLocked
from tests.spooling import DONE, Harness, octets, opened, submission

BIG = b"x" * 200_000


class DirectoryCase(unittest.TestCase):
    def setUp(self) -> None:
        temporary = TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name) / "spool"


def flags(directory: Path, more: int = 0) -> int:
    """What the file system has noted for a directory, after it was asked to note more."""
    fd = os.open(directory, os.O_RDONLY)
    found = 0
    try:
        with contextlib.suppress(OSError):
            (found,) = spread.FLAGS.unpack(fcntl.ioctl(fd, spread.GET_FLAGS, bytes(4)))
            if more:
                fcntl.ioctl(fd, spread.SET_FLAGS, spread.FLAGS.pack(found | more))
                found |= more
    finally:
        os.close(fd)
    return found


class SpreadTests(DirectoryCase):
    def test_content_lies_far_apart_where_the_file_system_knows_how(self) -> None:
        probe = self.directory.parent / "probe"
        probe.mkdir()
        known = flags(probe, spread.TOP_OF_HIERARCHY) & spread.TOP_OF_HIERARCHY
        for _ in range(2):
            with opened(self.directory) as harness:
                harness.put(BIG)
        self.assertEqual(flags(self.directory / "shard-0/content") & spread.TOP_OF_HIERARCHY, known)


class LockTests(DirectoryCase):
    def test_a_second_spool_hears_who_holds_it(self) -> None:
        with opened(self.directory), self.assertRaises(SpoolLocked) as caught:
            Harness(self.directory).spool.open()
        assert caught.exception.pid == os.getpid()
        assert f"process {os.getpid()}" in caught.exception.reason

    def test_another_process_is_refused_too(self) -> None:
        script = (
            "import sys; from pathlib import Path; from tests.spooling import Harness\n"
            "Harness(Path(sys.argv[1])).spool.open()"
        )
        with opened(self.directory):
            done = subprocess.run(
                [sys.executable, "-c", script, str(self.directory)],
                cwd=Path(__file__).parents[3],
                capture_output=True,
                text=True,
                check=False,
            )
        assert (
            f"SpoolLocked: spool {self.directory} is in use by process {os.getpid()}" in done.stderr
        )

    def test_it_is_free_again_after_close(self) -> None:
        for _ in range(2):
            with opened(self.directory) as harness:
                harness.put()

    def test_a_refused_open_gives_the_lock_back(self) -> None:
        with opened(self.directory) as harness:
            shard = harness.shard
        newer = sqlite3.connect(shard / "queue.db")
        newer.execute(f"PRAGMA user_version = {formats.VERSION + 1}")
        newer.close()
        for _ in range(2):
            with self.assertRaisesRegex(SpoolError, "written by a newer relayd"):
                Harness(self.directory).spool.open()

    def test_shards_have_their_own_locks_when_asked_to(self) -> None:
        options = [{"shard": n, "lock": self.directory / f"lock-{n}"} for n in (0, 1)]
        self.directory.mkdir()
        with (
            opened(self.directory, **options[0]) as one,
            opened(self.directory, **options[1]) as two,
        ):
            assert one.put()[0].ident & 255 == 0
            assert two.put()[0].ident & 255 == 1


class PermissionTests(DirectoryCase):
    def test_nobody_else_can_read_anything(self) -> None:
        old = os.umask(0)
        self.addCleanup(os.umask, old)
        with opened(self.directory) as harness:
            harness.put(BIG)
            harness.put()
            found = [self.directory, *self.directory.rglob("*")]
            assert len(found) > 8
            for path in found:
                mode = stat.S_IMODE(path.stat().st_mode)
                assert mode == (0o700 if path.is_dir() else 0o600), path

    def test_a_directory_that_cannot_be_made_is_an_error_with_words(self) -> None:
        self.directory.write_text("a file")
        with self.assertRaisesRegex(SpoolError, "cannot make"):
            Harness(self.directory).spool.open()


class OrphanTests(DirectoryCase):
    def leave(self, path: Path, data: bytes = b"left") -> Path:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path

    def test_what_nobody_was_told_about_is_removed_and_what_is_not_ours_stays(self) -> None:
        with opened(self.directory) as harness:
            kept, _ = harness.put(BIG)
            unfinished = harness.spool.create()
            unfinished.write(BIG)
            ended, records = harness.put(BIG)
        files = harness.spool._files
        settled = files.path(ended.ident)
        young = make_ident(int(4e15), 0)
        left = {
            "unfinished": files.path(unfinished.ident),
            "foreign": self.leave(harness.shard / "content" / "00" / "notes.txt"),
            "misplaced": self.leave(harness.shard / "content" / "zz" / ident_text(kept.ident)),
            "young": self.leave(files.path(young)),
            "stray": self.leave(harness.shard / "content" / "README"),
        }
        with opened(self.directory) as again:
            again.bridge.wait(
                again.spool.settle([Settlement(records[0], RecipientState.DELIVERED, DONE)])
            )
        self.leave(settled)  # the machine died between COMMIT and removal
        with opened(self.directory) as again:
            again.bridge.until(lambda: "orphaned content" in again.log.events())
            loaded = again.bridge.wait(again.spool.load(kept.ident))
            assert loaded is not None
            assert octets(loaded[0].content) == BIG
        assert not settled.exists()
        there = {name for name, path in left.items() if path.exists()}
        assert there == {"foreign", "misplaced", "young", "stray"}

    def test_content_of_accepted_mail_whose_row_is_lost_is_set_aside(self) -> None:
        with opened(self.directory) as harness:
            message, _ = harness.put(BIG)
        database = sqlite3.connect(harness.shard / "queue.db")
        for table in ("message", "recipient"):
            database.execute(f"DELETE FROM {table}")
        database.commit()
        database.close()
        with opened(self.directory) as again:
            again.bridge.until(lambda: "orphaned content" in again.log.events())
            audit = again.bridge.wait(again.spool.audit(0, 10))
        assert [each.problem for each in audit.discrepancies] == ["neither waiting nor ended"]
        assert (again.shard / "damaged" / ident_text(message.ident)).read_bytes() == BIG

    def test_a_leftover_of_the_same_name_does_not_stop_a_draft(self) -> None:
        with opened(self.directory) as harness:
            draft = harness.spool.create()
            path = self.leave(harness.spool._files.path(draft.ident))
            draft.write(BIG)
            harness.bridge.wait(draft.commit(submission()))
            assert path.read_bytes() == BIG

    def test_rollback_removes_the_file(self) -> None:
        with opened(self.directory) as harness:
            draft = harness.spool.create()
            draft.write(b"x" * (WARM_MOST + 1))
            path = harness.spool._files.path(draft.ident)
            assert path.exists()
            draft.rollback()
            draft.rollback()
            assert not path.exists()


class SpaceTests(DirectoryCase):
    def test_room_is_what_is_above_the_floor(self) -> None:
        self.directory.mkdir()
        found = os.statvfs(self.directory)
        free = found.f_bavail * found.f_frsize
        assert Space(self.directory, 0, 0).room(1000)
        assert not Space(self.directory, 0, 0).room(free * 2)
        assert not Space(self.directory, free * 2, 0).room(0)
        assert not Space(self.directory, 0, 1 << 62).room(0)
        assert not Space(self.directory / "gone", 0, 0).room(0)


class LedgerTests(DirectoryCase):
    def test_it_is_bounded_by_age_but_keeps_what_waits(self) -> None:
        with opened(self.directory) as harness:
            gone, records = harness.put()
            waiting, _ = harness.put()
            harness.bridge.wait(
                harness.spool.settle([Settlement(records[0], RecipientState.DELIVERED, DONE)])
            )
        with opened(self.directory, ledger_days=-1) as again:
            new, _ = again.put()
            ask = again.spool.history
            again.bridge.until(lambda: again.bridge.wait(ask(gone.ident)) is None)
            for ident in (waiting.ident, new.ident):
                assert again.bridge.wait(ask(ident)) is not None

    def test_it_is_bounded_by_rows(self) -> None:
        with opened(self.directory) as harness:
            for _ in range(5):
                _, (record,) = harness.put()
                done = Settlement(record, RecipientState.DELIVERED, DONE)
                harness.bridge.wait(harness.spool.settle([done]))
        with opened(self.directory, ledger_rows=4) as again:
            again.put()
            ledger = again.spool.audit
            again.bridge.until(lambda: again.bridge.wait(ledger(0, 100)).accepted <= 2)
