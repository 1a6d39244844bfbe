"""The connections to one filter: kept for the next question, and never more than it can bear."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, TimeoutError

from relayd.filters.line import FilterLine, FilterPlace, FilterTroubleError, dial

CONNECT = 30.0  # seconds, as Postfix has it
MOST_IDLE = 20
IDLE_SECONDS = 60.0  # so long a connection is kept for nobody


class OnLine(Protocol):
    """Who speaks over one connection."""

    line: FilterLine


T = TypeVar("T", bound=OnLine)


class FilterLines(Generic[T]):
    """Connections to one filter. `make`: who is to speak over a new one."""

    def __init__(
        self,
        reactor: Any,  # noqa: ANN401  # of several interfaces
        place: FilterPlace,
        make: Callable[[FilterLine], T],
        most: int,  # connections at a time; who wants more waits
    ) -> None:
        self._reactor = reactor
        self._place = place
        self._make = make
        self._most = most
        self._idle: list[tuple[T, float]] = []  # the one last used is the last
        self._waiting: deque[Deferred[None]] = deque()
        self._closed = False
        self.open = 0

    async def take(self, patience: float, by: float = math.inf) -> tuple[T, bool]:
        """One to speak over, and whether it has been used before. Raises FilterTroubleError.

        `by`: when all that it is asked must be answered, in the reactor's seconds.
        """
        kept = self._kept()
        if kept is not None:
            kept.line.by = by
            return kept, True
        patience = min(patience, CONNECT, by - self._reactor.seconds())
        if patience <= 0:
            raise FilterTroubleError("those before it took all the time there was")
        if self.open >= self._most:
            await self._turn(patience)
            kept = self._kept()
            if kept is not None:
                kept.line.by = by
                return kept, True
        self.open += 1
        try:
            line = await dial(self._reactor, self._place, patience)
        except BaseException:
            self._left()
            raise
        line.by = by
        return self._make(line), False

    def give_back(self, speaker: T) -> None:
        """It owes us nothing and may be used again."""
        line = speaker.line
        if self._closed or line.ended or line.spoke or len(self._idle) >= MOST_IDLE:
            self.drop(speaker)
            return
        self._idle.append((speaker, self._reactor.seconds()))
        self._next()

    def drop(self, speaker: T) -> None:
        """It is of no use any more."""
        speaker.line.abort()
        self._left()

    def end(self, speaker: T, last: bytes) -> None:
        """Close it with a last word."""
        speaker.line.write(last)
        speaker.line.close()
        self._left()

    def close(self) -> None:
        """Keep none."""
        self._closed = True
        while self._idle:
            self.drop(self._idle.pop()[0])

    def _kept(self) -> T | None:
        oldest = self._reactor.seconds() - IDLE_SECONDS
        while self._idle and self._idle[0][1] < oldest:
            self.drop(self._idle.pop(0)[0])
        while self._idle:
            speaker, _ = self._idle.pop()
            if not speaker.line.ended and not speaker.line.spoke:
                return speaker
            self.drop(speaker)
        return None

    async def _turn(self, patience: float) -> None:
        turn: Deferred[None] = Deferred()
        self._waiting.append(turn)
        try:
            await turn.addTimeout(patience, self._reactor)
        except TimeoutError:
            raise FilterTroubleError(
                f"{self._most} others have asked it, and it has not answered them"
            ) from None
        except CancelledError:
            raise
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)

    def _left(self) -> None:
        self.open -= 1
        self._next()

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.called:
                turn.callback(None)
                return
