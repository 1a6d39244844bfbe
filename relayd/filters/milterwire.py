"""The milter protocol as octets (versions 2 to 6): flags, packets, and which event is which.

A packet is a length of four octets, a letter, and data. The table of events below is the whole
state of a conversation that both sides must agree on; relayd.filters.milter walks it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntFlag
from functools import lru_cache

VERSION = 6
OLDEST = 2
MOST_DATA = 1 << 20  # octets of one packet that we take; libmilter never sends more than 64 KiB
_LENGTH = struct.Struct("!I")
_OPTIONS = struct.Struct("!III")


class MilterError(Exception):
    """The filter breaks the protocol; nothing that it said counts."""


class MilterAction(IntFlag):
    """What a filter may want to do to a message, at its end."""

    ADD_HEADER = 0x01  # inserting is this too
    CHANGE_BODY = 0x02
    ADD_RECIPIENT = 0x04
    DELETE_RECIPIENT = 0x08
    CHANGE_HEADER = 0x10
    QUARANTINE = 0x20
    CHANGE_SENDER = 0x40
    ADD_RECIPIENT_WITH_ARGUMENTS = 0x80
    NAME_MACROS = 0x100


class MilterStep(IntFlag):
    """What a filter does not want to be told, or does not answer."""

    NO_CONNECT = 0x01
    NO_HELO = 0x02
    NO_MAIL = 0x04
    NO_RCPT = 0x08
    NO_BODY = 0x10
    NO_HEADER = 0x20
    NO_END_OF_HEADER = 0x40
    SILENT_HEADER = 0x80
    NO_UNKNOWN = 0x100
    NO_DATA = 0x200
    SKIPS = 0x400  # it may say that it has seen enough of the body
    REFUSED_RECIPIENTS = 0x800  # it wants to be told of those too
    SILENT_CONNECT = 0x1000
    SILENT_HELO = 0x2000
    SILENT_MAIL = 0x4000
    SILENT_RCPT = 0x8000
    SILENT_DATA = 0x10000
    SILENT_UNKNOWN = 0x20000
    SILENT_END_OF_HEADER = 0x40000
    SILENT_BODY = 0x80000
    LEADING_SPACE = 0x100000  # what stands behind a colon is left as it is
    CHUNKS_256K = 1 << 28  # of a body: not offered, 64 KiB is what everybody takes
    CHUNKS_1M = 1 << 29


_STEPS_2 = MilterStep(0x7F)
_STEPS_3 = _STEPS_2 | MilterStep.SILENT_HEADER | MilterStep.NO_UNKNOWN
_STEPS_4 = _STEPS_3 | MilterStep.NO_DATA
_STEPS_6 = MilterStep(0x1FFFFF)
STEPS = {2: _STEPS_2, 3: _STEPS_3, 4: _STEPS_4, 5: _STEPS_4, 6: _STEPS_6}
"""What each version knows; a version has all of those before it."""
ACTIONS = MilterAction(0x1FF)
_ACTIONS_2 = MilterAction(0x3F)


class Event(Enum):
    """What a filter is told: letter, the flag that turns it off, the one that makes it silent,
    the version that brought it, and the number of its list of macros.
    """

    CONNECT = (b"C", MilterStep.NO_CONNECT, MilterStep.SILENT_CONNECT, 2, 0)
    HELO = (b"H", MilterStep.NO_HELO, MilterStep.SILENT_HELO, 2, 1)
    MAIL = (b"M", MilterStep.NO_MAIL, MilterStep.SILENT_MAIL, 2, 2)
    RCPT = (b"R", MilterStep.NO_RCPT, MilterStep.SILENT_RCPT, 2, 3)
    DATA = (b"T", MilterStep.NO_DATA, MilterStep.SILENT_DATA, 4, 4)
    UNKNOWN = (b"U", MilterStep.NO_UNKNOWN, MilterStep.SILENT_UNKNOWN, 3, None)
    HEADER = (b"L", MilterStep.NO_HEADER, MilterStep.SILENT_HEADER, 2, None)
    END_OF_HEADER = (b"N", MilterStep.NO_END_OF_HEADER, MilterStep.SILENT_END_OF_HEADER, 2, 6)
    BODY = (b"B", MilterStep.NO_BODY, MilterStep.SILENT_BODY, 2, None)
    END_OF_MESSAGE = (b"E", MilterStep(0), MilterStep(0), 2, 5)

    def __init__(
        self, letter: bytes, off: MilterStep, silent: MilterStep, since: int, macros: int | None
    ) -> None:
        self.letter = letter  # of its packet
        self.off = off  # the flag with which a filter does not want it
        self.silent = silent  # ... does not answer it
        self.since = since  # the first version that knows it
        self.macros = macros  # the number of its list, as SETSYMLIST counts them; None: it has none


MACROS: Mapping[Event, tuple[str, ...]] = {
    Event.CONNECT: ("j", "daemon_name", "daemon_addr", "v", "_"),
    Event.HELO: ("tls_version", "cipher", "cipher_bits", "cert_subject", "cert_issuer"),
    Event.MAIL: (
        "i", "auth_type", "auth_authen", "auth_author", "mail_addr", "mail_host", "mail_mailer",
    ),
    Event.RCPT: ("i", "rcpt_addr", "rcpt_host", "rcpt_mailer"),
    Event.DATA: ("i",),
    Event.END_OF_HEADER: ("i",),
    Event.END_OF_MESSAGE: ("i",),
}  # fmt: skip
"""What is told with each event where the filter does not ask for others: Postfix's defaults."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What came of the negotiation. Who agrees on the same again has the same one."""

    version: int
    actions: MilterAction
    steps: MilterStep
    told: frozenset[bytes]  # letters of the events that it is to be told of
    answered: frozenset[bytes]  # ... to which it says something
    macros: Mapping[bytes, tuple[tuple[str, str], ...]]  # with them: names, and as they are told


