"""The rate that a place takes is found, kept to, and found again when it changes."""

from __future__ import annotations

import os
import random
import unittest
from collections import deque
from collections.abc import Callable, Sequence

from relayd.relay.learntrate import LONGEST_PAUSE, SHORTEST_PAUSE, SLOWEST, LearntRate
from relayd.relay.sites import SendingSite
from relayd.shared.counters import SharedCounters, shared_memory
from tests.unit.relay.test_sites import SLOWER


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
    """Counts over so many seconds, whichever."""

    def __init__(self, per_minute: float, seconds: float) -> None:
        self.most, self.seconds = max(round(per_minute * seconds / 60), 1), seconds
        self.times: deque[float] = deque()

    def takes(self, now: float) -> bool:
        while self.times and now - self.times[0] >= self.seconds:
            self.times.popleft()
        if len(self.times) >= self.most:
            return False
        self.times.append(now)
        return True


class Fixed(Sliding):
    """... or those of its clock."""

    def takes(self, now: float) -> bool:
        while self.times and self.times[0] // self.seconds != now // self.seconds:
            self.times.popleft()
        if len(self.times) >= self.most:
            return False
        self.times.append(now)
        return True


class Worker:
    """One of several: its rate, and what it hears of the others."""

    def __init__(self, rate: LearntRate, counters: SharedCounters) -> None:
        self.site = SendingSite("big", rate, lambda: self.now, counters=counters)
        self.now = 0.0

    def opens_at(self, now: float) -> float:
        self.now = now
        return self.site.opens_at(now)

    def started(self, now: float) -> None:
        self.site.started(now)

    def took(self, now: float, began: float) -> None:
        self.now = now
        self.site.took(now, began)

    def slower(self, now: float, began: float) -> None:
        self.now = now
        self.site.slower(now, began, SLOWER)


def company(count: int, random: Callable[[], float]) -> list[Worker]:
    """So many workers of one gateway."""
    descriptor = shared_memory(count)
    try:
        return [
            Worker(LearntRate(random), SharedCounters(descriptor, count, row))
            for row in range(count)
        ]
    finally:
        os.close(descriptor)


def run(
    rates: Sequence[LearntRate | Worker],
    takes: Callable[[float], bool],
    start: float,
    seconds: float,
    *,
    trip: float = 0.5,
    little: float = 0.0,
) -> tuple[list[float], list[float]]:
    """Each sends all that may go, half a second each, a few at a time: taken, refused.

    `trip`: other seconds; `little`: all but the first have only so many a second.
    """
    most = 40
    taken, refused = [], []
    under_way: list[deque[float]] = [deque() for _ in rates]
    sent = [0] * len(rates)
    for tick in range(int(seconds * 20)):
        now = start + tick / 20
        for number, (rate, mine) in enumerate(zip(rates, under_way, strict=True)):
            while mine and now - mine[0] >= trip:
                began = mine.popleft()
                if takes(now):
                    rate.took(now, began)
                    taken.append(now)
                else:
                    rate.slower(now, began)
                    refused.append(now)
            while len(mine) < most and rate.opens_at(now) <= now:
                if number and little and sent[number] > little * (now - start):
                    break
                sent[number] += 1
                rate.started(now)
                mine.append(now)
    return taken, refused


