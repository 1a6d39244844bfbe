"""The fields of a header section that say what a part is and how it is encoded (RFC 2045)."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_FIELD = 4096  # octets of Content-Type that are looked at

TYPE = b"content-type"
ENCODING = b"content-transfer-encoding"
VERSION = b"mime-version"

_KIND = re.compile(rb"\s*([^\s;/]+)\s*/\s*([^\s;]+)")
_PARAMETER = re.compile(
    rb'\s*([^\s=;"]*)\s*(?:=\s*("(?:[^"\\]|\\.|\\\Z)*(?:"|\Z)|[^;]*))?', re.DOTALL
)
_QUOTED_PAIR = re.compile(rb"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ContentType:
    """A Content-Type field, folded to lower case but for its boundary."""

    main: bytes
    sub: bytes
    boundary: bytes = b""

    @classmethod
    def parse(cls, value: bytes) -> ContentType:
        """What cannot be read is plain text, RFC 2045 section 5.2."""
        value = value[:MAX_FIELD]
        kind = _KIND.match(value)
        if kind is None:
            return PLAIN
        boundary = _parameter(value, b"boundary")
        return cls(kind[1].lower(), kind[2].lower(), boundary.rstrip())


PLAIN = ContentType(b"text", b"plain")
EMBEDDED = ContentType(b"message", b"rfc822")


def _parameter(value: bytes, wanted: bytes) -> bytes:
    """The first of this name, without its quotes; each octet is looked at once."""
    at = value.find(b";")
    while at >= 0:
        found = _PARAMETER.match(value, at + 1)
        assert found is not None  # it may be empty
        name, text = found[1].lower(), (found[2] or b"").strip()
        if name == wanted:
            if text.startswith(b'"'):
                return _QUOTED_PAIR.sub(rb"\1", text[1:].removesuffix(b'"'))
            return text
        at = value.find(b";", found.end())
    return b""
