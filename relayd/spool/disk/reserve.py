"""A file that only takes up space: given back to a full disk, so that outcomes can be recorded."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

SIZE = 32 << 20  # twice the log that may have to be copied back


class Reserve:
    """Kept while there is plenty of room, removed on the first sign that there is none."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self) -> bool:
        """Set the space aside, unless that would itself fill the disk; False, as a chore."""
        with contextlib.suppress(OSError):
            if self._path.exists() and self._path.stat().st_blocks * 512 >= SIZE:
                return False
            found = os.statvfs(self._path.parent)
            if found.f_bavail * found.f_frsize < 8 * SIZE:
                return False
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(fd, 0, SIZE)
            finally:
                os.close(fd)
        return False

    def give(self) -> None:
        """Let it go."""
        with contextlib.suppress(OSError):
            self._path.unlink()
