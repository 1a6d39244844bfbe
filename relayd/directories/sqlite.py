"""Tables from an SQLite database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from relayd.directories.source import (
    MOST_ROWS,
    PATIENCE,
    AskedSource,
    Rows,
    SourceError,
    TableOrder,
    counted,
)
from relayd.rules.language.directory import KEY


def read(order: TableOrder, tag: str) -> Rows:
    """See Driver."""
    database = _connected(order, 10)
    try:
        found = database.execute(order.directory.query)
    except sqlite3.Error as error:
        raise SourceError(f"{order.directory.where}: {error}") from None
    return Rows(counted(len(found.description or ())), iter(found))


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
