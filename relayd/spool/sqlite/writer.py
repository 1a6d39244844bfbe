"""The writer: one private thread, one transaction at a time, all who wait share its COMMIT."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from relayd.spool.disk.trouble import SpoolCorrupt, trouble_of
from relayd.spool.errors import SpoolError, SpoolFull, SpoolGone
from relayd.spool.sqlite import schema
from relayd.spool.sqlite.batch import UNKNOWN, Batch
from relayd.spool.sqlite.bridge import SCARCE, Bridge, Promise, surely
from relayd.spool.sqlite.commitwindow import CommitWindow
from relayd.spool.sqlite.database import Database
from relayd.spool.sqlite.mend import Mender
from relayd.spool.sqlite.threadqueue import ThreadQueue
from relayd.spool.sqlite.writes import Write

CACHE = 16 << 20
MAX_WRITES = 256  # requests in one transaction: more gains little, and their answers come at once
MAX_OCTETS = 16 << 20  # ... and their content
COMPANY = 3  # requests in a batch that say: as many are on their way again
ENOUGH = 64  # requests that need no more company; bounds the outcomes not yet recorded
STEP = 0.004  # seconds to wait for them: a COMMIT shared by more is a cheaper one for each
STEPS = 4  # of waiting at most, while they keep coming
CHECKPOINT_SHORT = 1 << 20  # octets of log worth copying back when space is short
CHECKPOINT_IDLE = 4 << 20  # ... when nobody waits
CHECKPOINT_ALWAYS = 12 << 20  # ... and when somebody does
LOOK = 1.0  # seconds between two looks whether the files are still there
REST = 2.0  # seconds without a request after which the log is copied back

Answers = list[tuple[Promise[Any], object]]


class Owner(Protocol):
    """What the writer asks of the spool and tells it; all of it from the writer's thread."""

    def chores(self) -> Sequence[Write]:
        """What the spool itself wants written, asked now and then."""

    def health(self, error: SpoolError | None) -> None:
        """The store failed, or (None) is trusted again."""

    def remove_files(self, idents: Sequence[int]) -> None:
        """The messages are gone for good; so may be their content files, if they had any."""

    def notice(self, event: str, **facts: object) -> None:
        """Something for the log."""


Committed = Callable[[int, float], None]
"""Hears of each batch: how many requests were in it, and the seconds that COMMIT took."""


