"""Tables from PostgreSQL, by psycopg 3; connections are described as libpq does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from relayd.directories.source import (
    CONNECT,
    SILENCE,
    Rows,
    SourceError,
    TableOrder,
    counted,
    missing,
)
from relayd.rules.tables.snapshot import CHUNK


def read(order: TableOrder, tag: str) -> Rows:
    """See Driver. Nothing but a word in the connection or its service switches verification off."""
    try:
        import psycopg
    except ImportError:
        raise missing("psycopg", "python3-psycopg") from None
    for name, value in (
        ("PGSSLMODE", "verify-full"),
        ("PGSSLROOTCERT", str(order.trusted)),
        ("PGCONNECT_TIMEOUT", str(CONNECT)),
        ("PGAPPNAME", f"relayd {order.name}"),
        ("PGTCPUSERTIMEOUT", str(SILENCE * 1000)),
    ):
        os.environ.setdefault(name, value)
    try:
        connection = psycopg.connect(order.directory.where)
        connection.read_only = True
        if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
            connection.execute("SET client_encoding TO SQL_ASCII")  # else one bad row costs all
        else:
            connection.execute("SET client_encoding TO UTF8")
        cursor = connection.cursor(name="relayd")  # the server's: no copy of all rows here
        cursor.itersize = CHUNK
        cursor.execute(order.directory.query.encode())
        columns = counted(len(cursor.description or ()))
    except psycopg.Error as error:
        raise SourceError(_plain(error)) from None

    def rows() -> Iterator[Sequence[object]]:
        try:
            yield from cursor
        except psycopg.Error as error:
            raise SourceError(_plain(error)) from None

    return Rows(columns, rows())


def _plain(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
