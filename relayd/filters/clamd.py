"""clamd's INSTREAM: a message is handed over in pieces while it arrives, and one answer comes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

START = b"zINSTREAM\0"
END = struct.pack("!I", 0)
MOST = 4096  # octets of an answer
_LENGTH = struct.Struct("!I")


class ClamdError(Exception):
    """It could not look, or says what nobody understands."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """What it found: a name, or nothing."""

    virus: str = ""


def chunk(data: bytes) -> bytes:
    """One piece on its way; an empty one would end the stream and is nothing."""
    return _LENGTH.pack(len(data)) + data if data else b""


class ClamdAnswer:
    """Reads the one answer of a connection."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> Scanned | None:
        """The answer, once it is whole. Raises ClamdError."""
        self._data += data
        answer, end, _ = self._data.partition(b"\0")
        if not end:
            if len(self._data) > MOST:
                raise ClamdError("an answer without an end")
            return None
        text = answer.decode("utf-8", "replace").strip()
        _, colon, said = text.partition(": ")
        if not colon or said.endswith("ERROR"):
            raise ClamdError(text[:200] or "an empty answer")
        if said == "OK":
            return Scanned()
        if said.endswith(" FOUND"):
            return Scanned(said.removesuffix(" FOUND"))
        raise ClamdError(text[:200])
