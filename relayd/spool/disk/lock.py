"""One owner per spool: a lock that dies with its holder, whose pid is in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from relayd.spool.errors import SpoolError, SpoolLocked


class Lock:
    """An exclusive lock on a file, held from acquire to release.

    `flock`, not `lockf`: POSIX record locks vanish when any descriptor of the file is closed
    and do not keep out a second spool of the same process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def acquire(self) -> None:
        """Take it or raise SpoolLocked, naming the holder."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise SpoolError(f"cannot open {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # the pid is only for people: no room to write it is no reason to refuse
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
                os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            holder = os.pread(fd, 32, 0).strip()
            os.close(fd)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise SpoolError(f"cannot lock {self.path}: {error.strerror}") from error
            pid = int(holder) if holder.isdigit() else 0
            who = f"process {pid}" if pid else "another process"
            raise SpoolLocked(f"spool {self.path.parent} is in use by {who}", pid) from None
        self._fd = fd

    def release(self) -> None:
        """Let go; the file stays (removing it would let two holders in)."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
