"""Macros of SPF records (RFC 7208 section 7): read once, expanded for each client."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

from relayd.mail.value import dataclass

_EXPANSION = re.compile(
    r"%(?:(?P<itself>[%_-])"
    r"|\{(?P<letter>[slodiphcrtvSLODIPHCRTV])(?P<digits>[0-9]*)(?P<reverse>[rR]?)"
    r"(?P<delimiters>[-.+,/_=]*)\}(?P<end>)|(?P<wrong>))"
)
_ITSELF = {"%": "%", "_": " ", "-": "%20"}
_ONLY_EXPLAINS = "crt"


@dataclass(frozen=True, slots=True)
class Macro:
    """One `%{...}`."""

    letter: str
    url: bool  # an upper-case letter: what is put in is escaped
    parts: int  # of the right that are kept; 0: all
    reverse: bool
    delimiters: str

    def expand(self, value: str) -> str:
        """The value, taken apart and put together by dots (section 7.3)."""
        if self.parts or self.reverse or self.delimiters != ".":
            pieces = re.split(f"[{re.escape(self.delimiters)}]", value)
            if self.reverse:
                pieces.reverse()
            value = ".".join(pieces[-self.parts :])
        return quote(value, safe="-._~") if self.url else value


@dataclass(frozen=True, slots=True)
class MacroString:
    """Literal text and macros in their order."""

    pieces: tuple[str | Macro, ...]

    @property
    def letters(self) -> frozenset[str]:
        """What must be known to expand it."""
        return frozenset(piece.letter for piece in self.pieces if isinstance(piece, Macro))

    @property
    def explains(self) -> bool:
        """It has macros that only an explanation may have."""
        return any(letter in _ONLY_EXPLAINS for letter in self.letters)

    @property
    def ends_in_macro(self) -> bool:
        """Nothing stands behind its last macro."""
        return bool(self.pieces) and isinstance(self.pieces[-1], Macro)

    def expand(self, values: Mapping[str, str]) -> str:
        """The text, given a value for each letter."""
        return "".join(
            piece if isinstance(piece, str) else piece.expand(values[piece.letter])
            for piece in self.pieces
        )


def macro_string(text: str) -> MacroString:
    """Read a macro-string. ValueError: a percent sign that begins nothing."""
    pieces: list[str | Macro] = []
    at = 0
    for match in _EXPANSION.finditer(text):
        if match["wrong"] is not None or (match["digits"] and int(match["digits"]) == 0):
            raise ValueError(f"{text!r}: a percent sign begins %%, %_, %- or %{{...}}")
        pieces.append(text[at : match.start()])
        at = match.end()
        if match["itself"]:
            pieces.append(_ITSELF[match["itself"]])
            continue
        letter = match["letter"]
        pieces.append(
            Macro(
                letter.lower(),
                letter.isupper(),
                int(match["digits"] or 0),
                bool(match["reverse"]),
                match["delimiters"] or ".",
            )
        )
    pieces.append(text[at:])
    return MacroString(tuple(piece for piece in pieces if piece != ""))
