"""Replies on the wire: written by the server, read by the client."""

from __future__ import annotations

import functools

from relayd.mail.reply import Reply, printable

MAX_TEXT = 480  # octets; a reply line has 512 (RFC 5321 section 4.5.3.1.5)
MAX_LINE = 2048  # octets of a next hop's reply line; more than the book's 512, as met in the wild
MAX_LINES = 128  # of one reply


_MARKS = (b" ", b"-", b"")

# what the server's core says by itself
OK = Reply.of(250, "2.0.0", "Ok")
HELP = Reply.of(214, "2.0.0", "See RFC 5321")
LINE_TOO_LONG = Reply.of(500, "5.5.2", "Line too long")
LINE_BROKEN = Reply.of(500, "5.5.2", "Bare CR, bare LF or NUL in command")
UNKNOWN = Reply.of(500, "5.5.1", "Command not recognized")
NOT_IMPLEMENTED = Reply.of(502, "5.5.1", "Command not implemented")
NO_ARGUMENT = Reply.of(501, "5.5.4", "Command takes no argument")
NEEDS_ARGUMENT = Reply.of(501, "5.5.4", "Command needs an argument")
OUT_OF_ORDER = Reply.of(503, "5.5.1", "Bad sequence of commands")
HELLO_FIRST = Reply.of(503, "5.5.1", "Say HELO or EHLO first")
NESTED_MAIL = Reply.of(503, "5.5.1", "A transaction is open already")
MAIL_FIRST = Reply.of(503, "5.5.1", "Say MAIL first")
MIXED = Reply.of(503, "5.5.1", "DATA after BDAT in one transaction")  # RFC 3030 section 2
LOGGED_IN = Reply.of(503, "5.5.1", "You are authenticated already")
ENCRYPT_FIRST = Reply.of(538, "5.7.11", "Encryption required for authentication")  # RFC 4954 6
NO_MECHANISM = Reply.of(504, "5.5.4", "Authentication mechanism not offered")
NOT_A_PROXY = Reply.of(550, "5.7.1", "XCLIENT is not for you")
TLS_BEFORE_XCLIENT = Reply.of(503, "5.5.1", "Too late: start TLS before XCLIENT")
NO_RECIPIENTS = Reply.of(554, "5.5.1", "No valid recipients")
TOO_MANY_RECIPIENTS = Reply.of(452, "4.5.3", "Too many recipients")  # RFC 5321 section 4.5.3.1.10
TOO_BIG = Reply.of(552, "5.3.4", "Message size exceeds the limit")  # RFC 1870 section 6
BARE = Reply.of(554, "5.6.0", "Content has a bare CR, a bare LF or a NUL")


class ReplyError(Exception):
    """What a server sent is no reply; `str(error)` says why."""


@functools.lru_cache(maxsize=256)  # nearly all are said again and again
def encode(reply: Reply, smtputf8: bool = False) -> bytes:
    """The reply as sent, whatever its text holds: no line ends, no over-long line in it.

    Text beyond ASCII goes out only in a SMTPUTF8 transaction (RFC 6531 section 3.7.4).
    """
    if len(reply.lines) == 1:
        text = reply.lines[0]
        if len(text) <= MAX_TEXT and text.isascii() and text.isprintable():
            code, subject, detail = reply.code, reply.subject, reply.detail
            status = f"{code // 100}.{subject}.{max(detail, 0)} " if subject >= 0 else ""
            return f"{code} {status}{text}\r\n".encode()
    wire = reply.wire()
    if (
        wire.count(b"\n") == wire.count(b"\r\n") == wire.count(b"\r") == (len(reply.lines) or 1)
        and len(wire) <= MAX_TEXT
        and (smtputf8 or wire.isascii())
    ):
        return wire
    lines: list[str] = []
    for line in reply.lines:
        text = printable(line, MAX_TEXT * MAX_LINES)
        if not smtputf8:
            text = text.encode("ascii", "replace").decode()
        lines += _fold(text)
    return Reply(reply.code, reply.subject, reply.detail, tuple(lines)).wire()


def _fold(text: str) -> list[str]:
    """Cut a text into pieces that fit a line, whole characters each."""
    size = MAX_TEXT // (1 if text.isascii() else 4)
    return [text[at : at + size] for at in range(0, len(text), size)] or [""]


class ReplyReader:
    """Cuts a server's octets into replies (RFC 5321 section 4.2), bounded in every direction."""

    __slots__ = ("_at", "_data", "_lines", "pending")

    def __init__(self) -> None:
        self.pending = False  # something was received that no `next` has returned yet
        self._data = b""
        self._at = 0
        self._lines: list[bytes] = []  # of a reply that is not yet complete

    def append(self, data: bytes) -> None:
        """More input."""
        held = self._data
        self._data = data if self._at == len(held) else held[self._at :] + data
        self._at = 0
        self.pending = self.pending or bool(data)

    def clear(self) -> None:
        """Forget everything held."""
        self._data, self._at, self._lines, self.pending = b"", 0, [], False

    def next(self) -> Reply | None:
        """The next whole reply; None: more is needed. Raises ReplyError.

        A bare LF ends a line here: a reply cannot be mistaken for anything else, and some
        servers are sloppy.
        """
        data = self._data
        while True:
            at = self._at
            end = data.find(b"\n", at) + 1
            if (end or len(data)) - at > MAX_LINE:
                raise ReplyError("reply line too long")
            if not end:
                return None
            self._at = end
            line = data[at:end]
            if line[3:4] != b"-" and not self._lines:
                self.pending = end < len(data)
                return _single(line)
            line = _bare(line)
            if self._continue(line):
                self.pending = end < len(data)
                lines, self._lines = self._lines, []
                return Reply.received(_code(line), tuple(_text(line) for line in lines))

    def _continue(self, line: bytes) -> bool:
        """Take in a line of a longer reply; returns whether it is the last one."""
        if not self._lines:
            _code(line)
        elif line[:3] != self._lines[0][:3]:
            raise ReplyError(f"reply codes differ within one reply: {_shown(line)}")
        elif len(self._lines) >= MAX_LINES:
            raise ReplyError("reply with too many lines")
        self._lines.append(line)
        return line[3:4] != b"-"


@functools.lru_cache(maxsize=256)  # MAIL and RCPT are answered in the same words all day
def _single(line: bytes) -> Reply:
    line = _bare(line)
    return Reply.received(_code(line), (_text(line),))


def _bare(line: bytes) -> bytes:
    """Without its end."""
    return line[:-2] if line.endswith(b"\r\n") else line[:-1]


def _code(line: bytes) -> int:
    # Reply-code = %x32-35 %x30-35 %x30-39; the second digit is not taken so strictly
    if not (
        len(line) >= 3 and line[:3].isdigit() and 0x32 <= line[0] <= 0x35 and line[3:4] in _MARKS
    ):
        raise ReplyError(f"no reply: {_shown(line)}")
    return int(line[:3])


def _text(line: bytes) -> str:
    return line[4:].decode("utf-8", "replace")


def _shown(line: bytes) -> str:
    return repr(printable(line.decode("utf-8", "replace"), 60))
