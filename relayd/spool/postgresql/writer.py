"""The writer: one private thread, one transaction at a time, all who wait share its COMMIT.

A COMMIT that got no answer is never guessed. Its requests wait, while everything else fails at
once, until a new session holds the lock of this node's writer: then the old transaction has ended,
one way or the other, and its row in `batch` tells which. If it is there, one more COMMIT, which
comes back without a warning, proves that it is wherever the database promises to have it; if not,
the same is written again.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from relayd.spool.errors import SpoolError, SpoolFull, SpoolLocked
from relayd.spool.lease import Lease
from relayd.spool.postgresql import node
from relayd.spool.postgresql.batch import MovedError, Ownership, SharedBatch
from relayd.spool.postgresql.session import DatabaseSession, UnsureError, to_be_repeated, trouble_of
from relayd.spool.postgresql.writes import SUSPENDING, SharedWrite
from relayd.spool.sqlite.bridge import Bridge, Promise
from relayd.spool.sqlite.commitwindow import CommitWindow
from relayd.spool.sqlite.threadqueue import ThreadQueue
from relayd.spool.sqlite.writer import (
    COMPANY,
    ENOUGH,
    MAX_OCTETS,
    MAX_WRITES,
    STEP,
    STEPS,
    Answers,
    Committed,
)

REST = 2.0  # seconds without a request after which chores are looked for
FULL_FOR = 1.0  # seconds in which nothing is asked of a database that has no room
PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0)  # seconds between attempts to reach the database
PATIENCE = 15.0  # seconds that an end waits for what an unanswered COMMIT has become


class SharedOwner(Protocol):
    """What the writer asks of the spool and tells it; all of it from the writer's thread."""

    def chores(self) -> Sequence[SharedWrite]:
        """What the spool itself wants written, asked now and then."""

    def health(self, error: SpoolError | None) -> None:
        """The store failed, or (None) is trusted again."""

    def notice(self, event: str, **facts: object) -> None:
        """Something for the log."""

    def forget_positions(self) -> None:
        """Something may wait before where scans begin."""

    def changed(self, verb: str, keys: list[tuple[int, int]]) -> None:
        """An operator has changed these by way of another node."""

    def suspending(self, begun: list[dict[str, Any]], ended: list[list[str]]) -> None:
        """An operator has told these to wait, by way of another node, or no more."""

    def taken_over(self) -> None:
        """Others may have taken what was ours; what is ours now is of a new epoch."""


