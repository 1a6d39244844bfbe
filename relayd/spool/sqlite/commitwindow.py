"""Whether others are on their way who want a COMMIT, too, and so are worth waiting for."""

from __future__ import annotations

import time
from collections.abc import Callable

WINDOW = 0.1  # seconds; "lately" is one to two of these


class CommitWindow:
    """Counts the transactions under way that may soon be committed.

    Some never are: their peers are slow, or only hold a connection open. They are told from the
    others by staying: as many as there have lately been at any time are not waited for. Threads
    need not agree about it; nothing but a short wait depends on the answer.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._there = 0
        self._least = self._least_before = 0  # in this window and in the last
        self._window = clock()  # when it began

    def expect(self, change: int) -> None:
        """So many more are under way, or (negative) fewer."""
        self._there += change
        self._least = min(self._least, self._there)

    def is_complete(self) -> bool:
        """As few are under way as there have lately been: nobody else will come soon."""
        now = self._clock()
        if now - self._window > WINDOW:
            self._window = now
            self._least_before, self._least = self._least, self._there
        return self._there <= min(self._least, self._least_before)
