"""The header section of a message on its way in: where it ends, what its trace fields say."""

from __future__ import annotations

import re

from relayd.intake.trace import NO_HOPS, TraceField

_WINDOW = 65536  # octets kept unread of a section that no rule will rewrite
_FIELD = re.compile(rb"([!-9;-~]*)[ \t]*")  # field-name of RFC 5322 section 3.6.8; section 4.5
_LINE = 1000  # octets; with more of them and no colon it is no field's first line
# how a mailbox file, and who quotes such a line, separates messages
_SEPARATOR = re.compile(rb">*From ")


def front(beginning: bytes) -> bytes | None:
    """What must stand between our trace field and content that begins so; None: not known yet.

    Nothing, for all that has a header section. Else the empty line that ends ours: a blank would
    make the sender's text part of our trace field, and other parsers take a line that is no field
    for the body's first one. The separator line of a mailbox file, which is only one in front of
    all else, becomes a field, and the fields behind it stay fields.
    """
    match = _FIELD.match(beginning)
    assert match is not None  # it takes any octets, and none
    end = match.end()
    if end == len(beginning) < _LINE and (match.group(1) or not end):
        return None
    follows = beginning[end : end + 1]
    if follows == b":" and match.group(1):
        return b""
    if follows == b"\r" and not end:
        return b""  # the empty line itself
    return b"X-Mailbox-Line: " if _SEPARATOR.match(beginning) else b"\r\n"


class HeaderSection:
    """Watches content go by until the empty line that ends the header section.

    A section that no rule rewrites is counted and let go, window by window; one that will be
    rewritten is kept whole, up to the limit.
    """

    __slots__ = (
        "_buffer",
        "_keep",
        "_limit",
        "_trace",
        "complete",
        "eight_bit",
        "hops",
        "octets",
        "size",
    )

    def __init__(self, trace: TraceField, limit: int, *, keep: bool) -> None:
        self._trace = trace
        self._limit = limit  # octets
        self._keep = keep
        self._buffer = bytearray()
        self.octets = b""  # the section, empty line included, if it was to be kept
        self.complete = False  # the empty line went by, or the limit
        self.eight_bit = False
        self.hops = NO_HOPS
        self.size = 0  # octets, the empty line included

    @property
    def oversize(self) -> bool:
        """The section is longer than the limit; the rest of it was not looked at."""
        return self.size > self._limit

    @property
    def held(self) -> int:
        """Octets in memory by now."""
        return len(self._buffer) + len(self.octets)

    def receive(self, chunk: bytes) -> None:
        """Content as it comes, in any pieces; to be called until `complete`."""
        if self.size == 0:
            # nearly always the first piece holds the whole section: nothing is copied
            # (and content that begins with the empty line has an empty section)
            end = -2 if chunk.startswith(b"\r\n") else chunk.find(b"\r\n\r\n")
            if end != -1:
                self._close(chunk[: end + 4], end + 4)
                return
        buffer = self._buffer
        before = len(buffer)
        buffer += chunk
        gone = self.size - before  # octets counted and let go
        self.size += len(chunk)
        if gone == 0 and buffer.startswith(b"\r\n"):
            self._close(b"\r\n", 2)
            return
        end = buffer.find(b"\r\n\r\n", max(before - 3, 0))
        if end >= 0:
            self._close(bytes(buffer[: end + 4]), gone + end + 4)
        elif self.oversize:
            self._close(b"", self.size)
        elif len(buffer) > _WINDOW and not self._keep:
            self._let_go(before)

    def end(self) -> None:
        """The content is over: without an empty line all of it is header section."""
        if not self.complete:
            self._close(bytes(self._buffer), self.size)

    def forget(self) -> None:
        """Nobody wants to know any more."""
        self._buffer.clear()
        self.octets = b""

    def _close(self, rest: bytes, size: int) -> None:
        self.size = size
        self.complete = True
        self._buffer.clear()
        if size <= self._limit:
            self._count(rest)
            if self._keep:
                self.octets = rest

    def _let_go(self, before: int) -> None:
        # the CRLF before the next line stays: it may be half of the empty line, and a field's
        # name is known by it
        cut = self._buffer.rfind(b"\r\n", max(before - 1, 0), -2)
        if cut > 0:
            self._count(bytes(self._buffer[:cut]))
            del self._buffer[:cut]

    def _count(self, lines: bytes) -> None:
        if not lines.isascii():
            self.eight_bit = True
        hops = self._trace.hops(lines)
        self.hops = hops if self.hops is NO_HOPS else self.hops + hops
