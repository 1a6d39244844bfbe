"""The spool of one node in a database that it may share with others."""

from __future__ import annotations

import json
import shutil
import tempfile
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
from relayd.spool.disk.draft import Draft
from relayd.spool.errors import SpoolError
from relayd.spool.lease import Lease
from relayd.spool.postgresql.batch import Accepting
from relayd.spool.postgresql.content import LocalFiles, Upload
from relayd.spool.postgresql.node import last_ident
from relayd.spool.postgresql.reader import Question, SharedReader
from relayd.spool.postgresql.session import DatabaseSession, trouble_of
from relayd.spool.postgresql.takeover import Neighbours, TakeOver
from relayd.spool.postgresql.tally import SharedTally
from relayd.spool.postgresql.writer import SharedWriter
from relayd.spool.postgresql.writes import (
    Beat,
    ClearChunks,
    SharedAcceptance,
    SharedClientAnswered,
    SharedLetGo,
    SharedOperatorWrite,
    SharedPrune,
    SharedReroute,
    SharedSetAside,
    SharedSettlement,
    SharedSuspending,
    SharedWrite,
)
from relayd.spool.sqlite.bridge import Bridge, Promise
from relayd.spool.sqlite.rows import accept_rows
from relayd.spool.sqlite.store import LEDGER_DAYS, MEMORY_THRESHOLD
from relayd.spool.sqlite.syncer import Syncer
from relayd.spool.sqlite.writer import Committed
from relayd.spool.threaded import ThreadedStore
from relayd.spool.view import AS_THEY_ARE, Accepted, NewMessage, QueueFilter, Rerouting

PRUNE_EVERY = 60.0  # seconds
Suspending = Mapping[str, object]
"""A suspension as a document (see relayd.relay.suspensions)."""

OPEN_EVERY = 2.0  # seconds between attempts to begin without the database


def name_of(machine: str, worker: int) -> str:
    """A name for each process that sends; the first has the machine's."""
    return f"{machine}/{worker}" if worker else machine


def machine_of(name: str) -> str:
    """The inverse of name_of."""
    machine, slash, worker = name.rpartition("/")
    return machine if slash and worker.isdigit() else name