class Settles(unittest.TestCase):
    """Within two minutes a tenth below, and then fewer than 2 % of the attempts are refused."""

    def learnt(self) -> list[LearntRate]:
        return [LearntRate(random.Random(1).random)]

    def check(
        self,
        rates: Sequence[LearntRate | Worker],
        takes: Callable[[float], bool],
        per_minute: float,
        at: float,
        least: float = 0.9,
    ) -> None:
        taken, refused = run(rates, takes, at, 300)
        self.assertGreaterEqual(len(taken), 5 * least * per_minute - 1)
        self.assertLessEqual(len(taken), 5 * per_minute * 1.015)  # ... while the saved last
        self.assertLess(len(refused), 0.02 * (len(taken) + len(refused)))

    def test_how_many_it_takes_and_however_it_counts(self) -> None:
        for per_minute in (60, 120, 300, 900, 3000):
            for seconds in (3, 5, 10, 60):  # ... worth of mail that it takes together
                with self.subTest(place="bucket", per_minute=per_minute, seconds=seconds):
                    place = Bucket(per_minute, per_minute * seconds / 60)
                    rates = self.learnt()
                    run(rates, place.takes, 1000.0, 120)
                    self.check(rates, place.takes, per_minute, 1120.0)
            for kind in (Sliding, Fixed):
                for window in (12, 20, 60):
                    with self.subTest(place=kind.__name__, per_minute=per_minute, window=window):
                        other = kind(per_minute, window)
                        rates = self.learnt()
                        run(rates, other.takes, 1000.0, 120)
                        # of a short one it is not known well for how long it counts
                        least = 0.85 if window == 12 else 0.9
                        self.check(rates, other.takes, per_minute, 1120.0, least)

    def test_by_several_workers_together(self) -> None:
        for workers in (2, 4):
            for per_minute in (240, 1200):
                for place in (
                    Bucket(per_minute, per_minute / 12),
                    Bucket(per_minute, per_minute / 6),
                    Sliding(per_minute, 60),
                ):
                    with self.subTest(
                        place=type(place).__name__, per_minute=per_minute, workers=workers
                    ):
                        rates = company(workers, random.Random(workers).random)
                        run(rates, place.takes, 1000.0, 120)
                        self.check(rates, place.takes, per_minute, 1120.0)

    def test_by_two_workers_of_which_one_has_little_mail(self) -> None:
        for per_minute in (300, 480):
            for place in (
                Bucket(per_minute, per_minute / 12),
                Sliding(per_minute, 60),
                Fixed(per_minute, 60),
            ):
                with self.subTest(place=type(place).__name__, per_minute=per_minute):
                    rates = company(2, random.Random(1).random)
                    little = per_minute / 600
                    run(rates, place.takes, 1000.0, 120, trip=0.05, little=little)
                    run(rates, place.takes, 1120.0, 60, trip=0.05, little=little)
                    at = 1180.0
                    taken, refused = run(rates, place.takes, at, 240, trip=0.05, little=little)
                    self.assertGreaterEqual(len(taken), 4 * 0.9 * per_minute)
                    self.assertLess(len(refused), 0.02 * (len(taken) + len(refused)))

    def test_what_others_took_the_room_for_is_no_limit(self) -> None:
        """It takes one after it was full, and is full again: that is no measure of anything."""
        rate = LearntRate(lambda: 0.5)
        now = 1000.0
        for _ in range(2):
            rate.slower(now, now)
            for _ in range(300):
                now += 0.2
                rate.took(now, now)
            now += 0.2
        held = rate._held
        self.assertGreater(held, 4)
        for _ in range(5):
            rate.slower(now, now)
            rate.slower(now + 1.5, now + 1.5)
            now += 3
            rate.took(now, now)
            now += 0.1
        rate.took(now, now)
        self.assertGreater(rate._held, held / 2)

    def test_by_two_workers_that_are_started_anew(self) -> None:
        for seed in range(2):
            for place in (Bucket(300, 25), Bucket(300, 50), Sliding(300, 60), Fixed(300, 60)):
                with self.subTest(place=type(place).__name__, seed=seed):
                    jitter = random.Random(seed).random
                    rates = company(2, jitter)
                    run(rates, place.takes, 1000.0, 40)
                    again = company(2, jitter)
                    for before, after in zip(rates, again, strict=True):
                        after.site.learnt.restore(before.site.learnt.kept(), 1042.0)
                    run(again, place.takes, 1042.0, 78)
                    self.check(again, place.takes, 300, 1120.0)

    def test_with_a_restart_in_the_middle(self) -> None:
        for moment in (2, 20, 40, 61, 80):
            for place in (Bucket(300, 25), Sliding(300, 60), Fixed(300, 60)):
                with self.subTest(place=type(place).__name__, moment=moment):
                    rates = self.learnt()
                    run(rates, place.takes, 1000.0, moment)
                    again = self.learnt()
                    again[0].restore(rates[0].kept(), 1000.0 + moment)
                    run(again, place.takes, 1000.0 + moment, 120 - moment)
                    self.check(again, place.takes, 300, 1120.0)

    def test_messages_that_have_to_keep_their_distance(self) -> None:
        """The jitter, and what is late, cost something here; it is still steady."""
        rates, place = self.learnt(), Bucket(300, 1)
        run(rates, place.takes, 1000.0, 120)
        taken, refused = run(rates, place.takes, 1120.0, 300)
        self.assertGreaterEqual(len(taken) / 5, 0.65 * 300)
        self.assertLess(len(refused), 0.02 * len(taken))

    def test_a_limit_that_falls_and_rises_is_followed(self) -> None:
        [rate], place = self.learnt(), Bucket(600, 100)
        run([rate], place.takes, 1000.0, 600)
        place.rate = 2.0
        run([rate], place.takes, 1600.0, 600)
        taken, _ = run([rate], place.takes, 2200.0, 300)
        self.assertGreaterEqual(len(taken), 300 * 1.8)
        self.assertLessEqual(len(taken), 300 * 2.0 + 100)  # ... which it had saved up
        place.rate = 50.0
        taken, _ = run([rate], place.takes, 2500.0, 7200)
        self.assertGreater(sum(each > 2500 + 7000 for each in taken) / 200, 10)