class Writer:
    """Takes Writes from any thread; promises fire in the owner's thread, a batch in one call."""

    def __init__(
        self,
        database: Database,
        bridge: Bridge,
        owner: Owner,
        mender: Mender,
        *,
        clock: Callable[[], float],
        room_to_grow: Callable[[], bool],
    ) -> None:
        self._database = database
        self._bridge = bridge
        self._owner = owner
        self._mender = mender
        self._clock = clock
        self._room_to_grow = room_to_grow  # for acceptance, not only for outcomes
        self.on_commit: Committed | None = None  # called in the writer's thread
        self._inbox: ThreadQueue[Write | SpoolCorrupt | None] = ThreadQueue()  # None: stop
        self._again: deque[Write] = deque()
        self._taken: list[Write] = []  # of the inbox or of those, and not answered yet
        self._log = 0  # octets of write-ahead log not copied back, about
        self._short = False  # of space
        self._sifted = UNKNOWN  # see Batch
        self._stopping = False
        self._last = 0  # requests in the last batch
        self._look_at = 0.0  # when to look at the files again
        self.company = CommitWindow()  # acceptances on their way
        self._doubtful: list[int] = []  # messages of failed batches, perhaps on disk
        self._connection: sqlite3.Connection | None = None
        self._failed: sqlite3.Connection | None = None  # to be mended
        self._error: Exception | None = None  # from which it has not recovered
        self._tried = False  # to recover
        self._thread = threading.Thread(target=self._run, name="spool writer", daemon=True)

    def open(self) -> sqlite3.Connection:
        """Open the database, rebuilding it if it is damaged; raises SpoolError."""
        try:
            self._connection = self._mender.opened()
        except SpoolCorrupt as error:
            self._connection = self._mender.rebuilt(error)
        return self._connection

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what was asked for, then end; blocks."""
        self._inbox.put(None, urgent=True)
        self._thread.join()

    def abandon(self) -> None:
        """Close what `open` opened, when nothing was started."""
        if self._connection is not None:
            self._connection.close()

    def put(self, write: Write) -> None:
        """Queue a request; from any thread."""
        self._inbox.put(write, urgent=write.grows and self.company.is_complete())

    def suspect(self, error: SpoolError) -> None:
        """Somebody else found the database damaged."""
        self._inbox.put(SpoolCorrupt(error.reason), urgent=True)

    def _run(self) -> None:
        while self._error is not None or not self._stopping or self._again:
            try:
                if self._error is not None:
                    self._recover(self._error)
                    self._error = None
                    continue
                writes = self._take()
                if writes:
                    self._transaction(writes)
                    self._checkpoint_in_time()
                if not self._stopping:
                    self._again.extend(self._owner.chores())
            except Exception as error:
                # nothing is called here, for that might break, too, and a writer that ends answers
                # nobody any more
                if self._error is None:
                    self._error = error
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._checkpoint()
            self._connection.close()

    def _take(self) -> list[Write]:
        """The next batch; empty after a rest or at the end. Raises what was reported to us."""
        writes = self._taken
        writes.clear()
        if self._again:
            writes += [write for write in self._again if not (write.lasting and self._stopping)]
            self._again.clear()
        inbox, waiting, octets = self._inbox, self._inbox.entries, 0
        if self._last >= COMPANY:
            inbox.gather(ENOUGH, STEP, STEPS)
        if not writes:
            inbox.wait(1, REST if self._log else None)
            if not waiting:
                self._checkpoint()
        while waiting and len(writes) < MAX_WRITES and octets < MAX_OCTETS and not self._stopping:
            item = waiting[0]
            if item is None:
                self._stopping = True
            elif isinstance(item, SpoolCorrupt):
                waiting.popleft()
                self._again.extend(writes)
                raise item
            else:
                writes.append(item)
                octets += item.octets
            waiting.popleft()  # only now: it is owed an answer
        self._last = len(writes)
        return writes

    def _transaction(self, writes: list[Write]) -> None:
        if time.monotonic() >= self._look_at:
            self._look_at_files(writes)
        self._short = not self._room_to_grow()
        if self._short:
            writes = self._refuse_growth(writes)
        try:
            removed = self._commit(writes)
        except Exception as error:
            trouble = trouble_of(error)
            if trouble is not None:
                self._doubtful += [ident for write in writes for ident in write.idents()]
                self._fail(writes, trouble)
                raise trouble from error
            self._save_the_others(writes, error)
            return
        answers: Answers = []
        answered = []
        for write in writes:
            if not write.done():
                self._again.append(write)
            elif write.promise is not None:
                answers.append((write.promise, write.value))
                answered.append(write)
        if answers:
            answers.reverse()
            surely(self._bridge, _answer, answers)
            for write in answered:
                write.promise = None
        if removed:
            self._owner.remove_files(removed)

    def _look_at_files(self, writes: list[Write]) -> None:
        """SQLite does not notice when its file is removed, and would go on writing to nowhere."""
        self._look_at = time.monotonic() + LOOK
        if self._database.gone():
            trouble = SpoolGone(f"{self._database.path} was taken away")
            self._fail(writes, trouble)
            raise trouble

    def _commit(self, writes: list[Write]) -> list[int]:
        connection = self._connection
        assert connection is not None
        batch = Batch(self._clock(), self._sifted)
        changes = connection.total_changes
        octets = 0
        connection.execute("BEGIN IMMEDIATE")
        for write in writes:
            write.enter(batch, connection)
            octets += write.octets
        batch.write(connection)
        began = time.monotonic()
        connection.execute("COMMIT")
        if self.on_commit is not None:
            self.on_commit(len(writes), time.monotonic() - began)
        self._sifted = batch.sifted
        changes = connection.total_changes - changes
        # about, as measured: SQLite does not say how long its log is
        self._log += octets + 270 * changes + 3 * schema.PAGE_SIZE
        return batch.files_to_remove

    def _save_the_others(self, writes: list[Write], error: Exception) -> None:
        """One write of a batch cannot be stored for a reason of its own: find which."""
        assert self._connection is not None
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        if len(writes) == 1:
            self._fail(writes, SpoolError(f"cannot be stored: {error!r}"))
            self._owner.remove_files(writes[0].idents())
            return
        untried = deque(writes)
        try:
            while untried:
                self._transaction([untried.popleft()])
        finally:
            self._again.extend(untried)  # should the disk fail meanwhile

    def _refuse_growth(self, writes: list[Write]) -> list[Write]:
        """What little space is left belongs to the outcomes of mail we already have."""
        refused = [write for write in writes if write.grows]
        if refused:
            self._fail(refused, SpoolFull("below the floor of free space"))
            self._owner.remove_files([ident for write in refused for ident in write.idents()])
        return [write for write in writes if not write.grows]

    def _fail(self, writes: Sequence[Write], trouble: SpoolError) -> None:
        promises = [write.promise for write in writes if write.promise is not None]
        if promises:
            promises.reverse()
            surely(self._bridge, _refuse, promises, trouble)
            for write in writes:
                write.promise = None

    def _checkpoint_in_time(self) -> None:
        if self._short:
            most = CHECKPOINT_SHORT
        elif not self._inbox.entries and not self._again:
            most = CHECKPOINT_IDLE
        else:
            most = CHECKPOINT_ALWAYS
        if self._log >= most:
            self._checkpoint()

    def _checkpoint(self) -> None:
        assert self._connection is not None
        self._log = schema.checkpoint(self._connection)

    # after trouble

    def _recover(self, error: Exception) -> None:
        if self._tried:  # in vain
            time.sleep(SCARCE)
        self._tried = True
        trouble = trouble_of(error) or SpoolError(f"spool: {error!r}")
        owed = [
            write for write in self._taken if write.promise is not None and write not in self._again
        ]
        if owed:  # it broke before they were answered, or before they were written
            self._doubtful += [ident for write in owed for ident in write.idents()]
            self._fail(owed, trouble)
        self._mend(trouble)
        self._tried = False

    def _mend(self, error: SpoolError) -> None:
        """Trust nothing: fail every write until a reopened store has passed a transaction."""
        if self._connection is not None:
            self._failed, self._connection = self._connection, None
        if self._failed is not None and self._database.gone():
            error = SpoolGone(error.reason)  # what a look at the wrong file found is not the cause
        self._owner.health(error)
        while self._connection is None:
            try:
                self._connection = self._mender.mend(self._failed, error, self._doubtful)
            except SpoolError as again:
                if not isinstance(again, SpoolGone):
                    self._failed = None
                # what was corrupt stays so until it is rebuilt, whatever else goes wrong
                error = error if isinstance(error, SpoolCorrupt) else again
                self._fail_for(self._mender.pause(), error)
                if self._stopping:
                    return
        self._failed = None
        self._log, self._sifted = 0, UNKNOWN
        self._owner.remove_files(self._doubtful)
        self._doubtful = []
        self._owner.health(None)

    def _fail_for(self, seconds: float, error: SpoolError) -> None:
        """Fail what comes until so many seconds have passed, or the end."""
        deadline = self._mender.now() + seconds
        writes = self._taken
        writes[:] = self._again
        self._again.clear()
        while not self._stopping:
            self._doubtful += [ident for write in writes for ident in write.idents()]
            self._fail(writes, error)
            self._inbox.wait(1, max(0.0, deadline - self._mender.now()))
            if not self._inbox.entries:
                return
            item = self._inbox.entries[0]
            self._stopping = item is None
            writes.clear()
            if isinstance(item, Write):
                writes.append(item)
            self._inbox.entries.popleft()


def _answer(answers: Answers) -> None:
    while answers:  # the last is the first; each once, should this be asked for twice
        promise, value = answers.pop()
        try:
            promise.callback(value)
        except MemoryError:  # who waits for it answers for itself; the others shall not wait
            continue


def _refuse(promises: list[Promise[Any]], trouble: SpoolError) -> None:
    while promises:
        try:
            promises.pop().errback(trouble)
        except MemoryError:
            continue
