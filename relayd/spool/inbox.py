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


class Inbox(Generic[T]):
    """Entries come from any thread; one thread waits for them and takes them out."""

    def __init__(self) -> None:
        self._entries: deque[T] = deque()
        self._bell = threading.Event()
        self._wanted = _BUSY

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: T, *, urgent: bool = False) -> None:
        """Add an entry. The reader wakes when it is the last it waits for, or urgent."""
        self._entries.append(entry)
        if urgent or len(self._entries) >= self._wanted:
            self._bell.set()

    def wait(self, count: int, seconds: float | None = None) -> None:
        """Until there are so many entries, an urgent one came, or the time is over; or sooner."""
        # first what is wanted, then the look at the number: `put` has it the other way round, so
        # one of the two sees the other
        self._wanted = count
        if len(self._entries) < count:
            self._bell.wait(seconds)
        self._wanted = _BUSY
        self._bell.clear()

    def take(self) -> T:
        """The oldest entry; raises IndexError when there is none."""
        return self._entries.popleft()
