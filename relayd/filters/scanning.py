"""Hands messages to clamd and to rspamd, in pieces and no faster than they take them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from relayd.filters import clamd
from relayd.filters.clamd import ClamdAnswer, ClamdError, Scanned
from relayd.filters.line import CLOSED, FilterLine, FilterPlace, FilterTroubleError
from relayd.filters.lines import FilterLines
from relayd.filters.rspamd import RspamdAnswer, RspamdError, RspamdReport, check_request

MOST = 100  # connections at a time
# a message that is handed over while it arrives keeps a thread of clamd's busy, which has ten:
MOST_EARLY = 3  # so there are no more of them at a time,
EARLY_SECONDS = 10.0  # and a sender who takes longer has it looked at when all of it is there
_EARLY = "it answers before it has seen the whole message"


class Chunks(Protocol):
    """A message, in pieces, from an octet on."""

    def __call__(self, start: int = 0) -> Iterator[bytes]:
        """The pieces."""


@dataclass(slots=True)
class _ScanLine:
    line: FilterLine


class _Scanner:
    def __init__(self, reactor: Any, place: FilterPlace, patience: float) -> None:  # noqa: ANN401
        self._patience = patience  # seconds without a word
        self.lines: FilterLines[_ScanLine] = FilterLines(reactor, place, _ScanLine, MOST)


class Clamd(_Scanner):
    """One clamd; each message has a connection of its own, as INSTREAM without a session has it."""

    def __init__(self, reactor: Any, place: FilterPlace, patience: float) -> None:  # noqa: ANN401
        super().__init__(reactor, place, patience)
        self._reactor = reactor
        self._early = 0

    async def scan(
        self, chunks: Chunks, begun: ClamdScan | None = None, by: float = math.inf
    ) -> Scanned:
        """What it finds, `by` then in the reactor's seconds; `begun`: it has some of it already.

        Raises FilterTroubleError.
        """
        if begun is not None and not begun.refused:
            begun.by(by)
            try:
                return await self._rest(begun, chunks)
            except FilterTroubleError:
                if not begun.ended:
                    raise
                # it may have been tired of waiting for the rest
        return await self._rest(await self._begin(by), chunks)

    async def early(self, by: float = math.inf) -> ClamdScan | None:
        """Hand it a message while it arrives, connected `by` then; None: enough of those.

        Raises FilterTroubleError.
        """
        if self._early >= MOST_EARLY:
            return None
        self._early += 1
        try:
            scan = await self._begin(by)
        except BaseException:
            self._early -= 1
            raise
        timer = self._reactor.callLater(EARLY_SECONDS, scan.close)
        scan.on_close = lambda: self._early_is_over(timer)
        return scan

    def _early_is_over(self, timer: Any) -> None:  # noqa: ANN401  # a delayed call
        self._early -= 1
        if timer.active():
            timer.cancel()

    async def _begin(self, by: float) -> ClamdScan:
        speaker, _ = await self.lines.take(self._patience, by)
        speaker.line.write(clamd.START)
        return ClamdScan(self.lines, speaker, self._patience)

    async def _rest(self, scan: ClamdScan, chunks: Chunks) -> Scanned:
        try:
            for piece in chunks(scan.sent):
                if scan.refused:
                    break
                await scan.write(piece)
            return await scan.end()
        finally:
            scan.close()


class ClamdScan:
    """One message on its way to clamd."""

    def __init__(self, lines: FilterLines[_ScanLine], speaker: _ScanLine, patience: float) -> None:
        self._lines = lines
        self._speaker: _ScanLine | None = speaker
        self._line = speaker.line
        self._patience = patience
        self._answer = ClamdAnswer()
        self.sent = 0  # octets of the message
        self.on_close: Callable[[], None] | None = None

    @property
    def refused(self) -> bool:
        """It has answered, or ended, before all of it was there."""
        return self._speaker is None or bool(self._line.ended) or self._line.spoke

    @property
    def ended(self) -> bool:
        """It has closed the connection."""
        return self._line.ended == CLOSED

    @property
    def full(self) -> bool:
        """It does not take what is written."""
        return self._line.full

    def by(self, when: float) -> None:
        """When it must have answered, in the reactor's seconds."""
        self._line.by = when

    def push(self, piece: bytes) -> None:
        """More of it."""
        self._line.write(clamd.chunk(piece))
        self.sent += len(piece)

    async def write(self, piece: bytes) -> None:
        """More of it, once it takes more. Raises FilterTroubleError."""
        if self._line.full and not self.refused:
            await self._line.drained(self._patience)
        self.push(piece)

    async def end(self) -> Scanned:
        """That was all: what it finds. Raises FilterTroubleError."""
        early = self._line.spoke
        self._line.write(clamd.END)
        try:
            while True:
                found = self._answer.feed(await self._line.read(self._patience))
                if found is not None:
                    break
        except ClamdError as error:
            raise FilterTroubleError(str(error)) from None
        if (early or self._line.full) and not found.virus:
            raise FilterTroubleError(_EARLY)
        return found

    def close(self) -> None:
        """It is over, however far it came."""
        speaker, self._speaker = self._speaker, None
        if speaker is not None:
            self._lines.drop(speaker)
        if self.on_close is not None:
            on_close, self.on_close = self.on_close, None
            on_close()


class Rspamd(_Scanner):
    """One rspamd, which closes after each request."""

    def __init__(self, reactor: Any, place: FilterPlace, patience: float) -> None:  # noqa: ANN401
        super().__init__(reactor, place, patience)
        self._host = str(place)

    async def check(
        self,
        about: Sequence[tuple[str, str]],
        size: int,
        chunks: Chunks,
        by: float = math.inf,
    ) -> RspamdReport:
        """What it says of a message of so many octets, `by` then. Raises FilterTroubleError."""
        speaker, _ = await self.lines.take(self._patience, by)
        line = speaker.line
        try:
            line.write(check_request(self._host, about, size))
            for piece in chunks():
                if line.spoke or line.ended:
                    break
                if line.full:
                    await line.drained(self._patience)
                line.write(piece)
            early = line.spoke
            report = await self._report(line)
            early = early or line.full
        except RspamdError as error:
            raise FilterTroubleError(str(error)) from None
        finally:
            self.lines.drop(speaker)
        if early and not report.word:  # it may have seen enough to refuse it, and for nothing else
            raise FilterTroubleError(_EARLY)
        return report

    async def _report(self, line: FilterLine) -> RspamdReport:
        answer = RspamdAnswer()
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
