"""Schedules as the administrator writes them."""

from __future__ import annotations

import unittest

from relayd.spool.schedule import DEFAULT, Schedule


class ScheduleTests(unittest.TestCase):
    def test_the_default_is_read_aloud_as_one_minute_five_twice(self) -> None:
        schedule = Schedule.parse(DEFAULT)
        delays = [schedule.delay(attempts) // 60 for attempts in range(1, 15)]
        assert delays == [1, 5, 5, 15, 15, 15, 60, 60, 60, 60, 60, 60, 240, 240]

    def test_the_last_step_repeats(self) -> None:
        assert Schedule.parse("10s").delay(1000) == 10

    def test_before_the_first_attempt_it_is_the_first_step(self) -> None:
        assert Schedule.parse("7 1d").delay(0) == 7

    def test_units(self) -> None:
        assert Schedule.parse("1 2s 3m 4h 5d").delays == (1, 2, 180, 14400, 432000)

    def test_a_schedule_prints_as_one_that_parses_to_itself(self) -> None:
        schedule = Schedule.parse("1m 5m*2 1h")
        assert Schedule.parse(str(schedule)) == schedule

    def test_complaints(self) -> None:
        for text, complaint in (
            ("", "at least one step"),
            ("1x", '"1x" is no step'),
            ("-5m", "no step"),
            ("5m*", "no step"),
            ("0m", "more than nothing"),
            ("31d", "at most 30 days"),
            ("5m*0", "1 to 1000 times"),
            ("5m*1001", "1 to 1000 times"),
            ("²m", "no step"),
        ):
            with self.subTest(text), self.assertRaisesRegex(ValueError, complaint):
                Schedule.parse(text)
