"""The canonical forms of RFC 6376 section 3.4: of a header field, and of a body as it arrives."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any, Protocol

_NAME = re.compile(rb"[!-9;-~]+")
_BETWEEN_FIELDS = re.compile(rb"\r\n(?![ \t])")


class Field:
    """One header field as it came: its name in lower case, its octets without the final CRLF."""

    __slots__ = ("name", "octets")

    def __init__(self, name: bytes, octets: bytes) -> None:
        self.name = name
        self.octets = octets

    @property
    def body(self) -> bytes:
        """All behind the colon."""
        return self.octets.partition(b":")[2]


def fields(section: bytes) -> list[Field]:
    """The fields of a header section, in order; what is no field is passed over."""
    found = map(_field, _BETWEEN_FIELDS.split(section))
    return [field for field in found if field is not None]


def without(section: bytes, unwanted: Callable[[Field], bool]) -> bytes:
    """The section without some of its fields; every other octet stays."""
    kept = []
    for octets in _BETWEEN_FIELDS.split(section):
        field = _field(octets)
        if field is None or not unwanted(field):
            kept.append(octets)
    return b"\r\n".join(kept)


def _field(octets: bytes) -> Field | None:
    name, colon, _ = octets.partition(b":")
    name = name.rstrip(b" \t")
    return Field(name.lower(), octets) if colon and _NAME.fullmatch(name) else None


def relaxed_field(octets: bytes) -> bytes:
    """A whole field in the form `relaxed` (section 3.4.2)."""
    name, _, body = octets.partition(b":")
    if b"  " not in body and b"\t" not in body and b"\r" not in body:
        return name.rstrip(b" \t").lower() + b":" + body.strip(b" ")
    words = body.replace(b"\r\n", b"").replace(b"\t", b" ").split(b" ")
    return name.rstrip(b" \t").lower() + b":" + b" ".join(filter(None, words))


class BodyForm(Protocol):
    """A canonical form that takes a body in pieces, however they are cut."""

    def feed(self, piece: bytes) -> bytes:
        """What is certain of the form once this piece has come."""

    def finish(self) -> bytes:
        """The end of it."""


class SimpleBody:
    """`simple`: as it came, but for the empty lines at its end (section 3.4.3)."""

    def __init__(self) -> None:
        self._held = b""  # of the end of a line: nothing, CR
        self._lines = 0  # that are ended and may be the last

    def feed(self, piece: bytes) -> bytes:
        """What is certain of the form once this piece has come."""
        piece = self._held + piece
        done = piece.rstrip(b"\r\n")
        ends = piece[len(done) :]
        self._held = b"\r" if ends.endswith(b"\r") else b""
        before, self._lines = self._lines, ends.count(b"\n")
        if not done:
            self._lines += before
            return b""
        return b"\r\n" * before + done

    def finish(self) -> bytes:
        """The end of it: a body that is empty counts as one empty line."""
        return b"\r\n"


class RelaxedBody:
    """`relaxed`: white space is one blank, at the end of a line none (section 3.4.4)."""

    def __init__(self) -> None:
        self._held = b""  # CR, or white space that may yet end a line
        self._lines = 0  # that are ended and may be the last
        self._some = False

    def feed(self, piece: bytes) -> bytes:
        """What is certain of the form once this piece has come."""
        piece = self._held + piece
        done = piece.rstrip(b" \t\r\n")
        ends = piece[len(done) :]
        before, self._lines = self._lines, ends.count(b"\n")
        tail = ends[ends.rfind(b"\n") + 1 :]
        self._held = (b" " if tail[:1] in (b" ", b"\t") else b"") + (
            b"\r" if tail.endswith(b"\r") else b""
        )
        if not done:
            self._lines += before
            return b""
        self._some = True
        if b"\t" in done:
            done = done.replace(b"\t", b" ")
        while b"  " in done:
            done = done.replace(b"  ", b" ")
        return b"\r\n" * before + done.replace(b" \r\n", b"\r\n")

    def finish(self) -> bytes:
        """The end of it: a body that is empty is none."""
        return b"\r\n" if self._some else b""


class BodyHash:
    """The body hashes of one canonical form: of all of it, or of so many octets at most."""

    def __init__(self, relaxed: bool) -> None:
        self._form: BodyForm = RelaxedBody() if relaxed else SimpleBody()
        self._hashes: dict[int | None, Any] = {}  # by how many octets they are of
        self.octets = 0  # of the canonical form

    def of(self, length: int | None) -> None:
        """Another hash that is wanted: over so many octets, or over all."""
        self._hashes[length] = hashlib.sha256()

    def feed(self, piece: bytes) -> None:
        """More of the body."""
        self._take(self._form.feed(piece))

    def finish(self) -> dict[int | None, bytes]:
        """That was all of it: the digests."""
        self._take(self._form.finish())
        return {length: digest.digest() for length, digest in self._hashes.items()}

    def _take(self, octets: bytes) -> None:
        before, self.octets = self.octets, self.octets + len(octets)
        for length, digest in self._hashes.items():
            if length is None or self.octets <= length:
                digest.update(octets)
            elif before < length:
                digest.update(octets[: length - before])
