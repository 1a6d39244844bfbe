"""Counts and times that all workers see: shared memory in which each writes a row of its own."""

from __future__ import annotations

import mmap
import os
from hashlib import blake2b

_BUCKETS = 16384  # a row is 64 KiB; two keys share a bucket seldom enough to mislead no limit
_TIMES = 1024  # of the row, beside its counts; few things have one
_WIDTH = _BUCKETS + _TIMES
_CELL = 4  # octets: one unsigned native integer, read and written in one machine access


class SharedCounters:
    """How many of something (sessions of a client, deliveries to a destination) there are in all.

    Nobody takes a lock: a row has one writer, and a reader that comes a moment too early is off
    by one, which a limit can bear.
    """

    def __init__(self, descriptor: int, rows: int, row: int) -> None:
        """`descriptor` is from `shared_memory` (inherited); `row` is this worker's number."""
        self._memory = mmap.mmap(descriptor, rows * _WIDTH * _CELL)
        self._cells = memoryview(self._memory).cast("I")
        self.rows = rows  # how many workers there are
        self._row = row
        self._bucket: dict[str, int] = {}
        self._spots: dict[str, int] = {}

    def add(self, key: str, change: int) -> None:
        """One more (or one less) of this key in this worker."""
        cell = self._row * _WIDTH + self._place(key)
        self._cells[cell] = max(self._cells[cell] + change, 0)

    def get(self, key: str) -> int:
        """How many of this key the other workers have."""
        place = self._place(key)
        cells, own = self._cells, self._row
        return sum(cells[row * _WIDTH + place] for row in range(self.rows) if row != own)

    def clear(self) -> None:
        """Forget this row: its worker has just started, or died."""
        start = self._row * _WIDTH * _CELL
        self._memory[start : start + _WIDTH * _CELL] = bytes(_WIDTH * _CELL)

    def note(self, key: str, at: float) -> None:
        """When this worker last saw it, in seconds since the epoch; before that: never."""
        self._cells[self._row * _WIDTH + self._spot(key)] = max(int(at), 0)

    def noted(self, key: str, *, own: bool = False) -> float:
        """When another one last did, or this one too (`own`), to the second; 0: never."""
        place = self._spot(key)
        cells, left_out = self._cells, None if own else self._row
        return max(
            (cells[row * _WIDTH + place] for row in range(self.rows) if row != left_out), default=0
        )

    def _spot(self, key: str) -> int:
        place = self._spots.get(key)
        if place is None:
            if len(self._spots) > 10_000:
                self._spots.clear()
            place = self._spots[key] = _BUCKETS + _hash(key) % _TIMES
        return place

    def _place(self, key: str) -> int:
        place = self._bucket.get(key)
        if place is None:
            if len(self._bucket) > 10_000:
                self._bucket.clear()
            place = self._bucket[key] = _hash(key) % _BUCKETS
        return place


def _hash(key: str) -> int:
    return int.from_bytes(blake2b(key.encode("utf-8", "replace"), digest_size=4).digest(), "little")


def shared_memory(rows: int) -> int:
    """A descriptor of zeroed memory for so many rows, for workers to inherit; raises OSError."""
    descriptor = os.memfd_create("relayd-tally", 0)
    os.ftruncate(descriptor, rows * _WIDTH * _CELL)
    return descriptor
