"""Full disks, failing COMMITs and sudden death: nothing acknowledged is lost (promises 1 to 5)."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import unittest
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from relayd.mail.message import RecipientState, Settlement
from relayd.mail.outcome import failed
from relayd.spool.disk.content import WARM_MOST, ContentFiles
from relayd.spool.disk.trouble import SpoolCorrupt
from relayd.spool.errors import SpoolError, SpoolFull
from relayd.spool.sqlite.prune import Prune
from relayd.spool.view import NewMessage, QueueFilter
from tests.spooling import DONE, Harness, opened, recipient, submission

BIG = b"x" * 100_000
HUGE = b"x" * (WARM_MOST + 1)  # so much is not kept in memory until the commit


class Faulty(sqlite3.Connection):
    """A connection whose statements can be made to fail, before or after they took effect."""

    fault: Callable[[str], None] = staticmethod(lambda statement: None)
    late_fault: Callable[[str], None] = staticmethod(lambda statement: None)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        Faulty.fault(statement)
        cursor = super().execute(statement, *values)
        Faulty.late_fault(statement)
        return cursor


def sqlite_error(code: int, text: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    error.sqlite_errorname = "SQLITE_TEST"
    return error


IO_ERROR = sqlite_error(10, "disk I/O error")
FULL = sqlite_error(13, "database or disk is full")


class FaultCase(unittest.TestCase):
    def setUp(self) -> None:
        temporary = TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        connect = sqlite3.connect

        def faulty(*args: Any, **options: Any) -> sqlite3.Connection:
            return connect(*args, factory=Faulty, **options)

        patching = patch("relayd.spool.sqlite.schema.sqlite3.connect", faulty)
        patching.start()
        self.addCleanup(patching.stop)
        self.addCleanup(self.heal)

    def heal(self) -> None:
        Faulty.fault = Faulty.late_fault = staticmethod(lambda statement: None)

    def fail_on(self, word: str, error: Exception, *, late: bool = False) -> None:
        """Every statement that starts with `word` fails from now on."""

        def fault(statement: str) -> None:
            if statement.startswith(word):
                raise error

        if late:
            Faulty.late_fault = staticmethod(fault)
        else:
            Faulty.fault = staticmethod(fault)

    def wait_at(self, word: str, gate: threading.Event) -> None:
        """Every statement that starts with `word` waits for the gate from now on."""

        def fault(statement: str) -> None:
            if statement.startswith(word):
                gate.wait(10)

        Faulty.fault = staticmethod(fault)

    def kept(self, harness: Harness, promises: Iterable[Any]) -> list[bool]:
        """Which of them brought a result and not a SpoolError."""
        results = []
        for promise in promises:
            try:
                harness.bridge.wait(promise)
                results.append(True)
            except SpoolError:
                results.append(False)
        return results

    def recovered(self, harness: Harness, events: list[str]) -> None:
        harness.bridge.until(lambda: "recovered" in events)

    @contextlib.contextmanager
    def harness(self, **options: Any) -> Iterator[tuple[Harness, list[str]]]:
        with opened(self.directory, **options) as harness:
            events: list[str] = []
            harness.spool.on_trouble = events.append
            harness.spool.on_recovery = lambda: events.append("recovered")
            for _ in range(2):  # the spool's own first chores are over then
                harness.bridge.wait(harness.spool.settle([]))
            yield harness, events
            self.heal()


class FailingCommitTests(FaultCase):
    def test_a_failed_write_is_an_error_never_a_late_success(self) -> None:
        for word in ("BEGIN", "INSERT INTO message", "COMMIT"):
            for error, kind in ((IO_ERROR, SpoolError), (FULL, SpoolFull)):
                with self.subTest(word=word, kind=kind), self.harness() as (harness, events):
                    self.fail_on(word, error)
                    with self.assertRaises(kind):
                        harness.put()
                    harness.bridge.until(lambda: len(events) == 1)
                    assert not harness.spool.healthy
                    with self.assertRaises(SpoolError):
                        harness.put()
                    self.heal()
                    harness.bridge.until(lambda: events[1:] == ["recovered"])
                    assert harness.spool.healthy
                    assert harness.bridge.wait(harness.spool.counts()).messages == 0
                    message, _ = harness.put()
                    harness.bridge.wait(harness.spool.remove(QueueFilter()))
                    assert harness.bridge.wait(harness.spool.history(message.ident)) is not None

    def test_what_no_client_was_answered_about_is_let_go_when_the_disk_is_well_again(self) -> None:
        with self.harness() as (harness, _):
            message, _ = harness.put(state=RecipientState.HELD, unanswered=True)
        sick = [True]

        def fault(statement: str) -> None:
            if statement == "COMMIT" and sick:
                sick.clear()
                raise IO_ERROR

        harness = Harness(self.directory)
        writer = harness.spool._writer
        begin = writer.start

        def start() -> None:
            Faulty.fault = staticmethod(fault)
            begin()

        with patch.object(writer, "start", start):
            harness.spool.open()
        try:
            harness.bridge.until(lambda: not sick and harness.spool.healthy)
            harness.bridge.until(
                lambda: harness.bridge.wait(harness.spool.load(message.ident)) is None
            )
        finally:
            self.heal()
            harness.close()

    def test_a_commit_that_failed_after_it_reached_the_disk_delivers_nothing(self) -> None:
        with self.harness() as (harness, events):
            before, _ = harness.put()
            draft = harness.spool.create()
            draft.write(BIG)
            self.fail_on("COMMIT", IO_ERROR, late=True)
            with self.assertRaises(SpoolError):
                harness.bridge.wait(draft.commit(submission()))
            self.heal()
            harness.bridge.until(lambda: "recovered" in events)
            due = harness.bridge.wait(harness.spool.due("inside", 1e12, 10))
            assert [message.ident for message, _ in due] == [before.ident]
            assert harness.bridge.wait(harness.spool.history(draft.ident)) is None
            counts = harness.bridge.wait(harness.spool.counts())
            assert (counts.messages, counts.octets) == (1, before.content.size)
            path = harness.spool._files.path(draft.ident)
            harness.bridge.until(lambda: not path.exists())

    def test_what_a_failed_commit_left_behind_is_not_given_out_to_be_delivered(self) -> None:
        with self.harness() as (harness, events):
            spool, wait = harness.spool, harness.bridge.wait
            before, _ = harness.put()
            self.fail_on("COMMIT", IO_ERROR, late=True)
            with self.assertRaises(SpoolError):
                harness.put()
            harness.bridge.until(lambda: bool(events))
            for question in (
                lambda: spool.due("inside", 1e12, 10),
                lambda: spool.aged(1e12, 0, 10),
                lambda: spool.earliest("inside", 0.0),
                spool.destinations,
            ):
                with self.assertRaises(SpoolError):
                    wait(question())
            assert wait(spool.listing(QueueFilter(), 0, 10)).messages  # the operator may look
            self.heal()
            self.recovered(harness, events)
            due = wait(spool.due("inside", 1e12, 10))
            assert [message.ident for message, _ in due] == [before.ident]

    def test_no_memory_after_the_commit_is_a_failed_one(self) -> None:
        with self.harness() as (harness, events):
            self.fail_on("COMMIT", MemoryError(), late=True)
            with self.assertRaises(SpoolError):
                harness.put()
            self.heal()
            harness.bridge.until(lambda: "recovered" in events)
            assert harness.bridge.wait(harness.spool.counts()).messages == 0

    def test_no_memory_to_tell_of_the_commit_is_waited_for(self) -> None:
        with self.harness() as (harness, events):
            call = harness.bridge.call
            scarce = [MemoryError()] * 3

            def calling(*arguments: Any) -> None:
                if scarce:
                    raise scarce.pop()
                call(*arguments)

            with patch.object(harness.bridge, "call", calling):
                harness.put()
            assert not scarce
            assert not events

    def test_no_memory_at_any_step_of_the_writer_leaves_nobody_without_an_answer(self) -> None:
        steps = ("_transaction", "_commit", "_fail", "_mend", "_recover", "_take")
        for step in steps:
            with self.subTest(step=step), self.harness() as (harness, _):
                writer = harness.spool._writer
                does, scarce = getattr(writer, step), [MemoryError()] * 3

                def doing(*given: Any, does: Any = does, scarce: Any = scarce) -> Any:
                    if scarce:
                        raise scarce.pop()
                    return does(*given)

                with patch.object(writer, step, doing):
                    if step in ("_fail", "_mend", "_recover"):  # there has to be something to mend
                        writer.suspect(SpoolError("no memory"))
                    with contextlib.suppress(SpoolError):
                        harness.put()
                    harness.bridge.until(lambda harness=harness: harness.spool.healthy)  # type: ignore[misc]
                with contextlib.suppress(SpoolError):
                    harness.put()
                harness.bridge.until(lambda harness=harness: harness.spool.healthy)  # type: ignore[misc]
                harness.put()
                assert writer._thread.is_alive()

    def test_no_memory_for_a_question_is_an_answer_and_the_next_has_its_own(self) -> None:
        with self.harness() as (harness, _):
            reader = harness.spool._reader
            failed, scarce = reader._failed, [MemoryError()] * 3

            def failing(error: Exception) -> None:
                if scarce:
                    raise scarce.pop()
                failed(error)

            with (
                patch.object(reader, "_failed", failing),
                patch.object(reader, "_answer", side_effect=MemoryError),
                self.assertRaises(SpoolError),
            ):
                harness.bridge.wait(harness.spool.counts())
            assert harness.bridge.wait(harness.spool.counts()).messages == 0

    def test_no_memory_to_sync_content_is_an_answer_and_the_next_is_taken(self) -> None:
        with self.harness() as (harness, _):
            for step in ("sync_directories", "prepare"):
                draft = harness.spool.create()
                draft.write(BIG)
                files = harness.spool._files
                breaking = patch.object(files, step, side_effect=MemoryError)
                with breaking, contextlib.suppress(SpoolError):
                    harness.bridge.wait(draft.commit(submission()))
                draft = harness.spool.create()
                draft.write(BIG)
                harness.bridge.wait(draft.commit(submission()))

    def test_outcomes_of_a_failed_commit_can_be_given_again(self) -> None:
        for late in (False, True):
            with self.subTest(late=late), self.harness() as (harness, events):
                message, (record,) = harness.put()
                spool, wait = harness.spool, harness.bridge.wait
                end = Settlement(record, RecipientState.FAILED, failed("5.1.1", "no"))

                def report(harness: Harness = harness) -> NewMessage:
                    return NewMessage(harness.spool.new_ident(), b"r", submission(sender=None))

                self.fail_on("COMMIT", IO_ERROR, late=late)
                with self.assertRaises(SpoolError):
                    wait(spool.settle([end], [report()]))
                self.heal()
                self.recovered(harness, events)
                wait(spool.settle([end], [report()]))
                history = wait(spool.history(message.ident))
                assert history is not None
                assert history.entries[0].state is RecipientState.FAILED
                # exactly one report, whichever of the two it was
                assert wait(spool.counts()).messages == 1
                assert wait(spool.audit(0, 100)).discrepancies == []
                wait(spool.remove(QueueFilter()))

    def test_what_was_queued_behind_a_failure_fails_at_once(self) -> None:
        with self.harness() as (harness, events):
            self.fail_on("COMMIT", IO_ERROR)
            promises = []
            for _ in range(50):
                draft = harness.spool.create()
                draft.write(b"x")
                promises.append(draft.commit(submission()))
            for promise in promises:
                with self.assertRaises(SpoolError):
                    harness.bridge.wait(promise)
            harness.bridge.until(lambda: len(events) == 1)

    def test_one_message_that_cannot_be_stored_does_not_fail_its_neighbours(self) -> None:
        with self.harness() as (harness, events):
            promises = []
            for n in range(20):
                draft = harness.spool.create()
                draft.write(b"x")
                # a mailbox that is no text: SQLite cannot take it
                bad = submission(recipient("\udcff")) if n == 7 else submission()
                promises.append(draft.commit(bad))
            assert self.kept(harness, promises) == [n != 7 for n in range(20)]
            assert events == []

    def test_nobody_is_forgotten_when_the_disk_fails_as_one_of_many_cannot_be_stored(self) -> None:
        with self.harness() as (harness, events):
            begun: list[str] = []
            all_there = threading.Event()

            def fault(statement: str) -> None:
                if statement.startswith("BEGIN"):
                    begun.append(statement)
                    if len(begun) == 1:
                        all_there.wait(60)
                    if len(begun) == 5:  # all of them at once, then one by one: the third
                        raise IO_ERROR

            Faulty.fault = staticmethod(fault)
            promises: list[Any] = [harness.spool.settle([])]
            for n in range(6):
                draft = harness.spool.create()
                draft.write(b"x")
                # a mailbox that is no text: SQLite cannot take it
                bad = submission(recipient("\udcff")) if n == 5 else submission()
                promises.append(draft.commit(bad))
            all_there.set()
            assert self.kept(harness, promises) == [True, True, True, False, True, True, False]
            self.recovered(harness, events)

    def test_what_may_not_grow_leaves_no_file(self) -> None:
        with self.harness() as (harness, events):
            harness.spool._writer._room_to_grow = lambda: False
            for content in (BIG, b"small"):
                draft = harness.spool.create()
                draft.write(content)
                with self.assertRaises(SpoolFull):
                    harness.bridge.wait(draft.commit(submission()))
            harness.bridge.until(lambda: not [*harness.shard.glob("content/*/*")])
            self.assertEqual((events, harness.spool.healthy), ([], True))

    def test_where_nothing_may_grow_outcomes_and_changes_are_recorded(self) -> None:
        with self.harness() as (harness, _):
            _, (record,) = harness.put(BIG)
            message, _ = harness.put()
            harness.spool._writer._room_to_grow = lambda: False
            refused = harness.spool.create().commit(submission())
            outcome = harness.spool.settle([Settlement(record, RecipientState.DELIVERED, DONE)])
            held = harness.spool.hold(QueueFilter(message.ident))
            with self.assertRaises(SpoolFull):
                harness.bridge.wait(refused)
            harness.bridge.wait(outcome)
            self.assertEqual(harness.bridge.wait(held), 1)

    def test_a_write_that_was_taken_as_damage_was_told_is_not_forgotten(self) -> None:
        with self.harness() as (harness, events):
            gate = threading.Event()
            self.wait_at("BEGIN", gate)
            first = harness.spool.settle([])
            promises: list[Any] = [first]
            for _ in range(3):
                draft = harness.spool.create()
                draft.write(b"abc")
                promises.append(draft.commit(submission()))
            harness.spool._writer._inbox.put(SpoolCorrupt("said somebody"))
            draft = harness.spool.create()
            promises.append(draft.commit(submission()))
            gate.set()
            kept = self.kept(harness, promises)
            self.assertEqual(len(kept), 5)
            self.recovered(harness, events)
            stored = harness.bridge.wait(harness.spool.counts()).messages
            self.assertEqual(stored, sum(kept[1:]))

    def test_an_operator_s_change_of_many_steps_is_finished_at_the_stop(self) -> None:
        with self.harness() as (harness, _):
            many = [recipient(f"r{number}") for number in range(30)]
            ident = harness.put(b"abc", *many)[0].ident
            with patch("relayd.spool.sqlite.writes.CHANGED", 4):
                changed = harness.spool.hold(QueueFilter())
                harness.bridge.wait(harness.spool.close())
            self.assertEqual(harness.bridge.wait(changed), 30)
            harness.reopen()
            loaded = harness.bridge.wait(harness.spool.load(ident))
            assert loaded is not None
            self.assertEqual({record.state for record in loaded[1]}, {RecipientState.HELD})

    def test_the_ledger_s_pruning_is_left_to_the_next_run_at_the_stop(self) -> None:
        with self.harness() as (harness, _):
            for _ in range(12):
                (record,) = harness.put()[1]
                end = Settlement(record, RecipientState.DELIVERED, DONE)
                harness.bridge.wait(harness.spool.settle([end]))
            with patch("relayd.spool.sqlite.prune.STEP", 2):
                writer = harness.spool._writer
                gate = threading.Event()
                self.wait_at("BEGIN", gate)
                writer.put(Prune(1 << 62, 0))  # all of it, a message a step
                harness.bridge.until(lambda: not writer._inbox.entries)  # it has been begun
                closed = harness.spool.close()
                harness.bridge.until(lambda: bool(writer._inbox.entries))
                gate.set()
                harness.bridge.wait(closed)
            self.heal()
            harness.reopen()
            counted = harness.bridge.wait(harness.spool.audit(0, 100)).accepted
            self.assertGreaterEqual(counted, 10)

    def test_closing_while_in_trouble_does_not_hang(self) -> None:
        with self.harness() as (harness, _):
            self.fail_on("BEGIN", IO_ERROR)
            with self.assertRaises(SpoolError):
                harness.put()


class FailingFileTests(FaultCase):
    def test_a_file_that_cannot_be_written(self) -> None:
        with self.harness() as (harness, events):
            for call, content in product(("writev", "open", "fsync"), (BIG, HUGE)):
                draft = harness.spool.create()
                error = OSError(errno.ENOSPC, "No space left on device")
                with patch(f"relayd.spool.disk.{_module(call)}.os.{call}", side_effect=error):
                    with contextlib.suppress(SpoolFull):
                        draft.write(content)
                        assert call == "fsync" or content == BIG
                    with self.assertRaises(SpoolFull):
                        harness.bridge.wait(draft.commit(submission()))
                assert not harness.spool._files.path(draft.ident).exists()
            assert events == []
            harness.put(BIG)

    def test_directories_are_synced_before_the_commit(self) -> None:
        calls: list[str] = []
        sync = ContentFiles.sync_directories

        def synced(files: ContentFiles, idents: Iterable[int]) -> None:
            sync(files, idents)
            calls.append("directories")

        with self.harness() as (harness, _), patch.object(ContentFiles, "sync_directories", synced):

            def watch(statement: str) -> None:
                if statement.startswith("INSERT INTO message"):
                    calls.append("insert")

            Faulty.fault = staticmethod(watch)
            harness.put(BIG)
        assert calls == ["directories", "insert"]


class FullDiskTests(unittest.TestCase):
    """On a file system of its own that is really full; needs the right to mount one."""

    def setUp(self) -> None:
        temporary = TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.mount = Path(temporary.name) / "disk"
        self.mount.mkdir()
        if os.geteuid() != 0:
            reason = "mounting a small file system needs root"
        else:
            command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(self.mount)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            reason = done.stderr.strip()
            if not done.returncode:
                self.addCleanup(subprocess.run, ["umount", "-l", str(self.mount)], check=True)
        if reason:
            print(f"SKIPPED {self.id()}: {reason}", file=sys.stderr)
            self.skipTest(reason)

    def fill(self) -> Path:
        hog = self.mount / "hog"
        with hog.open("wb") as file, contextlib.suppress(OSError):
            while True:
                os.write(file.fileno(), b"0" * 4096)
        return hog

    def test_full_then_freed_without_a_restart(self) -> None:
        with opened(self.mount / "spool") as harness:
            spool, wait = harness.spool, harness.bridge.wait
            events: list[str] = []
            spool.on_trouble = events.append
            accepted = {harness.put(b"y" * 5000)[0].ident for _ in range(200)}
            hog = self.fill()
            with self.assertRaises(SpoolFull):
                for _ in range(2000):
                    accepted.add(harness.put(b"y" * 5000)[0].ident)
            with self.assertRaises(SpoolFull):
                for _ in range(300):
                    draft = spool.create()
                    draft.write(BIG)
                    accepted.add(wait(draft.commit(submission()))[0].ident)
            hog.unlink()
            deadline = time.monotonic() + 60
            while True:
                try:
                    accepted.add(harness.put()[0].ident)
                    break
                except SpoolError:
                    assert time.monotonic() < deadline
                    harness.bridge.pump(0.1)
            found = {message.ident for message, _ in wait(spool.aged(1e12, 0, 10_000))}
            assert found == accepted
            assert wait(spool.audit(0, 100_000)).discrepancies == []

    def test_outcomes_go_on_on_a_full_disk_with_the_reserve(self) -> None:
        with (
            patch("relayd.spool.disk.reserve.SIZE", 2 << 20),
            opened(self.mount / "spool") as harness,
        ):
            spool, wait = harness.spool, harness.bridge.wait
            records = [harness.put(b"y" * 5000)[1][0] for _ in range(300)]
            reserve = harness.shard / "reserve"
            harness.bridge.until(reserve.exists)
            self.fill()
            deadline = time.monotonic() + 60
            while records:
                try:
                    wait(spool.settle([Settlement(records[-1], RecipientState.DELIVERED, DONE)]))
                    records.pop()
                except SpoolError:
                    assert time.monotonic() < deadline
                    harness.bridge.pump(0.1)
            assert not reserve.exists()
            assert wait(spool.counts()).messages == 0

    def test_below_the_floor_outcomes_are_still_recorded(self) -> None:
        with opened(self.mount / "spool", floor_bytes=8 << 20) as harness:
            spool, wait = harness.spool, harness.bridge.wait
            records = [harness.put(b"y" * 5000)[1][0] for _ in range(100)]
            assert spool.room(1000)
            with (self.mount / "hog").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, 18 << 20)
            harness.bridge.until(lambda: not spool.room(1000))
            with self.assertRaises(SpoolFull):
                harness.put()
            for record in records:
                wait(spool.settle([Settlement(record, RecipientState.DELIVERED, DONE)]))
            assert wait(spool.counts()).messages == 0
            assert spool.healthy


class SuddenDeathTests(unittest.TestCase):
    SCRIPT = """
