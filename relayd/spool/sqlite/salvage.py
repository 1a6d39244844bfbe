"""Reading what can still be read of a damaged database."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from relayd.mail.ident import make_ident
from relayd.spool.sqlite import schema

_KEYS = {
    "message": "ident",
    "recipient": "message",
    "content": "message",
    "header": "message",
    "ledger": "message",
}
_STEP = 1000
_FAR = 1 << 62


def carry_over(old_path: Path, fresh: sqlite3.Connection) -> dict[str, int]:
    """Copy into an empty database; how many rows of each table were saved.

    What lost its other half (recipients without their message) is copied too: whoever reads it
    sets it aside.
    """
    fresh.execute("BEGIN IMMEDIATE")
    saved = _copy_all(old_path, fresh)
    if not any(saved.values()):
        with _new_first_page(old_path) as patched:
            saved = _copy_all(patched, fresh)
    # the first end state wins, also over a recipient row that an older page brought back
    fresh.execute(
        """DELETE FROM recipient WHERE EXISTS (SELECT 1 FROM ledger AS e
        WHERE e.message = recipient.message AND e.number = recipient.number AND e.ended)"""
    )
    for table, column in (("message", "ident"), ("content", "message"), ("header", "message")):
        fresh.execute(
            f"""DELETE FROM {table} WHERE NOT EXISTS (SELECT 1 FROM recipient AS r
            WHERE r.message = {table}.{column}) AND EXISTS (SELECT 1 FROM ledger AS e
            WHERE e.message = {table}.{column} AND e.ended)"""
        )
    _count(fresh)
    fresh.execute("COMMIT")
    return saved


def _copy_all(path: Path, fresh: sqlite3.Connection) -> dict[str, int]:
    saved = dict.fromkeys(_KEYS, 0)
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_open(path)) as old:
        gaps: dict[str, tuple[int, int]] = {}
        for table in _KEYS:
            saved[table], gap = _copy_ends(old, fresh, table)
            if gap is not None:
                gaps[table] = gap
        for table, gap in gaps.items():
            saved[table] += _copy_known(old, fresh, table, gap)
        for table in ("damaged", *(f"damaged_{name}" for name in schema.TABLES)):
            with contextlib.suppress(sqlite3.Error):
                names = _shared(old, fresh, table)
                rows = old.execute(f"SELECT {', '.join(names)} FROM {table}").fetchall()
                _insert(fresh, table, names, rows)
    return saved


def _shared(old: sqlite3.Connection, fresh: sqlite3.Connection, table: str) -> list[str]:
    """The columns that a table has in both; the key is the first one."""
    before, now = (
        [name for name, *_ in each.execute(f"SELECT * FROM {table} LIMIT 0").description]
        for each in (old, fresh)
    )
    return [name for name in now if name in before]


@contextlib.contextmanager
def _new_first_page(path: Path) -> Iterator[Path]:
    """A copy of a database with the first page of an empty one of ours.

    That page says where each table begins. Our tables are always made in the same order, so
    it is the same page in every spool, but for a few counters.
    """
    patched = path.with_suffix(".patched")
    try:
        with contextlib.suppress(OSError):
            shutil.copyfile(path, patched)
            pages = patched.stat().st_size // schema.PAGE_SIZE
            first = bytearray(_first_page(path.with_suffix(".empty")))
            first[18:20] = b"\x01\x01"  # no write-ahead log beside it
            first[24:28] = first[92:96] = b"\0\0\0\1"  # the page count below is valid
            first[28:32] = pages.to_bytes(4, "big")
            with patched.open("r+b") as file:
                file.write(first)
        yield patched
    finally:
        patched.unlink(missing_ok=True)


def _first_page(path: Path) -> bytes:
    path.unlink(missing_ok=True)
    try:
        with contextlib.closing(schema.connect(path, cache=1 << 20)) as empty:
            schema.prepare(empty, now=0.0)
        with path.open("rb") as file:
            return file.read(schema.PAGE_SIZE)
    finally:
        path.unlink(missing_ok=True)


def _open(path: Path) -> sqlite3.Connection:
    old = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    # keep what is no UTF-8: the parity of its row tells
    old.text_factory = lambda data: data.decode("utf-8", "replace")
    # else SQLite refuses a file that is shorter than its header says
    old.execute("PRAGMA writable_schema = ON")
    return old


def _count(fresh: sqlite3.Connection) -> None:
    totals = fresh.execute("SELECT count(*), ifnull(sum(size), 0) FROM message").fetchone()
    ledger = fresh.execute("SELECT count(*) FROM ledger").fetchone()[0]
    created = fresh.execute("SELECT value FROM meta WHERE name = 'created'").fetchone()[0]
    values = [
        (totals[0], "messages"),
        (totals[1], "octets"),
        (ledger, "ledger"),
        # nobody knows what was in it: no content file up to now is to be removed as an orphan
        (max(schema.last_ident(fresh), make_ident(int(created * 1e6), 0)), "rebuilt"),
    ]
    fresh.executemany("UPDATE meta SET value = ? WHERE name = ?", values)


def _copy_ends(
    old: sqlite3.Connection, fresh: sqlite3.Connection, table: str
) -> tuple[int, tuple[int, int] | None]:
    """Copy from both ends towards the damage; how many rows, and between which keys it lies."""
    names = _shared(old, fresh, table)
    low, high, count = -1, _FAR, 0
    for order in ("ASC", "DESC"):
        while True:
            rows, damaged = _some(old, table, names, low, high, order)
            count += _insert(fresh, table, names, rows)
            if rows and order == "ASC":
                low = rows[-1][0]
            elif rows:
                high = rows[-1][0]
            if damaged:
                break
            if not rows:
                return count, None
    return count, (low, high)


def _copy_known(
    old: sqlite3.Connection, fresh: sqlite3.Connection, table: str, gap: tuple[int, int]
) -> int:
    """Look between two damaged places for the messages that other tables speak of."""
    known = fresh.execute(
        """SELECT message FROM ledger WHERE message BETWEEN :low AND :high
        UNION SELECT message FROM recipient WHERE message BETWEEN :low AND :high
        UNION SELECT ident FROM message WHERE ident BETWEEN :low AND :high""",
        {"low": gap[0], "high": gap[1]},
    ).fetchall()
    names = _shared(old, fresh, table)
    count = 0
    for (ident,) in known:
        rows, _ = _some(old, table, names, ident - 1, ident + 1, "ASC")
        count += _insert(fresh, table, names, rows)
    return count


def _some(
    old: sqlite3.Connection, table: str, names: list[str], low: int, high: int, order: str
) -> tuple[list[Any], bool]:
    """Some rows with a key strictly between, whole keys only; and whether damage was met."""
    key = _KEYS[table]
    rows: list[Any] = []
    try:
        for row in old.execute(
            f"""SELECT {", ".join(names)} FROM {table} WHERE {key} > ? AND {key} < ?
            ORDER BY {key} {order}""",
            (low, high),
        ):
            if len(rows) >= _STEP and row[0] != rows[-1][0]:
                break
            rows.append(row)
    except sqlite3.Error:
        return rows, True
    return rows, False


def _insert(fresh: sqlite3.Connection, table: str, names: list[str], rows: list[Any]) -> int:
    into = f"{table}({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    count = 0
    for row in rows:
        with contextlib.suppress(sqlite3.Error, UnicodeError, OverflowError):
            count += fresh.execute(f"INSERT OR IGNORE INTO {into}", row).rowcount
    return count
