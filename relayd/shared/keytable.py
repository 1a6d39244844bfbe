"""Rows by key in a file that all workers read and write: bounded, and there after any crash.

What is written lies in the kernel's hands at once: a process that is killed loses nothing. It is
not forced to disk, so a machine that loses power may forget what was written in its last half
minute. Pages of the file that nobody has used take no room.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

WAYS = 16  # places of a bucket, where a key may be: the one longest unused goes
_MAGIC = b"relayd key table\n"
_SHAPE = struct.Struct("<II")  # octets of a row, buckets
_SECRET = 16  # octets
_HEADER = 4096  # octets before the first bucket
_KEYS = struct.Struct(f"<{WAYS}Q{WAYS}I")  # digests (0: nobody), and when each was used last
_DIGEST = struct.Struct("<Q")
_USED = struct.Struct("<I")
_USES = WAYS * _DIGEST.size  # where they start in a bucket
_STEP = 64  # buckets read at a time

Edit = Callable[[bytes | None], bytes | None]
"""From the row that is there, if there is one, to the one that is to be; None: as it is."""


class KeyTable:
    """A row of `row` octets for each key; of more than about `keys` the longest unused go.

    Keys are told apart by 64 bits of a hash with a secret of the file's own, so nobody can choose
    one that takes another's place. Each method may raise OSError; none waits for anybody but
    another process that is at the same bucket, for microseconds.
    """

    def __init__(self, path: Path, row: int, keys: int) -> None:
        self.path = path
        self._row = row
        # half as many places again: buckets fill unevenly, and few may have more than they hold
        self._buckets = max(keys * 3 // 2 // WAYS, 1)
        self._size = _KEYS.size + WAYS * row  # of a bucket
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        try:
            with self._locked(0, _HEADER):
                self._secret = self._opened()
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Nobody asks it any more."""
        fd, self._fd = self._fd, -1  # its number may soon be another file's
        if fd >= 0:
            os.close(fd)

    def look(self, key: str) -> bytes | None:
        """The row of a key; None: there is none."""
        digest, start = self._place(key)
        with self._locked(start, self._size):
            ways = _KEYS.unpack(os.pread(self._fd, _KEYS.size, start))[:WAYS]
            return self._read(start, ways.index(digest)) if digest in ways else None

    def change(self, key: str, now: float, edit: Edit) -> None:
        """Read, edit and write one row, with nobody in between. `now`: seconds since the epoch."""
        digest, start = self._place(key)
        used = min(max(int(now), 1), 0xFFFFFFFF)
        with self._locked(start, self._size):
            keys = _KEYS.unpack(os.pread(self._fd, _KEYS.size, start))
            digests, uses = keys[:WAYS], keys[WAYS:]
            known = digest in digests
            way = digests.index(digest) if known else uses.index(min(uses))
            row = edit(self._read(start, way) if known else None)
            if row is None:
                return
            if not known:  # whoever dies in between has lost a row, and given nobody another's
                os.pwrite(self._fd, _DIGEST.pack(0), start + way * _DIGEST.size)
            os.pwrite(self._fd, row, start + _KEYS.size + way * self._row)
            if uses[way] < used or not known:
                os.pwrite(self._fd, _USED.pack(used), start + _USES + way * _USED.size)
            if not known:
                os.pwrite(self._fd, _DIGEST.pack(digest), start + way * _DIGEST.size)

    def remove(self, key: str) -> bool:
        """Forget a key; whether it was there."""
        digest, start = self._place(key)
        with self._locked(start, self._size):
            keys = _KEYS.unpack(os.pread(self._fd, _KEYS.size, start))
            if digest not in keys[:WAYS]:
                return False
            way = keys.index(digest)
            os.pwrite(self._fd, _DIGEST.pack(0), start + way * _DIGEST.size)
            os.pwrite(self._fd, _USED.pack(0), start + _USES + way * _USED.size)
            return True

    def rows(self) -> Iterator[bytes]:
        """Every row, in no order."""
        for bucket in range(0, self._buckets, _STEP):
            count = min(_STEP, self._buckets - bucket)
            octets = os.pread(self._fd, count * self._size, _HEADER + bucket * self._size)
            for start in range(0, len(octets), self._size):
                digests = _KEYS.unpack_from(octets, start)[:WAYS]
                for way, digest in enumerate(digests):
                    if digest:
                        at = start + _KEYS.size + way * self._row
                        yield octets[at : at + self._row]

    def _opened(self) -> bytes:
        """Its secret; whatever is no such table becomes an empty one."""
        wanted = _MAGIC + _SHAPE.pack(self._row, self._buckets)
        header = os.pread(self._fd, _HEADER, 0)
        size = _HEADER + self._buckets * self._size
        if not header.startswith(wanted) or os.fstat(self._fd).st_size != size:
            header = wanted + os.urandom(_SECRET)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, header, 0)
            os.ftruncate(self._fd, size)
        return header[len(wanted) : len(wanted) + _SECRET]

    def _place(self, key: str) -> tuple[int, int]:
        """What stands for a key, and where its bucket starts."""
        octets = key.encode("utf-8", "surrogatepass")
        digest = blake2b(octets, digest_size=_DIGEST.size, key=self._secret).digest()
        number = int.from_bytes(digest, "little") or 1
        return number, _HEADER + number % self._buckets * self._size

    def _read(self, start: int, way: int) -> bytes:
        return os.pread(self._fd, self._row, start + _KEYS.size + way * self._row)

    @contextmanager
    def _locked(self, start: int, size: int) -> Iterator[None]:
        """The kernel lets go for a process that dies."""
        if self._fd < 0:
            raise OSError(errno.EBADF, "closed")
        fcntl.lockf(self._fd, fcntl.LOCK_EX, size, start)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, size, start)
