"""The rate that a place takes is found, kept to, and found again when it changes."""

from __future__ import annotations

import random
import unittest
from collections import deque
from collections.abc import Callable

from relayd.relay.learntrate import INTERVAL, LONGEST_PAUSE, SLOWEST, LearntRate


class Bucket:
    """Takes so many a minute evenly, and a few together."""

    def __init__(self, per_minute: float, together: float) -> None:
        self.rate, self.room, self.most, self.at = per_minute / 60, together, together, 0.0

    def takes(self, now: float) -> bool:
        self.room = min(self.room + (now - self.at) * self.rate, self.most)
        self.at = now
        if self.room < 1:
            return False
        self.room -= 1
        return True


class Sliding:
    """Takes so many in any minute."""

    def __init__(self, per_minute: float) -> None:
        self.most, self.times = per_minute, deque[float]()

    def takes(self, now: float) -> bool:
        while self.times and now - self.times[0] >= 60:
            self.times.popleft()
        if len(self.times) >= self.most:
            return False
        self.times.append(now)
        return True


class Fixed(Sliding):
    """Takes so many in each minute of its clock."""

    def takes(self, now: float) -> bool:
        while self.times and self.times[0] // 60 != now // 60:
            self.times.popleft()
        if len(self.times) >= self.most:
            return False
        self.times.append(now)
        return True


def run(
    rate: LearntRate, takes: Callable[[float], bool], start: float, seconds: float
) -> tuple[list[float], list[float]]:
    """Sends all that may go, twenty at a time, each taking half a second: taken, and refused."""
    taken, refused = [], []
    now, under_way = start, deque[float]()
    while now < start + seconds:
        while under_way and now - under_way[0] >= 0.5:
            began = under_way.popleft()
            if takes(now):
                rate.took(now)
                taken.append(now)
            else:
                rate.slower(now, began)
                refused.append(now)
        while len(under_way) < 20 and rate.opens_at(now) <= now:
            rate.started(now)
            under_way.append(now)
        now += 0.05
    return taken, refused


class Settles(unittest.TestCase):
    def learnt(self) -> LearntRate:
        return LearntRate(random.Random(1).random)

    def test_a_tenth_below_within_ten_minutes_however_it_counts(self) -> None:
        for per_minute in (30, 120, 600):
            for place in (  # the second saves up a minute
                Bucket(per_minute, per_minute / 6),
                Bucket(per_minute, per_minute),
                Sliding(per_minute),
                Fixed(per_minute),
            ):
                with self.subTest(place=type(place).__name__, per_minute=per_minute):
                    rate = self.learnt()
                    # a minute that is full says nothing of what it takes for a while
                    learning = 600 if isinstance(place, Bucket) else 1200
                    run(rate, place.takes, 1000.0, learning)
                    taken, refused = run(rate, place.takes, 1000.0 + learning, 600)
                    self.assertGreaterEqual(len(taken) / 10, 0.88 * per_minute)
                    self.assertLessEqual(len(taken) / 10, 1.05 * per_minute)
                    self.assertLess(len(refused), 0.02 * len(taken))

    def test_a_limit_that_falls_and_rises_is_followed(self) -> None:
        rate, place = self.learnt(), Bucket(600, 100)
        run(rate, place.takes, 1000.0, 600)
        place.rate = 2.0
        run(rate, place.takes, 1600.0, 600)
        taken, _ = run(rate, place.takes, 2200.0, 300)
        self.assertAlmostEqual(len(taken) / 300, 1.9, delta=0.2)
        place.rate = 50.0
        taken, _ = run(rate, place.takes, 2500.0, 7200)
        self.assertGreater(sum(each > 2500 + 7000 for each in taken) / 200, 10)


class Lessons(unittest.TestCase):
    def setUp(self) -> None:
        self.rate = LearntRate(lambda: 0.5)

    def test_there_is_none_where_nobody_asks_for_less(self) -> None:
        for second in range(100):
            self.rate.started(second)
            self.rate.took(second)
        self.assertFalse(self.rate.active)
        self.assertEqual(self.rate.opens_at(100.0), 0.0)

    def test_half_of_what_was_taken_of_late(self) -> None:
        for tenth in range(100):
            self.rate.took(1000 + tenth / 10)
        self.assertTrue(self.rate.slower(1010.0, 1009.0))
        self.assertAlmostEqual(self.rate.rate, 5.0, delta=0.6)
        self.assertEqual(self.rate.opens_at(1010.0), 1010.0 + INTERVAL)

    def test_what_began_before_is_no_news(self) -> None:
        self.rate.took(1000.0)
        self.rate.slower(1001.0, 1000.5)
        before = self.rate.rate
        self.assertFalse(self.rate.slower(1002.0, 1000.9))
        self.assertEqual(self.rate.rate, before)

    def test_while_nothing_is_taken_pauses_double_and_the_rate_stays(self) -> None:
        for number in range(100):
            self.rate.took(1000 + number / 100)
        now, pauses = 1002.0, []
        self.rate.slower(now, now)
        before = self.rate.rate
        for _ in range(8):
            now = self.rate.opens_at(now)
            self.rate.slower(now, now)
            pauses.append(self.rate.opens_at(now) - now)
        self.assertEqual(pauses, [10.0, 20.0, 40.0, 80.0, 160.0, *[LONGEST_PAUSE] * 3])
        self.assertEqual(self.rate.rate, before)

    def test_it_has_a_floor(self) -> None:
        now = 1000.0
        for _ in range(50):
            self.rate.took(now)
            now += 1
            self.rate.slower(now, now)
        self.assertEqual(self.rate.rate, SLOWEST)

    def test_a_known_pause_is_kept(self) -> None:
        self.rate.slower(1000.0, 999.0, 7200.0)
        self.assertEqual(self.rate.opens_at(1000.0), 8200.0)

    def test_a_pinned_rate_only_pauses(self) -> None:
        self.rate.pinned = 10.0
        self.rate.took(1000.0)
        self.rate.slower(1000.0, 1000.0)
        self.assertEqual(self.rate.in_force, 10.0)
        self.assertEqual(self.rate.opens_at(1000.0), 1005.0)
        self.rate.started(1005.0)
        self.assertAlmostEqual(self.rate.opens_at(1005.0), 1005.1)

    def test_it_survives_a_restart_and_what_nobody_can_have_written(self) -> None:
        self.rate.took(1000.0)
        self.rate.slower(1000.0, 1000.0)
        again = LearntRate(lambda: 0.5)
        again.restore(self.rate.kept(), 1001.0)
        self.assertEqual((again.rate, again.resume_at), (self.rate.rate, self.rate.resume_at))
        again.restore({"rate": -1.0, "resume_at": 1e18, "hold": 0.0}, 1001.0)
        self.assertEqual(again.rate, 0.0)
        self.assertLessEqual(again.opens_at(1001.0), 1001.0 + 86400)

    def test_a_clock_that_was_set_back_stops_nobody(self) -> None:
        self.rate.took(1_000_000.0)
        self.rate.slower(1_000_000.0, 1_000_000.0)
        self.assertEqual(self.rate.opens_at(0.0), 0.0)
