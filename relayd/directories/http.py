"""Tables from JSON by HTTP: `{"info@example.com": "a@example.net"}`, or `["example.com"]`."""

from __future__ import annotations

import codecs
import contextlib
import http.client
import ipaddress
import json
import socket
import ssl
from collections.abc import Iterator, Sequence
from urllib.parse import quote, urlsplit

from relayd.directories.source import (
    CONNECT,
    PATIENCE,
    SILENCE,
    AskedSource,
    Rows,
    SourceError,
    TableOrder,
    Unchanged,
)
from relayd.rules.language.directory import KEY
from relayd.rules.tables.rows import cell

PIECE = 1 << 16
MOST = 1 << 30  # octets of an answer
MOST_OF_ONE = 1 << 16  # ... about one key
_DECODER = json.JSONDecoder()
_BLANK = " \t\r\n"


def read(order: TableOrder, tag: str) -> Rows:
    """See Driver. HTTPS, but on this machine; nobody is followed elsewhere."""
    host = urlsplit(order.directory.where).hostname or ""
    connection = _connection(order, CONNECT)
    fields = _fields(order)
    if tag:
        fields["If-None-Match"] = tag
    answer = _answer(connection, order.directory.where, fields, SILENCE)
    if answer.status == http.HTTPStatus.NOT_MODIFIED and tag:
        raise Unchanged
    if answer.status != http.HTTPStatus.OK:
        raise SourceError(f"{host} says {answer.status} {answer.reason}")
    text = _Text(answer)
    kind = text.peek()
    if kind not in "{[" or not kind:
        raise SourceError("its answer is no JSON object or array")
    rows = text.members() if kind == "{" else text.items()
    first = next(rows, None)
    columns = 2 if kind == "{" or (first is not None and len(first) > 1) else 1
    return Rows(columns, _all(first, rows, columns), answer.getheader("ETag") or "")


def connect(order: TableOrder) -> AskedSource:
    """See Connect."""
    return _Server(order)


class _Server:
    """One that says of one key: an address, an array of them, or 404."""

    def __init__(self, order: TableOrder) -> None:
        self._order, self._fields = order, _fields(order)
        self._connection = _connection(order, PATIENCE)

    def ask(self, key: str) -> Iterator[object]:
        """See AskedSource."""
        url = self._order.directory.where.replace(KEY, quote(key, safe="@"))
        answer = _answer(self._connection, url, self._fields, PATIENCE)
        try:
            text = answer.read(MOST_OF_ONE + 1)
        except (http.client.HTTPException, OSError) as error:
            raise SourceError(f"its answer breaks off: {error or type(error).__name__}") from None
        if answer.status == http.HTTPStatus.NOT_FOUND:
            return iter(())
        if answer.status != http.HTTPStatus.OK:
            raise SourceError(f"it says {answer.status} {answer.reason}")
        if len(text) > MOST_OF_ONE:
            raise SourceError(f"its answer is too large: more than {MOST_OF_ONE:,} octets")
        if answer.length:
            raise SourceError("its answer breaks off")
        try:
            value = json.loads(text)
        except ValueError as error:
            raise SourceError(f"its answer is no JSON: {error}") from None
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(each, str) for each in values):
            raise SourceError("its answer is neither a string nor an array of strings")
        return ((each,) for each in values)

    def end(self) -> None:
        """See AskedSource."""
        line = self._connection.sock
        if line is not None:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


def _connection(order: TableOrder, patience: float) -> http.client.HTTPConnection:
    url = urlsplit(order.directory.where)
    host = url.hostname or ""
    if url.scheme.lower() == "https":
        context = ssl.create_default_context(cafile=str(order.trusted))
        return http.client.HTTPSConnection(host, url.port or 443, timeout=patience, context=context)
    if not _here(host):
        raise SourceError(f"{host} is not this machine, and this is not HTTPS")
    return http.client.HTTPConnection(host, url.port or 80, timeout=patience)


