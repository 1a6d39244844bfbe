"""The writer: one private thread, one transaction at a time, all who wait share its COMMIT."""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from relayd.spool import schema
from relayd.spool.batch import Batch
from relayd.spool.bridge import Bridge, Promise
from relayd.spool.content import ContentFiles
from relayd.spool.errors import SpoolError, SpoolFull
from relayd.spool.reader import Reader
from relayd.spool.salvage import rebuild
from relayd.spool.trouble import SpoolCorrupt, trouble_of
from relayd.spool.writes import Write

CACHE = 16 << 20
MAX_WRITES = 1024  # requests in one transaction
MAX_OCTETS = 16 << 20  # ... and their content
CHECKPOINT_IDLE = 4 << 20  # octets of log worth copying back when nobody waits
CHECKPOINT_ALWAYS = 12 << 20  # ... and when somebody does
REST = 2.0  # seconds without a request after which the log is copied back
PROBE = 1.0  # seconds between attempts to mend the store

Answers = list[tuple[Promise[Any], object]]


class Writer:
    """Takes Writes from any thread; promises fire in the owner's thread, a batch in one call.

    After any trouble with disk or database nothing is trusted: the batch has failed, the
    connection is closed, and every write fails at once until a reopened store has passed a
    real transaction. That one also drops the messages of the failed batch, which may or may
    not have reached the disk, because their senders were told that they were not accepted.
    """

    def __init__(
        self,
        path: Path,
        files: ContentFiles,
        bridge: Bridge,
        reader: Reader,
        *,
        clock: Callable[[], float],
        room: Callable[[], bool],
        health: Callable[[SpoolError | None], None],
        remove_files: Callable[[Sequence[int]], None],
        notice: Callable[..., None],
    ) -> None:
        self._path = path
        self._files = files
        self._bridge = bridge
        self._reader = reader
        self._clock = clock
        self._room = room
        self._health = health
        self._remove_files = remove_files
        self._notice = notice
        self._queue: queue.SimpleQueue[Write | SpoolCorrupt | None] = queue.SimpleQueue()
        self._again: deque[Write] = deque()
        self._log = 0  # octets of write-ahead log not copied back, about
        self._stopping = False
        self._doubtful: list[int] = []
        self._connection: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._run, name="spool writer", daemon=True)

    def open(self) -> sqlite3.Connection:
        """Open the database, rebuilding it if it is damaged; raises SpoolError."""
        try:
            self._connection = self._opened()
        except SpoolCorrupt as error:
            try:
                rebuild(self._path, self._files, self._clock(), error.reason, self._notice)
                self._connection = self._opened()
            except (sqlite3.Error, OSError) as again:
                raise trouble_of(again) or SpoolError(str(again)) from again
        return self._connection

    def _opened(self) -> sqlite3.Connection:
        connection = None
        try:
            connection = schema.connect(self._path, cache=CACHE)
            schema.prepare(connection, now=self._clock())
            schema.look(connection)
        except Exception as error:
            if connection is not None:
                connection.close()
            raise trouble_of(error) or SpoolError(f"database: {error}") from error
        return connection

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what was asked for, then end; blocks."""
        self._queue.put(None)
        self._thread.join()

    def put(self, write: Write) -> None:
        """Queue a request; from any thread."""
        self._queue.put(write)

    def suspect(self, error: SpoolError) -> None:
        """Somebody else found the database damaged."""
        self._queue.put(SpoolCorrupt(error.reason))

    def _run(self) -> None:
        while not self._stopping:
            try:
                writes = self._take()
                if writes:
                    self._transaction(writes)
                    self._checkpoint_in_time()
            except SpoolError as error:
                self._mend(error)
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._checkpoint()
            self._connection.close()

    def _take(self) -> list[Write]:
        """The next batch; empty after a rest or at the end. Raises what was reported to us."""
        writes: list[Write] = []
        octets = 0
        rest = REST if self._log else None
        while self._again:
            writes.append(self._again.popleft())
        while len(writes) < MAX_WRITES and octets < MAX_OCTETS:
            try:
                item = self._queue.get(not writes, rest)
            except queue.Empty:
                if not writes:
                    self._checkpoint()
                break
            if item is None:
                self._stopping = True
                break
            if isinstance(item, SpoolCorrupt):
                self._again.extend(writes)
                raise item
            writes.append(item)
            octets += item.octets
        return writes

    def _transaction(self, writes: list[Write]) -> None:
        if not self._room():
            writes = self._refuse_growth(writes)
        try:
            removed = self._commit(writes)
        except Exception as error:
            trouble = trouble_of(error)
            if trouble is not None:
                self._doubtful += [ident for write in writes for ident in write.idents()]
                self._fail(writes, trouble)
                raise trouble from error
            self._roll_back()
            if len(writes) > 1:
                # one of them cannot be stored for a reason of its own: find it, save the others
                for write in writes:
                    self._transaction([write])
                return
            self._doubtful += writes[0].idents()
            self._fail(writes, SpoolError(f"cannot be stored: {error!r}"))
            self._remove_files(writes[0].idents())
            return
        answers: Answers = []
        for write in writes:
            if not write.done():
                self._again.append(write)
            elif write.promise is not None:
                answers.append((write.promise, write.value))
        if answers:
            self._bridge.call(_answer, answers)
        if removed:
            self._remove_files(removed)

    def _commit(self, writes: list[Write]) -> list[int]:
        connection = self._connection
        assert connection is not None
        batch = Batch(self._clock())
        connection.execute("BEGIN IMMEDIATE")
        for write in writes:
            write.enter(batch, connection)
        batch.write(connection)
        connection.execute("COMMIT")
        # about: content, and a few pages for each message and each transaction
        self._log += sum(write.octets for write in writes) + 4096 * (2 * len(writes) + 8)
        return batch.files_to_remove

    def _roll_back(self) -> None:
        assert self._connection is not None
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise trouble_of(error) or SpoolError(str(error)) from error

    def _refuse_growth(self, writes: list[Write]) -> list[Write]:
        """What little space is left belongs to the outcomes of mail we already have."""
        refused = [write for write in writes if write.grows]
        if refused:
            self._fail(refused, SpoolFull("below the floor of free space"))
            self._remove_files([ident for write in refused for ident in write.idents()])
        return [write for write in writes if not write.grows]

    def _fail(self, writes: Sequence[Write], trouble: SpoolError) -> None:
        promises = [write.promise for write in writes if write.promise is not None]
        if promises:
            self._bridge.call(_refuse, promises, trouble)

    # the write-ahead log

    def _checkpoint_in_time(self) -> None:
        idle = self._queue.empty() and not self._again
        if self._log >= (CHECKPOINT_IDLE if idle else CHECKPOINT_ALWAYS):
            try:
                self._checkpoint()
            except sqlite3.Error as error:
                raise trouble_of(error) or SpoolError(str(error)) from error

    def _checkpoint(self, mode: str = "PASSIVE") -> bool:
        """Copy the log back into the database file; whether all of it was."""
        assert self._connection is not None
        row: tuple[int, int, int]
        row = self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        busy, frames, copied = row
        self._log = 0 if copied >= frames else (frames - copied) * 4096
        return busy == 0 and frames == copied

    # after trouble

    def _mend(self, error: SpoolError) -> None:
        """Fail every write, and try to reopen, until the store has proved itself."""
        self._health(error)
        while True:
            with self._reader.away():
                try:
                    error = self._reopen(error)
                except SpoolError as again:
                    error = again
                else:
                    break
            if not self._fail_for(PROBE, error):
                return
        self._health(None)

    def _reopen(self, error: SpoolError) -> SpoolError:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with contextlib.suppress(sqlite3.Error):
                connection.close()
        try:
            if isinstance(error, SpoolCorrupt):
                rebuild(self._path, self._files, self._clock(), error.reason, self._notice)
            self._connection = self._opened()
            # The log may hold pages that the kernel believes written and the disk never got
            # (a failed fsync forgets them): copy all of it into the database with fresh writes,
            # so that nothing new is ever appended behind a hole.
            if not self._checkpoint("TRUNCATE"):
                raise SpoolError("database: the log could not be copied back")
            batch = Batch(self._clock())
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'probe'")
            batch.purge(self._connection, self._doubtful)
            batch.write(self._connection)
            self._connection.execute("COMMIT")
        except Exception as again:
            raise trouble_of(again) or SpoolError(f"database: {again}") from again
        self._remove_files(self._doubtful)
        self._doubtful = []
        return error

    def _fail_for(self, seconds: float, error: SpoolError) -> bool:
        """Fail what comes within so many seconds; False at the end of it all."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            writes = list(self._again)
            self._again.clear()
            try:
                item = self._queue.get(timeout=left)
            except queue.Empty:
                self._fail(writes, error)
                return True
            if item is None:
                self._fail(writes, error)
                self._stopping = True
                return False
            if isinstance(item, Write):
                writes.append(item)
                self._doubtful += item.idents()
            self._fail(writes, error)
        return True


def _answer(answers: Answers) -> None:
    for promise, value in answers:
        promise.callback(value)


def _refuse(promises: list[Promise[Any]], trouble: SpoolError) -> None:
    for promise in promises:
        promise.errback(trouble)
