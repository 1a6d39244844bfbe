"""Tables from PostgreSQL, by psycopg 3; connections are described as libpq does."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from relayd.directories.source import (
    CONNECT,
    MOST_ROWS,
    PATIENCE,
    SILENCE,
    AskedSource,
    Rows,
    SourceError,
    TableOrder,
    counted,
    missing,
    one_line,
    versioned,
)
from relayd.rules.language.directory import KEY
from relayd.rules.tables.snapshot import CHUNK


def read(order: TableOrder, tag: str) -> Rows:
    """See Driver. Nothing but a word in the connection or its service switches verification off."""
    psycopg, now = _library(order), ""
    try:
        connection = _connected(order)
        if order.directory.version:
            row = connection.execute(order.directory.version.encode()).fetchone()
            now = versioned(order, row, tag)
        cursor = connection.cursor(name="relayd")  # the server's: no copy of all rows here
        cursor.itersize = CHUNK
        cursor.execute(order.directory.query.encode())
        columns = counted(len(cursor.description or ()))
    except psycopg.Error as error:
        raise SourceError(one_line(error)) from None

    def rows() -> Iterator[Sequence[object]]:
        try:
            yield from cursor
        except psycopg.Error as error:
            raise SourceError(one_line(error)) from None

    return Rows(columns, rows(), now)


def connect(order: TableOrder) -> AskedSource:
    """See Connect."""
    psycopg = _library(order)
    try:
        connection = _connected(order, connect_timeout=PATIENCE)
        connection.autocommit = True
    except psycopg.Error as error:
        raise SourceError(one_line(error)) from None
    return _Connection(order, connection, psycopg.Error)


class _Connection:
    def __init__(self, order: TableOrder, connection: Any, error: type[Exception]) -> None:  # noqa: ANN401
        self._connection, self._error = connection, error
        self._query = order.directory.query.replace("%", "%%").replace(KEY, "%(key)s").encode()

    def ask(self, key: str) -> Iterator[object]:
        """See AskedSource."""
        try:
            cursor = self._connection.execute(self._query, {"key": key})
            return iter(cursor.fetchmany(MOST_ROWS))
        except self._error as error:
            raise SourceError(one_line(error)) from None

    def end(self) -> None:
        """See AskedSource. Whoever waits for the server does so at its socket."""
        with (
            contextlib.suppress(OSError, self._error),
            socket.socket(fileno=os.dup(self._connection.fileno())) as line,
        ):
            line.shutdown(socket.SHUT_RDWR)


def _library(order: TableOrder) -> Any:  # noqa: ANN401
    """Psycopg, told to verify."""
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
    return psycopg


def _connected(order: TableOrder, **options: int) -> Any:  # noqa: ANN401
    connection = _library(order).connect(order.directory.where, **options)
    connection.read_only = True
    if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
        connection.execute("SET client_encoding TO SQL_ASCII")  # else one bad row costs all
    else:
        connection.execute("SET client_encoding TO UTF8")
    if options:
        connection.commit()
    return connection
