"""The spool of one shard: mail on stable storage, its envelopes, and what became of them."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from relayd.mail.content import BytesContent
from relayd.mail.ident import SHARD_BITS, ident_text, make_ident
from relayd.mail.log import MailLog
from relayd.mail.message import Settlement, Submission
from relayd.spool.disk.content import ContentFiles, os_trouble, sync_directory
from relayd.spool.disk.draft import Draft
from relayd.spool.disk.lock import Lock
from relayd.spool.disk.orphans import Fate, Orphans
from relayd.spool.disk.reserve import Reserve
from relayd.spool.disk.space import Space
from relayd.spool.disk.trouble import trouble_of
from relayd.spool.errors import SpoolError, SpoolFull, SpoolLocked
from relayd.spool.lease import Lease
from relayd.spool.sqlite import schema
from relayd.spool.sqlite.bridge import Bridge, Promise
from relayd.spool.sqlite.database import Database
from relayd.spool.sqlite.mend import Mender
from relayd.spool.sqlite.prune import Prune
from relayd.spool.sqlite.reader import Question, Reader
from relayd.spool.sqlite.rows import NewRows, accept_rows
from relayd.spool.sqlite.sift import Sift
from relayd.spool.sqlite.syncer import Syncer
from relayd.spool.sqlite.writer import Committed, Writer
from relayd.spool.sqlite.writes import (
    Acceptance,
    ClientAnswered,
    LetGo,
    OperatorWrite,
    RerouteWrite,
    SetAside,
    SettlementWrite,
    Write,
)
from relayd.spool.threaded import ThreadedStore
from relayd.spool.view import (
    AS_THEY_ARE,
    Accepted,
    NewMessage,
    QueueFilter,
    Rerouting,
)

__all__ = ["Draft", "Spool", "SpoolError", "SpoolFull", "SpoolLocked"]

MEMORY_THRESHOLD = 65536  # octets; larger content goes to a file while it arrives
FLOOR_OCTETS = 100 << 20  # free space that acceptance leaves to the outcomes of what we have
FLOOR_INODES = 1000
LEDGER_DAYS = 7
LEDGER_ROWS = 20_000_000  # whatever their age; some 5 GB
CHORES_EVERY = 60.0  # seconds
SIFT_EVERY = 5.0  # seconds: what came since has no sieve yet


class Spool(ThreadedStore):
    """A Store in a directory; the contract of each method is Store's."""

    def __init__(
        self,
        directory: Path,
        bridge: Bridge,
        *,
        shard: int = 0,
        clock: Callable[[], float] = time.time,
        log: MailLog | None = None,
        memory_threshold: int = MEMORY_THRESHOLD,
        floor_bytes: int = FLOOR_OCTETS,
        floor_inodes: int = FLOOR_INODES,
        ledger_days: float = LEDGER_DAYS,
        ledger_rows: int = LEDGER_ROWS,
        lock: Path | None = None,
    ) -> None:
        self.on_trouble: Callable[[str], None] = lambda reason: None
        self.lease: Lease | None = None
        self.on_recovery: Callable[[], None] = lambda: None
        self.on_change: Callable[[str, Sequence[tuple[int, int]]], None] = lambda verb, met: None
        self.directory = directory
        self._bridge = bridge
        self._shard = shard
        self._clock = clock
        self._log = log
        self._threshold = memory_threshold
        self._ledger_days = ledger_days
        self._ledger_rows = ledger_rows
        self._lock = Lock(lock or directory / "lock")
        self._shard_directory = directory / f"shard-{shard}"
        self._files = ContentFiles(self._shard_directory, self._found_damaged)
        self._last_us = 0
        self._trouble: SpoolError | None = None
        self._open = False
        self.healthy = False  # it is open, and not in trouble
        self._next_chores = self._next_sift = float("-inf")
        self._sift = Sift()
        self._space = Space(self._shard_directory, floor_bytes, floor_inodes)
        self.room = self._space.room
        self._database = Database(self._shard_directory, self._files.damaged)
        self._reserve = Reserve(self._shard_directory / "reserve")
        self._reader = Reader(
            self._database,
            self._files,
            bridge,
            damaged=self._found_damaged,
            corrupt=lambda error: self._writer.suspect(error),
        )
        mender = Mender(
            self._database, self._reader, self._reserve, clock=clock, notice=self.notice
        )
        self._writer = Writer(
            *(self._database, bridge, self, mender),
            clock=clock,
            room_to_grow=self._space.room_to_grow,
        )
        self.expect = self._writer.company.expect
        self._syncer: Syncer[Write] = Syncer(self._files, bridge, synced=self._writer.put)

    # life

    def open(self) -> None:
        """Lock, check and recover; raises SpoolError. As quick with a million messages waiting."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._shard_directory.mkdir(mode=0o700, exist_ok=True)
            sync_directory(self.directory)
            with contextlib.suppress(OSError):  # we may not be allowed to read it
                sync_directory(self.directory.resolve().parent)
        except OSError as error:
            raise os_trouble(f"cannot make {self.directory}", error) from error
        self._lock.acquire()
        try:
            self._files.prepare()
            self._database.find()
            connection = self._writer.open()
            if self._database.begun_anew and any(idents for idents, _ in self._files.sets()):
                self._bereft(connection)
            last = schema.last_ident(connection)
        except Exception as error:
            self._writer.abandon()
            self._lock.release()
            trouble = trouble_of(error) or SpoolError(f"database: {error}")
            trouble.reason = f"cannot open {self._shard_directory}: {trouble.reason}"
            raise trouble from error
        # drafts that an earlier run never finished have idents up to now, all later ones are ours
        self._last_us = max(last >> SHARD_BITS, int(self._clock() * 1e6) - 1)
        newest = make_ident(self._last_us, self._shard)
        self._open = self.healthy = True
        self._begin_to_let_go(newest)
        for thread in (self._writer, self._reader, self._syncer):
            thread.start()
        self._syncer.work(Orphans(self._files, newest, self._fates, self.notice).step)

    def _bereft(self, connection: sqlite3.Connection) -> None:
        """There is content, but no database: what nobody knows is set aside, not removed."""
        newest = make_ident(int(self._clock() * 1e6), self._shard)
        connection.execute("UPDATE meta SET value = ? WHERE name = 'rebuilt'", (newest,))
        self.notice("spool database is gone", path=str(self._database.path))

    def close(self) -> Awaitable[None]:
        """Finish what was asked for, then let go of files and lock."""
        promise: Promise[None] = self._bridge.promise()
        if not self._open:
            promise.callback(None)
            return promise
        self._open = self.healthy = False

        def ending() -> None:
            self._reader.stop()
            self._syncer.stop()
            self._writer.stop()
            self._syncer.finish()
            self._lock.release()
            self._bridge.call(promise.callback, None)

        threading.Thread(target=ending, name="spool close", daemon=True).start()
        return promise

    def apply(
        self, *, memory_threshold: int, floor_bytes: int, floor_inodes: int, ledger_days: float
    ) -> None:
        """Other bounds from now on; of the ledger they are kept with the next write."""
        self._threshold = memory_threshold
        self._space.keep(floor_bytes, floor_inodes)
        self._ledger_days = ledger_days
        self._next_chores = self._next_sift = float("-inf")

    # taking in

    def create(self, *, pure: bool = False) -> Draft:
        """Begin to take in a message."""
        return Draft(
            self.new_ident(), self._files, self._threshold, self._commit, self.create, pure=pure
        )

    def _commit(self, draft: Draft, submission: Submission) -> Awaitable[Accepted]:
        promise: Promise[Accepted] = self._bridge.promise()
        trouble = draft.trouble or (None if self.healthy else self._unable())
        if trouble is not None:
            draft.discard_file()
            promise.errback(trouble)
            return promise
        data = draft.data
        content = draft.content(data)
        now = float(self._clock())
        rows = accept_rows(draft.ident, now, submission, content, draft.parity, data)
        write = Acceptance(promise, rows, draft.size)
        if data is not None:
            self._writer.put(write)
        elif rows.message is None:
            draft.discard_file()
            self._writer.put(write)
        else:
            self._syncer.sync(draft, write)
        return promise

    # outcomes

    def settle(
        self, settlements: Sequence[Settlement], reports: Sequence[NewMessage] = ()
    ) -> Awaitable[list[Accepted]]:
        """Record outcomes and reports in one transaction."""
        rows = [self._report_rows(report) for report in reports] if reports else []
        octets = sum([len(report.content) for report in reports]) if reports else 0
        promise: Promise[list[Accepted]] = self._bridge.promise()
        return self._write(promise, SettlementWrite(promise, settlements, rows, octets))

    def answered(self, ident: int) -> Awaitable[None]:
        """The client of this message is about to hear 250."""
        promise: Promise[None] = self._bridge.promise()
        return self._write(promise, ClientAnswered(promise, ident))

    def _report_rows(self, report: NewMessage) -> NewRows:
        data = report.content
        now = float(self._clock())
        content = BytesContent(data)
        return accept_rows(report.ident, now, report.submission, content, crc32(data), data)

    def set_aside(self, ident: int, reason: str) -> Awaitable[bool]:
        """Take a damaged message out of the queue."""
        promise: Promise[bool] = self._bridge.promise()
        return self._write(promise, SetAside(promise, ident, reason, self._aside))

    def reroute(self, reroutings: Sequence[Rerouting]) -> Awaitable[list[int]]:
        """Send waiting recipients another way."""
        promise: Promise[list[int]] = self._bridge.promise()
        return self._write(promise, RerouteWrite(promise, reroutings))

    def _change(
        self,
        verb: str,
        wanted: QueueFilter,
        note: str = "",
        sections: Mapping[int, bytes] = AS_THEY_ARE,
    ) -> Awaitable[int]:
        promise: Promise[int] = self._bridge.promise()
        write = OperatorWrite(promise, verb, wanted, note, self._changed, sections)
        return self._write(promise, write)

    def _write(self, promise: Promise[Any], write: Write) -> Awaitable[Any]:
        if self.healthy:
            self._writer.put(write)
        else:
            promise.errback(self._unable())
        return promise

    # questions

    def _ask(self, question: Question, *, to_act: bool = False) -> Awaitable[Any]:
        promise: Promise[Any] = self._bridge.promise()
        if self._open:
            self._reader.ask(question, promise, to_act=to_act)
        else:
            promise.errback(SpoolError("the spool is closed"))
        return promise

    def hear_of_commits(self, told: Committed) -> None:
        """Let it hear of each batch of the writer's, in the writer's thread."""
        self._writer.on_commit = told

    # what the threads ask and tell

    def chores(self) -> Sequence[Write]:
        """For the writer: the ledger's bounds, now and then."""
        now = time.monotonic()
        if now < self._next_sift:
            return ()
        self._next_sift = now + SIFT_EVERY
        sift = () if self._sift.busy or not self._space.room(0) else (self._sift.begun(),)
        if now < self._next_chores:
            return sift
        self._next_chores = now + CHORES_EVERY
        if self._space.room(0):
            self._syncer.work(self._reserve.take)
        before = int((self._clock() - self._ledger_days * 86400) * 1e6)
        return (*sift, Prune(make_ident(max(0, before), 0), self._ledger_rows))

    def remove_files(self, idents: Sequence[int]) -> None:
        """For the writer: messages are gone for good."""
        self._syncer.remove(idents)

    def health(self, error: SpoolError | None) -> None:
        """For the writer: the store failed, or is trusted again."""
        self._reader.doubt(error)
        self._sift = Sift()  # what was on its way has been dropped
        newest, letting_go = self._letting_go
        if error is None and not letting_go.finished:
            self._begin_to_let_go(newest)
        self._bridge.call(self._health_changed, error)

    def _health_changed(self, error: SpoolError | None) -> None:
        was, self._trouble = self._trouble, error
        self.healthy = self._open and error is None
        if error is not None and was is None:
            try:
                self._say("spool cannot record", reason=error.reason)
            finally:
                self.on_trouble(error.reason)
        elif error is None and was is not None:
            try:
                self._space.forget()
                if self._log is not None:
                    self._log.notice("spool records again")
            finally:
                self.on_recovery()

    def _found_damaged(self, ident: int, reason: str) -> None:
        self._writer.put(SetAside(None, ident, reason, self._aside))

    def _begin_to_let_go(self, newest: int) -> None:
        self._letting_go = newest, LetGo(newest, self._let_go)
        self._writer.put(self._letting_go[1])

    def _aside(self, ident: int, reason: str) -> None:
        with contextlib.suppress(OSError):  # then the next start finds the file
            self._files.set_aside(ident)
        self.notice("damaged message set aside", message=ident_text(ident), reason=reason)

    def _fates(self, idents: list[int]) -> dict[int, Fate]:
        return self._reader.answer(lambda search: search.fates(idents))
