"""Counters by name in memory that the master and all workers see; each adds to a row of its own.

A row outlives the worker that fills it: the one that takes its place goes on with it, so no counter
ever goes back, and nothing that was counted is lost when a worker is killed.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

SLOTS = 1536  # counters of a row
_NAME = 192  # octets of a name, the first one says how many
_CELL = 8  # octets: one double, read and written in one machine access
_ROW = SLOTS * (_CELL + _NAME)


class Meters:
    """The counters of one process, and the sums over all. A row has one writer; nobody locks."""

    def __init__(self, descriptor: int, rows: int, row: int) -> None:
        """`descriptor` is from `shared_meters` (perhaps inherited); `row` is this process's."""
        self._memory = mmap.mmap(descriptor, rows * _ROW)
        self._rows = rows
        start = row * _ROW
        view = memoryview(self._memory)
        self.cells = view[start : start + SLOTS * _CELL].cast("d")
        self._names = start + SLOTS * _CELL
        self._slots = {name: slot for slot, name in self._named(row)}

    def slot(self, name: str) -> int:
        """The place of a counter in `cells`; once all are taken, of one that stands for the rest.

        It costs more than to count: ask once, and keep it.
        """
        found = self._slots.get(name)
        if found is None:
            octets = name.encode()
            if len(self._slots) >= SLOTS - 1 or len(octets) >= _NAME:
                return SLOTS - 1
            found = len(self._slots)
            at = self._names + found * _NAME
            self._memory[at + 1 : at + 1 + len(octets)] = octets
            self._memory[at] = len(octets)  # from now on it is seen
            self._slots[name] = found
        return found

    def sums(self) -> dict[str, float]:
        """Each counter over all rows."""
        found: dict[str, float] = {}
        for row in range(self._rows):
            start = row * _ROW
            cells = memoryview(self._memory)[start : start + SLOTS * _CELL].cast("d")
            for slot, name in self._named(row):
                found[name] = found.get(name, 0.0) + cells[slot]
        return found

    def _named(self, row: int) -> Iterator[tuple[int, str]]:
        names = row * _ROW + SLOTS * _CELL
        for slot in range(SLOTS):
            at = names + slot * _NAME
            length = self._memory[at]
            if not length:
                return
            yield slot, self._memory[at + 1 : at + 1 + length].decode()


def shared_meters(rows: int) -> int:
    """A descriptor of zeroed memory for so many rows, for workers to inherit; raises OSError."""
    descriptor = os.memfd_create("relayd-meters", 0)
    os.ftruncate(descriptor, rows * _ROW)
    return descriptor
