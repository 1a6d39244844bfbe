"""The sessions of each worker, in memory that all of them see; and a bell for each."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Sequence

_CELL = 4  # octets: one unsigned native integer, read and written in one machine access
_AWAY = 0  # in a cell: takes no connections at all; else _ONE * (sessions + 1), plus these two
_LISTENS = 1
_DUE = 2
_ONE = 4


class SessionCounts:
    """The sessions of this worker, told to the others, and theirs.

    Nobody takes a lock: a cell has one writer.
    """

    def __init__(self, descriptors: Sequence[int], number: int) -> None:
        """`descriptors` are from `shared_session_counts` (inherited); `number` is this worker's."""
        memory, *self._bells = descriptors
        workers = len(self._bells)
        self._cells = memoryview(mmap.mmap(memory, workers * _CELL)).cast("I")
        self._number = number
        self._others = tuple(each for each in range(workers) if each != number)

    def tell(self, sessions: int, *, listening: bool) -> None:
        """How many we serve, and whether we wait for connections or leave them to others."""
        self._cells[self._number] = _ONE * (sessions + 1) + listening * _LISTENS

    def others(self) -> list[int]:
        """The sessions of each other worker that serves."""
        cells = self._cells
        return [cells[each] // _ONE - 1 for each in self._others if cells[each] != _AWAY]

    def someone_listens_below(self, sessions: int) -> bool:
        """Another worker with fewer sessions than this waits for connections."""
        cells, most = self._cells, _ONE * (sessions + 1)
        return any(cells[each] & _LISTENS and cells[each] < most for each in self._others)

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
        """The worker takes nobody any more, or is gone."""
        self._cells[self._number] = _AWAY

    def expect(self) -> None:
        """The worker is gone, but another will soon be in its place: leave it a share."""
        self._cells[self._number] = _ONE + _DUE + _LISTENS

    def expect_no_more(self) -> None:
        """That took too long, if it is not there by now."""
        if self._cells[self._number] & _DUE:
            self.clear()

    def someone_is_due(self) -> bool:
        """Another worker is expected."""
        cells = self._cells
        return any(cells[each] & _DUE for each in self._others)


def shared_session_counts(workers: int) -> list[int]:
    """The descriptors for so many workers, for each to inherit all; raises OSError."""
    memory = os.memfd_create("relayd-levels", 0)
    os.ftruncate(memory, workers * _CELL)
    return [memory, *(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(workers))]
