"""A milter as one session has it: told what has happened, caught up where it is asked late.

A session writes down what happens to it as `Happening`s, in a list. The talk knows how much of the
list the milter has been told, and tells the rest. So it is all one whether it is asked from the
connection on or only at the final dot; and a transaction that is over is taken back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from relayd.filters.line import FilterLine, FilterTroubleError
from relayd.filters.lines import FilterLines
from relayd.filters.milter import CHUNK, FilterVerdict, MilterClient, Word, header
from relayd.filters.milterwire import Event, MilterError, MilterStep

CONTINUE = FilterVerdict(Word.CONTINUE)
_OF_THE_CONNECTION = (Event.CONNECT, Event.HELO)
Replaced = Callable[[bytes], None]
_STANDING = (Word.REJECT, Word.TEMPFAIL, Word.REPLY, Word.SHUT_DOWN)


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

    async def tell(self, happened: Sequence[Happening]) -> FilterVerdict:
        """Tell what it does not know yet; the first word against it, or the last word of all.

        Raises FilterTroubleError.
        """
        with self._or_broken():
            await self._take_back(happened)
            verdict = self._standing or CONTINUE
            if verdict.word in _STANDING:
                return verdict
            for happening in happened[len(self._told) :]:
                self._told.append(happening)
                if happening.refused:
                    continue
                verdict = await self._say(happening)
                if verdict.word is not Word.CONTINUE:
                    if happening.event in _OF_THE_CONNECTION:
                        self._standing = verdict
                    if verdict.word is not Word.ACCEPT:
                        return verdict
        return CONTINUE

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
        with self._or_broken():
            return await self._examine(fields, body, macros, replaced)

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

    @contextlib.contextmanager
    def _or_broken(self) -> Iterator[None]:
        """Whatever goes wrong, or is given up, ends the connection: who knows where it stands."""
        try:
            yield
        except (MilterError, FilterTroubleError) as error:
            raise self._broken(str(error)) from None
        except BaseException:
            self._broken("")
            raise

    def _broken(self, why: str) -> FilterTroubleError:
        speaker, self._speaker = self._speaker, None
        self._told.clear()
        self._standing = None
        if speaker is not None:
            self._lines.drop(speaker)
        return FilterTroubleError(why)

    async def _take_back(self, happened: Sequence[Happening]) -> None:
        """What it was told of and is no more: a transaction, or another client's session."""
        same = 0
        for told, happening in zip(self._told, happened, strict=False):
            if told is not happening:
                break
            same += 1
        undone = self._told[same:]
        if undone and undone[0].event is Event.CONNECT:
            self.over()
        elif any(each.event not in _OF_THE_CONNECTION for each in undone):
            self._abort()
        del self._told[same:]
        if self._speaker is not None and self._speaker.line.ended:
            self._broken("")  # it has restarted, perhaps: tell it all, from the beginning
        if self._speaker is None:
            self._speaker = await self._greeted()

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

    async def _greeted(self) -> MilterLine:
        speaker, _ = await self._lines.take(self._command)
        try:
            speaker.line.write(speaker.client.offer())
            while not speaker.client.ready:
                speaker.client.receive(await speaker.line.read(self._command))
        except BaseException:
            self._lines.drop(speaker)
            raise
        return speaker

    async def _say(self, happening: Happening) -> FilterVerdict:
        speaker = self._speaker
        assert speaker is not None
        if not speaker.client.wants(happening.event):
            return CONTINUE
        answers = _write(speaker, happening.event, happening.data, happening.macros)
        return await self._answer(speaker, self._command) if answers else CONTINUE

    async def _answer(
        self, speaker: MilterLine, patience: float, replaced: Replaced | None = None
    ) -> FilterVerdict:
        while True:
            verdicts = speaker.client.receive(await speaker.line.read(patience))
            for piece in speaker.client.new_body():
                if replaced is not None:
                    replaced(piece)
            if len(verdicts) > 1:
                raise MilterError("it answers twice")
            if verdicts:
                return verdicts[0]

    async def _examine(
        self,
        fields: Iterable[tuple[str, bytes]],
        body: Callable[[], Iterator[bytes]],
        macros: Mapping[str, str],
        replaced: Replaced,
    ) -> FilterVerdict:
        speaker = self._speaker
        if speaker is None:
            raise FilterTroubleError("the connection is gone")
        client, line = speaker.client, speaker.line
        for event, data in _content(client, fields, body):
            if not client.wants(event):
                continue
            verdict = CONTINUE
            if _write(speaker, event, data, macros):
                verdict = await self._answer(speaker, self._content, replaced)
            elif line.full:
                await line.drained(self._content)
            if event is Event.END_OF_MESSAGE:
                return verdict
            if verdict.word not in (Word.CONTINUE, Word.SKIP, Word.ACCEPT):
                return verdict
        return CONTINUE


def _write(speaker: MilterLine, event: Event, data: bytes, macros: Mapping[str, str]) -> bool:
    """One event, its macros with it, in one write. Whether an answer will come."""
    if speaker.line.spoke:
        raise MilterError("it says something that nobody asked for")
    octets, answers = speaker.client.tell(event, data, macros)
    speaker.line.write(octets)
    if event not in _OF_THE_CONNECTION:
        speaker.in_message = True
    return answers


def _content(
    client: MilterClient,
    fields: Iterable[tuple[str, bytes]],
    body: Callable[[], Iterator[bytes]],
) -> Iterator[tuple[Event, bytes]]:
    if client.wants(Event.HEADER):
        for name, value in fields:
            yield Event.HEADER, header(name, value, leading_space=client.leading_space)
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
