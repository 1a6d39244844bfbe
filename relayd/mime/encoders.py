"""Octets into 7 bits while they go by: what is held back is a line, and never much of it."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from typing import Protocol

from relayd.mail.quotedprintable import encoded_line

_BASE64_LINE = 57  # octets that make 76 characters
_LONG = 4096  # octets of a line that is cut
HIGH = bytes(range(128, 256))
_TO_QUESTION_MARK = bytes(range(128)) + b"?" * 128
_HIGH = re.compile(rb"[\x80-\xff]")


class Encoder(Protocol):
    """One range of content, piece by piece."""

    def feed(self, data: bytes) -> bytes:
        """What can be said of it by now."""

    def finish(self, *, ends_content: bool) -> bytes:
        """The rest; `ends_content`: nothing follows, and a CRLF that is added shall not count."""


class QuotedPrintable:
    """CRLF ends a line; every other octet that is not safe is encoded, CR and LF too."""

    def __init__(self) -> None:
        self._line = b""

    def feed(self, data: bytes) -> bytes:
        """See Encoder."""
        *lines, rest = (self._line + data).split(b"\r\n")
        made: list[bytes] = []
        for line in lines:
            made += encoded_line(_cut(line, made)), b"\r\n"
        self._line = _cut(rest, made)
        return b"".join(made)

    def finish(self, *, ends_content: bool) -> bytes:
        """See Encoder."""
        line, self._line = self._line, b""
        return encoded_line(line) + (b"=" if ends_content and line else b"")


def _cut(line: bytes, made: list[bytes]) -> bytes:
    """What is left of a line once all that it has too much is encoded, in lines that go on."""
    while len(line) > _LONG:
        made += encoded_line(line[:_LONG]), b"=\r\n"
        line = line[_LONG:]
    return line


class Base64:
    """Lines of 76 characters, without an end behind the last one."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False

    def feed(self, data: bytes) -> bytes:
        """See Encoder."""
        data = self._rest + data
        whole = len(data) - len(data) % _BASE64_LINE
        self._rest = data[whole:]
        return self._lines(data[:whole])

    def finish(self, *, ends_content: bool) -> bytes:
        """See Encoder."""
        return self._lines(self._rest)

    def _lines(self, data: bytes) -> bytes:
        if not data:
            return b""
        text = b64encode(data)
        lines = b"\r\n".join([text[at : at + 76] for at in range(0, len(text), 76)])
        begun, self._begun = self._begun, True
        return b"\r\n" + lines if begun else lines


class Replaced:
    """Octets above 127, each for itself."""

    def __init__(self, replace: Callable[[bytes], bytes]) -> None:
        self._replace = replace

    def feed(self, data: bytes) -> bytes:
        """See Encoder."""
        return self._replace(data)

    def finish(self, *, ends_content: bool) -> bytes:
        """See Encoder."""
        return b""


def escaped() -> Encoder:
    """For what says that it is in quoted-printable."""
    return Replaced(lambda data: _HIGH.sub(lambda match: b"=%02X" % match.group()[0], data))


def left_out() -> Encoder:
    """For what says that it is in base64, whose readers ignore them (RFC 2045 section 6.8)."""
    return Replaced(lambda data: data.translate(None, HIGH))


def masked() -> Encoder:
    """For what is no part, and shown to nobody."""
    return Replaced(lambda data: data.translate(_TO_QUESTION_MARK))
