"""What the fields of a header section say, as text: unfolded, encoded words decoded (RFC 2047)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.errors import HeaderParseError
from email.header import decode_header
from functools import lru_cache

_MOST_OCTETS = 8000  # of one field that are decoded
_FIELD = rb"(?:^|(?<=\r\n))%s[ \t\v\f]*:((?:[^\r]|\r(?!\n(?![ \t])))*)"
_FOLD = re.compile(rb"\r\n(?=[ \t])")


def field_texts(section: bytes, name: str) -> Iterator[str]:
    """The texts of all fields of this name, from the top."""
    for body in field_bodies(section, name):
        yield _decoded(_FOLD.sub(b"", body[:_MOST_OCTETS]).strip())


def field_bodies(section: bytes, name: str) -> Iterator[bytes]:
    """What stands behind the colon of all fields of this name, from the top."""
    for match in _named(name).finditer(section):
        yield match[1]


@lru_cache(1000)
def _named(name: str) -> re.Pattern[bytes]:
    return re.compile(_FIELD % re.escape(name.encode("ascii")), re.IGNORECASE)


def _decoded(body: bytes) -> str:
    if b"=?" not in body:
        return body.decode("utf-8", "replace")
    try:
        pieces = decode_header(body.decode("utf-8", "replace"))
    except (HeaderParseError, ValueError):
        return body.decode("utf-8", "replace")
    return "".join(
        piece if isinstance(piece, str) else _in(piece, charset or "us-ascii")
        for piece, charset in pieces
    )


def _in(octets: bytes, charset: str) -> str:
    try:
        return octets.decode(charset, "replace")
    except (LookupError, ValueError):  # no such charset, or no name of one
        return octets.decode("latin-1")
