"""Large content in files of its own: `content/<2 hex>/<ident>`, named by us, never by a peer."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from zlib import crc32

from relayd.mail.content import CHUNK, from_octet
from relayd.mail.ident import SHARD_BITS, ident_text, parse_ident
from relayd.spool.disk.fanout import spread
from relayd.spool.errors import SpoolError, SpoolFull

WARM = 32 << 20  # octets of content for files that may stay in memory until sent, per shard
WARM_MOST = 2 << 20  # ... and of one message

_FULL = (errno.ENOSPC, errno.EDQUOT)


def os_trouble(what: str, error: OSError) -> SpoolError:
    """The error of a system call as ours."""
    reason = f"{what}: {error.strerror or error}"
    return SpoolFull(reason) if error.errno in _FULL else SpoolError(reason)


class Room:
    """Memory that content for files may take until it was sent, shared by all of a shard."""

    def __init__(self, octets: int) -> None:
        self._free = octets
        self._given_back: deque[int] = deque()  # from whatever thread let go of it

    def take(self, octets: int) -> bool:
        """Whether there is room for so many; from one thread only."""
        while self._given_back:
            self._free += self._given_back.popleft()
        if octets > self._free:
            return False
        self._free -= octets
        return True

    def give_back(self, octets: int) -> None:
        """They are not needed any more."""
        self._given_back.append(octets)


class Warm:
    """The pieces of one content, in memory until they are sent for the first time."""

    __slots__ = ("_octets", "_room", "pieces", "pure")

    def __init__(self, room: Room) -> None:
        self._room = room
        self._octets = 0
        self.pieces: list[bytes] = []
        self.pure = False

    def hold(self, octets: int) -> bool:
        """Have room for so many in all, if there is."""
        if octets > WARM_MOST or not self._room.take(octets - self._octets):
            return False
        self._octets = octets
        return True

    def __del__(self) -> None:
        self._room.give_back(self._octets)


class FileContent:
    """Content in a file, opened only when read, and proved whole before its last piece leaves.

    `warm` are the octets that were written to the file, where they are still in memory: the first
    to read all of it gets these, and everybody else the file.
    """

    __slots__ = ("_damaged", "_parity", "_warm", "path", "size")

    def __init__(
        self,
        path: Path,
        size: int,
        parity: int,
        damaged: Callable[[str], None],
        warm: Warm | None = None,
    ) -> None:
        self.path = path
        self.size = size
        self._parity = parity
        self._damaged = damaged  # called, from the reading thread, with what is wrong
        self._warm = warm

    @property
    def pure(self) -> bool:
        """What comes from memory may be; a file is looked at again."""
        return self._warm is not None and self._warm.pure

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """The octets from `start` on; raises OSError, before the end, if the file is damaged."""
        warm = self._warm
        if warm is not None:
            yield from from_octet(start, warm.pieces)
            self._warm = None
            return
        with self.path.open("rb", buffering=0) as file:
            at, parity, held = 0, 0, b""
            while at < self.size:
                data = file.read(min(CHUNK, self.size - at))
                if not data:
                    raise self._error("content file is truncated")
                # all of it is read, also what is skipped: the parity is over the whole
                parity = crc32(data, parity)
                at += len(data)
                if held:
                    yield held
                held = data if at - len(data) >= start else data[max(0, len(data) - (at - start)) :]
                if at <= start:
                    held = b""
            if parity != self._parity:
                raise self._error("content file is damaged")
            if held:
                yield held

    def _error(self, reason: str) -> OSError:
        self._damaged(reason)
        return OSError(errno.EIO, reason, str(self.path))

    def tail(self, count: int) -> bytes:
        """The last `count` octets, not proved; raises OSError."""
        if self._warm is not None:
            last = self._warm.pieces[-1][-count:]
            if len(last) == count:
                return last
        with self.path.open("rb", buffering=0) as file:
            file.seek(max(self.size - count, 0))
            return file.read(count)


class ContentFiles:
    """The directory of content files of one shard, and the one of what was set aside."""

    def __init__(self, shard_directory: Path, found_damaged: Callable[[int, str], None]) -> None:
        self.directory = shard_directory / "content"
        self.damaged = shard_directory / "damaged"
        self._found_damaged = found_damaged
        self.room = Room(WARM)
        self._durable: set[Path] = set()  # subdirectories whose own entries are synced

    def prepare(self) -> None:
        """Make the directories; raises OSError."""
        for directory in (self.directory, self.damaged):
            directory.mkdir(mode=0o700, exist_ok=True)
        spread(self.directory)

    def path(self, ident: int) -> Path:
        """Where the content of this message is, if it is in a file."""
        return self.directory / f"{ident >> SHARD_BITS & 0xFF:02x}" / ident_text(ident)

    def content(self, ident: int, size: int, parity: int, warm: Warm | None = None) -> FileContent:
        """The content of this message as it is read."""
        damaged = partial(self._found_damaged, ident)
        return FileContent(self.path(ident), size, parity, damaged, warm)

    def create(self, ident: int) -> int:
        """A descriptor of a new file for writing; raises OSError."""
        path = self.path(ident)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            self._durable.discard(path.parent)
            path.parent.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError:
            # idents are never given twice: this one was for a draft nobody finished
            path.unlink()
        return os.open(path, flags, 0o600)

    def move(self, source: int, target: int) -> None:
        """Give a file the name of another one, and its place if it is there; raises OSError."""
        path = self.path(target)
        try:
            self.path(source).rename(path)
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self._durable.discard(path.parent)
            self.path(source).rename(path)

    def sync_directories(self, idents: Iterable[int]) -> None:
        """Make the entries of these files durable, and of their directories; raises OSError."""
        directories = {self.path(ident).parent for ident in idents}
        for directory in directories:
            sync_directory(directory)
        if not directories <= self._durable:
            sync_directory(self.directory)
            self._durable |= directories

    def remove(self, idents: Iterable[int]) -> None:
        """Remove files; what cannot be removed is an orphan that the next start finds."""
        for ident in idents:
            with contextlib.suppress(OSError):
                self.path(ident).unlink()

    def whole(self, ident: int, size: int) -> bool:
        """The file is there and has this size (its octets are proved when they are read)."""
        try:
            return self.path(ident).stat().st_size == size
        except OSError:
            return False

    def set_aside(self, ident: int) -> None:
        """Move a file to where nothing touches it any more."""
        with contextlib.suppress(FileNotFoundError):
            self.path(ident).rename(self.damaged / ident_text(ident))
            sync_directory(self.damaged)

    def sets(self) -> Iterator[tuple[list[int], int]]:
        """For each subdirectory the idents of its files, and how many entries are not ours."""
        for directory in sorted(self.directory.iterdir()):
            idents, foreign = [], 0
            if directory.is_symlink() or not directory.is_dir():
                yield [], 1
                continue
            with os.scandir(directory) as entries:
                for entry in entries:
                    try:
                        ident = parse_ident(entry.name)
                    except ValueError:
                        foreign += 1
                        continue
                    ours = self.path(ident) == directory / entry.name
                    if ours and entry.is_file(follow_symlinks=False):
                        idents.append(ident)
                    else:
                        foreign += 1
            yield idents, foreign


def sync_directory(directory: Path) -> None:
    """Fsync of a directory: its entries are durable; raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