import os, sys
from pathlib import Path
from relayd.mail.message import RecipientState, Settlement
from tests.spooling import DONE, LATER, Harness, submission

harness = Harness(Path(sys.argv[1]), memory_threshold=20000)
harness.spool.open()
spool, wait = harness.spool, harness.bridge.wait
held = []
say = lambda word, record: os.write(1, b"%s %d %d\\n" % (word, record.message, record.number))
while True:
    drafts = []
    for n in range(8):
        draft = spool.create()
        draft.write(b"m%d" % draft.ident * (2000 if n == 3 else 30))
        drafts.append(draft.commit(submission()))
    for draft in drafts:
        _, records = wait(draft)
        say(b"accepted", records[0])
        held += records
    chosen, held = held[:6], held[6:]
    for record in chosen:
        say(b"trying", record)
    wait(spool.settle([Settlement(record, RecipientState.DELIVERED, DONE) for record in chosen]))
    for record in chosen:
        say(b"ended", record)
"""

    def test_after_kill_9_everything_acknowledged_is_there(self) -> None:
        chance = random.Random(7)
        with TemporaryDirectory() as directory:
            said: dict[bytes, set[int]] = {b"accepted": set(), b"trying": set(), b"ended": set()}
            for _ in range(6):
                self.run_and_kill(directory, chance.uniform(0.05, 0.5), said)
                self.check(Path(directory), said)
            assert said[b"ended"]

    def run_and_kill(self, directory: str, seconds: float, said: dict[bytes, set[int]]) -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", self.SCRIPT, directory],
            cwd=Path(__file__).parents[3],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        first = process.stdout.readline()  # it is running; now the clock starts
        timer = time.monotonic() + seconds
        os.set_blocking(process.stdout.fileno(), False)
        output = first
        while time.monotonic() < timer:
            output += process.stdout.read() or b""
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        output += process.stdout.read() or b""
        process.stdout.close()
        for line in output.split(b"\n")[:-1]:
            word, ident, _ = line.split()
            said[word].add(int(ident))

    def check(self, directory: Path, said: dict[bytes, set[int]]) -> None:
        with opened(directory, memory_threshold=20000) as harness:
            wait, spool = harness.bridge.wait, harness.spool
            waiting = set()
            for message, _ in wait(spool.aged(1e12, 0, 1_000_000)):
                waiting.add(message.ident)
                body = b"".join(message.content.chunks())
                assert body.replace(b"m%d" % message.ident, b"") == b""
            missing = said[b"accepted"] - waiting - said[b"trying"]
            assert not missing
            assert not waiting & said[b"ended"]
            assert wait(spool.audit(0, 1_000_000)).discrepancies == []
            assert wait(spool.counts()).messages == len(waiting)
            # what the next life finds here it never said: taken out of the way
            wait(spool.remove(QueueFilter()))
            said[b"trying"] |= waiting


def _module(call: str) -> str:
    return {"writev": "draft", "open": "content", "fsync": "draft"}[call]
