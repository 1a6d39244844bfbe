"""What happened to whom in the last minute, in memory that several processes may share."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b

MINUTE = 60.0  # seconds
WAYS = 8  # places where a key may be: the one longest unused goes
_DIGEST = 8  # octets that stand for a key; 0 is an empty place
_MOMENT = struct.Struct("d")
_SECRET = 16  # octets at the start of the memory


class SharedMemory:
    """Zeroed memory with a lock; of one process, or of all that inherit the descriptor.

    The kernel lets go of the lock of a process that dies. Pages are used as they are touched.
    """

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        """`descriptor`: from memfd_create, inherited. Raises OSError."""
        self._descriptor = descriptor
        if descriptor is not None and os.fstat(descriptor).st_size < size:
            os.ftruncate(descriptor, size)
        self.octets = mmap.mmap(-1 if descriptor is None else descriptor, size)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes meanwhile. Held for microseconds: never wait for anything inside."""
        if self._descriptor is None:
            yield
            return
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def secret(self) -> bytes:
        """Random octets, the same for all: nobody outside can tell which keys share a place."""
        with self.locked():
            if not any(self.octets[:_SECRET]):
                self.octets[:_SECRET] = os.urandom(_SECRET)
            return self.octets[:_SECRET]


class Window:
    """The last `most` moments of each key; the caller holds the lock.

    A bucket has WAYS entries of one digest and `most` moments. Keys are told apart by 64 bits
    of a keyed hash, so that nobody suffers for what another did.
    """

    def __init__(
        self,
        memory: SharedMemory,
        start: int,
        buckets: int,
        most: int,
        now: Callable[[], float],
        *,
        lasts: float = MINUTE,
    ) -> None:
        self._octets = memory.octets
        self._secret = memory.secret()
        self._start = start
        self._buckets = buckets
        self._most = most
        self._now = now
        self._lasts = lasts

    @staticmethod
    def size(buckets: int, most: int) -> int:
        """Octets that it needs."""
        return buckets * WAYS * (_DIGEST + most * _MOMENT.size)

    def full(self, key: str) -> bool:
        """Whether `most` moments of this key are less than `lasts` seconds old."""
        place = self._find(self._digest(key))
        return place is not None and len(self._moments(place)) >= self._most

    def add(self, key: str) -> float:
        """Note this moment, and return it; of more than `most` the oldest goes."""
        now = self._now()
        digest = self._digest(key)
        place = self._find(digest)
        moments = [] if place is None else self._moments(place)
        if place is None:
            place = min(self._places(digest), key=self._last)
        self._write(place, digest, [*moments, now][-self._most :])
        return now

    def remove(self, key: str, moment: float) -> None:
        """It did not happen."""
        digest = self._digest(key)
        place = self._find(digest)
        moments = [] if place is None else self._moments(place)
        if place is None or moment not in moments:
            return
        moments.remove(moment)
        self._write(place, digest if moments else bytes(_DIGEST), moments)

    def _digest(self, key: str) -> bytes:
        octets = key.encode("utf-8", "surrogatepass")
        return blake2b(octets, digest_size=_DIGEST, key=self._secret).digest()

    def _places(self, digest: bytes) -> range:
        step = _DIGEST + self._most * _MOMENT.size
        bucket = int.from_bytes(digest, "little") % self._buckets
        first = self._start + bucket * WAYS * step
        return range(first, first + WAYS * step, step)

    def _find(self, digest: bytes) -> int | None:
        for place in self._places(digest):
            if self._octets[place : place + _DIGEST] == digest:
                return place
        return None

    def _moments(self, place: int) -> list[float]:
        """Those that count, oldest first; an empty place in the row is 0."""
        start = place + _DIGEST
        row = self._octets[start : start + self._most * _MOMENT.size]
        now = self._now()
        return sorted(
            moment
            for (moment,) in _MOMENT.iter_unpack(row)
            if moment and 0 <= now - moment < self._lasts
        )

    def _last(self, place: int) -> float:
        return max(self._moments(place), default=0.0)

    def _write(self, place: int, digest: bytes, moments: list[float]) -> None:
        row = [*moments, *[0.0] * (self._most - len(moments))]
        written = digest + b"".join(map(_MOMENT.pack, row))
        self._octets[place : place + len(written)] = written
