"""Lines of octets in quoted-printable, RFC 2045 section 6.7."""

from __future__ import annotations

import re

_LINE = 76  # characters, rule 5
# of one line: what is encoded. Nor does a line look like a boundary that it was not before.
_UNSAFE = re.compile(rb"[^\t !-<>-~]|[\t ]\Z|\A-(?=-)")


def quoted_printable(data: bytes) -> bytes:
    """CRLF and bare LF end lines, a bare CR is a character."""
    return b"\r\n".join(map(encoded_line, data.replace(b"\r\n", b"\n").split(b"\n")))


def encoded_line(line: bytes) -> bytes:
    """One line without its end, which may become several."""
    if len(line) > _LINE or _UNSAFE.search(line) is not None:
        return _folded(_UNSAFE.sub(lambda match: b"=%02X" % match.group()[0], line))
    return line


def _folded(text: bytes) -> bytes:
    """A line that is encoded, with soft line breaks where it is too long."""
    pieces = []
    start, last = 0, False
    while not last:
        dashed = start > 0 and text.startswith(b"--", start)
        end = start + (_LINE - 2 if dashed else _LINE)
        last = end >= len(text)
        if not last:
            end -= 1
            mark = text.rfind(b"=", end - 2, end)  # an encoded octet is not torn apart
            end = mark if mark >= 0 else end
        piece = b"=2D" + text[start + 1 : end] if dashed else text[start:end]
        pieces.append(piece if last else piece + b"=")
        start = end
    return b"\r\n".join(pieces)
