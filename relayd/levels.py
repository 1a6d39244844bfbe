"""The sessions of each worker, in memory that all of them see; and a bell for each."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Sequence

_CELL = 4  # octets: one unsigned native integer, read and written in one machine access
_AWAY = 0  # in a cell: takes no connections at all; else 2 * (sessions + 1), plus 1 if it listens


class Levels:
    """The sessions of this worker, told to the others, and theirs.

    Nobody takes a lock: a cell has one writer.
    """

    def __init__(self, descriptors: Sequence[int], number: int) -> None:
        """`descriptors` are from `shared_levels` (inherited); `number` is this worker's."""
        memory, *self._bells = descriptors
        workers = len(self._bells)
        self._cells = memoryview(mmap.mmap(memory, workers * _CELL)).cast("I")
        self._number = number
        self._others = tuple(each for each in range(workers) if each != number)

    def tell(self, sessions: int, *, listening: bool) -> None:
        """How many we serve, and whether we wait for connections or leave them to others."""
        self._cells[self._number] = 2 * (sessions + 1) + listening

    def others(self) -> list[int]:
        """The sessions of each other worker that serves."""
        cells = self._cells
        return [cells[each] // 2 - 1 for each in self._others if cells[each] != _AWAY]

    def someone_listens_below(self, sessions: int) -> bool:
        """Another worker with fewer sessions than this waits for connections."""
        cells, most = self._cells, 2 * (sessions + 1)
        return any(cells[each] & 1 and cells[each] < most for each in self._others)

    def call_the_fewest(self) -> None:
        """Ring the bell of the other worker that has the fewest sessions, if one serves."""
        cells = self._cells
        serving = [(cells[each], each) for each in self._others if cells[each] != _AWAY]
        if serving:
            os.eventfd_write(self._bells[min(serving)[1]], 1)

    @property
    def bell(self) -> int:
        """A descriptor that is readable when another has called."""
        return self._bells[self._number]

    def heard(self) -> None:
        """The bell is quiet again."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.bell)

    def clear(self) -> None:
        """The worker has died, or takes nobody any more."""
        self._cells[self._number] = _AWAY


def shared_levels(workers: int) -> list[int]:
    """The descriptors for so many workers, for each to inherit all; raises OSError."""
    memory = os.memfd_create("relayd-levels", 0)
    os.ftruncate(memory, workers * _CELL)
    return [memory, *(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(workers))]
