"""Where log lines go: standard output as it was at the start, or a file that can be rotated."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path

MAX_WAITING = 1 << 20  # octets of lines that wait for a reader who is slow
GATHER = 0.02  # seconds in which lines come together for one write
LAST_WORDS = 1.0  # seconds that a process which ends waits for its lines to be written
_PIECE = 1 << 16  # octets in one write: so much and no more is in doubt when it hangs


class Output:
    """A file descriptor for whole lines, which never raises and never makes anybody wait.

    Without a path it is standard output (twistd replaces `sys.stdout`, so it is duplicated).

    A pipe that nobody reads, a terminal that is stopped and a disk that hangs all keep who
    writes to them, and O_NONBLOCK would be everybody's who shares the descriptor. So one thread
    writes, from `start` on, which is for after the last fork; until then lines wait. What finds
    no room, or cannot be written, is dropped and counted, and `told` makes a line of the count:
    mail matters more than its log.
    """

    def __init__(
        self,
        path: Path | None = None,
        told: Callable[[int], bytes] = b'trouble event="log lines dropped" lines=%d\n'.__mod__,
    ) -> None:
        self.path = path
        self.told = told
        self._descriptor = -1
        self._stale: list[int] = []  # descriptors of files that were rotated, for the thread
        self._lines: list[bytes] = []
        self._size = 0  # octets in them
        self._dropped = 0  # lines, after those in `_lines`
        self._failed = 0  # lines that could not be written, before those in `_lines`
        self._busy = False  # the thread has something in its hands
        self._end: float | None = None  # when a process that ends waits no longer (monotonic)
        # not a plain lock: Twisted's handler of SIGTERM logs, in the midst of whatever is written
        self._guard = threading.RLock()
        self._changed = threading.Condition(self._guard)
        self._thread: threading.Thread | None = None
        self.reopen()

    def reopen(self) -> None:
        """Open the file anew, after somebody moved the old one away; raises OSError."""
        if self.path is None:
            if self._descriptor < 0:
                self._descriptor = os.dup(1)
            return
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        fresh = os.open(self.path, flags, 0o640)
        with self._changed:
            if self._descriptor >= 0:
                self._stale.append(self._descriptor)  # it may just be written to
            self._descriptor = fresh
            self._changed.notify_all()

    def start(self) -> None:
        """Write from now on."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()

    def write(self, lines: bytes) -> None:
        """Write whole lines, soon."""
        with self._guard:
            if self._dropped or self._size > MAX_WAITING:
                self._dropped += lines.count(b"\n")  # all of them: in between none is missing
                return
            if not self._lines:
                self._changed.notify_all()
            self._lines.append(lines)
            self._size += len(lines)
        if self._end is not None:
            self._drain()

    def finish(self) -> None:
        """The process ends: lines are waited for from now on, but not for long."""
        self.start()
        if self._end is None:
            self._end = time.monotonic() + LAST_WORDS
        self._drain()

    def _drain(self) -> None:
        with self._changed:
            while self._busy or self._lines:
                left = (self._end or 0.0) - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return

    def _run(self) -> None:
        while True:
            try:
                self._write_for_ever()
            except Exception:
                continue  # nothing is called here, for that might break, too

    def _write_for_ever(self) -> None:
        while True:
            self._busy = False
            with self._changed:
                while not (self._lines or self._stale):
                    self._changed.wait()
                self._busy = True
            time.sleep(GATHER)
            with self._changed:
                lines = b"".join(self._lines)
                failed, dropped = self._failed, self._dropped
                descriptor, stale = self._descriptor, [*self._stale]
                self._lines.clear()
                self._stale.clear()
                self._size = self._dropped = 0
            if failed and not _unwritten(descriptor, self.told(failed)):
                failed = 0
            failed += _unwritten(descriptor, lines)
            if dropped and _unwritten(descriptor, self.told(dropped)):
                failed += dropped
            for each in stale:
                with contextlib.suppress(OSError):
                    os.close(each)
            with self._changed:
                self._failed = failed
                self._busy = False
                self._changed.notify_all()


def _unwritten(descriptor: int, lines: bytes) -> int:
    """Write them, however long it takes; how many lines could not be."""
    rest = memoryview(lines)
    try:
        while rest:
            try:
                rest = rest[os.write(descriptor, rest[:_PIECE]) :]
            except BlockingIOError:  # somebody who shares it has set O_NONBLOCK
                waiting = select.poll()
                waiting.register(descriptor, select.POLLOUT)
                waiting.poll()
    except OSError:
        return bytes(rest).count(b"\n")
    return 0


def journal_reads_us() -> bool:
    """Whether standard output goes to journald (systemd.exec(5) on JOURNAL_STREAM)."""
    try:
        device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
        status = os.fstat(1)
        return (status.st_dev, status.st_ino) == (int(device), int(inode))
    except (ValueError, OSError):
        return False
