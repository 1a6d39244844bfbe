"""How many of each key there were in the last hour (or whatever time), counted over all workers."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from relayd.shared.keytable import KeyTable

KEYS = 1_000_000  # that are counted at a time; of more the longest unused are forgotten
NAMES = 16_384  # of keys near their limit, or over it, that are remembered as they are written
NEAR = 0.75  # of the limit
CELLS = 65  # the window has one less: what is older than it is forgotten up to a 64th of it late
ENDINGS = (".counts", ".wide", ".names")  # of its files; the second one instead of the first
_WIDE = 0xFFFF  # a limit of more has cells of four octets
_NAME = 254  # octets of a key's text, behind their number


class SlidingCounts:
    """Counts of one kind, each over a window of `seconds`; `most` is what is too many of them.

    The window slides by a 64th of itself. Never is a count too low, and so no window of this
    length has more than was allowed; it is too high by what has left the window since the last
    64th began. It takes the same time whatever was counted. Times are seconds since the epoch.
    """

    def __init__(self, path: Path, most: int, seconds: float, keys: int = KEYS) -> None:
        """Two files, `path` with ENDINGS. Raises OSError, as each method may."""
        self._row = struct.Struct(f"<Q{CELLS}{'I' if most > _WIDE else 'H'}")
        self._full = (1 << 32 if most > _WIDE else 1 << 16) - 1
        self._most = most
        self._cell = seconds / (CELLS - 1)
        narrow, wide, names = ENDINGS
        kind = wide if most > _WIDE else narrow
        self._counts = KeyTable(path.with_name(path.name + kind), self._row.size, keys)
        self._names = KeyTable(path.with_name(path.name + names), 1 + _NAME, NAMES)

    def close(self) -> None:
        """Nobody asks it any more."""
        self._counts.close()
        self._names.close()

    def add(self, key: str, now: float) -> tuple[int, int]:
        """One more: how many there are with it, and what to take back if it was none."""
        count = slot = 0

        def edit(row: bytes | None) -> bytes:
            nonlocal count, slot
            slot, cells = self._at(row, now)
            cells[slot % CELLS] = min(cells[slot % CELLS] + 1, self._full)
            count = sum(cells)
            return self._row.pack(slot, *cells)

        self._counts.change(key, now, edit)
        self._name(key, count, now)
        return count, slot

    def know(self, key: str, count: int, now: float) -> None:
        """There are so many in all: others have counted, too."""

        def edit(row: bytes | None) -> bytes | None:
            slot, cells = self._at(row, now)
            more = count - sum(cells)
            if more <= 0:
                return None
            cells[slot % CELLS] = min(cells[slot % CELLS] + more, self._full)
            return self._row.pack(slot, *cells)

        self._counts.change(key, now, edit)
        self._name(key, count, now)

    def _name(self, key: str, count: int, now: float) -> None:
        if count >= NEAR * self._most:
            text = key.encode("utf-8", "surrogatepass")[:_NAME]
            name = bytes([len(text)]) + text.ljust(_NAME, b"\0")
            self._names.change(key, now, lambda _: name)

    def take_back(self, key: str, slot: int, times: int = 1) -> None:
        """What `add` has counted did not happen, so often."""

        def edit(row: bytes | None) -> bytes | None:
            if row is None:
                return None
            last, *cells = self._row.unpack(row)
            if last - slot >= CELLS or not cells[slot % CELLS]:
                return None
            cells[slot % CELLS] = max(cells[slot % CELLS] - times, 0)
            return self._row.pack(last, *cells)

        self._counts.change(key, slot * self._cell, edit)

    def count(self, key: str, now: float) -> int:
        """How many there are."""
        row = self._counts.look(key)
        return 0 if row is None else sum(self._at(row, now)[1])

    def forget(self, key: str) -> bool:
        """From now on there were none; whether there were any."""
        self._names.remove(key)
        return self._counts.remove(key)

    def near(self, now: float) -> Iterator[tuple[str, int]]:
        """Each key that is near the limit, or has reached it, and how many there are."""
        for row in self._names.rows():
            key = row[1 : 1 + row[0]].decode("utf-8", "replace")
            count = self.count(key, now)
            if count >= NEAR * self._most:
                yield key, count

    def _at(self, row: bytes | None, now: float) -> tuple[int, list[int]]:
        """The cells as they are now, each at its number modulo their number."""
        slot = int(now / self._cell)
        if row is None:
            return slot, [0] * CELLS
        last, *cells = self._row.unpack(row)
        if last < slot < last + CELLS:
            for passed in range(last + 1, slot + 1):
                cells[passed % CELLS] = 0
        elif last <= slot - CELLS or last >= slot + CELLS:  # a long time, or a clock set back
            cells = [0] * CELLS
        else:  # now, or a clock a little behind another's: nobody counts less for that
            slot = last
        return slot, cells
