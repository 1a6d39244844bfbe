"""Who has signed a message, by what is written there: nothing is verified."""

from __future__ import annotations

import re

from relayd.authentication.canonical import fields
from relayd.mail.content import Content

_MOST_SECTION = 1 << 20  # octets that are looked at
_AUTHOR = re.compile(rb"@[ \t\r\n]*([A-Za-z0-9.\x80-\xff-]+)")
_SIGNER = re.compile(rb"(?:\A|;)[ \t\r\n]*d[ \t\r\n]*=[ \t\r\n]*([A-Za-z0-9.\x80-\xff-]+)")


def authors_signature(content: Content) -> bool:
    """Whether it has a DKIM signature of an author's domain, or of one above or below that.

    Raises OSError.
    """
    authors: set[bytes] = set()
    signers: set[bytes] = set()
    for field in fields(_section(content)):
        if field.name == b"from":
            authors.update(name.lower().rstrip(b".") for name in _AUTHOR.findall(field.body))
        elif field.name == b"dkim-signature":
            found = _SIGNER.search(field.body)
            if found is not None:
                signers.add(found[1].lower())
    return any(_near(author, signer) for author in authors for signer in signers)


def _near(one: bytes, other: bytes) -> bool:
    return one == other or one.endswith(b"." + other) or other.endswith(b"." + one)


def _section(content: Content) -> bytes:
    octets = b""
    for piece in content.chunks():
        octets += piece
        end = octets.find(b"\r\n\r\n")
        if end >= 0 or len(octets) > _MOST_SECTION:
            return octets[: end + 2] if end >= 0 else octets
    return octets
