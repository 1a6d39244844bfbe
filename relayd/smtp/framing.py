"""Where lines and content begin and end on the wire, in both directions."""

from __future__ import annotations

from relayd.mail.content import BARE

CRLF = b"\r\n"
_END = b"\r\n.\r\n"
_CR, _LF, _DOT = b"\r\n."
_NUL = 0  # as a number: to ask for an octet that is given as bytes costs an exception
_BEGINNING = 80  # octets that are kept of a line too long: the longest field name has 77


def _dotted(data: bytes) -> int:
    """Where the first CRLF before a dot is; -1: nowhere.

    Base64, which is what nearly all large mail is made of, has no dot at all.
    """
    dot = data.find(b".")
    return dot if dot < 0 else data.find(b"\r\n.", max(dot - 2, 0))


class LineTooLong(ValueError):  # noqa: N818  a condition, not a mistake
    """A command line beyond its limit; `beginning` is what is known of it."""

    def __init__(self, beginning: bytes) -> None:
        super().__init__("line too long")
        self.beginning = beginning


class TornLine(ValueError):  # noqa: N818  a condition, not a mistake
    """A line that a bare LF ends; `complete`: what follows a bare LF, up to its CRLF."""

    def __init__(self, line: bytes, *, complete: bool) -> None:
        super().__init__("bare LF")
        self.line = line
        self.complete = complete


class Lines:
    """Cuts input into command lines, and holds what is not yet used.

    Only CRLF ends a line. Two peers that disagree about a bare LF are how mail is smuggled: it
    tears the line, which is reported at once, and so is each piece up to the CRLF.
    """

    __slots__ = ("_beginning", "_skipping", "_torn", "at", "data")

    def __init__(self) -> None:
        self.data = b""
        self.at = 0  # everything before is used up
        self._beginning = b""  # of the line that was too long
        self._skipping = False  # inside a line that was too long
        self._torn = False  # behind a bare LF

    def __len__(self) -> int:
        return len(self.data) - self.at

    def append(self, data: bytes) -> None:
        """More input."""
        held = self.data
        self.data = data if self.at == len(held) else held[self.at :] + data
        self.at = 0

    def clear(self) -> None:
        """Forget everything held."""
        self.data, self.at, self._skipping, self._torn = b"", 0, False, False

    def line(self, limit: int) -> bytes | None:
        """The next line without its CRLF; None: more is needed. LineTooLong: beyond `limit`.

        A line too long is used up whole before it is reported, and never held whole. TornLine: an
        LF was bare.
        """
        data, at = self.data, self.at
        end = data.find(b"\n", at)
        if end >= 0:
            self.at = end + 1
            complete = end > at and data[end - 1] == _CR
            if complete and not self._torn and not self._skipping and end - at < limit:
                return data[at : end - 1]
            raise self._spoiled(data[at:end], limit, complete=complete)
        if len(data) - at > limit and not self._skipping:
            self._skipping = True
            self._beginning = data[at : at + _BEGINNING]
        if self._skipping:
            self.data = data[-1:] if data.endswith(b"\r") else b""
            self.at = 0
        return None

    def _spoiled(self, line: bytes, limit: int, *, complete: bool) -> LineTooLong | TornLine:
        """What is wrong with a line that has come to its LF; its CR is still there."""
        rest, self._torn = self._torn, not complete
        beginning = self._beginning if self._skipping else line[:_BEGINNING]
        too_long = self._skipping or len(line) >= limit
        self._skipping = False
        if rest and complete:
            return TornLine(beginning, complete=True)
        return LineTooLong(beginning) if too_long else TornLine(line, complete=False)

    def take(self, limit: int = -1) -> bytes:
        """What is held, at most `limit` octets of it."""
        data, at = self.data, self.at
        if limit < 0 or len(data) - at <= limit:
            self.data, self.at = b"", 0
            return data[at:] if at else data
        self.at = at + limit
        return data[at : self.at]

    def give_back(self, data: bytes, left: int) -> None:
        """Undo a `take` of everything in part: the last `left` octets of `data` are unused."""
        self.data, self.at = data, len(data) - left


