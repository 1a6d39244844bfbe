"""Tables from LDAP, by ldap3: an entry for each value of the key's attribute."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from relayd.directories.source import (
    CONNECT,
    MOST_ROWS,
    PATIENCE,
    SILENCE,
    AskedSource,
    Rows,
    SourceError,
    TableOrder,
    missing,
    one_line,
)
from relayd.rules.language.directory import KEY
from relayd.rules.tables.rows import cell

PAGE = 1000  # entries in one answer


def read(order: TableOrder, tag: str) -> Rows:
    """See Driver. TLS from the first octet with ldaps:, else asked for, but on this machine."""
    ldap3, directory = _library(), order.directory
    trouble = ldap3.core.exceptions.LDAPException
    try:
        connection = _connected(order, CONNECT, SILENCE)
        attributes = [each for each in (directory.key, directory.value) if each]
        found = connection.extend.standard.paged_search(
            directory.base,
            directory.filter,
            attributes=attributes,
            paged_size=PAGE,
            generator=True,
        )
    except trouble as error:
        raise SourceError(one_line(error)) from None

    def rows() -> Iterator[Sequence[object]]:
        try:
            for entry in found:
                if entry["type"] == "searchResEntry":
                    yield from _rows(entry["raw_attributes"], directory.key, directory.value)
        except trouble as error:
            raise SourceError(one_line(error)) from None

    return Rows(2 if directory.value else 1, rows())


def connect(order: TableOrder) -> AskedSource:
    """See Connect."""
    trouble = _library().core.exceptions.LDAPException
    try:
        return _Connection(order, _connected(order, PATIENCE, PATIENCE))
    except trouble as error:
        raise SourceError(one_line(error)) from None


class _Connection:
    def __init__(self, order: TableOrder, connection: Any) -> None:  # noqa: ANN401
        self._directory, self._connection = order.directory, connection
        self._ldap3 = _library()

    def ask(self, key: str) -> Iterator[object]:
        """See AskedSource."""
        directory = self._directory
        escaped = self._ldap3.utils.conv.escape_filter_chars(key)
        try:
            self._connection.search(
                directory.base,
                directory.filter.replace(KEY, escaped),
                attributes=[directory.value or directory.key],
                size_limit=MOST_ROWS,
            )
        except (self._ldap3.core.exceptions.LDAPException, OSError) as error:
            raise SourceError(one_line(error)) from None
        found = [
            value
            for entry in self._connection.response
            if entry["type"] == "searchResEntry"
            for values in entry["raw_attributes"].values()
            for value in values
        ]
        return ((each,) for each in found)

    def end(self) -> None:
        """See AskedSource."""
        with contextlib.suppress(OSError, AttributeError):
            self._connection.socket.shutdown(socket.SHUT_RDWR)


def _library() -> Any:  # noqa: ANN401
    try:
        import ldap3
        import ldap3.core.exceptions
        import ldap3.utils.conv
    except ImportError:
        raise missing("ldap3", "python3-ldap3") from None
    return ldap3


def _connected(order: TableOrder, connect: float, silence: float) -> Any:  # noqa: ANN401
    ldap3, directory = _library(), order.directory
    parts = urlsplit(directory.where)
    tls = ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=str(order.trusted))
    secure = parts.scheme.lower() == "ldaps"
    secret = order.secret() if directory.bind else None
    server = ldap3.Server(
        parts.hostname,
        parts.port or (636 if secure else 389),
        use_ssl=secure,
        tls=tls,
        get_info=ldap3.NONE,
        connect_timeout=connect,
    )
    connection = ldap3.Connection(
        server,
        directory.bind or None,
        secret,
        receive_timeout=silence,
        read_only=True,
        auto_referrals=False,
        raise_exceptions=True,
    )
    connection.open()
    if not secure and not _here(parts.hostname or ""):
        connection.start_tls()
    connection.bind()
    return connection


def _rows(attributes: dict[str, list[bytes]], key: str, value: str) -> Iterator[tuple[object, ...]]:
    """Those of one entry. One without a key, or nothing behind it, says nothing of anybody."""
    folded = {name.lower(): values for name, values in attributes.items()}
    for each in _said(folded, key.lower()):
        if not value:
            yield (each,)
        elif targets := _said(folded, value.lower()):
            yield each, ", ".join(map(cell, targets))


def _said(attributes: dict[str, list[bytes]], name: str) -> list[bytes]:
    """The values of an attribute; of Active Directory's proxyAddresses those of SMTP."""
    values = attributes.get(name, [])
    if name != "proxyaddresses":
        return values
    pairs = (each.partition(b":") for each in values)
    return [address for kind, _, address in pairs if kind.lower() == b"smtp"]


def _here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
