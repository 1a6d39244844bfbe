"""The encodings inside DSN parameters: xtext (RFC 3461 section 4) and its UTF-8 kin (RFC 6533)."""

from __future__ import annotations

import re

# xchar = %d33-42 / %d44-60 / %d62-126
_XTEXT = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*\Z")
_HEXCHAR = re.compile(rb"\+([0-9A-F]{2})")
_TO_XTEXT = re.compile(rb"[^\x21-\x2a\x2c-\x3c\x3e-\x7e]")

# RFC 6533 section 3:
# utf-8-addr-xtext   = 1*(QCHAR / EmbeddedUnicodeChar)
# utf-8-addr-unitext = 1*(QUCHAR / EmbeddedUnicodeChar)
# QCHAR  = %x21-2a / %x2c-3c / %x3e-5b / %x5d-7e
# QUCHAR = QCHAR / UTF8-2 / UTF8-3 / UTF8-4
# EmbeddedUnicodeChar = %x5C.78 "{" HEXPOINT "}"
_UNITEXT = re.compile(
    r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x5b\x5d-\x7e\u0080-\U0010ffff]|\\x\{[0-9A-Fa-f]{1,6}\})*\Z"
)
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")
_TO_UNITEXT = re.compile(r"[\x00-\x20+=\\\x7f]")
_TO_UTF8_XTEXT = re.compile(r"[^\x21-\x2a\x2c-\x3c\x3e-\x5b\x5d-\x7e]")


class XtextError(ValueError):
    """The text is not in the encoding."""


def decode_xtext(text: str) -> str:
    """The decoded text; octets beyond ASCII must be UTF-8."""
    if "+" not in text:
        if not _XTEXT.match(text):
            raise XtextError("stray character")
        return text
    if not _XTEXT.match(text):
        raise XtextError("stray character or malformed +XX")
    octets = _HEXCHAR.sub(lambda match: bytes([int(match.group(1), 16)]), text.encode())
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise XtextError("neither ASCII nor UTF-8 once decoded") from None


def encode_xtext(text: str) -> str:
    """The inverse of decode_xtext; the result is ASCII."""
    octets = text.encode("utf-8")
    return _TO_XTEXT.sub(lambda match: b"+%02X" % match.group()[0], octets).decode("ascii")


def decode_orcpt(kind: str, encoded: str) -> str:
    """`kind;address` with the address decoded."""
    if kind.lower() != "utf-8":
        return f"{kind};{decode_xtext(encoded)}"
    if not _UNITEXT.match(encoded):
        raise XtextError("stray character")
    try:
        decoded = _EMBEDDED.sub(_scalar, encoded)
    except ValueError:
        raise XtextError("no such character") from None
    return f"{kind};{decoded}"


def _scalar(match: re.Match[str]) -> str:
    character = chr(int(match.group(1), 16))
    character.encode("utf-8")  # a surrogate is no character
    return character


def encode_orcpt(orcpt: str, *, smtputf8: bool) -> str:
    """`kind;address` as ORCPT carries it; with `smtputf8` it may stay in Unicode."""
    kind, _, address = orcpt.partition(";")
    if kind.lower() != "utf-8":
        return f"{kind};{encode_xtext(address)}"
    unsafe = _TO_UNITEXT if smtputf8 else _TO_UTF8_XTEXT
    encoded = unsafe.sub(lambda match: f"\\x{{{ord(match.group()):X}}}", address)
    return f"{kind};{encoded}"
