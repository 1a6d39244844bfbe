"""What the fields of a header section say, as text: unfolded, encoded words decoded (RFC 2047)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from relayd.mail.naming import shown

_MOST_OCTETS = 8000  # of one field that are decoded
_COLON = re.compile(rb"[ \t\v\f]*:")
_END = re.compile(rb"\r\n(?![ \t])")
_FOLD = re.compile(rb"\r\n(?=[ \t])")


def field_texts(section: bytes, name: str) -> Iterator[str]:
    """The texts of all fields of this name, from the top."""
    for body in field_bodies(section, name):
        text = _FOLD.sub(b"", body[:_MOST_OCTETS]).strip().decode("utf-8", "replace")
        yield shown(text)


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
