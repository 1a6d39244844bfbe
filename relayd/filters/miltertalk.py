"""A milter as one session has it: told what has happened, caught up where it is asked late.

A session writes down what happens to it as `Happening`s, in a list. The talk knows how much of the
list the milter has been told, and tells the rest. So it is all one whether it is asked from the
connection on or only at the final dot; and a transaction that is over is taken back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from relayd.filters.line import Conversation, FilterLine, FilterTroubleError
from relayd.filters.lines import FilterLines
from relayd.filters.milter import CHUNK, CONTINUE, FilterVerdict, MilterClient, Word, header
from relayd.filters.milterwire import Event, MilterError, MilterStep

_OF_THE_CONNECTION = (Event.CONNECT, Event.HELO)
Replaced = Callable[[bytes], None]
_STANDING = (Word.REJECT, Word.TEMPFAIL, Word.REPLY, Word.SHUT_DOWN)
_GOES_ON = (Word.CONTINUE, Word.SKIP, Word.ACCEPT)
_UNASKED = "it says something that nobody asked for"
_MOST_HELD = 65536  # octets that wait for those after them, to leave in one write


class Happening:
    """One event of a session, as a milter is told of it."""

    __slots__ = ("data", "event", "macros", "refused")

    def __init__(self, event: Event, data: bytes, macros: Mapping[str, str]) -> None:
        self.event = event
        self.data = data
        self.macros = macros
        self.refused = False  # it did not come to it: who was not told yet never is


@dataclass(slots=True)
class MilterLine:
    """One connection to a milter, and what is agreed on it."""

    line: FilterLine
    client: MilterClient
    in_message: bool = False  # it has heard of one, and not that it is over
    held: bytearray = field(default_factory=bytearray)  # what it does not answer, not written yet

    def say(
        self,
        event: Event,
        data: bytes,
        macros: Mapping[str, str],
        patience: float,
        replaced: Replaced | None = None,
    ) -> Conversation[FilterVerdict]:
        """One event, its macros with it; what the milter says to it, if it is to say anything."""
        client = self.client
        if not client.wants(event):
            return CONTINUE
        if self.line.spoke:
            raise MilterError(_UNASKED)
        octets, answers = client.tell(event, data, macros)
        if event not in _OF_THE_CONNECTION:
            self.in_message = True
        if not answers:
            self.held += octets
            if len(self.held) >= _MOST_HELD:
                self.flush()
                while self.line.full:
                    if (yield patience):
                        raise MilterError(_UNASKED)
            return CONTINUE
        self.line.write(bytes(self.held) + octets)
        self.held.clear()
        while True:
            verdicts = client.receive((yield patience))
            if event is Event.END_OF_MESSAGE:
                for piece in client.new_body():
                    if replaced is not None:
                        replaced(piece)
            if verdicts:
                return verdicts[0]

    def flush(self) -> None:
        """Write what it was told by now."""
        if self.held:
            self.line.write(bytes(self.held))
            self.held.clear()


def milter_line(line: FilterLine) -> MilterLine:
    """Over a new connection."""
    return MilterLine(line, MilterClient())


class MilterTalk:
    """What one milter says to one session."""

    def __init__(self, lines: FilterLines[MilterLine], command: float, content: float) -> None:
        self._lines = lines
        self._command = command  # seconds for an answer to a command
        self._content = content  # ... about the content
        self._speaker: MilterLine | None = None
        self._told: list[Happening] = []
        self._standing: FilterVerdict | None = None  # the client's, whatever he does

    @property
    def leading_space(self) -> bool:
        """Fields go to and fro with what stands behind their colon."""
        return self._speaker is not None and self._speaker.client.leading_space

    @property
    def hears_refusals(self) -> bool:
        """It wants to be told of recipients that we refuse, too."""
        speaker = self._speaker
        return speaker is not None and bool(
            speaker.client.agreed.steps & MilterStep.REFUSED_RECIPIENTS
        )

    async def tell(self, happened: Sequence[Happening], by: float = math.inf) -> FilterVerdict:
        """Tell what it does not know yet; the first word against it, or the last word of all.

        `by`: when this and the content behind it must be answered, in the reactor's seconds.
        Raises FilterTroubleError.
        """
        with self:
            self._take_back(happened)
            speaker = self._speaker = self._speaker or await self._greeted(by)
            speaker.line.by = by
            if self._standing is not None and self._standing.word in _STANDING:
                return self._standing
            return await speaker.line.converse(self._catch_up(speaker, happened))

    async def examine(
        self,
        fields: Iterable[tuple[str, bytes]],
        body: Callable[[], Iterator[bytes]],
        macros: Mapping[str, str],
        replaced: Replaced,
    ) -> FilterVerdict:
        """Tell it the content of the message that it knows of; what it says at the end, edits too.

        `fields`: names, and what stands behind the colon. `replaced` is given the pieces of a body
        that is to take the place of this one. Raises FilterTroubleError.
        """
        with self:
            speaker = self._speaker
            if speaker is None:
                raise FilterTroubleError("the connection is gone")
            content = _content(speaker.client, fields, body)
            return await speaker.line.converse(self._show(speaker, content, macros, replaced))

    def over(self) -> None:
        """The session is, and so is the connection.

        Version 6 would let the next client have it; but libmilter, as Debian has it, says nothing
        more after that unless the last message was taken back.
        """
        speaker, self._speaker = self._speaker, None
        self._told.clear()
        self._standing = None
        if speaker is None:
            return
        if speaker.client.ready and not speaker.line.ended:
            self._lines.end(speaker, speaker.client.quit())
        else:
            self._lines.drop(speaker)

    # the parts of it

    def __enter__(self) -> None:
        """Whatever goes wrong, or is given up, ends the connection: who knows where it stands."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, MilterError | FilterTroubleError):
            raise self._broken(str(error)) from None
        if error is not None:
            self._broken("")

    def _broken(self, why: str) -> FilterTroubleError:
        speaker, self._speaker = self._speaker, None
        self._told.clear()
        self._standing = None
        if speaker is not None:
            self._lines.drop(speaker)
        return FilterTroubleError(why)

    def _take_back(self, happened: Sequence[Happening]) -> None:
        """What it was told of and is no more: a transaction, or another client's session."""
        told = self._told
        if told != happened[: len(told)]:
            same = 0
            for before, now in zip(told, happened, strict=False):
                if before is not now:
                    break
                same += 1
            undone = told[same:]
            if undone[0].event is Event.CONNECT:
                self.over()
            elif any(each.event not in _OF_THE_CONNECTION for each in undone):
                self._abort()
            del told[same:]
        if self._speaker is not None and self._speaker.line.ended:
            self._broken("")  # it has restarted, perhaps: tell it all, from the beginning

    def _abort(self) -> None:
        speaker = self._speaker
        if speaker is None:
            return
        if speaker.client.ready:
            if speaker.in_message:
                speaker.line.write(speaker.client.next_message())
                speaker.in_message = False
            else:
                speaker.client.next_message()
        else:
            self._broken("")

    async def _greeted(self, by: float) -> MilterLine:
        speaker, _ = await self._lines.take(self._command, by)
        try:
            speaker.line.write(speaker.client.offer())
            await speaker.line.converse(_agreed(speaker.client, self._command))
        except BaseException:
            self._lines.drop(speaker)
            raise
        return speaker

    def _catch_up(
        self, speaker: MilterLine, happened: Sequence[Happening]
    ) -> Conversation[FilterVerdict]:
        for happening in happened[len(self._told) :]:
            self._told.append(happening)
            if happening.refused:
                continue
            verdict = yield from speaker.say(
                happening.event, happening.data, happening.macros, self._command
            )
            if verdict.word is not Word.CONTINUE:
                if happening.event in _OF_THE_CONNECTION:
                    self._standing = verdict
                if verdict.word is not Word.ACCEPT:
                    return verdict
        speaker.flush()
        return CONTINUE

    def _show(
        self,
        speaker: MilterLine,
        content: Iterable[tuple[Event, bytes]],
        macros: Mapping[str, str],
        replaced: Replaced,
    ) -> Conversation[FilterVerdict]:
        for event, data in content:
            verdict = yield from speaker.say(event, data, macros, self._content, replaced)
            if event is Event.END_OF_MESSAGE or verdict.word not in _GOES_ON:
                return verdict
        return CONTINUE


def _agreed(client: MilterClient, patience: float) -> Conversation[None]:
    """What comes until it has said what it wants."""
    while not client.ready:
        client.receive((yield patience))


def _content(
    client: MilterClient,
    fields: Iterable[tuple[str, bytes]],
    body: Callable[[], Iterator[bytes]],
) -> Iterator[tuple[Event, bytes]]:
    if client.wants(Event.HEADER):
        leading_space = client.leading_space
        for name, value in fields:
            yield Event.HEADER, header(name, value, leading_space=leading_space)
    yield Event.END_OF_HEADER, b""
    if client.wants(Event.BODY):
        yield from ((Event.BODY, piece) for piece in _pieces(body()))
    yield Event.END_OF_MESSAGE, b""


def _pieces(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same octets in pieces of CHUNK."""
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= CHUNK:
            data = b"".join(held)
            while len(data) >= CHUNK:
                yield data[:CHUNK]
                data = data[CHUNK:]
            held, size = [data], len(data)
    if size:
        yield b"".join(held)
