"""Message content: header section and body, kept byte for byte and read in chunks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Protocol

CHUNK = 65536  # octets; about what one send takes
MAX_LINE = 998  # octets without CRLF, RFC 5322 section 2.1.1
BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")  # what no content may hold, RFC 5321 section 2.3.8


class Content(Protocol):
    """Octets of a message, trace fields included; may be in memory or in a file."""

    @property
    def size(self) -> int:
        """Length in octets."""

    @property
    def pure(self) -> bool:
        """Proven free of bare CR, bare LF and NUL since it came; False: nobody has looked."""

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """The octets from `start` on, in pieces of CHUNK or as they came; raises OSError."""

    def tail(self, count: int) -> bytes:
        """The last `count` octets, or all if there are fewer; raises OSError."""


def from_octet(start: int, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The octets of these pieces from `start` on."""
    for piece in pieces:
        if start < len(piece):
            yield piece[start:] if start else piece
        start = max(start - len(piece), 0)


class BytesContent:
    """Content held in memory."""

    __slots__ = ("data", "pure", "size")

    def __init__(self, data: bytes, *, pure: bool = False) -> None:
        self.data = data
        self.pure = pure
        self.size = len(data)

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """The octets from `start` on, in pieces of at most CHUNK."""
        data = self.data
        if start == 0 and len(data) <= CHUNK:
            return iter((data,))
        return (data[offset : offset + CHUNK] for offset in range(start, len(data), CHUNK))

    def tail(self, count: int) -> bytes:
        """The last `count` octets, or all if there are fewer."""
        return self.data[-count:]


class SplicedContent:
    """Content whose first `header_size` octets are replaced by another header section."""

    __slots__ = ("_content", "_header", "_header_size")
    pure = False

    def __init__(self, header: bytes, content: Content, header_size: int) -> None:
        self._header = header
        self._content = content
        self._header_size = header_size

    @property
    def size(self) -> int:
        """Length in octets."""
        return len(self._header) + self._content.size - self._header_size

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """The octets from `start` on, in pieces of at most CHUNK."""
        header = len(self._header)
        if start < header:
            yield from BytesContent(self._header).chunks(start)
            start = header
        yield from self._content.chunks(self._header_size + start - header)

    def tail(self, count: int) -> bytes:
        """The last `count` octets, or all if there are fewer."""
        body = min(count, self._content.size - self._header_size)
        tail = self._content.tail(body) if body else b""
        return (self._header + tail)[-count:] if body < count else tail