class PostgresqlSpool(ThreadedStore):
    """A Store in PostgreSQL; the contract of each method is Store's.

    `where` says how to reach it, as libpq has it; `node` is this one's name among those that
    share it. The questions that mail is sent by are answered for this node alone, all others for
    the whole of it.
    """

    def __init__(
        self,
        where: str,
        bridge: Bridge,
        *,
        node: str,
        clock: Callable[[], float] = time.time,
        log: MailLog | None = None,
        memory_threshold: int = MEMORY_THRESHOLD,
        ledger_days: float = LEDGER_DAYS,
    ) -> None:
        self.on_trouble: Callable[[str], None] = lambda reason: None
        self.on_recovery: Callable[[], None] = lambda: None
        self.on_change: Callable[[str, Sequence[tuple[int, int]]], None] = lambda verb, met: None
        self.on_suspending: Callable[[Sequence[Suspending], Sequence[Sequence[str]]], None]
        self.on_suspending = lambda begun, ended: None  # by way of another node
        self.on_suspended: Callable[[Sequence[Suspending]], None] = lambda all_of_them: None
        self._suspended = ""  # as was told last
        self.on_nodes: Callable[[int, int], None] = lambda nodes, machines: None
        self._nodes = (1, 1)  # likewise: the living ones, and on how many machines
        self.rules = ""  # the hash of those in force here
        self._where = where
        self._bridge = bridge
        self._node = node
        self._clock = clock
        self._log = log
        self._threshold = memory_threshold
        self._ledger_days = ledger_days
        self._shard = 0  # the node's number
        self._last_us = 0
        self._trouble: SpoolError | None = None
        self._open = False
        self._well = False  # it is open, and not in trouble
        self._opening: threading.Thread | None = None
        self._closing = threading.Event()
        self.lease = Lease()
        self._neighbours = Neighbours(self.lease)
        self._next_beat = self._next_prune = float("-inf")
        self._writer = SharedWriter(
            self._session("writer"), node, bridge, self, clock=clock, lease=self.lease
        )
        self.expect = self._writer.company.expect
        self.tally = SharedTally(self._session("tally"), bridge, well=lambda: self.healthy)

    def _session(self, part: str, *, read_only: bool = False) -> Callable[[], DatabaseSession]:
        name = f"relayd {self._node} {part}"
        return lambda: DatabaseSession(self._where, name, read_only=read_only)

    # life

    @property
    def healthy(self) -> bool:
        """It can record, and what it has to send is its own."""
        return self._well and self.lease.may_start()

    def open(self) -> None:
        """Be the node; raises SpoolError. As quick with a million messages waiting."""
        session = self._writer.open()
        try:
            last = last_ident(session)
            self._folder = Path(tempfile.mkdtemp(prefix="relayd-"))
            self._files = LocalFiles(self._folder)
            self._files.prepare()
        except Exception as error:
            self._writer.abandon()
            raise trouble_of(error) or SpoolError(f"spool: {error!r}") from error
        self._shard = self._writer.ours.owner
        self._upload = Upload(self._where, f"relayd {self._node} content", self._files)
        self._syncer: Syncer[SharedAcceptance] = Syncer(
            self._files, self._bridge, synced=self._send
        )
        self._reader = SharedReader(
            self._session("reader", read_only=True),
            self._files,
            self._bridge,
            owner=lambda: self._writer.ours.owner,
            clock=self._clock,
            damaged=self._found_damaged,
        )
        self._last_us = max(last >> SHARD_BITS, int(self._clock() * 1e6) - 1)
        newest = make_ident(self._last_us, self._shard)
        self._open = self._well = True
        self._writer.put(SharedLetGo(newest, self._let_go))
        self._writer.put(ClearChunks(newest))
        for thread in (self._writer, self._reader, self._syncer):
            thread.start()

    def open_in_time(self, error: SpoolError) -> None:
        """`open` has said this: do it as soon as the database is there; it is in trouble until."""
        self._trouble = error
        self._say("spool cannot record", reason=error.reason)
        self._opening = threading.Thread(target=self._keep_opening, name="spool open", daemon=True)
        self._opening.start()

    def _keep_opening(self) -> None:
        while not self._closing.wait(OPEN_EVERY):
            try:
                self.open()
            except SpoolError as error:
                self._trouble = error
            else:
                self._bridge.call(self._health_changed, None)
                return

    def close(self) -> Awaitable[None]:
        """Finish what was asked for, then let go of the database."""
        promise: Promise[None] = self._bridge.promise()
        self._closing.set()
        if self._opening is None and not self._open:
            promise.callback(None)
            return promise
        was, self._open, self._well = self._open, False, False

        def ending() -> None:
            begun = was
            if self._opening is not None:
                self._opening.join()
                begun, self._open, self._well = was or self._open, False, False
            if not begun:
                self._bridge.call(promise.callback, None)
                return
            self._reader.stop()
            self._syncer.stop()
            self._writer.stop()
            self._upload.close()
            self.tally.stop()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._bridge.call(promise.callback, None)

        threading.Thread(target=ending, name="spool close", daemon=True).start()
        return promise

    def apply(
        self, *, memory_threshold: int, floor_bytes: int, floor_inodes: int, ledger_days: float
    ) -> None:
        """Other bounds from now on; there are no floors: the disk is the database's."""
        self._threshold = memory_threshold
        self._ledger_days = ledger_days
        self._next_beat = self._next_prune = float("-inf")

    # taking in

    def room(self, size: int) -> bool:
        """The database says itself when it is full, and then everything fails."""
        return True

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
        write = SharedAcceptance(promise, Accepting(rows, data))
        if data is not None:
            self._writer.put(write)
        elif rows.message is None:
            draft.discard_file()
            self._writer.put(write)
        else:
            self._syncer.sync(draft, write)
        return promise

    def _send(self, write: SharedAcceptance) -> None:
        """For the syncer: the content is in a file; now to the database, then the row."""
        rows = write.accepting.rows
        assert rows.message is not None
        try:
            content, chunks = self._upload.send(rows.ident, rows.message.size)
        except Exception as error:
            trouble = trouble_of(error) or SpoolError(f"sending content: {error!r}")
            assert write.promise is not None
            self._bridge.call(write.promise.errback, trouble)
            return
        write.accepting = Accepting(rows, content, chunks)
        self._writer.put(write)

    # outcomes

    def settle(
        self, settlements: Sequence[Settlement], reports: Sequence[NewMessage] = ()
    ) -> Awaitable[list[Accepted]]:
        """Record outcomes and reports in one transaction."""
        told = [self._report(report) for report in reports]
        promise: Promise[list[Accepted]] = self._bridge.promise()
        return self._write(promise, SharedSettlement(promise, settlements, told))

    def _report(self, report: NewMessage) -> Accepting:
        data = report.content
        now = float(self._clock())
        content = BytesContent(data)
        rows = accept_rows(report.ident, now, report.submission, content, crc32(data), data)
        return Accepting(rows, data)

    def answered(self, ident: int) -> Awaitable[None]:
        """The client of this message is about to hear 250."""
        promise: Promise[None] = self._bridge.promise()
        return self._write(promise, SharedClientAnswered(promise, ident))

    def set_aside(self, ident: int, reason: str) -> Awaitable[bool]:
        """Take a damaged message out of the queue."""
        promise: Promise[bool] = self._bridge.promise()
        return self._write(promise, SharedSetAside(promise, ident, reason, self._aside))

    def reroute(self, reroutings: Sequence[Rerouting]) -> Awaitable[list[int]]:
        """Send waiting recipients another way."""
        promise: Promise[list[int]] = self._bridge.promise()
        return self._write(promise, SharedReroute(promise, reroutings))

    def _change(
        self,
        verb: str,
        wanted: QueueFilter,
        note: str = "",
        sections: Mapping[int, bytes] = AS_THEY_ARE,
    ) -> Awaitable[int]:
        promise: Promise[int] = self._bridge.promise()
        write = SharedOperatorWrite(promise, verb, wanted, note, self._changed, sections)
        return self._write(promise, write)

    def _write(self, promise: Promise[Any], write: SharedWrite) -> Awaitable[Any]:
        if self.healthy:
            self._writer.put(write)
        else:
            promise.errback(self._unable())
        return promise

    def suspend(self, begun: Suspending) -> Awaitable[None]:
        """Tell all nodes that this is to wait."""
        promise: Promise[None] = self._bridge.promise()
        return self._write(promise, SharedSuspending(promise, [begun]))

    def resume(self, kind: str = "", whom: str = "") -> Awaitable[list[Suspending]]:
        """Tell all nodes that this (of no kind: whatever does) waits no more; what did."""
        promise: Promise[list[Suspending]] = self._bridge.promise()
        return self._write(promise, SharedSuspending(promise, [], (kind, whom)))

    # questions

    def cluster(self) -> Awaitable[dict[str, Any]]:
        """The nodes, what each has, and how the database is."""
        return self._ask(lambda search: search.cluster(self.lease.seconds))

    def _ask(self, question: Question, *, to_act: bool = False) -> Awaitable[Any]:
        promise: Promise[Any] = self._bridge.promise()
        if self._open:
            self._reader.ask(question, promise, to_act=to_act)
        else:
            promise.errback(self._unable())
        return promise

    def hear_of_commits(self, told: Committed) -> None:
        """Let it hear of each batch of the writer's, in the writer's thread."""
        self._writer.on_commit = told

    # what the threads ask and tell

    def chores(self) -> Sequence[SharedWrite]:
        """For the writer: a sign of life, and the ledger's bounds, now and then."""
        now = time.monotonic()
        taking = [
            TakeOver(self._neighbours, each, self._changed, self._took_over)
            for each in self._neighbours.gone()
        ]
        if now < self._next_beat:
            return taking
        self._next_beat = now + self.lease.beat
        beat = Beat(self.lease, self._look, self.rules)
        if now < self._next_prune:
            return (beat, *taking)
        self._next_prune = now + PRUNE_EVERY
        before = int((self._clock() - self._ledger_days * 86400) * 1e6)
        return (beat, *taking, SharedPrune(make_ident(max(0, before), 0)))

    def changed(self, verb: str, keys: list[tuple[int, int]]) -> None:
        """For the writer: an operator has changed these by way of another node."""
        self.forget_positions()
        self._changed(verb, keys)

    def suspending(self, begun: list[dict[str, Any]], ended: list[list[str]]) -> None:
        """For the writer: what is to wait, or no more, by way of another node."""
        self._bridge.call(lambda: self.on_suspending(begun, ended))

    def _look(self, session: DatabaseSession, ours: int) -> None:
        """At the other nodes, and at what all of them are to know, whatever they have missed."""
        self._neighbours.look(session, ours)
        names = [self._node, *self._neighbours.others]
        nodes = len(names), len({machine_of(name) for name in names})
        if nodes != self._nodes:
            self._nodes = nodes
            self._bridge.call(lambda: self.on_nodes(*nodes))
        found = session.ask("SELECT document FROM suspension ORDER BY kind, whom").fetchall()
        text = f"[{','.join(document for (document,) in found)}]"
        if text != self._suspended:
            self._suspended = text
            self._bridge.call(lambda: self.on_suspended(json.loads(text)))

    def taken_over(self) -> None:
        """For the writer: what was this node's may be others' now."""
        self.notice("silent for too long: other nodes may have taken mail of this one over")
        self._bridge.call(self.lease.taken_up)

    def _took_over(self, name: str, recipients: int) -> None:
        if self._log is not None:
            event = "took over the mail of a node that is gone"
            self._bridge.call(
                lambda log: log.notice(event, of=name, recipients=recipients), self._log
            )

    def _unable(self) -> SpoolError:
        if self._trouble is not None and not self._closing.is_set():
            return self._trouble
        if self._open and self._trouble is None:
            return SpoolError("the database has recorded no sign of life lately")
        return super()._unable()

    def forget_positions(self) -> None:
        """For the writer: something may wait before where scans begin."""
        self._reader.forget_positions()

    def health(self, error: SpoolError | None) -> None:
        """For the writer: the store failed, or is trusted again."""
        if error is None:
            self._next_beat = float("-inf")
        self._reader.doubt(error)
        self._bridge.call(self._health_changed, error)

    def _health_changed(self, error: SpoolError | None) -> None:
        was, self._trouble = self._trouble, error
        self._well = self._open and error is None
        if error is not None and was is None:
            self._say("spool cannot record", reason=error.reason)
            self.on_trouble(error.reason)
        elif error is None and was is not None:
            if self._log is not None:
                self._log.notice("spool records again")
            self.on_recovery()

    def _found_damaged(self, ident: int, reason: str) -> None:
        self._writer.put(SharedSetAside(None, ident, reason, self._aside))

    def _aside(self, ident: int, reason: str) -> None:
        self.notice("damaged message set aside", message=ident_text(ident), reason=reason)
