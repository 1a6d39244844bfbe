"""A queue between threads whose reader may ask to be woken by the n-th entry, not by the first.

Waking a thread is what costs most in handing over: the kernel's part, and two threads that then
take Python's lock from each other at every step.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

_BUSY = sys.maxsize  # entries: nobody waits for any


class ThreadQueue(Generic[T]):
    """Entries come from any thread; one thread waits for them and takes them out."""

    def __init__(self) -> None:
        self.entries: deque[T] = deque()  # the reader takes them out
        # whoever waits takes it, who wakes him lets go of it: an Event comes to the same in a
        # hundred steps of Python
        self._bell = threading.Lock()
        self._bell.acquire()
        self._wanted = _BUSY

    def put(self, entry: T, *, urgent: bool = False) -> None:
        """Add an entry. The reader wakes when it is the last it waits for, or urgent."""
        self.entries.append(entry)
        if urgent or len(self.entries) >= self._wanted:
            try:
                self._bell.release()
            except (RuntimeError, MemoryError):
                return  # it rings already, and perhaps there is no memory to say so

    def wait(self, count: int, seconds: float | None = None) -> bool:
        """Until there are so many entries, an urgent one came, or the time is over; or sooner.

        False: it was the time.
        """
        # first what is wanted, then the look at the number: `put` has it the other way round, so
        # one of the two sees the other
        self._wanted = count
        in_time = len(self.entries) >= count or self._bell.acquire(
            timeout=-1 if seconds is None else seconds
        )
        self._wanted = _BUSY
        self._bell.acquire(blocking=False)
        return in_time

    def gather(self, count: int, step: float, steps: int) -> None:
        """Wait on, so many steps at most, while in each another joins those that are there."""
        for _ in range(steps):
            there = len(self.entries)
            if self.wait(count, step) or 0 < there == len(self.entries):
                return
