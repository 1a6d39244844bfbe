"""When which directory is read again, and how the last time went."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from relayd.directories.fetch import ASKS, FAILED, TAKEN, Fetched, pending
from relayd.directories.source import TableOrder
from relayd.mail.log import MailLog
from relayd.reactor.ownprocess import environment
from relayd.rules.tables.snapshot import Entries, SnapshotError, SnapshotHead
from relayd.spool.disk.content import sync_directory

AT_ONCE = 4  # directories that are read at the same time
LONG = 20.0  # seconds after which one counts no longer: those that hang keep nobody waiting
MOST = 100  # processes in any case
PATIENCE = 600.0  # seconds for one
AGAIN = 60.0  # seconds, at most, to the next look after one that failed
MOST_TOLD = 10  # entries that were passed over, in the log and by status
MOST_SAID = 64 * 1024  # octets of a report


class NoSuchTableError(Exception):
    """Nothing of that name waits to be accepted."""


@dataclass
class _Refreshed:
    """A table, and how its directory was found the last time."""

    order: TableOrder
    report: Fetched | None = None  # None: not since we were started
    since: float = 0.0  # when that began, where it is trouble
    call: IDelayedCall | None = None
    reading: _Reading | None = None

    @property
    def path(self) -> Path:
        return Path(self.order.path)


class _Reading(ProcessProtocol):
    """The process that reads one."""

    def __init__(self, order: TableOrder, done: Callable[[Fetched], None]) -> None:
        self._order, self._done = order, done
        self._said = {1: b"", 2: b""}
        self.process: IProcessTransport | None = None
        self.limit: IDelayedCall | None = None
        self.late = False
        self.long = False
        self.watch: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """It is told what to read."""
        assert self.transport is not None
        self.transport.write(self._order.text().encode())
        self.transport.closeStdin()

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N803 - Twisted's own
        """A report, or why there will be none."""
        self._said[childFD] = (self._said[childFD] + data)[-MOST_SAID:]

    def processEnded(self, reason: Failure) -> None:
        """It has said what there is to say."""
        for each in (self.limit, self.watch):
            if each is not None and each.active():
                each.cancel()
        self._done(self._report(reason))

    def _report(self, reason: Failure) -> Fetched:
        if self.late:
            return Fetched(FAILED, f"it was not read within {PATIENCE:g} seconds")
        try:
            if isinstance(reason.value, ProcessDone):
                return Fetched(**json.loads(self._said[1]))
        except (ValueError, TypeError):
            pass
        last = self._said[2].decode("utf-8", "replace").strip().rpartition("\n")[2]
        return Fetched(FAILED, last or reason.getErrorMessage())

    def end(self) -> None:
        """It has taken too long, or is not wanted any longer."""
        if self.process is not None:
            self.process.signalProcess("KILL")

    def expire(self) -> None:
        """See end."""
        self.late = True
        self.end()


class Refresher:
    """One for all of relayd, whatever processes look entries up."""

    def __init__(
        self,
        reactor: Any,  # noqa: ANN401  # of many interfaces
        log: MailLog,
        clock: Callable[[], float],
    ) -> None:
        self._reactor, self._log, self._clock = reactor, log, clock
        self._tables: dict[str, _Refreshed] = {}
        self._waiting: list[str] = []
        self._running = False

    def apply(self, orders: Sequence[TableOrder]) -> None:
        """The tables that there are now."""
        wanted = {order.name: order for order in orders}
        for name, table in [*self._tables.items()]:
            if wanted.get(name) != table.order:
                self._drop(name)
        for name, order in wanted.items():
            if name not in self._tables:
                self._tables[name] = _Refreshed(order)
                if self._running:
                    self._first(name)

    def start(self) -> None:
        """From now on; what is fresh is not read again before it is time."""
        self._running = True
        for name in self._tables:
            self._first(name)

    def stop(self) -> None:
        """No more."""
        self._running = False
        for name in [*self._tables]:
            self._drop(name)

    def _drop(self, name: str) -> None:
        table = self._tables.pop(name)
        if table.call is not None and table.call.active():
            table.call.cancel()
        if table.reading is not None:
            table.reading.end()
        self._waiting = [each for each in self._waiting if each != name]

    def _first(self, name: str) -> None:
        table = self._tables[name]
        head, confirmed = _kept(table.path)
        fresh = head is not None and head.source == table.order.directory.source
        due = confirmed + table.order.directory.refresh - self._clock() if fresh else 0.0
        self._later(name, min(max(due, 0.0), table.order.directory.refresh))

    def _later(self, name: str, seconds: float) -> None:
        self._tables[name].call = self._reactor.callLater(seconds, self._due, name)

    def _due(self, name: str) -> None:
        self._tables[name].call = None
        self._waiting.append(name)
        self._next()

    def _next(self) -> None:
        readings = [each.reading for each in self._tables.values() if each.reading is not None]
        free = min(AT_ONCE - sum(not each.long for each in readings), MOST - len(readings))
        while self._waiting and free > 0:
            self._read(self._tables[self._waiting.pop(0)])
            free -= 1

    def _read(self, table: _Refreshed) -> None:
        def done(report: Fetched) -> None:
            if self._tables.get(table.order.name) is table:
                table.reading = None
                self._done(table, report)
            self._next()

        def long() -> None:
            reading.long = True
            self._next()

        reading = table.reading = _Reading(table.order, done)
        command = [sys.executable, "-m", "relayd.directories.fetch"]
        reading.limit = self._reactor.callLater(PATIENCE, reading.expire)
        reading.watch = self._reactor.callLater(LONG, long)
        reading.process = self._reactor.spawnProcess(
            reading, sys.executable, command, env=environment(), childFDs={0: "w", 1: "r", 2: "r"}
        )

    def _done(self, table: _Refreshed, report: Fetched) -> None:
        before, table.report = table.report, report
        name, refresh = table.order.name, table.order.directory.refresh
        if report.why and (before is None or before.why != report.why):
            if before is None or not before.why:
                table.since = self._clock()
            event = "table asks" if report.outcome == ASKS else "table not read"
            self._log.trouble(event, table=name, why=report.why)
        if report.outcome == TAKEN:
            self._taken(name, table.path)
        elif before is not None and before.why and not report.why:
            self._log.notice("table read again", table=name)
        self._later(name, min(refresh, AGAIN) if report.outcome == FAILED else refresh)

    def _taken(self, name: str, path: Path) -> None:
        head, _ = _kept(path)
        if head is None:
            return
        skipped = head.skipped
        self._log.notice(
            "table taken up", table=name, entries=head.entries, passed_over=skipped.count
        )
        for key, why in skipped.rows[:MOST_TOLD]:
            self._log.trouble("entry passed over", table=name, key=key, why=why)

    def accept(self, name: str) -> int:
        """Take up what waits to be accepted; how many entries it has. Raises NoSuchTableError."""
        table = self._tables.get(name)
        head = None if table is None else _kept(pending(table.path))[0]
        if table is None or head is None:
            raise NoSuchTableError(name)
        pending(table.path).replace(table.path)
        sync_directory(table.path.parent)
        table.report = None
        self._taken(name, table.path)
        return head.entries

    @property
    def names(self) -> Sequence[str]:
        """The tables that there are."""
        return [*self._tables]

    def figures(self) -> list[Mapping[str, object]]:
        """How each table is, for `status`."""
        return [self._told(name, table) for name, table in self._tables.items()]

    def _told(self, name: str, table: _Refreshed) -> Mapping[str, object]:
        head, confirmed = _kept(table.path)
        asked, _ = _kept(pending(table.path))
        report = table.report or Fetched("")
        skipped = [] if head is None else head.skipped.rows[:MOST_TOLD]
        age = self._clock() - confirmed
        return {
            "name": name,
            "kind": table.order.directory.kind,
            "entries": None if head is None else head.entries,  # none was ever read
            "taken": head and head.taken,
            "confirmed": confirmed if head else None,  # when the source last said so
            "stale": head is not None and age > table.order.directory.stale,
            "trouble": report.why if report.outcome == FAILED else "",
            "since": table.since if report.why else None,
            "asks": (report.why or f"has {asked.entries:,} entries") if asked is not None else "",
            "passed_over": head.skipped.count if head else 0,
            "examples": [{"key": key, "why": why} for key, why in skipped],
        }


def _kept(path: Path) -> tuple[SnapshotHead | None, float]:
    """What is kept there, and when its source last said that it is so."""
    try:
        return Entries(path).head, path.stat().st_mtime
    except (OSError, SnapshotError):
        return None, 0.0