def _fields(order: TableOrder) -> dict[str, str]:
    fields = {"Accept": "application/json", "User-Agent": "relayd"}
    if order.directory.secret:
        fields["Authorization"] = f"Bearer {order.secret()}"
    return fields


def _answer(
    connection: http.client.HTTPConnection, where: str, fields: dict[str, str], silence: float
) -> http.client.HTTPResponse:
    host = connection.host
    try:
        fresh = connection.sock is None
        if fresh:
            connection.connect()
        connection.sock.settimeout(silence)
        path = urlsplit(where)._replace(scheme="", netloc="", fragment="").geturl() or "/"
        connection.request("GET", path, headers=fields)
        return connection.getresponse()
    except (http.client.HTTPException, UnicodeError) as error:
        raise SourceError(f"{host}: {error or type(error).__name__}") from None
    except ssl.SSLCertVerificationError as error:
        raise SourceError(f"{host}: its certificate: {error.verify_message}") from None
    except OSError as error:
        raise SourceError(f"{host}: {error.strerror or error}") from None


def _all(
    first: Sequence[object] | None, rows: Iterator[Sequence[object]], columns: int
) -> Iterator[Sequence[object]]:
    if first is not None:
        yield first
    for row in rows:
        if len(row) != columns:
            raise SourceError(f"its entries have {columns} columns, and {len(row)}")
        yield row


class _Text:
    """An answer's JSON, of which a piece at a time is in memory."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self._answer = answer
        self._text, self._at, self._size = "", 0, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._ended = False

    def _more(self) -> None:
        try:
            data = self._answer.read(PIECE)
        except (http.client.HTTPException, OSError) as error:
            raise SourceError(f"its answer breaks off: {error or type(error).__name__}") from None
        self._size += len(data)
        if self._size > MOST:
            raise SourceError(f"its answer is too large: more than {MOST:,} octets")
        self._ended = not data
        if self._ended and self._answer.length:
            raise SourceError("its answer breaks off")
        self._text = self._text[self._at :] + self._decoder.decode(data, self._ended)
        self._at = 0

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more()

    def _take(self, marks: str) -> str:
        mark = self.peek()
        if not mark:
            raise SourceError("its answer breaks off")
        if mark not in marks:
            raise SourceError(f"its answer is no JSON: {mark!r} where {marks!r} was expected")
        self._at += 1
        return mark

    def _value(self) -> object:
        """The next value: whole only if something follows."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except ValueError as error:
                if self._ended or len(self._text) - self._at > 16 * PIECE:
                    raise SourceError(f"its answer is no JSON: {error}") from None
            else:
                if end < len(self._text) or self._ended:
                    self._at = end
                    return value
            self._more()

    def _closed(self) -> None:
        if self.peek():
            raise SourceError("its answer is no JSON: something follows its end")

    def members(self) -> Iterator[Sequence[object]]:
        """Those of an object: a key, and an address or an array of them."""
        self._take("{")
        if self.peek() == "}":
            self._take("}")
        else:
            mark = ","
            while mark == ",":
                key = self._value()
                self._take(":")
                yield str(key), _targets(self._value())
                mark = self._take(",}")
        self._closed()

    def items(self) -> Iterator[Sequence[object]]:
        """Those of an array: a name, or an array of a key and an address or addresses."""
        self._take("[")
        if self.peek() == "]":
            self._take("]")
        else:
            mark = ","
            while mark == ",":
                value = self._value()
                if isinstance(value, list):
                    if len(value) != 2:
                        raise SourceError(f"an entry has {len(value)} columns: expected two")
                    yield value[0], _targets(value[1])
                elif isinstance(value, str):
                    yield (value,)
                else:
                    raise SourceError(f"an entry is {type(value).__name__}, not a string")
                mark = self._take(",]")
        self._closed()


def _targets(value: object) -> object:
    return ", ".join(map(cell, value)) if isinstance(value, list) else value


def _here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
