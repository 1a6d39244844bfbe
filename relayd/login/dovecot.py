"""Dovecot's authentication protocol, version 1, the client's side: lines in, answers out.

Lines end in LF, fields are parted by TAB, and TAB, LF, CR, NUL and 0x01 within one are escaped.
The server greets with VERSION, MECH..., SPID, CUID, COOKIE and DONE; we say VERSION and CPID.
Then AUTH asks, and OK, FAIL or CONT answers, each with the number of the request.
"""

from __future__ import annotations

import base64
import enum
from dataclasses import dataclass

MAX_LINE = 8192  # octets, Dovecot's own AUTH_CLIENT_MAX_LINE_LENGTH; more is no Dovecot
MAX_REQUEST = 1 << 31  # numbers wrap before Dovecot's 32 bits end

_ESCAPES = {"\x01": "\x011", "\0": "\x010", "\t": "\x01t", "\n": "\x01n", "\r": "\x01r"}


class DovecotError(Exception):
    """It is not what we take it for, or does not serve us."""


class Result(enum.Enum):
    """What became of one request."""

    GRANTED = "granted"
    DENIED = "denied"
    TROUBLE = "trouble"  # Dovecot's own: try again later


@dataclass(frozen=True, slots=True)
class DovecotAnswer:
    """The answer to one request."""

    number: int
    result: Result
    user: str = ""  # as Dovecot spells it
    why: str = ""


def escaped(text: str) -> str:
    """A field's value as a line carries it."""
    return "".join(_ESCAPES.get(character, character) for character in text)


class DovecotClient:
    """One connection: `receive` lines, write what `data_to_send` gives."""

    def __init__(self, pid: int) -> None:
        self._data = b""
        self._output = [f"VERSION\t1\t1\nCPID\t{pid}\n".encode()]
        self._mechanisms: set[str] = set()
        self._version = 0
        self._number = 0
        self.ready = False  # the greeting is complete: `ask` may be called

    def data_to_send(self) -> bytes:
        """What is to be written now."""
        output, self._output = b"".join(self._output), []
        return output

    def ask(self, user: str, password: str, *, address: str, secured: bool) -> int:
        """Ask whether this is the user's password, by PLAIN; the request's number."""
        if "PLAIN" not in self._mechanisms:
            raise DovecotError("Dovecot does not offer PLAIN")
        self._number = self._number % MAX_REQUEST + 1
        fields = ["AUTH", str(self._number), "PLAIN", "service=smtp"]
        # what is not secured it would refuse unless disable_plaintext_auth = no
        fields += ["secured"] if secured else []
        fields += [f"rip={escaped(address)}"] if address else []
        message = base64.b64encode(f"\0{user}\0{password}".encode()).decode("ascii")
        fields.append(f"resp={message}")  # by the protocol the last one
        self._output.append(("\t".join(fields) + "\n").encode())
        return self._number

    def receive(self, data: bytes) -> list[DovecotAnswer]:
        """Take in octets; the verdicts among them. Raises DovecotError."""
        data = self._data + data
        *lines, self._data = data.split(b"\n")
        if len(self._data) > MAX_LINE:
            raise DovecotError("line too long")
        verdicts = []
        for line in lines:
            verdict = self._line(line.decode("utf-8", "replace").split("\t"))
            if verdict is not None:
                verdicts.append(verdict)
        return verdicts

    def _line(self, fields: list[str]) -> DovecotAnswer | None:
        command = fields[0]
        if command == "VERSION":
            if len(fields) < 3 or fields[1] != "1":
                raise DovecotError(f"speaks version {'.'.join(fields[1:3])[:20]}, not 1")
            self._version = 1
        elif command == "MECH" and len(fields) > 1:
            self._mechanisms.add(fields[1].upper())
        elif command == "DONE":
            if not self._version:
                raise DovecotError("greets without a version")
            self.ready = True
        elif command in ("OK", "FAIL", "CONT"):
            return _verdict(command, fields)
        return None  # SPID, CUID, COOKIE, and what later versions may say


def _verdict(command: str, fields: list[str]) -> DovecotAnswer:
    if len(fields) < 2 or not fields[1].isdigit():
        raise DovecotError("an answer without a number")
    number = int(fields[1])
    values = dict(_split(field) for field in fields[2:])
    user = values.get("user", "")
    if command == "OK":
        # postponed to a master process of Dovecot's own login service; there is none here
        return DovecotAnswer(number, Result.GRANTED if user else Result.TROUBLE, user)
    if command == "CONT":
        return DovecotAnswer(number, Result.TROUBLE, why="Dovecot asks more than PLAIN has to say")
    trouble = "temp" in values or values.get("code") == "temp_fail"
    why = values.get("reason") or values.get("code") or ""
    return DovecotAnswer(number, Result.TROUBLE if trouble else Result.DENIED, user, why)


def _split(field: str) -> tuple[str, str]:
    name, _, value = field.partition("=")
    return name, value
