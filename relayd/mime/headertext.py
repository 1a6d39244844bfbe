"""What the fields of a header section say, as text: unfolded, encoded words decoded (RFC 2047)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.errors import HeaderParseError
from email.header import decode_header

_MOST_OCTETS = 8000  # of one field that are decoded
_COLON = re.compile(rb"[ \t\v\f]*:")
_END = re.compile(rb"\r\n(?![ \t])")
_FOLD = re.compile(rb"\r\n(?=[ \t])")


def field_texts(section: bytes, name: str) -> Iterator[str]:
    """The texts of all fields of this name, from the top."""
    for body in field_bodies(section, name):
        yield _decoded(_FOLD.sub(b"", body[:_MOST_OCTETS]).strip())


def field_bodies(section: bytes, name: str) -> Iterator[bytes]:
    """What stands behind the colon of all fields of this name, from the top."""
    lines = b"\r\n" + section
    wanted = b"\r\n" + name.encode("ascii").lower()
    low, at = lines.lower(), 0
    while (at := low.find(wanted, at)) >= 0:
        at += len(wanted)
        colon = _COLON.match(lines, at)
        if colon is not None:
            end = _END.search(lines, colon.end())
            at = len(lines) if end is None else end.start()
            yield lines[colon.end() : at]


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
