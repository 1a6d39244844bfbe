"""Tables from an SQLite database."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator

from relayd.directories.source import (
    MOST_ROWS,
    PATIENCE,
    AskedSource,
    Rows,
    SourceError,
    TableOrder,
    Unchanged,
    counted,
    versioned,
)
from relayd.rules.language.directory import KEY

YOUNG = 2.0  # seconds in which a file may change again and look the same


def read(order: TableOrder, tag: str) -> Rows:
    """See Driver."""
    database, now = _connected(order, 10), _as_it_looks(order)
    try:
        if order.directory.version:
            row = database.execute(order.directory.version).fetchone()
            now = versioned(order, row, tag)
        elif now and now == tag:
            raise Unchanged
        found = database.execute(order.directory.query)
    except sqlite3.Error as error:
        raise SourceError(f"{order.directory.where}: {error}") from None
    return Rows(counted(len(found.description or ())), iter(found), now)


def _as_it_looks(order: TableOrder) -> str:
    """What differs where the database does; empty: it may change again and look the same."""
    path = order.file(order.directory.where)
    looks = []
    for each in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-journal")):
        try:
            found = each.stat()
        except FileNotFoundError:
            continue
        if time.time() - max(found.st_mtime, found.st_ctime) < YOUNG:
            return ""
        looks.append((each.name, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    return repr(looks)


def connect(order: TableOrder) -> AskedSource:
    """See Connect."""
    return _Database(order, _connected(order, PATIENCE))


class _Database:
    def __init__(self, order: TableOrder, database: sqlite3.Connection) -> None:
        self._database = database
        self._query = order.directory.query.replace(KEY, ":key")
        self._where = order.directory.where

    def ask(self, key: str) -> Iterator[object]:
        """See AskedSource."""
        try:
            return iter(self._database.execute(self._query, {"key": key}).fetchmany(MOST_ROWS))
        except sqlite3.Error as error:
            raise SourceError(f"{self._where}: {error}") from None

    def end(self) -> None:
        """See AskedSource."""
        self._database.interrupt()
        self._database.close()


def _connected(order: TableOrder, patience: float) -> sqlite3.Connection:
    path = order.file(order.directory.where)
    if not path.is_file():
        raise SourceError(f"cannot read {path}: there is no such file")
    try:
        database = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro",
            uri=True,
            timeout=patience,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise SourceError(f"{path}: {error}") from None
    database.text_factory = bytes  # else one row that is not UTF-8 costs all
    return database
