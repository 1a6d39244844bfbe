"""Counts in a window that slides: exact enough, the same for all, bounded, and not lost."""

from __future__ import annotations

import os
import signal
import tempfile
import unittest
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.shared.slidingcounts import CELLS, SlidingCounts

NOW = 1_800_000_000.0
HOUR = 3600.0


class CountsCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "hourly"

    def counts(self, most: int = 500, seconds: float = HOUR, keys: int = 100) -> SlidingCounts:
        counts = SlidingCounts(self.path, most, seconds, keys)
        self.addCleanup(counts.close)
        return counts


class Window(CountsCase):
    def test_counts_and_forgets(self) -> None:
        counts = self.counts()
        self.assertEqual([counts.add("ann", NOW)[0] for _ in range(3)], [1, 2, 3])
        self.assertEqual(counts.add("bob", NOW)[0], 1)
        for later, count in ((0.0, 3), (HOUR, 3), (HOUR * CELLS / (CELLS - 1) + 1, 0)):
            self.assertEqual(counts.count("ann", NOW + later), count)

    def test_what_others_have_counted_is_known_here_and_makes_nothing_fewer(self) -> None:
        counts = self.counts(most=10)
        counts.add("ann", NOW)
        counts.know("ann", 9, NOW)
        self.assertEqual(counts.count("ann", NOW), 9)
        self.assertEqual(list(counts.near(NOW)), [("ann", 9)])
        counts.know("ann", 3, NOW)
        self.assertEqual(counts.add("ann", NOW)[0], 10)
        counts.know("bob", 2, NOW)
        self.assertEqual(counts.count("bob", NOW), 2)

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.floats(0, 900), min_size=1, max_size=60),
        st.sampled_from([1.0, 60.0, 300.0]),
        st.floats(0, 900),
    )
    def test_no_count_is_too_low_nor_too_high_by_more_than_its_last_64th(
        self, pauses: list[float], seconds: float, after: float
    ) -> None:
        counts, now, moments = self.counts(seconds=seconds), NOW, list[float]()
        key = str(os.urandom(8))
        for pause in pauses:
            now += pause
            counts.add(key, now)
            moments.append(now)
        now += after
        told = counts.count(key, now)
        self.assertGreaterEqual(told, sum(now - each <= seconds for each in moments))
        latest = seconds * CELLS / (CELLS - 1) + 1e-3
        self.assertLessEqual(told, sum(now - each <= latest for each in moments))

    def test_who_asks_for_more_gets_the_limit_to_two_percent_window_after_window(self) -> None:
        counts, taken, step = self.counts(100, 60.0), list[float](), 0.1
        for number in range(int(600 / step)):
            now = NOW + number * step
            count, slot = counts.add("ann", now)
            if count > 100:
                counts.take_back("ann", slot)
            else:
                taken.append(now)
        for start in range(0, 540, 7):
            within = sum(NOW + start <= each < NOW + start + 60 for each in taken)
            self.assertLessEqual(within, 100)
        self.assertGreaterEqual(len(taken), 1000 * 0.98)

    def test_what_was_none_is_taken_back_at_its_own_time(self) -> None:
        counts = self.counts()
        _, slot = counts.add("ann", NOW)
        counts.add("ann", NOW + 1800)
        counts.take_back("ann", slot)
        self.assertEqual(counts.count("ann", NOW + 1800), 1)
        counts.take_back("ann", slot)  # there is nothing left there
        self.assertEqual(counts.count("ann", NOW + 1800), 1)
        counts.add("ann", NOW + 9 * HOUR)
        counts.take_back("ann", slot)  # long gone
        self.assertEqual(counts.count("ann", NOW + 9 * HOUR), 1)

    def test_a_clock_set_back_frees_nobody_and_holds_nobody_for_ever(self) -> None:
        counts = self.counts(seconds=60.0)
        for _ in range(5):
            counts.add("ann", NOW)
        self.assertEqual(counts.add("ann", NOW - 10)[0], 6)
        self.assertEqual(counts.add("ann", NOW - 10 * HOUR)[0], 1)

    def test_more_than_a_cell_holds_is_still_too_many(self) -> None:
        for most in (65_535, 65_536):
            counts = self.counts(most, 1.0, 1)
            counts._counts.change(  # as if so many had come at once
                "ann",
                NOW,
                lambda _, counts=counts: counts._row.pack(  # type: ignore[misc]
                    int(NOW * (CELLS - 1)), *[counts._full] * CELLS
                ),
            )
            self.assertGreater(counts.add("ann", NOW)[0], most)

    def test_who_is_near_the_limit_and_who_is_forgotten(self) -> None:
        counts = self.counts(most=4)
        for key, times in (("ann", 5), ("bob", 3), ("carl", 2)):
            for _ in range(times):
                counts.add(key, NOW)
        self.assertEqual(sorted(counts.near(NOW)), [("ann", 5), ("bob", 3)])
        self.assertEqual([counts.forget("ann"), counts.forget("ann")], [True, False])
        self.assertEqual([*counts.near(NOW)], [("bob", 3)])
        self.assertEqual(counts.count("ann", NOW), 0)
        self.assertEqual([*counts.near(NOW + 2 * HOUR)], [])


class Together(CountsCase):
    def test_four_processes_take_exactly_the_limit(self) -> None:
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:  # pragma: no cover - another process
                counts, taken = SlidingCounts(self.path, 500, HOUR), 0
                for _ in range(250):
                    count, slot = counts.add("ann", NOW)
                    if count <= 500:
                        taken += 1
                    else:
                        counts.take_back("ann", slot)
                os._exit(taken)
            children.append(child)
        taken = sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
        self.assertLessEqual(taken, 500)
        self.assertGreaterEqual(taken, 490)

    def test_a_kill_forgets_nothing(self) -> None:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            counts = SlidingCounts(self.path, 500, HOUR)
            for _ in range(300):
                counts.add("ann", NOW)
            os.write(writer, b"!")
            signal.pause()
        os.read(reader, 1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
        counts = SlidingCounts(self.path, 500, HOUR)
        self.addCleanup(counts.close)
        self.assertEqual(counts.count("ann", NOW), 300)
