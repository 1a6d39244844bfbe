"""Hands messages to clamd and to rspamd, in pieces and no faster than they take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from relayd.filters import clamd
from relayd.filters.clamd import ClamdAnswer, ClamdError, Scanned
from relayd.filters.line import FilterLine, FilterPlace, FilterTroubleError
from relayd.filters.lines import FilterLines
from relayd.filters.rspamd import RspamdAnswer, RspamdError, RspamdReport, check_request

MOST = 100  # connections at a time
Chunks = Callable[[], Iterator[bytes]]


@dataclass(slots=True)
class _ScanLine:
    line: FilterLine


class _Scanner:
    def __init__(self, reactor: Any, place: FilterPlace, patience: float) -> None:  # noqa: ANN401
        self._patience = patience  # seconds without a word
        self.lines: FilterLines[_ScanLine] = FilterLines(reactor, place, _ScanLine, MOST)


class Clamd(_Scanner):
    """One clamd; each message has a connection of its own, as INSTREAM without a session has it."""

    async def scan(self, chunks: Chunks) -> Scanned:
        """What it finds. Raises FilterTroubleError."""
        begun = await self.begin()
        try:
            for piece in chunks():
                if begun.refused:
                    break
                await begun.write(piece)
            return await begun.end()
        finally:
            begun.close()

    async def begin(self) -> ClamdScan:
        """Hand it a message while it comes. Raises FilterTroubleError."""
        speaker, _ = await self.lines.take(self._patience)
        speaker.line.write(clamd.START)
        return ClamdScan(self.lines, speaker, self._patience)


class ClamdScan:
    """One message on its way to clamd."""

    def __init__(self, lines: FilterLines[_ScanLine], speaker: _ScanLine, patience: float) -> None:
        self._lines = lines
        self._speaker: _ScanLine | None = speaker
        self._line = speaker.line
        self._patience = patience
        self._answer = ClamdAnswer()

    @property
    def refused(self) -> bool:
        """It has answered, or ended, before all of it was there."""
        return bool(self._line.ended) or self._line.spoke

    @property
    def full(self) -> bool:
        """It does not take what is written."""
        return self._line.full

    def push(self, piece: bytes) -> None:
        """More of it."""
        self._line.write(clamd.chunk(piece))

    async def write(self, piece: bytes) -> None:
        """More of it, once it takes more. Raises FilterTroubleError."""
        if self._line.full and not self.refused:
            await self._line.drained(self._patience)
        self.push(piece)

    async def end(self) -> Scanned:
        """That was all: what it finds. Raises FilterTroubleError."""
        self._line.write(clamd.END)
        try:
            while True:
                found = self._answer.feed(await self._line.read(self._patience))
                if found is not None:
                    return found
        except ClamdError as error:
            raise FilterTroubleError(str(error)) from None

    def close(self) -> None:
        """It is over, however far it came."""
        speaker, self._speaker = self._speaker, None
        if speaker is not None:
            self._lines.drop(speaker)


class Rspamd(_Scanner):
    """One rspamd, which closes after each request."""

    def __init__(self, reactor: Any, place: FilterPlace, patience: float) -> None:  # noqa: ANN401
        super().__init__(reactor, place, patience)
        self._host = str(place)

    async def check(
        self, about: Sequence[tuple[str, str]], size: int, chunks: Chunks
    ) -> RspamdReport:
        """What it says of a message of so many octets. Raises FilterTroubleError."""
        speaker, _ = await self.lines.take(self._patience)
        line, answer = speaker.line, RspamdAnswer()
        try:
            line.write(check_request(self._host, about, size))
            for piece in chunks():
                if line.spoke or line.ended:
                    break  # it has seen enough
                if line.full:
                    await line.drained(self._patience)
                line.write(piece)
            while True:
                try:
                    data = await line.read(self._patience)
                except FilterTroubleError:
                    report = answer.ended() if line.ended else None
                    if report is None:
                        raise
                    return report
                report = answer.feed(data)
                if report is not None:
                    return report
        except RspamdError as error:
            raise FilterTroubleError(str(error)) from None
        finally:
            self.lines.drop(speaker)
