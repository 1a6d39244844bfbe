"""Tables from LDAP, by ldap3: an entry for each value of the key's attribute."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from relayd.directories.source import CONNECT, SILENCE, Rows, SourceError, TableOrder, missing
from relayd.rules.tables.rows import cell

PAGE = 1000  # entries in one answer


def read(order: TableOrder, tag: str) -> Rows:
    """See Driver. TLS from the first octet with ldaps:, else asked for, but on this machine."""
    try:
        import ldap3
        from ldap3.core.exceptions import LDAPException
    except ImportError:
        raise missing("ldap3", "python3-ldap3") from None
    directory = order.directory
    parts = urlsplit(directory.where)
    tls = ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=str(order.trusted))
    secure = parts.scheme.lower() == "ldaps"
    secret = order.secret() if directory.bind else None
    try:
        server = ldap3.Server(
            parts.hostname,
            parts.port or (636 if secure else 389),
            use_ssl=secure,
            tls=tls,
            get_info=ldap3.NONE,
            connect_timeout=CONNECT,
        )
        connection = ldap3.Connection(
            server,
            directory.bind or None,
            secret,
            receive_timeout=SILENCE,
            read_only=True,
            auto_referrals=False,
            raise_exceptions=True,
        )
        connection.open()
        if not secure and not _here(parts.hostname or ""):
            connection.start_tls()
        connection.bind()
        attributes = [each for each in (directory.key, directory.value) if each]
        found = connection.extend.standard.paged_search(
            directory.base,
            directory.filter,
            attributes=attributes,
            paged_size=PAGE,
            generator=True,
        )
    except LDAPException as error:
        raise SourceError(_plain(error)) from None

    def rows() -> Iterator[Sequence[object]]:
        try:
            for entry in found:
                if entry["type"] == "searchResEntry":
                    yield from _rows(entry["raw_attributes"], directory.key, directory.value)
        except LDAPException as error:
            raise SourceError(_plain(error)) from None

    return Rows(2 if directory.value else 1, rows())


def _rows(attributes: dict[str, list[bytes]], key: str, value: str) -> Iterator[tuple[object, ...]]:
    """Those of one entry. One without a key, or nothing behind it, says nothing of anybody."""
    folded = {name.lower(): values for name, values in attributes.items()}
    for each in folded.get(key.lower(), ()):
        if not value:
            yield (each,)
        elif targets := folded.get(value.lower(), ()):
            yield each, ", ".join(map(cell, targets))


def _here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _plain(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
