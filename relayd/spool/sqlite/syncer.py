"""The syncer: one private thread for slow work on content files, so that no COMMIT waits for it."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from relayd.spool.disk.content import ContentFiles, os_trouble
from relayd.spool.disk.draft import Draft
from relayd.spool.errors import SpoolError
from relayd.spool.sqlite.bridge import SCARCE, Bridge, surely
from relayd.spool.sqlite.writes import Write

MOST_DRAFTS = 64  # synced together; the directories they are in then once for all of them

Chore = Callable[[], bool]
"""A piece of work; True: there is more, after others had their turn."""


class Syncer:
    """Fsyncs the files of drafts before their rows go to the writer; removes files after them."""

    def __init__(
        self, files: ContentFiles, bridge: Bridge, *, synced: Callable[[Write], None]
    ) -> None:
        self._files = files
        self._bridge = bridge
        self._synced = synced
        self._chores: queue.SimpleQueue[Chore | None] = queue.SimpleQueue()
        self._chore: Chore | None = None  # in hand
        self._drafts: deque[tuple[Draft, Write]] = deque()  # for each a chore is queued
        self._taken: list[tuple[Draft, Write]] = []  # of those, and not handed on yet
        self._thread = threading.Thread(target=self._run, name="spool syncer", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what was asked for, but for chores that go on and on; blocks."""
        self._chores.put(None)
        self._thread.join()

    def sync(self, draft: Draft, write: Write) -> None:
        """Make the file durable, then hand the rows to the writer."""
        self._drafts.append((draft, write))
        self._chores.put(self._sync)

    def remove(self, idents: Sequence[int]) -> None:
        """Remove the files of messages that are gone."""
        if idents:
            self._chores.put(lambda: self._remove(idents))

    def work(self, chore: Chore) -> None:
        """Do something of the caller's, step by step."""
        self._chores.put(chore)

    def _sync(self) -> bool:
        """All drafts that wait, unless a chore before this one has done it."""
        taken, waiting = self._taken, self._drafts
        try:
            while waiting and len(taken) < MOST_DRAFTS:
                taken.append(waiting[0])
                waiting.popleft()  # only now: it is owed an answer
            for each in tuple(taken):
                try:
                    each[0].sync()
                except OSError as error:
                    self._fail(*each, error)
                    taken.remove(each)
            self._files.sync_directories([draft.ident for draft, _ in taken])
            taken.reverse()
            while taken:
                self._synced(taken[-1][1])
                taken.pop()
        except (OSError, MemoryError) as error:
            while taken:
                self._fail(*taken[-1], error)
                taken.pop()
        return False

    def _fail(self, draft: Draft, write: Write, error: OSError | MemoryError) -> None:
        draft.discard_file()
        if write.promise is not None:
            if isinstance(error, OSError):
                trouble = os_trouble("syncing content", error)
            else:
                trouble = SpoolError("out of memory")
            surely(self._bridge, write.promise.errback, trouble)

    def _remove(self, idents: Sequence[int]) -> bool:
        self._files.remove(idents)
        return False

    def _run(self) -> None:
        more = True
        while more:
            try:
                more = self._next(block=True)
            except Exception:
                continue  # a syncer that ends answers nobody any more
        self.finish()

    def finish(self) -> None:
        """Do what is queued, once; after `stop` in the caller's thread."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._next(block=False)

    def _next(self, *, block: bool) -> bool:
        """One chore; False when it was the end."""
        if self._chore is None:  # the last one is done
            self._chore = self._chores.get(block)
        chore = self._chore
        if chore is None:
            return False
        try:
            again = chore() and block
        except MemoryError:
            if block:
                time.sleep(SCARCE)
            raise
        if again:
            self._chores.put(chore)
        self._chore = None
        return True
