"""Tables from MySQL and MariaDB, by PyMySQL; connections by the name of a group in mysql.cnf."""

from __future__ import annotations

import configparser
import contextlib
import socket
import ssl
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
    private,
    versioned,
)
from relayd.rules.language.directory import KEY

SERVICES = "mysql.cnf"  # beside relayd.conf, in the form of MySQL's option files
_OPTIONS = {
    "host": "host",
    "port": "port",
    "user": "user",
    "password": "password",
    "database": "database",
    "dbname": "database",
    "unix_socket": "unix_socket",
    "socket": "unix_socket",
    "tls": "tls",
}


def read(order: TableOrder, tag: str) -> Rows:
    """See Driver. A server that is not on this machine's socket must prove who it is."""
    pymysql, now = _library(), ""
    try:
        connection = _connected(order, CONNECT, SILENCE)
        if order.directory.version:
            with connection.cursor() as asked:
                asked.execute(order.directory.version)
                now = versioned(order, asked.fetchone(), tag)
        cursor = connection.cursor(pymysql.cursors.SSCursor)  # no copy of all rows here
        cursor.execute(order.directory.query)
        columns = counted(len(cursor.description or ()))
    except (pymysql.Error, ssl.SSLError) as error:
        raise SourceError(_plain(error)) from None

    def rows() -> Iterator[Sequence[object]]:
        try:
            yield from cursor
        except pymysql.Error as error:
            raise SourceError(_plain(error)) from None

    return Rows(columns, rows(), now)


def connect(order: TableOrder) -> AskedSource:
    """See Connect."""
    pymysql = _library()
    try:
        connection = _connected(order, PATIENCE, PATIENCE)
        connection.autocommit(True)
    except (pymysql.Error, ssl.SSLError) as error:
        raise SourceError(_plain(error)) from None
    return _Connection(order, connection, pymysql.Error)


class _Connection:
    def __init__(self, order: TableOrder, connection: Any, error: type[Exception]) -> None:  # noqa: ANN401
        self._connection, self._error = connection, error
        self._query = order.directory.query.replace("%", "%%").replace(KEY, "%(key)s")

    def ask(self, key: str) -> Iterator[object]:
        """See AskedSource."""
        try:
            cursor = self._connection.cursor()
            cursor.execute(self._query, {"key": key})
            return iter(cursor.fetchmany(MOST_ROWS))
        except (self._error, OSError) as error:
            raise SourceError(_plain(error)) from None

    def end(self) -> None:
        """See AskedSource."""
        with contextlib.suppress(OSError, AttributeError):
            self._connection._sock.shutdown(socket.SHUT_RDWR)


def _library() -> Any:  # noqa: ANN401
    try:
        import pymysql
        import pymysql.cursors
    except ImportError:
        raise missing("PyMySQL", "python3-pymysql") from None
    return pymysql


def _connected(order: TableOrder, connect: float, silence: float) -> Any:  # noqa: ANN401
    options = _options(order)
    verified = options.pop("tls", "verify") != "off" and "unix_socket" not in options
    if verified:
        options["ssl"] = ssl.create_default_context(cafile=str(order.trusted))
    connection = _library().connect(
        **options,
        charset="utf8mb4",
        use_unicode=False,  # else one row that is not UTF-8 costs all
        connect_timeout=connect,
        read_timeout=silence,
        write_timeout=silence,
        local_infile=False,
        read_default_file=None,
    )
    if verified and not isinstance(connection._sock, ssl.SSLSocket):
        raise SourceError("the server has no TLS: expected it, or tls=off in the connection")
    connection.cursor().execute("SET SESSION TRANSACTION READ ONLY")
    return connection


def _options(order: TableOrder) -> dict[str, Any]:
    given = dict(each.split("=", 1) for each in order.directory.where.split())
    file, service = given.pop("file", SERVICES), given.pop("service", "")
    if service:
        path = order.file(file)
        private(path)
        services = configparser.ConfigParser(interpolation=None, allow_no_value=True, strict=False)
        try:
            services.read_string(path.read_text("utf-8"))
        except (configparser.Error, UnicodeDecodeError) as error:
            raise SourceError(f"{path}: {' '.join(str(error).split())}") from None
        if not services.has_section(service):
            raise SourceError(f"{path} has no group [{service}]")
        described = {key.replace("-", "_"): value for key, value in services.items(service)}
        unknown = sorted(described.keys() - _OPTIONS.keys())
        if unknown:
            known = ", ".join(_OPTIONS)
            raise SourceError(f"{path}: {unknown[0]} is not known here: expected {known}")
        given = {**described, **given}
    options: dict[str, Any] = {_OPTIONS[name]: value for name, value in given.items()}
    if "port" in options:
        if not str(options["port"]).isdecimal():
            raise SourceError(f"{options['port']} is no port")
        options["port"] = int(options["port"])
    return options


def _plain(error: Exception) -> str:
    said = error.args[-1] if error.args else error
    return " ".join(str(said).split()) or type(error).__name__
