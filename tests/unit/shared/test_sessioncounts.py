"""Sessions of all workers: each tells its own number and sees those of the others."""

from __future__ import annotations

import os
import select
import unittest

from hypothesis import given
from hypothesis import strategies as st

from relayd.shared.sessioncounts import SessionCounts, shared_session_counts


class AllSee(unittest.TestCase):
    def workers(self, count: int) -> list[SessionCounts]:
        descriptors = shared_session_counts(count)
        for each in descriptors:
            self.addCleanup(os.close, each)
        return [SessionCounts(descriptors, number) for number in range(count)]

    def test_who_has_the_fewest_is_called(self) -> None:
        one, other, third = self.workers(3)
        one.call_the_fewest()  # nobody is there yet
        other.tell(2, listening=False)
        third.tell(1, listening=False)
        for _ in range(2):
            one.call_the_fewest()
        self.assertEqual([self.rings(each) for each in (one, other, third)], [False, False, True])
        third.heard()
        third.heard()
        self.assertFalse(self.rings(third))

    @staticmethod
    def rings(worker: SessionCounts) -> bool:
        return bool(select.select([worker.bell], [], [], 0)[0])

    def test_who_has_told_nothing_does_not_serve(self) -> None:
        one, other = self.workers(2)
        self.assertEqual(one.others(), [])
        self.assertFalse(one.someone_listens_below(1))
        other.tell(0, listening=True)
        self.assertEqual((one.others(), other.others()), ([0], []))
        other.clear()
        self.assertEqual(one.others(), [])
        self.assertFalse(one.someone_listens_below(1))

    @given(st.lists(st.tuples(st.integers(0, 1 << 28), st.booleans()), min_size=2, max_size=5))
    def test_what_is_told_is_seen(self, told: list[tuple[int, bool]]) -> None:
        workers = self.workers(len(told))
        for worker, (sessions, listening) in zip(workers, told, strict=True):
            worker.tell(sessions, listening=listening)
        self.assertEqual(workers[0].others(), [sessions for sessions, _ in told[1:]])
        for limit in (0, 1, told[0][0], 1 << 28):
            below = any(listening and sessions < limit for sessions, listening in told[1:])
            self.assertEqual(workers[0].someone_listens_below(limit), below)
        self.doCleanups()  # descriptors of a hundred examples are many
