"""SASLprep (RFC 4013): one spelling for names and passwords, so that both sides hash the same."""

from __future__ import annotations

import stringprep
import unicodedata

# RFC 4013 section 2.3: what no name and no password may hold
_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class PrepareError(ValueError):
    """The text holds what SASLprep prohibits; `str(error)` says it without showing it."""


def saslprep(text: str) -> str:
    """The prepared text, unassigned characters let through (RFC 3454 section 7, a query)."""
    if text.isascii():
        if not text.isprintable():
            raise PrepareError("a control character in it")
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in text
        if not stringprep.in_table_b1(character)
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    for character in prepared:
        if any(prohibited(character) for prohibited in _PROHIBITED):
            raise PrepareError(f"the character U+{ord(character):04X} in it")
    # RFC 3454 section 6: right-to-left text is so from end to end
    if any(map(stringprep.in_table_d1, prepared)) and (
        any(map(stringprep.in_table_d2, prepared))
        or not stringprep.in_table_d1(prepared[0])
        or not stringprep.in_table_d1(prepared[-1])
    ):
        raise PrepareError("text of both directions in it")
    return prepared
