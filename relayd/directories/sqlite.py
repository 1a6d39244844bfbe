"""Tables from an SQLite database."""

from __future__ import annotations

import sqlite3

from relayd.directories.source import Rows, SourceError, TableOrder, counted


def read(order: TableOrder, tag: str) -> Rows:
    """See Driver."""
    path = order.file(order.directory.where)
    if not path.is_file():
        raise SourceError(f"cannot read {path}: there is no such file")
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
        database.text_factory = bytes  # else one row that is not UTF-8 costs all
        found = database.execute(order.directory.query)
    except sqlite3.Error as error:
        raise SourceError(f"{path}: {error}") from None
    return Rows(counted(len(found.description or ())), iter(found))
