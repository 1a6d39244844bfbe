"""Where log lines go: standard output as it was at the start, or a file that can be rotated."""

from __future__ import annotations

import os
from pathlib import Path


class Output:
    """A file descriptor for whole lines, that never raises and never raises its voice.

    Without a path it is standard output (twistd replaces `sys.stdout`, so it is duplicated).
    What cannot be written, because the disk is full or the reader has gone, is dropped and
    counted: mail matters more than its log.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._descriptor = -1
        self.lost = 0  # lines since the last one that could be written
        self.reopen()

    def reopen(self) -> None:
        """Open the file anew, after somebody moved the old one away; raises OSError."""
        if self.path is None:
            if self._descriptor < 0:
                self._descriptor = os.dup(1)
            return
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        fresh = os.open(self.path, flags, 0o640)
        self.close()
        self._descriptor = fresh

    def write(self, lines: bytes) -> None:
        """Write whole lines."""
        if self.lost:
            lines = b'trouble event="log lines lost" lines=%d\n' % self.lost + lines
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self.lost += bytes(rest).count(b"\n")
        else:
            self.lost = 0

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def journal_reads_us() -> bool:
    """Whether standard output goes to journald (systemd.exec(5) on JOURNAL_STREAM)."""
    try:
        device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
        status = os.fstat(1)
        return (status.st_dev, status.st_ino) == (int(device), int(inode))
    except (ValueError, OSError):
        return False
