"""Submission (RFC 6409): what a listener for people's mail programs adds that they left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice

from relayd.intake.header import HeaderSection
from relayd.intake.trace import date_time
from relayd.mail.ident import ident_text
from relayd.rules.addrspec import MAX_ADDRESSES, MAX_OCTETS, folded, unqualified
from relayd.rules.header import MAX_FIELDS

# the fields of RFC 5322 sections 3.6.2, 3.6.3 and 3.6.6 that hold addresses
_ADDRESS_FIELD = re.compile(
    rb"^(?:resent-)?(?:from|sender|reply-to|to|cc|bcc)[ \t]*:"
    rb"(?P<body>[^\r\n]*(?:\r\n[ \t][^\r\n]*)*)",
    re.IGNORECASE | re.MULTILINE,
)
_DATE = re.compile(rb"^date[ \t]*:", re.IGNORECASE | re.MULTILINE)
_MESSAGE_ID = re.compile(rb"^message-id[ \t]*:", re.IGNORECASE | re.MULTILINE)


class Completion:
    """Holds a header section back until it is whole, and lets it go completed."""

    def __init__(self, header: HeaderSection, complete: Callable[[bytes], bytes]) -> None:
        self._header = header
        self._complete = complete
        self._held = bytearray()
        self._released = False
        self.section = b""  # as it was let go

    def receive(self, data: bytes) -> bytes:
        """Content that the header section has seen; what of it may be written by now."""
        if self._released:
            return data
        self._held += data
        return self._release() if self._header.complete else b""

    def end(self) -> bytes:
        """The content is over; what is still held."""
        return b"" if self._released else self._release()

    def _release(self) -> bytes:
        self._released = True
        held = bytes(self._held)
        self._held.clear()
        section = held[: self._header.size]
        self.section = self._complete(section)
        return self.section + held[len(section) :]


def completed(section: bytes, *, now: float, ident: int, hostname: str, origin: str) -> bytes:
    """The header section with Date and Message-ID, and with domains in every address.

    What is there stays as it is, octet by octet, but for folds of lines that become too long; new
    fields stand in front. Addresses after the first MAX_ADDRESSES without a domain stay as they
    are, and so do those in fields after the first MAX_OCTETS or MAX_FIELDS.
    """
    missing = []
    if _DATE.search(section) is None:
        missing.append(f"Date: {date_time(now)}\r\n")
    if _MESSAGE_ID.search(section) is None:
        missing.append(f"Message-ID: <{ident_text(ident)}@{hostname}>\r\n")
    domain = b"@" + origin.encode("ascii", "replace")
    pieces, done, octets = ["".join(missing).encode("ascii", "replace")], 0, 0
    left = iter(range(MAX_ADDRESSES))
    for match in islice(_ADDRESS_FIELD.finditer(section), MAX_FIELDS):
        octets += len(match.group())
        if octets > MAX_OCTETS:
            break
        field = _qualified(match, domain, left)
        pieces += [section[done : match.start()], field]
        done = match.end()
    return b"".join([*pieces, section[done:]])


def _qualified(match: re.Match[bytes], domain: bytes, left: Iterator[int]) -> bytes:
    field, body = match.group(), match["body"]
    start = len(field) - len(body)
    pieces, done = [field[:start]], 0
    for at, _ in zip(unqualified(body), left, strict=False):
        pieces += [body[done:at], domain]
        done = at
    return folded(b"".join([*pieces, body[done:]])) if done else field
