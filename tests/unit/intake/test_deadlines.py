"""First looks: one timer for all sessions that have just begun, and none left behind."""

from __future__ import annotations

import unittest
from dataclasses import dataclass, field

from twisted.internet.task import Clock

from relayd.intake.deadlines import FirstLooks, SessionDeadlines, SessionPhase
from relayd.intake.limits import Deadlines

USUAL = Deadlines(command=10.0, barren=600.0, content=10.0)


@dataclass
class Watch:
    """What the sessions of a service share."""

    reactor: Clock = field(default_factory=Clock)
    deadlines: Deadlines = field(default_factory=lambda: USUAL)

    def __post_init__(self) -> None:
        self.first_looks = FirstLooks(self.reactor)
        self.late: list[str] = []

    def begun(self, name: str) -> SessionDeadlines:
        """A session that has begun."""

        def late() -> None:
            self.late.append(name)
            made.enter(SessionPhase.COMMAND)  # as a session that is told to go enters another

        made = SessionDeadlines(self, late)
        made.begin()
        return made


class Looks(unittest.TestCase):
    def setUp(self) -> None:
        self.watch = Watch()
        self.clock = self.watch.reactor

    def timers(self) -> int:
        return len(self.clock.getDelayedCalls())

    def test_many_sessions_have_one_timer_and_those_that_are_over_none(self) -> None:
        sessions = [self.watch.begun(str(number)) for number in range(100)]
        self.assertEqual(self.timers(), 1)
        for each in sessions:
            each.end()
        self.assertEqual(self.timers(), 0)
        self.clock.advance(1000)
        self.assertEqual(self.watch.late, [])

    def test_each_is_told_at_its_own_time(self) -> None:
        self.watch.begun("first")
        self.clock.advance(4)
        second = self.watch.begun("second")
        self.clock.advance(5.9)
        self.assertEqual(self.watch.late, [])
        self.clock.advance(0.2)
        self.assertEqual(self.watch.late, ["first"])
        second.answered()  # at 10.1
        self.clock.pump([0.5] * 19)
        self.assertNotIn("second", self.watch.late)
        self.clock.pump([0.5] * 3)
        self.assertIn("second", self.watch.late)

    def test_one_that_ends_takes_no_other_with_it(self) -> None:
        first = self.watch.begun("first")
        self.clock.advance(1)
        self.watch.begun("second")
        first.end()
        self.clock.advance(9.1)
        self.assertEqual(self.watch.late, [])
        self.clock.advance(1)
        self.assertEqual(self.watch.late, ["second"])

    def test_deadlines_that_become_shorter_hold_for_old_and_new(self) -> None:
        old = self.watch.begun("old")
        self.watch.deadlines = Deadlines(command=2.0, barren=600.0, content=2.0)
        self.watch.begun("new")
        old.look()
        self.clock.advance(2.1)
        self.assertEqual(sorted(self.watch.late), ["new", "old"])

    def test_a_session_that_is_over_is_looked_at_no_more(self) -> None:
        over = self.watch.begun("over")
        over.end()
        self.watch.deadlines = Deadlines(command=2.0, barren=600.0, content=2.0)
        over.look()
        self.assertEqual(self.timers(), 0)


if __name__ == "__main__":
    unittest.main()