class SharedWriter:
    """Takes Writes from any thread; promises fire in the owner's thread, a batch in one call."""

    def __init__(
        self,
        session: Callable[[], DatabaseSession],
        name: str,
        bridge: Bridge,
        owner: SharedOwner,
        *,
        clock: Callable[[], float],
        lease: Lease,
    ) -> None:
        self._make = session
        self._name = name
        self._bridge = bridge
        self._owner = owner
        self._clock = clock
        self._lease = lease
        self.on_commit: Committed | None = None  # called in the writer's thread
        self.ours = Ownership(0, 0)
        self.company = CommitWindow()  # acceptances on their way
        self._inbox: ThreadQueue[SharedWrite | None] = ThreadQueue()  # None: stop
        self._again: deque[SharedWrite] = deque()
        self._serial = 0  # of the last transaction that was begun
        self._unsure: list[SharedWrite] = []  # what was in a COMMIT that got no answer,
        self._unsure_serial = 0  # ... and which one that was
        self._latest = 0.0  # by the clock
        self._last = 0  # requests in the last batch
        self._pid = 0  # of the server's process
        self._ousted = False  # others may have what is ours, and the owner has not heard so
        self._lonely = False  # the last batch was one that has to be alone
        self._stopping = False
        self._session: DatabaseSession | None = None
        self._thread = threading.Thread(target=self._run, name="spool writer", daemon=True)

    def open(self) -> DatabaseSession:
        """Be the node; raises SpoolError."""
        session = self._make()
        try:
            self._begin(session)
            self._serial = node.last_serial(session, self.ours.owner)
        except BaseException as error:
            session.close()
            if isinstance(error, Exception) and (trouble := trouble_of(error)) is not None:
                raise trouble from error
            raise
        self._session = session
        self._pid = session.link.info.backend_pid
        return session

    def _begin(self, session: DatabaseSession) -> None:
        self._lease.seconds = node.lease_of(session)
        session.end_idle_transactions(self._lease.seconds / 2)
        session.listen(self._told)
        began = self._lease.now()
        self.ours = node.begin(session, self._name)
        self._lease.renewed(began)

    def _told(self, words: str) -> None:
        """An operator has changed mail by way of another node: it may be ours."""
        by, verb, keys = json.loads(words)
        if by == self.ours.owner:
            return
        if verb == SUSPENDING:
            self._owner.suspending(*keys)
        else:
            self._owner.changed(verb, [(message, number) for message, number in keys])

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what was asked for, then end; blocks."""
        self._inbox.put(None, urgent=True)
        self._thread.join()

    def abandon(self) -> None:
        """Close what `open` opened, when nothing was started."""
        if self._session is not None:
            self._session.close()

    def put(self, write: SharedWrite) -> None:
        """Queue a request; from any thread."""
        self._inbox.put(write, urgent=write.grows and self.company.is_complete())

    def _run(self) -> None:
        while not (self._stopping and not self._again):
            try:
                writes = self._take()
                if writes:
                    self._transaction(writes)
                if not self._stopping:
                    self._again.extend(self._owner.chores())
            except Exception as error:
                self._mend(trouble_of(error) or SpoolError(f"spool: {error!r}"))
        if self._session is not None:
            with suppress(Exception):  # others will find out in time
                node.leave(self._session, self.ours)
            self._session.close()

    def _take(self) -> list[SharedWrite]:
        """The next batch; empty after a rest or at the end."""
        writes = [write for write in self._again if not (write.lasting and self._stopping)]
        self._again.clear()
        lonely = next((write for write in writes if write.alone), None)
        self._lonely = lonely is not None and not self._lonely  # others have every second turn
        if lonely is not None:
            if self._lonely:
                writes.remove(lonely)
                self._again.extend(writes)
                return [lonely]
            self._again.extend(write for write in writes if write.alone)
            writes = [write for write in writes if not write.alone]
        inbox, waiting, octets = self._inbox, self._inbox.entries, 0
        if self._last >= COMPANY:
            inbox.gather(ENOUGH, STEP, STEPS)
        if not writes and not self._again and not self._stopping:
            inbox.wait(1, min(REST, self._lease.beat))
        while waiting and len(writes) < MAX_WRITES and octets < MAX_OCTETS and not self._stopping:
            item = waiting.popleft()
            if item is None:
                self._stopping = True
            else:
                writes.append(item)
                octets += item.octets
        self._last = len(writes)
        return writes

    def _transaction(self, writes: list[SharedWrite]) -> None:
        session = self._session
        assert session is not None
        now = float(self._clock())
        self._serial += 1
        batch = SharedBatch(now, self.ours, self._serial)
        try:
            session.begin()
            for write in writes:
                write.enter(batch, session)
            batch.write(session)
            began = time.monotonic()
            session.commit()
        except UnsureError:
            self._unsure, self._unsure_serial = writes, self._serial
            raise
        except Exception as error:
            self._undone(session, writes, error)
            return
        if self.on_commit is not None:
            self.on_commit(len(writes), time.monotonic() - began)
        if now < self._latest or batch.earliest < now:
            self._owner.forget_positions()
        self._latest = now
        if batch.fenced:
            self._owner.notice("outcomes came after another node had taken over", of=batch.fenced)
        self._done(writes)

    def _done(self, writes: list[SharedWrite]) -> None:
        answers: Answers = []
        for write in writes:
            if not write.done():
                self._again.append(write)
            elif write.promise is not None:
                answers.append((write.promise, write.value))
        if answers:
            self._bridge.call(_answer, answers)

    def _undone(
        self, session: DatabaseSession, writes: list[SharedWrite], error: Exception
    ) -> None:
        """Nothing was written. Raises what speaks against the whole store."""
        if to_be_repeated(error) or (isinstance(error, MovedError) and len(writes) == 1):
            session.rollback()
            self._again.extendleft(reversed(writes))
            return
        trouble = trouble_of(error)
        if trouble is not None:
            self._fail(writes, trouble)
            with suppress(Exception):
                session.rollback()
            raise trouble from error
        session.rollback()
        if len(writes) == 1:
            self._fail(writes, SpoolError(f"cannot be stored: {error!r}"))
            return
        untried = deque(writes)  # one cannot be stored, for its own sake or another's: find which
        try:
            while untried:
                self._transaction([untried.popleft()])
        finally:
            self._again.extend(untried)  # should the database fail meanwhile

    def _fail(self, writes: Sequence[SharedWrite], trouble: SpoolError) -> None:
        promises = [write.promise for write in writes if write.promise is not None]
        if promises:
            self._bridge.call(_refuse, promises, trouble)

    # when the database failed

    def _mend(self, error: SpoolError) -> None:
        """Fail what comes until the database is there again, and we know what it has."""
        self._owner.health(error)
        began = time.monotonic()
        if isinstance(error, SpoolFull) and not self._stopping:
            self._fail_for(FULL_FOR, error)  # it can be reached all the time, and is full still
        for attempt in range(1 << 30):
            try:
                self._reach()
                self._settle_doubt()
                break
            except Exception as again:
                error = trouble_of(again) or SpoolError(f"spool: {again!r}")
                if self._session is not None:
                    self._session.close()
            patient = not self._stopping or (self._unsure and time.monotonic() - began < PATIENCE)
            if patient:
                self._fail_for(PAUSES[min(attempt, len(PAUSES) - 1)], error)
            else:
                self._fail(self._unsure, error)
                self._unsure = []
                return
        if self._ousted:  # said last: what is answered now may be others' by now
            self._ousted = False
            self._owner.taken_over()
        self._owner.forget_positions()
        self._owner.health(None)
        self._again.extend(self._owner.chores())  # the lease may have passed meanwhile

    def _reach(self) -> None:
        """A new session that holds the lock; raises SpoolError while there is none."""
        if self._session is not None:
            self._session.close()
        session = self._session = self._make()
        number = self.ours.owner
        if not node.hold(session, number):
            node.end_session(session, number, self._pid)
            if not node.hold(session, number):
                raise SpoolLocked(f"an earlier session of node {self._name} has not ended yet")
        self._pid = session.link.info.backend_pid
        session.end_idle_transactions(self._lease.seconds / 2)
        session.listen(self._told)
        if node.epoch_of(session, number) != self.ours.epoch:
            self._lease.lost()
            self._begin(session)
            self._ousted = True

    def _settle_doubt(self) -> None:
        """Find out what became of the COMMIT that was not answered, if there was one."""
        session, writes = self._session, self._unsure
        assert session is not None
        if not writes:
            return
        if node.last_serial(session, self.ours.owner) < self._unsure_serial:
            self._unsure = []
            self._again.extendleft(reversed(writes))
            return
        self._serial += 1
        proof = SharedBatch(float(self._clock()), self.ours, self._serial)
        session.begin()
        proof.write(session)
        session.commit()
        self._unsure = []
        self._done(writes)

    def _fail_for(self, seconds: float, error: SpoolError) -> None:
        """Fail what comes until so many seconds have passed, or the end."""
        deadline = time.monotonic() + seconds
        self._fail(list(self._again), error)
        self._again.clear()
        while (left := deadline - time.monotonic()) > 0:
            if self._stopping:
                time.sleep(left)
                return
            self._inbox.wait(1, left)
            while self._inbox.entries:
                item = self._inbox.entries.popleft()
                if item is None:
                    self._stopping = True
                    return
                self._fail([item], error)


def _answer(answers: Answers) -> None:
    for promise, value in answers:
        promise.callback(value)


def _refuse(promises: list[Promise[Any]], trouble: SpoolError) -> None:
    for promise in promises:
        promise.errback(trouble)