def packet(letter: bytes, data: bytes = b"") -> bytes:
    """One packet."""
    return _LENGTH.pack(len(data) + 1) + letter + data


def offer() -> bytes:
    """What we can do, all of it; the filter chooses."""
    return packet(b"O", _OPTIONS.pack(VERSION, ACTIONS, _STEPS_6))


@lru_cache(16)  # each connection begins with it, and a filter chooses the same each time
def agreement(data: bytes) -> Agreement:
    """What the filter chose. Raises MilterError."""
    if len(data) < _OPTIONS.size:
        raise MilterError("its options are cut short")
    version, actions, steps = _OPTIONS.unpack_from(data)
    if not OLDEST <= version <= VERSION:
        raise MilterError(f"it speaks version {version}")
    # the inverse of a flag of Python's has known bits only
    beyond = actions & ~int(ACTIONS if version >= VERSION else _ACTIONS_2)
    if beyond:
        raise MilterError(f"it wants actions {beyond:#x}, which were not offered")
    steps &= ~int(
        MilterStep.CHUNKS_256K | MilterStep.CHUNKS_1M
    )  # of what was not offered it says nothing
    beyond = steps & ~int(STEPS[version])
    if beyond:
        raise MilterError(f"it wants steps {beyond:#x}, which were not offered")
    lists = _macro_lists(data[_OPTIONS.size :])
    return Agreement(
        version,
        MilterAction(actions),
        MilterStep(steps),
        frozenset(e.letter for e in Event if e.since <= version and not steps & e.off),
        frozenset(e.letter for e in Event if not steps & e.silent),
        {
            event.letter: tuple((name, _braced(name)) for name in lists.get(number, names))
            for event, names in MACROS.items()
            if (number := event.macros) is not None
        },
    )


def _macro_lists(data: bytes) -> dict[int, tuple[str, ...]]:
    """The lists of SETSYMLIST: a number, then names parted by blanks, and NUL."""
    lists: dict[int, tuple[str, ...]] = {}
    while data:
        names, nul, rest = data[_LENGTH.size :].partition(b"\0")
        if len(data) < _LENGTH.size or not nul:
            raise MilterError("a list of macros is cut short")
        lists[_LENGTH.unpack_from(data)[0]] = tuple(
            name.strip("{}") for name in names.decode("ascii", "replace").replace(",", " ").split()
        )
        data = rest
    return lists


class Packets:
    """Cuts input into packets."""

    def __init__(self) -> None:
        self.held = b""  # of one that is not whole yet

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Letters and data of the packets that are whole by now. Raises MilterError."""
        data = self.held + data if self.held else data
        found = []
        at = 0
        while len(data) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, at)
            if not 1 <= length <= MOST_DATA:
                raise MilterError(f"a packet of {length} octets")
            end = at + _LENGTH.size + length
            if end > len(data):
                break
            start = at + _LENGTH.size
            found.append((data[start : start + 1], data[start + 1 : end]))
            at = end
        self.held = data[at:]
        return found


def strings(data: bytes, count: int) -> list[str]:
    """So many texts that end in NUL, and no octet more. Raises MilterError."""
    parts = data.split(b"\0")
    if len(parts) != count + 1 or parts[-1]:
        raise MilterError("its text does not end where it should")
    return [part.decode("utf-8", "surrogateescape") for part in parts[:-1]]


def text(*values: str) -> bytes:
    """Texts, each ended by NUL; one in a text would end it too early and is left out."""
    if not values:
        return b""
    joined = "\0".join(values)
    if joined.count("\0") >= len(values):
        joined = "\0".join([value.replace("\0", "") for value in values])
    return joined.encode("utf-8", "surrogateescape") + b"\0"


def _braced(name: str) -> str:
    return name if len(name) == 1 else f"{{{name}}}"
