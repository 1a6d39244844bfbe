"""The writer's inbox: nobody is woken for nothing, and nobody waits who need not."""

from __future__ import annotations

import threading
import unittest
from unittest.mock import patch

from relayd.spool.sqlite.threadqueue import ThreadQueue

PATIENCE = 60.0


class InboxTest(unittest.TestCase):
    """Entries in order; the reader wakes by their number, by urgency or by time."""

    def setUp(self) -> None:
        self.inbox: ThreadQueue[int] = ThreadQueue()
        self.woken = threading.Event()

    def reader(self, count: int) -> threading.Thread:
        """A thread that waits for so many entries."""

        def wait() -> None:
            self.inbox.wait(count, PATIENCE)
            self.woken.set()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread

    def test_entries_leave_as_they_came(self) -> None:
        """First in, first out; then it is empty."""
        for entry in (1, 2, 3):
            self.inbox.put(entry)
        self.assertEqual([self.inbox.entries.popleft() for _ in range(3)], [1, 2, 3])
        self.assertFalse(self.inbox.entries)

    def test_what_is_there_is_not_waited_for(self) -> None:
        """Enough entries: no waiting, however long it may last."""
        self.inbox.put(1)
        self.inbox.put(2)
        self.inbox.wait(2)
        self.inbox.wait(1)

    def test_the_last_one_wakes(self) -> None:
        """Two are not three."""
        reader = self.reader(3)
        self.inbox.put(1)
        self.inbox.put(2)
        self.assertFalse(self.woken.wait(0.05))
        self.inbox.put(3)
        self.assertTrue(self.woken.wait(PATIENCE))
        reader.join()

    def test_an_urgent_one_wakes_at_once(self) -> None:
        """Whatever else was waited for."""
        reader = self.reader(100)
        while not self.woken.wait(0.01):  # it may not have begun to wait when the first one comes
            self.inbox.put(1, urgent=True)
        reader.join()

    def test_an_urgent_one_is_remembered(self) -> None:
        """It came while the reader was busy with others."""
        self.inbox.put(1, urgent=True)
        self.inbox.wait(100)

    def steps(self, joining: list[int], *, urgent: bool = False) -> int:
        """How many steps it gathers, of five at most, while so many join in each."""
        taken: list[float] = []

        bell = self.inbox._bell

        class Bell:
            """Rings as it did; who waits for it is joined by others."""

            release = bell.release

            @staticmethod
            def acquire(blocking: bool = True, timeout: float = -1) -> bool:
                if not blocking:
                    return bell.acquire(blocking=False)
                count = joining[len(taken)]
                taken.append(timeout)
                for entry in range(count):
                    self.inbox.put(entry, urgent=urgent)
                return bell.acquire(blocking=False)

        with patch.object(self.inbox, "_bell", Bell):
            self.inbox.gather(20, 0.25, 5)
        assert set(taken) == {0.25}
        return len(taken)

    def test_it_gathers_while_others_join(self) -> None:
        """And not for ever."""
        self.assertEqual(self.steps([1, 1, 2, 1, 1]), 5)

    def test_it_gathers_no_longer_when_nobody_joins(self) -> None:
        """The two that are there have waited long enough."""
        self.assertEqual(self.steps([1, 1, 0]), 3)

    def test_to_nobody_it_is_no_waiting(self) -> None:
        """The first may come late."""
        self.assertEqual(self.steps([0, 0, 1, 0]), 4)

    def test_an_urgent_one_or_enough_end_it(self) -> None:
        """The first step was the last."""
        self.assertEqual(self.steps([1], urgent=True), 1)
        self.assertEqual(self.steps([19, 0]), 1)

    def test_time_wakes_too(self) -> None:
        """Nothing comes."""
        self.inbox.wait(5, 0.01)
        self.assertFalse(self.inbox.entries)

    def test_no_entry_is_overlooked(self) -> None:
        """However the two threads' steps fall: a reader that waits without end is always woken."""
        total, seen = 3000, 0

        def feed() -> None:
            for entry in range(total):
                self.inbox.put(entry)

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        while seen < total:
            self.inbox.wait(min(3, total - seen), PATIENCE)
            while self.inbox.entries:
                self.assertEqual(self.inbox.entries.popleft(), seen)
                seen += 1
        feeder.join()
