"""Counts over several workers: each writes its own row and sees those of the others."""

from __future__ import annotations

import os
import unittest

from hypothesis import given
from hypothesis import strategies as st

from relayd.shared.counters import SharedCounters, shared_memory


class Tallies(unittest.TestCase):
    def rows(self, count: int) -> list[SharedCounters]:
        descriptor = shared_memory(count)
        self.addCleanup(os.close, descriptor)
        return [SharedCounters(descriptor, count, row) for row in range(count)]

    def test_others_are_seen_and_oneself_is_not(self) -> None:
        one, other, third = self.rows(3)
        one.add("192.0.2.1", 2)
        other.add("192.0.2.1", 3)
        self.assertEqual([each.get("192.0.2.1") for each in (one, other, third)], [3, 2, 5])
        self.assertEqual(third.get("192.0.2.2"), 0)

    def test_a_row_is_cleared_when_its_worker_is_gone(self) -> None:
        one, other = self.rows(2)
        one.add("a", 5)
        other.add("a", 7)
        one.clear()
        self.assertEqual((other.get("a"), one.get("a")), (0, 7))

    def test_times_are_seen_beside_the_counts_the_latest_of_all(self) -> None:
        one, other, third = self.rows(3)
        one.note("asked big", 1_900_000_000.7)
        other.note("asked big", 1_900_000_005.2)
        self.assertEqual(third.noted("asked big"), 1_900_000_005)
        self.assertEqual(other.noted("asked big"), 1_900_000_000)
        for key in map(str, range(3000)):  # no count is ever one of them
            self.assertEqual(third.get(key), 0)
        other.clear()
        self.assertEqual((third.noted("asked big"), third.noted("x")), (1_900_000_000, 0))

    def test_a_time_before_all_times_is_never(self) -> None:
        one, other = self.rows(2)
        one.note("asked big", -3600.0)  # of a block that others asked about, kept over a restart
        self.assertEqual(other.noted("asked big"), 0)

    def test_less_than_nothing_is_nothing(self) -> None:
        one, other = self.rows(2)
        one.add("a", -3)
        one.add("a", 1)
        self.assertEqual(other.get("a"), 1)

    @given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abc"), st.integers(1, 5))))
    def test_what_comes_and_goes_leaves_nothing(self, steps: list[tuple[int, str, int]]) -> None:
        rows = self.rows(3)
        for row, key, count in steps:
            rows[row].add(key, count)
        for key in "abc":
            total = sum(count for _, name, count in steps if name == key)
            own = sum(count for row, name, count in steps if (row, name) == (0, key))
            self.assertEqual(rows[0].get(key), total - own)
        for row, key, count in steps:
            rows[row].add(key, -count)
        self.assertEqual([each.get(key) for each in rows for key in "abc"], [0] * 9)
