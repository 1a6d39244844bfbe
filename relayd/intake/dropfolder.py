"""What waits in the drop folder: whose it is, whose turn it is, and who leaves too much."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import heapq
import os
import stat
import time
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

READY = ".mail"  # how the name of a whole file ends
WRITING = ".part"  # ... and of one that is being written
SLICE = 500  # names looked at in one go: a millisecond or two
ABANDONED = 3600.0  # seconds without a change after which somebody must hold what is unfinished
_KNOWN = 1000  # files of one user that have their turn in one pass: the oldest


@dataclass(frozen=True, slots=True)
class Quota:
    """What the folder may take, and how long it may wait.

    `files` and `octets` are for each user but root, unfinished ones too; 0: any number.
    """

    size: int  # octets of one message
    files: int = 1000  # that wait, or are being written
    octets: int = 200 << 20  # ... in all of them
    give_up: float = 5 * 86400.0  # seconds until what cannot be taken has failed


@dataclass(frozen=True, slots=True, order=True)
class Waiting:
    """A file that is ready, as the folder shows it."""

    age: int  # when it was written last, in nanoseconds since the epoch: its owner can forge it
    name: str
    uid: int
    size: int
    plain: bool  # a file with one name, no link, folder, pipe, socket or device


@dataclass(slots=True)
class _User:
    """One user's files: how much he has left, and the oldest that may be tried, newest on top."""

    files: int = 0
    octets: int = 0
    oldest: list[tuple[int, Waiting]] = field(default_factory=list)


class FolderSurvey:
    """One pass over the folder, slice by slice, however many names there are.

    `later`: names that are put off; they count, but have no turn.
    """

    def __init__(self, folder: Path, later: Container[str]) -> None:
        self.later: set[str] = set()  # those of `later` that are still there
        self.strange = 0  # names of no kind that we know
        self.files = 0  # that are ready, those that are put off included
        self.old: list[str] = []  # unfinished ones that nobody has changed for long
        self._later = later
        self._names = os.scandir(folder)
        self._users: dict[int, _User] = {}

    def go_on(self) -> bool:
        """Look at the next slice; False when there was nothing more. Raises OSError."""
        seen = 0
        for entry in islice(self._names, SLICE):
            seen += 1
            if not entry.name.endswith((READY, WRITING)):
                self.strange += 1
                continue
            with contextlib.suppress(FileNotFoundError):
                self._count(entry.name, entry.stat(follow_symlinks=False))
        return seen == SLICE

    def close(self) -> None:
        """No more of it."""
        self._names.close()

    def _count(self, name: str, status: os.stat_result) -> None:
        user = self._users.setdefault(status.st_uid, _User())
        user.files += 1
        user.octets += status.st_size
        if name.endswith(WRITING):
            if len(self.old) < SLICE and time.time() - status.st_mtime > ABANDONED:
                self.old.append(name)
            return
        self.files += 1
        if name in self._later:
            self.later.add(name)
            return
        plain = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
        found = Waiting(status.st_mtime_ns, name, status.st_uid, status.st_size, plain)
        if len(user.oldest) < _KNOWN:
            heapq.heappush(user.oldest, (-found.age, found))
        else:
            heapq.heappushpop(user.oldest, (-found.age, found))

    def in_turn(self) -> Iterator[Waiting]:
        """One file of each user after the other, of each the oldest first."""
        queues = [sorted(found for _, found in user.oldest) for user in self._users.values()]
        for rank in range(max(map(len, queues), default=0)):
            for queue in queues:
                if rank < len(queue):
                    yield queue[rank]

    def over(self, bounds: Quota, exempt: Iterable[int]) -> dict[int, tuple[int, int]]:
        """Users who have left more than they may: files and octets of each."""
        free = set(exempt)
        return {
            uid: (user.files, user.octets)
            for uid, user in self._users.items()
            if uid not in free
            and (
                (bounds.files and user.files > bounds.files)
                or (bounds.octets and user.octets > bounds.octets)
            )
        }


def remove_abandoned(path: Path) -> bool:
    """Remove an old unfinished file unless somebody still writes it; raises OSError.

    Its writer holds a lock on it, which the kernel takes from whoever dies. A file that we may
    not read, or of another kind, is none that `sendmail` writes.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.ELOOP, errno.ENXIO):
            raise
        file = -1
    try:
        if file >= 0:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        path.unlink()
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        if file >= 0:
            os.close(file)
    return True
