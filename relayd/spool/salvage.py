"""A damaged database: keep the old file, start a fresh one, carry over whatever can be read."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from relayd.spool import schema
from relayd.spool.content import ContentFiles, sync_directory

_KEYS = {
    "message": "ident",
    "recipient": "message",
    "content": "message",
    "header": "message",
    "ledger": "message",
}


def rebuild(
    path: Path, files: ContentFiles, now: float, reason: str, notice: Callable[..., None]
) -> None:
    """Move the database to `damaged/`, make a new one, and fill it; raises OSError, sqlite3.Error.

    A message whose row cannot be read is lost to the queue, but not silently: the old file
    stays, and the log says how many were carried over.
    """
    kept = files.damaged / f"queue-{int(now)}.db"
    turn = 0
    while kept.exists():
        turn += 1
        kept = files.damaged / f"queue-{int(now)}-{turn}.db"
    # the log first: a database without its log is only older, a log without database is nothing
    for suffix in ("-shm", "-wal", ""):
        old = Path(f"{path}{suffix}")
        if suffix == "-shm":
            old.unlink(missing_ok=True)
        elif old.exists():
            old.rename(f"{kept}{suffix}")
    sync_directory(files.damaged)
    sync_directory(path.parent)
    fresh = schema.connect(path, cache=16 << 20)
    try:
        schema.prepare(fresh, now=now)
        saved = _carry_over(kept, fresh)
    finally:
        fresh.close()
    notice("spool rebuilt", reason=reason, kept=str(kept), **saved)


def _carry_over(kept: Path, fresh: sqlite3.Connection) -> dict[str, int]:
    saved: dict[str, int] = {}
    fresh.execute("BEGIN IMMEDIATE")
    try:
        old = sqlite3.connect(kept, isolation_level=None)
    except sqlite3.Error:
        old = None
    if old is not None:
        old.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        with contextlib.closing(old):
            for table in _KEYS:
                saved[table] = _copy(old, fresh, table)
            for table in ("damaged", *(f"damaged_{name}" for name in schema.TABLES)):
                with contextlib.suppress(sqlite3.Error):
                    _insert(fresh, table, old.execute(f"SELECT * FROM {table}").fetchall())
    _tidy(fresh, saved)
    fresh.execute("COMMIT")
    return saved


def _tidy(fresh: sqlite3.Connection, saved: dict[str, int]) -> None:
    """Make the tables agree: what lost its other half is set aside by whoever reads it."""
    last = schema.last_ident(fresh)
    fresh.execute("UPDATE meta SET value = ? WHERE name = 'rebuilt'", (last,))
    ended = fresh.execute(
        """DELETE FROM recipient WHERE EXISTS (SELECT 1 FROM ledger AS e
        WHERE e.message = recipient.message AND e.number = recipient.number AND e.ended = 1)"""
    )
    saved["ended"] = ended.rowcount
    fresh.execute(
        """UPDATE meta SET value = (SELECT CASE meta.name WHEN 'messages' THEN count(*)
        ELSE ifnull(sum(size), 0) END FROM message) WHERE name IN ('messages', 'octets')"""
    )


def _copy(old: sqlite3.Connection, fresh: sqlite3.Connection, table: str) -> int:
    """All rows of a table that can be read, from both ends towards the damage and around it."""
    count = 0
    for rows in _readable(old, table):
        count += _insert(fresh, table, rows)
    return count


def _readable(old: sqlite3.Connection, table: str) -> Iterator[list[Any]]:
    key = _KEYS[table]
    at = -1
    while True:
        rows, damaged = _some(old, table, f"{key} > ? ORDER BY {key}", at)
        yield rows
        if not damaged and not rows:
            return
        if rows:
            at = _last_key(rows, table)
        if damaged:
            break
    # now from the far end, down to where the way up ended
    low, at = at, 1 << 62
    while True:
        rows, damaged = _some(old, table, f"{key} > {low} AND {key} < ? ORDER BY {key} DESC", at)
        yield rows
        if rows:
            at = _last_key(rows, table)
        if damaged or not rows:
            return


def _last_key(rows: list[Any], table: str) -> int:
    key: int = rows[-1][0]
    del table
    return key


def _some(old: sqlite3.Connection, table: str, where: str, at: int) -> tuple[list[Any], bool]:
    rows: list[Any] = []
    try:
        for row in old.execute(f"SELECT * FROM {table} WHERE {where}", (at,)):
            rows.append(row)
            if len(rows) >= 1000 and row[0] != rows[-2][0]:
                break
    except sqlite3.Error:
        return rows, True
    return rows, False


def _insert(fresh: sqlite3.Connection, table: str, rows: list[Any]) -> int:
    count = 0
    for row in rows:
        marks = ", ".join("?" * len(row))
        with contextlib.suppress(sqlite3.Error, UnicodeError, OverflowError):
            count += fresh.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row).rowcount
    return count
