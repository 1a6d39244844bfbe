"""What may happen a thousand times a second is told once a minute, by one worker for all."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from relayd.shared.keytable import KeyTable

EVERY = 60.0  # seconds between two lines about one thing
FILE = "told"  # below the spool
_KEYS = 1024  # things that all workers know of
_ROW = struct.Struct("<dI")  # when it was told, in seconds since the epoch; times since
_NEVER = float("-inf"), 0
_MOST = 0xFFFFFFFF


class Seldom:
    """Who is to tell of something, and how often it has happened since somebody told of it.

    `path`: the file that all workers share; without, and where it cannot be written, each process
    counts for itself. Nothing is opened before something has happened.
    """

    def __init__(self, clock: Callable[[], float], path: Path | None = None) -> None:
        self._clock = clock  # in seconds; since the epoch, where workers share a file
        self._path = path
        self._table: KeyTable | None = None
        self._own: dict[str, tuple[float, int]] = {}

    def times(self, what: str) -> int:
        """It has happened: how often since it was told last, if it is to be told now; else 0."""
        if self._path is not None:
            try:
                return self._in_all(self._path, what)
            except OSError:
                pass  # a disk in trouble is told elsewhere
        self._own[what], times = _after(self._own.get(what, _NEVER), self._clock())
        if len(self._own) > _KEYS:
            self._own.clear()
        return times

    def _in_all(self, path: Path, what: str) -> int:
        now, times = self._clock(), 0

        def edit(row: bytes | None) -> bytes:
            nonlocal times
            last, since = _ROW.unpack(row) if row else _NEVER
            (last, since), times = _after((last, since), now)
            return _ROW.pack(last, since)

        if self._table is None:
            self._table = KeyTable(path, _ROW.size, _KEYS)
        self._table.change(what, now, edit)
        return times


def _after(before: tuple[float, int], now: float) -> tuple[tuple[float, int], int]:
    """What is remembered from now on, and how often it has happened where it is told now."""
    last, since = before
    since = min(since + 1, _MOST)
    if last <= now < last + EVERY:
        return (last, since), 0
    return (now, 0), since
