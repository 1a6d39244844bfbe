"""A message in a file, as `relayctl explain --eml` asks about it."""

from __future__ import annotations

from dataclasses import dataclass
from email import message_from_bytes
from email.policy import compat32
from email.utils import getaddresses
from pathlib import Path

_MOST = 1 << 20  # octets of a header section


class LetterError(Exception):
    """It cannot be read; `str(error)` says why."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A header section as text, an octet a character (JSON holds no octets), and its addresses."""

    text: str
    size: int  # octets of the whole message, with the line ends of the wire
    recipients: list[str]
    sender: str | None


def read(path: Path) -> Letter:
    """The header section of the file, with the line ends of the wire; raises LetterError."""
    try:
        with path.open("rb") as file:
            octets = file.read(_MOST) + file.readline()
            size = len(_wired(octets))
            while piece := file.read(_MOST) + file.readline():
                size += len(_wired(piece))
    except OSError as error:
        raise LetterError(f"{path}: {error.strerror or error}") from None
    octets = _wired(octets)
    if octets.startswith(b"From "):  # an mbox's separator
        separator, end, octets = octets.partition(b"\r\n")
        size -= len(separator + end)
    head, empty, _ = octets.partition(b"\r\n\r\n")
    if not empty and len(octets) > _MOST:
        raise LetterError(f"{path}: the header section is longer than {_MOST} octets")
    section = head + (b"\r\n\r\n" if empty or not head.endswith(b"\r\n") else b"\r\n")
    fields = message_from_bytes(section, policy=compat32)
    named = [str(each) for name in ("To", "Cc", "Bcc") for each in fields.get_all(name, [])]
    sender = fields.get("Return-Path", fields.get("From"))
    senders = [address for _, address in getaddresses([str(sender)])] if sender else []
    return Letter(
        section.decode("latin-1"),
        size,
        list(dict.fromkeys(address for _, address in getaddresses(named) if "@" in address)),
        senders[0] if senders else None,
    )


def _wired(octets: bytes) -> bytes:
    """Whole lines, with the line ends of the wire."""
    return octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
