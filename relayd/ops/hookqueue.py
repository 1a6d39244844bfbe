"""Events that wait for receivers of webhooks, in one small database beside the spool.

Every process that moves mail adds to it, one reads it and posts. What a killed process had written
stays; after a power failure the last seconds may be missing, since no mail waits for this disk.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from relayd.mail.value import dataclass

NAME = "hooks.db"  # in the spool
_PATIENCE = 20.0  # seconds for other processes

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS event (
    number INTEGER PRIMARY KEY AUTOINCREMENT, hook TEXT NOT NULL, at REAL NOT NULL,
    kind TEXT NOT NULL, document TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_hook ON event (hook, number);
CREATE TABLE IF NOT EXISTS hook (
    name TEXT PRIMARY KEY, waiting INTEGER NOT NULL, sent INTEGER NOT NULL,
    dropped INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mark (text TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """An event that waits; its number is never used again."""

    number: int
    at: float
    kind: str
    document: str


@dataclass(frozen=True, slots=True)
class HookCounts:
    """What is known of a hook, of all time."""

    waiting: int = 0
    sent: int = 0
    dropped: int = 0
    oldest: float = 0.0  # when the first one that waits happened; 0: none does


class HookQueue:
    """One process's way to it. All methods wait for the disk, and raise OSError."""

    def __init__(self, spool: Path) -> None:
        self._path = spool / NAME
        self._connection: sqlite3.Connection | None = None
        self._guard = threading.Lock()  # whichever thread it is
        self.mark = ""  # of this database: what makes its numbers one's own

    def add(
        self,
        events: Iterable[tuple[str, float, str, object]],
        keep: Callable[[str], int],
        lost: Iterable[tuple[str, int]] = (),
    ) -> None:
        """Events for hooks: name, time, kind and document; what finds no room is counted.

        `keep`: how many may wait, by hook; `lost`: how many it never came to.
        """
        rows: dict[str, list[tuple[str, float, str, str]]] = {}
        for name, at, kind, document in events:
            rows.setdefault(name, []).append((name, at, kind, json.dumps(document)))

        def write(database: sqlite3.Connection) -> None:
            for name, theirs in rows.items():
                known = database.execute("SELECT waiting FROM hook WHERE name = ?", (name,))
                (waiting,) = known.fetchone() or (0,)
                taken = theirs[: max(keep(name) - waiting, 0)]
                database.executemany(
                    "INSERT INTO event (hook, at, kind, document) VALUES (?, ?, ?, ?)", taken
                )
                _count(database, name, waiting=len(taken), dropped=len(theirs) - len(taken))
            for name, count in lost:
                _count(database, name, dropped=count)

        self._told(write)

    def next(self, name: str, most: int, octets: int) -> list[WaitingEvent]:
        """Those that wait longest: so many at most, and together not much longer than that."""

        def read(database: sqlite3.Connection) -> list[WaitingEvent]:
            found: list[WaitingEvent] = []
            size = 0
            question = (
                "SELECT number, at, kind, document FROM event WHERE hook = ?"
                " ORDER BY number LIMIT ?"
            )
            for row in database.execute(question, (name, most)):
                found.append(WaitingEvent(*row))
                size += len(found[-1].document)
                if size >= octets:
                    break
            return found

        return self._told(read)

    def sent(self, name: str, events: Sequence[WaitingEvent]) -> None:
        """They have arrived."""

        def write(database: sqlite3.Connection) -> None:
            numbers = [(each.number,) for each in events]
            gone = database.executemany("DELETE FROM event WHERE number = ?", numbers).rowcount
            _count(database, name, waiting=-gone, sent=gone)

        self._told(write)

    def forget(self, name: str, before: float) -> int:
        """Events that happened before that time are dropped; how many."""

        def write(database: sqlite3.Connection) -> int:
            gone = database.execute(
                "DELETE FROM event WHERE hook = ? AND at < ?", (name, before)
            ).rowcount
            if gone:
                _count(database, name, waiting=-gone, dropped=gone)
            return gone

        return self._told(write)

    def counts(self) -> dict[str, HookCounts]:
        """Of every hook that there was ever something for."""

        def read(database: sqlite3.Connection) -> dict[str, HookCounts]:
            question = (
                "SELECT name, waiting, sent, dropped, coalesce((SELECT at FROM event"
                " WHERE hook = name ORDER BY number LIMIT 1), 0) FROM hook"
            )
            return {name: HookCounts(*rest) for name, *rest in database.execute(question)}

        return self._told(read)

    def close(self) -> None:
        """Until it is used again."""
        with self._guard:
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _told(self, ask: Callable[[sqlite3.Connection], T]) -> T:
        """In one transaction; SQLite's errors as OSError."""
        with self._guard:
            try:
                database = self._connection or self._open()
                with database:
                    return ask(database)
            except sqlite3.Error as error:
                self._close()  # the next one finds it as it is then
                raise OSError(0, str(error), str(self._path)) from error

    def _open(self) -> sqlite3.Connection:
        self._path.touch(0o600)  # subjects and addresses are in it
        database = sqlite3.connect(self._path, timeout=_PATIENCE, check_same_thread=False)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(_SCHEMA)
        with database:
            database.execute("BEGIN IMMEDIATE")
            found = database.execute("SELECT text FROM mark").fetchone()
            if found is None:
                found = (secrets.token_hex(6),)
                database.execute("INSERT INTO mark VALUES (?)", found)
        self._connection, self.mark = database, found[0]
        return database


def _count(
    database: sqlite3.Connection, name: str, *, waiting: int = 0, sent: int = 0, dropped: int = 0
) -> None:
    database.execute(
        "INSERT INTO hook VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " waiting = waiting + excluded.waiting, sent = sent + excluded.sent,"
        " dropped = dropped + excluded.dropped",
        (name, waiting, sent, dropped),
    )
