"""For how long a node's mail is its own: until it is silent for too long, and others take over.

A node renews its lease with each sign of life that the database has taken. One that cannot starts
no delivery from a third of the lease on, and at two thirds it cuts off what is not past the final
dot. Only when the whole of it has passed do others take its mail over.
"""

from __future__ import annotations

import time
from collections.abc import Callable

USUAL = 30.0  # seconds
BEATS = 6  # signs of life in that time
_START = 1 / 3  # of the lease
_GO_ON = 2 / 3


def awake_or_not() -> float:
    """Seconds by a clock that nobody sets, and which goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """One node's. It is renewed in a thread of the spool's; everything else is its owner's."""

    def __init__(self, now: Callable[[], float] = awake_or_not) -> None:
        self.seconds = USUAL
        self.on_lost: Callable[[], None] = lambda: None  # all that was this node's may be others'
        self._now = now
        self._renewed = float("-inf")
        self._lost = False

    @property
    def beat(self) -> float:
        """Seconds between two signs of life."""
        return self.seconds / BEATS

    def may_start(self) -> bool:
        """A delivery may begin."""
        return not self._lost and self._now() - self._renewed < self.seconds * _START

    def may_go_on(self) -> bool:
        """What has begun may come to the final dot."""
        return not self._lost and self._now() - self._renewed < self.seconds * _GO_ON

    def renewed(self, at: float) -> None:
        """The sign of life that was begun then (`now`) is in the database."""
        self._renewed = at

    def now(self) -> float:
        """The time, for `renewed`."""
        return self._now()

    def lost(self) -> None:
        """Others may have taken mail over: nothing may be sent until `taken_up`."""
        self._lost = True

    def taken_up(self) -> None:
        """Forget what was this node's, then begin anew."""
        self.on_lost()
        self._lost = False
