"""Guessing is slow, everybody else is not, and memory is bounded."""

from __future__ import annotations

import unittest

from relayd.login import pace
from relayd.login.pace import Pace, PaceLimits


class PaceTests(unittest.TestCase):
    def setUp(self) -> None:
        self.now = 1000.0
        self.pace = Pace(lambda: self.now)

    def test_ten_tries_in_any_minute(self) -> None:
        done: list[float] = []
        for _ in range(10_000):
            self.now += 0.05
            if self.pace.begin("192.0.2.1") is not None:
                done.append(self.now)
                self.pace.failed("bob")
        for start in done:
            self.assertLessEqual(sum(start <= each < start + 60 for each in done), 10)
        self.assertGreaterEqual(len(done), 80)  # 500 seconds

    def test_another_address_is_not_slowed(self) -> None:
        for _ in range(50):
            self.pace.begin("192.0.2.1")
            token = self.pace.begin("192.0.2.2")
            assert token is not None
            self.pace.forgive("192.0.2.2", token)
        self.assertIsNone(self.pace.begin("192.0.2.1"))

    def test_tries_under_way_count(self) -> None:
        started = [self.pace.begin("192.0.2.1") for _ in range(20)]
        self.assertEqual(sum(each is not None for each in started), 10)

    def test_an_account_under_attack_stays_open_to_who_used_it_before(self) -> None:
        self.pace.succeeded("bob", "198.51.100.1")
        for _ in range(30):
            self.pace.failed("bob")
        self.assertTrue(self.pace.closed("bob", "203.0.113.9"))
        self.assertFalse(self.pace.closed("bob", "198.51.100.1"))
        self.assertFalse(self.pace.closed("eve", "203.0.113.9"))
        self.now += 61
        self.assertFalse(self.pace.closed("bob", "203.0.113.9"))

    def test_memory_is_bounded(self) -> None:
        self.addCleanup(setattr, pace, "MOST_KEYS", pace.MOST_KEYS)
        pace.MOST_KEYS = 50
        for number in range(1000):
            self.pace.begin(f"address {number}")
            self.pace.failed(f"account {number}")
            self.pace.succeeded(f"account {number}", f"address {number}")
        self.assertLessEqual(len(self.pace), 150)

    def test_forgetting_leaves_nothing(self) -> None:
        token = self.pace.begin("192.0.2.1")
        assert token is not None
        self.pace.forgive("192.0.2.1", token)
        self.pace.forgive("192.0.2.1", token)
        self.assertEqual(len(self.pace), 0)

    def test_workers_share(self) -> None:
        self.assertEqual(PaceLimits().shared_by(3).per_address, 3)
        self.assertEqual(PaceLimits().shared_by(64).per_address, 1)
