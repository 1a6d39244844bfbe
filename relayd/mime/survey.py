"""Looks through a content for parts that are not in 7 bits, and says what makes them so.

RFC 6152 section 3: who has 8-bit content for a hop without 8BITMIME may put it in 7 bits. Only
leaf parts are encoded; a multipart or an embedded message never is, but its parts are.

    feed --- a header section ---> a leaf | a multipart's preamble | an embedded message's header
             (a line at a time)        (up to the next line that is an open boundary)

The parts are those that readers see: a boundary is a line of its own, outer ones end inner ones,
and what stands before the first and behind the last is no part. What could not be read back as
it was is not converted: see Unconvertible.
"""

from __future__ import annotations

import codecs
import enum
import re
from collections.abc import Callable
from dataclasses import field

from relayd.mail.value import dataclass
from relayd.mime.encoders import (
    HIGH,
    Base64,
    Encoder,
    QuotedPrintable,
    escaped,
    left_out,
    masked,
)
from relayd.mime.fields import EMBEDDED, ENCODING, PLAIN, TYPE, VERSION, ContentType

MAX_SECTION = 1 << 20  # octets of one header section
MAX_DEPTH = 100  # parts within parts
MAX_EDITS = 10_000
_MAX_BOUNDARY_LINE = 1000  # octets

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_MBOX = re.compile(rb">?From ")
_DOMAIN = re.compile(rb"[;\s]d\s*=\s*([A-Za-z0-9._-]{1,255})")
_EMBEDDED = (b"rfc822", b"global", b"news")
_UNENCODED = (b"", b"7bit", b"8bit", b"binary")
_UUENCODED = (b"x-uuencode", b"uuencode", b"uue", b"x-uue")
_SIGNATURES = {b"dkim-signature": "DKIM", b"arc-message-signature": "ARC"}


class Unconvertible(Exception):  # noqa: N818  # it is no error: many contents are
    """There is no way to put this content in 7 bits; says why."""


@dataclass(frozen=True, slots=True)
class Edit:
    """What becomes of some octets of a content: `text`, or what an encoder makes of them."""

    start: int  # octets from the beginning of the content
    end: int
    text: bytes = b""
    encoder: Callable[[], Encoder] | None = None


class _Place(enum.Enum):
    """Where the next octet stands."""

    HEADER = "header section"
    LEAF = "body of a part without parts"
    AROUND = "before, between or behind the parts"


@dataclass(slots=True)
class _Section:
    """A header section while it is read, and what it says of its part."""

    message: bool  # of a message; else of a part of a multipart
    plain: ContentType = PLAIN  # where nothing is said
    start: int = 0
    end: int = 0  # behind the last field
    separated: bool = False  # an empty line follows
    fields: int = 0
    types: list[bytes] = field(default_factory=list)
    encodings: list[tuple[int, int, bytes]] = field(default_factory=list)
    versioned: bool = False
    signatures: list[str] = field(default_factory=list)

    @property
    def kind(self) -> ContentType:
        """What the part is."""
        return ContentType.parse(self.types[0]) if self.types else self.plain

    @property
    def encoding(self) -> bytes:
        """How it says it is encoded."""
        if not self.encodings:
            return b""
        return self.encodings[0][2].partition(b";")[0].strip().lower()

    @property
    def untyped(self) -> bool:
        """Nothing says that there is MIME at all (RFC 2045 section 4)."""
        return self.message and not self.types and not self.versioned


@dataclass(slots=True)
class _Open:
    """A multipart or an embedded message that has not ended."""

    section: _Section
    boundary: bytes = b""
    digest: bool = False
    signed: bool = False
    divided: bool = False  # a part of it has begun
    converted: bool = False  # something in it


@dataclass(slots=True)
class _Range:
    """The octets of one leaf, or around the parts."""

    start: int
    section: _Section | None = None  # of the leaf
    around: _Open | None = None  # whose parts it stands around
    high: int = 0  # octets above 127
    utf8: codecs.IncrementalDecoder | None = None  # whoever has not said his charset
    is_utf8: bool = True


