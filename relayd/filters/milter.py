"""A milter's client as a core without sockets: events in, octets out; packets in, verdicts out.

One `MilterClient` is one connection to a filter. It is asked whether an event is wanted, gives the
octets that tell it (macros and event in one write), and reads what comes back. A filter that has
accepted or discarded a message is told no more of it; one that has refused a client or accepted
him whole is told no more of the connection.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from relayd.filters.milteredits import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    Edit,
    InsertHeader,
    Quarantine,
    ReplaceBody,
)
from relayd.filters.milterwire import (
    Agreement,
    Event,
    MilterAction,
    MilterError,
    MilterStep,
    Packets,
    agreement,
    offer,
    packet,
    strings,
    text,
)
from relayd.mail.reply import Reply

MOST_EDITS = 10_000  # of one message
MOST_LINES = 32  # of a reply, as libmilter has it
MOST_EDITED = 4 << 20  # octets in them
CHUNK = 65535  # octets of a body in one event, as libmilter takes them
_INDEX = struct.Struct("!I")
_PORT = struct.Struct("!H")


class Word(Enum):
    """What a filter may say to an event, its edits apart."""

    CONTINUE = b"c"
    ACCEPT = b"a"  # it wants to know no more
    REJECT = b"r"
    TEMPFAIL = b"t"
    DISCARD = b"d"
    SHUT_DOWN = b"4"  # the connection is to be closed with 421
    REPLY = b"y"  # its own words
    SKIP = b"s"  # enough of the body


_WORDS = {word.value: word for word in Word}
_FINAL = (Word.ACCEPT, Word.REJECT, Word.TEMPFAIL, Word.DISCARD, Word.REPLY)
_REFUSALS = (Word.REJECT, Word.TEMPFAIL, Word.REPLY)
_REPLY_LINE = re.compile(r"([45]\d\d)(?:[ -](.*)|\Z)", re.DOTALL)
_LINE_END = re.compile(r"\r\n|\r|\n")
_OF_THE_CONNECTION = (Event.CONNECT, Event.HELO)
_NEEDED = {
    b"h": MilterAction.ADD_HEADER,
    b"i": MilterAction.ADD_HEADER,
    b"m": MilterAction.CHANGE_HEADER,
    b"b": MilterAction.CHANGE_BODY,
    b"+": MilterAction.ADD_RECIPIENT,
    b"2": MilterAction.ADD_RECIPIENT_WITH_ARGUMENTS,
    b"-": MilterAction.DELETE_RECIPIENT,
    b"e": MilterAction.CHANGE_SENDER,
    b"q": MilterAction.QUARANTINE,
}


@dataclass(frozen=True, slots=True)
class FilterVerdict:
    """What a filter said to one event."""

    word: Word
    reply: Reply | None = None  # with REPLY
    edits: tuple[Edit, ...] = ()  # only at the end of a message


CONTINUE = FilterVerdict(Word.CONTINUE)
_GO_ON = packet(Word.CONTINUE.value)  # what nearly every answer is


class _State(Enum):
    NEGOTIATING = "negotiating"
    IDLE = "idle"  # it may be told something
    WAITING = "waiting"  # for its answer
    PASSED = "passed"  # it wants to know no more of this message
    GONE = "gone"  # ... of this connection


_NOTHING = Agreement(0, MilterAction(0), MilterStep(0), frozenset(), frozenset(), {})


class MilterClient:
    """One connection to a filter."""

    def __init__(self) -> None:
        self._packets = Packets()
        self._state = _State.NEGOTIATING
        self._agreed = _NOTHING
        self._event = Event.CONNECT
        self._edits: list[Edit] = []
        self._skips = False
        self._edited = 0  # octets of edits of this message, a new body not among them

    def offer(self) -> bytes:
        """The first thing to write."""
        return offer()

    @property
    def agreed(self) -> Agreement:
        """What the two agreed on; only after the negotiation."""
        if self._state is _State.NEGOTIATING:
            raise MilterError("it has not said what it wants")
        return self._agreed

    @property
    def ready(self) -> bool:
        """The negotiation is over, and it owes us nothing."""
        return self._state not in (_State.NEGOTIATING, _State.WAITING)

    @property
    def leading_space(self) -> bool:
        """Fields go to and fro with what stands behind their colon."""
        return bool(self.agreed.steps & MilterStep.LEADING_SPACE)

    def wants(self, event: Event) -> bool:
        """Whether it is to be told this; where not, nothing is written and nothing comes."""
        if self._state in (_State.PASSED, _State.GONE):
            return False
        if event is Event.BODY and self._skips:
            return False
        return event.letter in self._agreed.told

    def tell(self, event: Event, data: bytes, macros: Mapping[str, str]) -> tuple[bytes, bool]:
        """The octets to write, and whether an answer will come."""
        if self._state is not _State.IDLE:
            raise AssertionError(f"told {event.name} while {self._state.value}")
        self._event, letter, agreed = event, event.letter, self._agreed
        octets = packet(letter, data)
        names = agreed.macros.get(letter)
        if names is not None:
            octets = packet(b"D", letter + _macros(names, macros)) + octets
        answers = letter in agreed.answered
        if answers:
            self._state = _State.WAITING
        return octets, answers

    def next_message(self) -> bytes:
        """The message is over, for whatever reason: it forgets it, and stays for the next.

        Only where it owes no answer; else the connection is to be closed.
        """
        assert self.ready
        if self._state is _State.PASSED:
            self._state = _State.IDLE
        self._edits.clear()
        self._skips = False
        return packet(b"A")

    def next_client(self) -> bytes:
        """Another client comes on the same connection, where it is `reusable`."""
        assert self.reusable
        self._edits.clear()
        self._skips = False
        self._state = _State.IDLE
        return packet(b"K")

    @property
    def reusable(self) -> bool:
        """Whether next_client() may be said."""
        return self.ready and self.agreed.version >= 6

    def quit(self) -> bytes:
        """The last thing to write."""
        return packet(b"Q")

    def receive(self, data: bytes) -> list[FilterVerdict]:
        """What it says. Raises MilterError: the connection is to be closed."""
        waiting = self._state is _State.WAITING
        if data == _GO_ON and waiting and not (self._packets.held or self._edits):
            self._state = _State.IDLE
            return [CONTINUE]
        verdicts = []
        for letter, body in self._packets.feed(data):
            if self._state is _State.NEGOTIATING:
                if letter != b"O":
                    raise MilterError(f"it begins with {letter!r}")
                self._agreed = agreement(body)
                self._state = _State.IDLE
                continue
            if self._state is not _State.WAITING:
                raise MilterError(f"it says {letter!r} unasked")
            verdict = self._said(letter, body)
            if verdict is not None:
                verdicts.append(verdict)
        return verdicts

    def new_body(self) -> list[bytes]:
        """What it has written by now of another body: taken out of the edits that wait."""
        pieces = [each.octets for each in self._edits if isinstance(each, ReplaceBody)]
        if pieces:
            self._edits = [each for each in self._edits if not isinstance(each, ReplaceBody)]
        return pieces

    def _said(self, letter: bytes, body: bytes) -> FilterVerdict | None:
        if letter == b"p":  # still at it: who waits begins to count anew
            return None
        if letter in _NEEDED:
            self._edit(letter, body)
            return None
        word = _WORDS.get(letter)
        if word is None:
            raise MilterError(f"it says {letter!r}, which nobody knows")
        if word is not Word.REPLY and body:
            raise MilterError(f"it says more than {letter!r}")
        return self._verdict(word, strings(body, 1)[0] if word is Word.REPLY else "")

    def _verdict(self, word: Word, reply: str) -> FilterVerdict:
        event, edits = self._event, tuple(self._edits)
        self._edits.clear()
        self._edited = 0
        self._state = _State.IDLE
        if word is Word.SKIP:
            if event is not Event.BODY or not self.agreed.steps & MilterStep.SKIPS:
                raise MilterError("it skips what cannot be skipped")
            self._skips = True
        elif word is Word.SHUT_DOWN or (word in _FINAL and event in _OF_THE_CONNECTION):
            self._state = _State.GONE
        elif word in _FINAL and not (event is Event.RCPT and word in _REFUSALS):
            # one recipient that is refused is no end of the message
            self._state = _State.IDLE if event is Event.UNKNOWN else _State.PASSED
        return FilterVerdict(word, _reply(reply) if word is Word.REPLY else None, edits)

    def _edit(self, letter: bytes, body: bytes) -> None:
        if self._event is not Event.END_OF_MESSAGE:
            raise MilterError("it edits a message before its end")
        needed = _NEEDED[letter]
        if not self.agreed.actions & needed:
            raise MilterError(f"it does {needed.name}, which it did not ask for")
        edit = _edit(letter, body)
        if not isinstance(edit, ReplaceBody):
            self._edited += len(body)
        if len(self._edits) >= MOST_EDITS or self._edited > MOST_EDITED:
            raise MilterError("it edits more than any message has")
        self._edits.append(edit)


def _macros(names: tuple[tuple[str, str], ...], macros: Mapping[str, str]) -> bytes:
    """Of these names those that are known, with their values."""
    pairs = [part for name, said in names if name in macros for part in (said, macros[name])]
    return text(*pairs)


def _edit(letter: bytes, body: bytes) -> Edit:
    if letter == b"b":
        return ReplaceBody(body)
    if letter in (b"i", b"m"):
        if len(body) < _INDEX.size:
            raise MilterError("an edit is cut short")
        (index,) = _INDEX.unpack_from(body)
        name, value = strings(body[_INDEX.size :], 2)
        return (
            InsertHeader(index, name, value) if letter == b"i" else ChangeHeader(index, name, value)
        )
    if letter == b"h":
        return AddHeader(*strings(body, 2))
    if letter in (b"2", b"e"):
        path, arguments = strings(body, 2) if body.count(b"\0") > 1 else (*strings(body, 1), "")
        return AddRecipient(path, arguments) if letter == b"2" else ChangeSender(path, arguments)
    (value,) = strings(body, 1)
    if letter == b"q":
        return Quarantine(value)
    return AddRecipient(value) if letter == b"+" else DeleteRecipient(value)


def _reply(text: str) -> Reply:
    """A filter's own reply; two percent signs are one, a single one is none (as in Sendmail)."""
    text = text.replace("%%", "\0").replace("%", "").replace("\0", "%")
    lines = [line for line in _LINE_END.split(text) if line][:MOST_LINES]
    found = [_REPLY_LINE.match(line) for line in lines]
    codes = {match[1] for match in found if match is not None}
    if len(codes) != 1 or None in found:
        raise MilterError(f"its reply is {text[:40]!r}")
    said = tuple(match[2] or "" for match in found if match is not None)
    return Reply.received(int(codes.pop()), said).or_status(7, 1)


# what each event carries


def connection(name: str, address: str, port: int) -> bytes:
    """CONNECT: the client's name, confirmed, else its address in brackets; a family, a port."""
    if not address:
        return text(name) + b"U"
    family = b"6" if ":" in address else b"4"
    return text(name) + family + _PORT.pack(port) + text(address)


def path(path: str, arguments: tuple[str, ...] = ()) -> bytes:
    """MAIL and RCPT: the path in angle brackets, then each parameter."""
    return text(f"<{path}>", *arguments)


def header(name: str, value: bytes, *, leading_space: bool) -> bytes:
    """HEADER: lines within it end in LF alone; one blank behind the colon is left out."""
    value = value.replace(b"\r\n", b"\n")
    if not leading_space and value[:1] == b" ":
        value = value[1:]
    return text(name) + value.replace(b"\0", b"") + b"\0"