class Purity:
    """Watches a stream of octets for bare CR, bare LF and NUL (RFC 5321 section 2.3.8)."""

    __slots__ = ("unfinished",)

    def __init__(self) -> None:
        self.unfinished = False  # the stream so far ends in a CR that lacks its LF

    def offence(self, data: bytes) -> int | None:
        """Offset of the first offence in `data`; -1: the CR before it was bare; None: clean."""
        # clean is what does not change when every CR is taken out and one put before every LF;
        # of all ways to see that, this one is fifteen times as fast as the next
        mended = data.replace(b"\r", b"").replace(b"\n", b"\r\n")
        if mended == data and _NUL not in data and not self.unfinished:
            return None
        if not data:
            return None
        start = 0
        if self.unfinished:
            if data[0] != _LF:
                return -1
            start = 1
        self.unfinished = data[-1] == _CR and len(data) > start
        match = BARE.search(data[start : len(data) - self.unfinished])
        return None if match is None else match.start() + start


class Normaliser:
    """Makes a stream clean instead of refusing it: every line end CRLF, no NUL."""

    __slots__ = ("_cr",)

    def __init__(self) -> None:
        self._cr = b""  # a CR held back, for its LF may follow

    def feed(self, data: bytes) -> bytes:
        """The cleaned octets."""
        data = self._cr + data
        self._cr = data[-1:] if data.endswith(b"\r") else b""
        if self._cr:
            data = data[:-1]
        clean = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\0", b"")
        return clean.replace(b"\n", b"\r\n")

    def finish(self) -> bytes:
        """What the end of the stream releases."""
        held, self._cr = self._cr, b""
        return CRLF if held else b""


class DataScanner:
    """Finds the end of DATA, and undoes dot-stuffing (RFC 5321 section 4.5.2).

    Only CRLF.CRLF ends it. It is searched for in whole chunks; what could be its beginning stays
    behind for the next chunk, and with it every CRLF whose dot may still come.
    """

    __slots__ = ("_skip", "_tail")

    def __init__(self) -> None:
        self._tail = CRLF  # the line end of the DATA command: a dot may follow at once
        self._skip = len(CRLF)  # ... which is no content

    def feed(self, data: bytes) -> tuple[bytes, int | None]:
        """The content in `data`, and how many octets after its end are left (None: no end)."""
        if self._tail:
            data = self._tail + data
        dotted = _dotted(data)
        end = dotted if dotted < 0 else data.find(_END, dotted)
        if end >= 0:
            left: int | None = len(data) - end - len(_END)
            content = data[: end + len(CRLF)]
        else:
            left = None
            keep = _partial_end(data)
            content, self._tail = (data[:-keep], data[-keep:]) if keep else (data, b"")
        if dotted >= 0:
            content = content.replace(b"\r\n.", CRLF)
        if self._skip and content:
            content = content[self._skip :]
            self._skip = 0
        return content, left


def _partial_end(data: bytes) -> int:
    """How many octets at the end of `data` may be the beginning of CRLF.CRLF."""
    if not data or data[-1] not in _END:
        return 0
    for length in (4, 3, 2, 1):
        if data.endswith(_END[:length]):
            return length
    return 0


class DotStuffer:
    """The inverse of DataScanner: content to what DATA carries, right wherever chunks are cut."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = CRLF  # the last two octets of the stream

    def feed(self, data: bytes) -> bytes:
        """The stuffed octets."""
        if not data:
            return data
        last = self._last
        self._last = data[-2:] if len(data) > 1 else last[-1:] + data
        stuffed = data.replace(b"\r\n.", b"\r\n..") if _DOT in data else data
        if data[0] == _DOT:
            return b"." + stuffed if last == CRLF else stuffed
        if data[0] == _LF and last[-1] == _CR and data[1:2] == b".":
            return b"\n.." + stuffed[2:]
        return stuffed

    def finish(self) -> bytes:
        """The end of data; a CRLF is put before it where the content ends without one."""
        return b".\r\n" if self._last == CRLF else _END