class EightBitSurvey:
    """Takes a content from its beginning; raises Unconvertible. `edits` are complete at the end."""

    def __init__(self) -> None:
        self.edits: list[Edit] = []
        self.signatures: list[str] = []  # those that do not hold any more
        self.growth = 0  # octets, not more than there will be
        self._buffer = b""
        self._base = 0  # where the buffer begins in the content
        self._at = 0  # how far of the buffer has been read
        self._place = _Place.HEADER
        self._section = _Section(message=True)
        self._top = self._section
        self._line = (b"", 0)  # the name of the field that may go on, and where it began
        self._value: list[bytes] = []
        self._range = _Range(0)
        self._open: list[_Open] = []
        self._boundaries: dict[bytes, int] = {}  # to the number among the open ones
        self._ended = False

    def feed(self, data: bytes) -> None:
        """The next octets; best in large pieces."""
        cut = max(self._at - 2, 0)  # the end of the line before may belong to a boundary
        self._base += cut
        self._buffer = self._buffer[cut:] + data
        self._at -= cut
        while self._step():
            pass

    def end(self) -> None:
        """That was all of it."""
        self._ended = True
        while self._step():
            pass
        if self._place is _Place.HEADER:
            self._end_section(self._base + self._at, separated=False)
            if self._place is _Place.HEADER:
                return
        self._end_range(self._base + len(self._buffer))
        self.edits.sort(key=lambda edit: (edit.start, edit.end))
        if self.edits:
            self.signatures[:0] = self._top.signatures

    def _step(self) -> bool:
        """Whether it got anywhere."""
        if self._place is _Place.HEADER:
            return self._read_line()
        if not self._boundaries:
            self._see(self._at, len(self._buffer))
            self._at = len(self._buffer)
            return False
        return self._seek_boundary()

    # header sections

    def _read_line(self) -> bool:
        buffer, at = self._buffer, self._at
        start = self._base + at
        if start - self._section.start > MAX_SECTION or len(buffer) - at > MAX_SECTION:
            raise Unconvertible("a header section is too long")
        eol = buffer.find(b"\r\n", at)
        if eol < 0:
            if not self._ended or at == len(buffer):
                return False
            eol = len(buffer)
        line = buffer[at:eol]
        if line.startswith(b"--") and self._boundary(line[2:]) is not None:
            self._end_section(start, separated=False)
            if self._place is _Place.HEADER:  # of an embedded message, which has none
                return True
            self._at = at - 2  # the end of the line before belongs to the boundary
            return self._seek_boundary()
        after = min(eol + 2, len(buffer))
        if not line:
            self._at = after
            self._end_section(start, separated=True)
            return True
        if not self._take_line(line, start):
            self._end_section(start, separated=False)
            return True
        self._at = after
        return True

    def _take_line(self, line: bytes, start: int) -> bool:
        """Whether it belongs to a header section."""
        section = self._section
        if line[:1] in (b" ", b"\t"):
            if not section.fields:
                return False
            self._value.append(line)
        else:
            match = _FIELD.match(line)
            if match is None and (section.fields or not _MBOX.match(line)):
                return False
            self._end_field(start)
            section.fields += 1
            self._line = (b"" if match is None else match[1].lower(), start)
            self._value = [b"" if match is None else line[match.end() :]]
        if not line.isascii():
            raise Unconvertible("8-bit header fields are not converted")
        return True

    def _end_field(self, end: int) -> None:
        (name, start), value = self._line, self._value
        section = self._section
        if name == TYPE:
            section.types.append(b"".join(value))
        elif name == ENCODING:
            section.encodings.append((start, end, b"".join(value)))
        elif name == VERSION:
            section.versioned = True
        elif name in _SIGNATURES and section is self._top:
            domain = _DOMAIN.search(b";" + b"".join(value)[:1000])
            said = f" of {domain[1].decode()}" if domain is not None else ""
            section.signatures.append(_SIGNATURES[name] + said)
        self._line, self._value = (b"", 0), []

    def _end_section(self, end: int, *, separated: bool) -> None:
        """It ends there; what follows depends on what it says."""
        self._end_field(end)
        section = self._section
        section.end, section.separated = end, separated
        kind = section.kind
        body = end + 2 if separated else end
        if len(self._open) >= MAX_DEPTH:
            raise Unconvertible("parts within parts, too deep")
        if kind.main == b"multipart":
            signed = kind.sub == b"signed"
            multipart = _Open(section, kind.boundary, kind.sub == b"digest", signed)
            self._open.append(multipart)
            if kind.boundary:
                # an outer one of the same name is seen first
                self._boundaries.setdefault(kind.boundary, len(self._open) - 1)
            self._enter(_Place.AROUND, _Range(body, around=multipart))
        elif kind.main == b"message" and kind.sub in _EMBEDDED and section.encoding in _UNENCODED:
            self._open.append(_Open(section))
            self._begin_section(body, message=True)
        else:
            decoder = codecs.getincrementaldecoder("utf-8")() if section.untyped else None
            self._enter(_Place.LEAF, _Range(body, section, utf8=decoder))

    def _begin_section(self, start: int, *, message: bool, plain: ContentType = PLAIN) -> None:
        self._place = _Place.HEADER
        self._section = _Section(message, plain, start, start)

    # bodies

    def _enter(self, place: _Place, entered: _Range) -> None:
        self._place, self._range = place, entered
        # the end of the line before may belong to a boundary that follows at once
        self._at = max(entered.start - 2 - self._base, 0)

    def _seek_boundary(self) -> bool:
        buffer, at = self._buffer, self._at
        found = buffer.find(b"\r\n--", at)
        if found < 0:
            seen = len(buffer) if self._ended else max(len(buffer) - 3, at)
            self._see(at, seen)
            self._at = seen
            return False
        eol = buffer.find(b"\r\n", found + 4, found + _MAX_BOUNDARY_LINE)
        if eol < 0 and not self._ended and len(buffer) < found + _MAX_BOUNDARY_LINE:
            self._see(at, found)
            self._at = found
            return False
        end = eol if eol >= 0 else len(buffer)
        number = None
        if eol >= 0 or end - found < _MAX_BOUNDARY_LINE:
            number = self._boundary(buffer[found + 4 : end])
        if number is None:
            self._see(at, found + 2)
            self._at = found + 2
            return True
        opened, closes = number
        if not closes:
            self._open[opened].divided = True
        self._see(at, found)
        self._end_range(self._base + found)
        for each in self._open[opened + 1 :]:
            self._forget(each)
        del self._open[opened + 1 :]
        multipart = self._open[opened]
        after = min(end + 2, len(buffer))
        if closes:
            self._forget(multipart)
            self._open.pop()
            self._enter(_Place.AROUND, _Range(self._base + end, around=multipart))
            self._at = end
        else:
            self._begin_section(
                self._base + after,
                message=False,
                plain=EMBEDDED if multipart.digest else PLAIN,
            )
            self._at = after
        return True

    def _forget(self, ended: _Open) -> None:
        """Its boundary means nothing any more, unless it was an outer one's before."""
        number = self._boundaries.get(ended.boundary)
        if number is not None and self._open[number] is ended:
            del self._boundaries[ended.boundary]

    def _boundary(self, text: bytes) -> tuple[int, bool] | None:
        """Which multipart this line (without its dashes) belongs to, and whether it closes it."""
        text = text.rstrip(b" \t")
        number = self._boundaries.get(text)
        if number is not None:
            return number, False
        number = self._boundaries.get(text.removesuffix(b"--"))
        return None if number is None else (number, True)

    def _see(self, start: int, end: int) -> None:
        """Octets of the buffer that belong to the range."""
        found = self._range
        piece = self._buffer[max(start, found.start - self._base) : end]
        if not piece.isascii():
            found.high += len(piece) - len(piece.translate(None, HIGH))
        if found.utf8 is not None and found.is_utf8:
            try:
                found.utf8.decode(piece)
            except UnicodeDecodeError:
                found.is_utf8 = False

    def _end_range(self, end: int) -> None:
        found = self._range
        if not found.high:
            return
        if len(self.edits) >= MAX_EDITS:
            raise Unconvertible("too many parts")
        end = max(end, found.start)
        if found.section is None:
            if found.around is None or not found.around.divided:
                raise Unconvertible("a multipart without parts")  # it is shown as it is
            self.edits.append(Edit(found.start, end, encoder=masked))
        else:
            self._convert(found, found.section, end)
        self._mark()

    def _convert(self, found: _Range, section: _Section, end: int) -> None:
        """A leaf that is not in 7 bits."""
        kind, encoding = section.kind, section.encoding
        if encoding in _UUENCODED or (kind.main, kind.sub) == (b"message", b"partial"):
            raise Unconvertible(f"8-bit octets in {(encoding or kind.sub).decode()}")
        if encoding == b"quoted-printable":
            self.edits.append(Edit(found.start, end, encoder=escaped))
            return
        if encoding == b"base64":
            self.edits.append(Edit(found.start, end, encoder=left_out))
            return
        size = end - found.start
        # the shorter one; but what is no text is not held to have lines
        text = kind.main in (b"text", b"message") and found.high * 6 <= size
        name, encoder = (b"quoted-printable", QuotedPrintable) if text else (b"base64", Base64)
        self.growth += 2 * found.high if text else size // 3
        self._label(section, name, found)
        self.edits.append(Edit(found.start, end, encoder=encoder))

    def _label(self, section: _Section, name: bytes, found: _Range | None = None) -> None:
        """Another Content-Transfer-Encoding, in the place of those that were there."""
        text = b"Content-Transfer-Encoding: " + name + b"\r\n"
        if section.message and found is not None:
            if section.untyped:
                if found.utf8 is not None and found.is_utf8:
                    try:
                        found.utf8.decode(b"", final=True)
                    except UnicodeDecodeError:
                        found.is_utf8 = False
                # RFC 1428 section 3 has the word for what nobody knows
                charset = b"utf-8" if found.is_utf8 else b"unknown-8bit"
                text = b"Content-Type: text/plain; charset=" + charset + b"\r\n" + text
            if not section.versioned:
                text = b"MIME-Version: 1.0\r\n" + text
        if not section.encodings:
            if not section.separated:
                text += b"\r\n"
            self.edits.append(Edit(section.end, section.end, text))
        for start, end, _ in section.encodings:
            self.edits.append(Edit(start, end, text))
            text = b""

    def _mark(self) -> None:
        """What holds something that was converted holds 7 bits now."""
        for each in reversed(self._open):
            if each.converted:
                return
            each.converted = True
            if each.signed:
                self.signatures.append("multipart/signed")
            if each.section.encoding in (b"8bit", b"binary"):
                self._label(each.section, b"7bit")