class Lessons(unittest.TestCase):
    def setUp(self) -> None:
        self.rate = LearntRate(lambda: 0.5)

    def test_there_is_none_where_nobody_asks_for_less(self) -> None:
        for second in range(100):
            self.rate.started(second)
            self.rate.took(second, second)
        self.assertFalse(self.rate.active)
        self.assertEqual(self.rate.opens_at(100.0), 0.0)

    def test_half_of_what_was_taken_of_late(self) -> None:
        for tenth in range(100):
            self.rate.took(1000 + tenth / 10, 1000 + tenth / 10)
        self.assertTrue(self.rate.slower(1010.0, 1009.0))
        self.assertAlmostEqual(self.rate.rate, 5.0, delta=0.6)
        self.assertEqual(self.rate.opens_at(1010.0), 1010.0 + SHORTEST_PAUSE)

    def test_of_what_was_taken_long_ago_half_counts(self) -> None:
        for second in range(3600):
            self.rate.took(1000 + second, 1000 + second)
        for number in range(300):
            self.rate.took(4600 + number / 10, 4600 + number / 10)
        self.rate.slower(4630.0, 4629.0)
        self.assertGreater(self.rate.rate, 2.0)

    def test_where_the_first_word_is_a_refusal(self) -> None:
        """After a restart, or of somebody else's making: nothing is known of what it takes."""
        for number in range(5):
            self.rate.slower(1000.0 + number, 1000.0 + number)
        self.assertEqual(self.rate.rate, 0.5)

    def test_what_began_before_opens_nothing(self) -> None:
        self.rate.took(1000.0, 999.0)
        self.rate.slower(1001.0, 1000.0)
        self.rate.slower(1003.0, 1003.0)
        opens, rate = self.rate.opens_at(1003.0), self.rate.rate
        self.rate.took(1003.5, 1002.9)
        self.assertEqual((self.rate.opens_at(1003.5), self.rate.rate), (opens, rate))
        self.rate.slower(opens, opens)
        self.assertLess(self.rate.rate, 0.5, "still the same refusal: it is full")

    def test_what_began_before_is_no_news(self) -> None:
        self.rate.took(1000.0, 1000.0)
        self.rate.slower(1001.0, 1000.5)
        before = self.rate.rate
        self.assertFalse(self.rate.slower(1002.0, 1000.9))
        self.assertEqual(self.rate.rate, before)

    def test_while_nothing_is_taken_it_is_asked_ever_more_rarely(self) -> None:
        for number in range(100):
            self.rate.took(1000 + number / 100, 1000 + number / 100)
        now, pauses = 1001.0, []
        while now < 1001.0 + 4 * 3600:
            self.rate.slower(now, now)
            pauses.append(self.rate.opens_at(now) - now)
            now = self.rate.opens_at(now)
        self.assertEqual((pauses[0], pauses[-1]), (SHORTEST_PAUSE, LONGEST_PAUSE))
        self.assertLess(len(pauses), 150)
        self.assertEqual(self.rate.rate, SLOWEST)  # a hundred in four hours

    def test_one_that_was_full_for_a_minute_counts_over_a_minute(self) -> None:
        for number in range(300):
            self.rate.took(1000 + number / 100, 1000 + number / 100)
        now = 1003.0
        while now < 1060:
            self.rate.slower(now, now)
            now = self.rate.opens_at(now)
        self.rate.took(now, now)
        self.assertTrue(4.5 < self.rate.rate <= 5.0, self.rate.rate)

    def test_mail_that_comes_an_hour_after_says_nothing_of_the_hour(self) -> None:
        for number in range(300):
            self.rate.took(1000 + number / 100, 1000 + number / 100)
        for now in (1003.0, 1006.0, 1009.0):
            self.rate.slower(now, now)
        self.rate.took(4600.0, 4600.0)
        self.assertGreater(self.rate.rate, 15.0)

    def test_after_a_week_it_is_forgotten_however_little_mail_there_was(self) -> None:
        self.rate.took(1000.0, 1000.0)
        self.rate.slower(1001.0, 1001.0)
        for day in range(1, 9):
            self.assertTrue(self.rate.active, day)
            self.rate.took(1001.0 + day * 86400, 1001.0 + day * 86400)
            if day >= 7:
                break
        self.assertFalse(self.rate.active)

    def test_it_has_a_floor(self) -> None:
        now = 1000.0
        for _ in range(50):
            self.rate.took(now, now)
            self.rate.slower(now + 1, now + 1)
            now += 2
        self.assertEqual(self.rate.rate, SLOWEST)

    def test_a_known_pause_is_kept(self) -> None:
        self.rate.slower(1000.0, 999.0, 7200.0)
        self.assertEqual(self.rate.opens_at(1000.0), 8200.0)

    def test_a_pinned_rate_only_pauses(self) -> None:
        self.rate.pinned = 10.0
        self.rate.took(1000.0, 1000.0)
        self.rate.slower(1000.0, 1000.0)
        self.assertEqual(self.rate.in_force, 10.0)
        self.assertEqual(self.rate.opens_at(1000.0), 1001.0)
        self.rate.started(1001.0)
        self.assertAlmostEqual(self.rate.opens_at(1001.0), 1001.1)

    def test_it_survives_a_restart_and_what_nobody_can_have_written(self) -> None:
        self.rate.took(1000.0, 1000.0)
        self.rate.slower(1000.0, 1000.0)
        again = LearntRate(lambda: 0.5)
        again.restore(self.rate.kept(), 1001.0)
        self.assertEqual((again.rate, again.resume_at), (self.rate.rate, self.rate.resume_at))
        again.restore({"rate": -1.0, "resume_at": 1e18, "hold": 0.0}, 1001.0)
        self.assertEqual(again.rate, 0.0)
        self.assertLessEqual(again.opens_at(1001.0), 1001.0 + 86400)

    def test_a_clock_that_was_set_back_stops_nobody(self) -> None:
        self.rate.took(1_000_000.0, 1_000_000.0)
        self.rate.slower(1_000_000.0, 1_000_000.0)
        self.assertEqual(self.rate.opens_at(0.0), 0.0)
        self.rate.took(100.0, 99.0)
        self.rate.slower(101.0, 100.0)
        self.assertLess(self.rate.opens_at(101.0), 110.0)
