"""Guessing is slow, everybody else is not, and memory is bounded."""

from __future__ import annotations

import os
import subprocess
import sys
import unittest
from pathlib import Path

import relayd
from relayd.login.guesses import Guesses


class PaceTests(unittest.TestCase):
    def setUp(self) -> None:
        self.now = 1000.0
        self.pace = Guesses(lambda: self.now)

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

    def test_twenty_wrong_srs_addresses_an_hour_and_logins_are_another_matter(self) -> None:
        for _ in range(20):
            self.assertFalse(self.pace.guesses_hashes("192.0.2.1"))
            self.pace.wrong_hash("192.0.2.1")
        self.assertTrue(self.pace.guesses_hashes("192.0.2.1"))
        self.assertFalse(self.pace.guesses_hashes("192.0.2.2"))
        self.assertIsNotNone(self.pace.begin("192.0.2.1"))
        self.now += 3599
        self.assertTrue(self.pace.guesses_hashes("192.0.2.1"))
        self.now += 1
        self.assertFalse(self.pace.guesses_hashes("192.0.2.1"))

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

    def test_those_who_come_in_thousands_are_forgotten_first_come_first(self) -> None:
        self.pace.succeeded("bob", "198.51.100.1")
        for number in range(100_000):
            self.now += 0.001
            self.pace.begin(f"address {number}")
        self.assertIsNotNone(self.pace.begin("address 1"))
        for _ in range(9):
            self.pace.begin("address 99999")
        self.assertIsNone(self.pace.begin("address 99999"))

    def test_what_is_forgiven_did_not_happen(self) -> None:
        token = self.pace.begin("192.0.2.1")
        assert token is not None
        self.pace.forgive("192.0.2.1", token)
        self.pace.forgive("192.0.2.1", token)
        self.pace.forgive("192.0.2.2", token)
        self.assertEqual(sum(self.pace.begin("192.0.2.1") is not None for _ in range(20)), 10)


class Shared(unittest.TestCase):
    """Several workers count as one."""

    def setUp(self) -> None:
        self.descriptor = os.memfd_create("pace", 0)
        self.addCleanup(os.close, self.descriptor)

    def one(self) -> Guesses:
        return Guesses(lambda: 1000.0, self.descriptor)

    def test_every_try_counts_once(self) -> None:
        first, second = self.one(), self.one()
        begun = [(first, second)[n % 2].begin("192.0.2.1") for n in range(30)]
        self.assertEqual(sum(each is not None for each in begun), 10)
        assert begun[0] is not None
        second.forgive("192.0.2.1", begun[0])
        self.assertIsNotNone(second.begin("192.0.2.1"))
        self.assertIsNone(first.begin("192.0.2.1"))

    def test_wrong_srs_addresses_count_for_all(self) -> None:
        first, second = self.one(), self.one()
        for number in range(20):
            (first, second)[number % 2].wrong_hash("192.0.2.1")
        self.assertTrue(first.guesses_hashes("192.0.2.1"))
        self.assertTrue(second.guesses_hashes("192.0.2.1"))

    def test_who_used_the_account_before_is_known_to_all(self) -> None:
        first, second = self.one(), self.one()
        first.succeeded("bob", "198.51.100.1")
        for _ in range(15):
            first.failed("bob")
            second.failed("bob")
        self.assertTrue(first.closed("bob", "203.0.113.9"))
        self.assertFalse(second.closed("bob", "198.51.100.1"))

    def test_processes_that_try_at_the_same_moment(self) -> None:
        code = (
            "import sys; from relayd.login.guesses import Guesses\n"
            f"pace = Guesses(lambda: 1000.0, {self.descriptor}); print('ready', flush=True)\n"
            "sys.stdin.read()\n"
            "for n in range(200):\n"
            "    for key in 'abcdefgh': print(key, pace.begin(key) is not None)\n"
        )
        started = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(self.descriptor,),
                env={**os.environ, "PYTHONPATH": str(Path(relayd.__file__).parents[1])},
                text=True,
            )
            for _ in range(2)
        ]
        for each in started:
            assert each.stdout is not None
            self.assertEqual(each.stdout.readline(), "ready\n")
        for each in started:
            assert each.stdin is not None
            each.stdin.close()
        said = ""
        for each in started:
            assert each.stdout is not None
            with each.stdout:
                said += each.stdout.read()
            each.wait(60)
        self.assertEqual({said.count(f"{key} True") for key in "abcdefgh"}, {10})
