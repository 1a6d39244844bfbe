"""The watchdog over a reactor that only the test moves; its thread is called by hand, but once."""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.ops.watchdog import LIMIT, QUIET, Watchdog
from relayd.reactor.lean import LeanReactor


class Troubles:
    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def trouble(self, event: str, **facts: object) -> None:
        self.said.append({"event": event, **facts})


class Turning(Clock):
    """What the lean reactor tells of its turns."""

    turn_began = 0.0
    long_turn: Any = None

    def end(self, seconds: float) -> None:
        limit, hears = self.long_turn
        if seconds > limit:
            hears(seconds)
        self.turn_began = 0.0
        self.advance(0)


class Watched(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor: Any = Turning()
        self.reactor.advance(1)
        self.log = Troubles()
        log: Any = self.log
        self.dog = Watchdog(self.reactor, log, seconds=self.reactor.seconds)
        self.dog.start()
        self.addCleanup(self.dog.stop)
        self.dog._stopped.set()  # its thread rests: the test looks in its place

    def block(self, seconds: float) -> None:
        self.reactor.turn_began = self.reactor.seconds()
        self.reactor.rightNow += seconds
        self.dog.look()
        self.reactor.end(seconds)

    def test_turns_that_are_short_are_not_worth_a_word(self) -> None:
        for _ in range(100):
            self.block(LIMIT * 0.9)
        self.assertEqual((self.log.said, self.dog.blocked), ([], 0))

    def test_who_blocks_it_is_named_with_how_long(self) -> None:
        self.block(0.5)
        (said,) = self.log.said
        self.assertEqual((said["event"], said["times"]), ("reactor blocked", 1))
        self.assertEqual(said["seconds"], 0.5)
        self.assertIn("test_watchdog.py", said["at"])
        self.assertIn(" block", said["at"])

    def test_many_times_are_one_line_with_the_longest(self) -> None:
        for _ in range(20):
            self.block(0.3)
        self.block(0.9)
        self.assertEqual([said["times"] for said in self.log.said], [1])
        self.reactor.advance(QUIET)
        self.assertEqual([said["times"] for said in self.log.said], [1, 20])
        self.assertEqual((self.log.said[1]["seconds"], self.dog.worst), (0.9, 0.9))
        self.assertEqual(self.dog.blocked, 21)

    def test_a_reactor_that_waits_for_events_is_not_blamed(self) -> None:
        self.reactor.rightNow += 5
        self.dog.look()
        self.reactor.advance(0)
        self.assertEqual((self.log.said, self.dog._place), ([], ()))

    def test_a_turn_that_nobody_looked_at_says_so(self) -> None:
        self.reactor.turn_began = self.reactor.seconds()
        self.reactor.end(0.15)
        self.assertEqual(self.log.said[0]["at"], "unknown")

    def test_nothing_is_left_when_it_stops(self) -> None:
        self.block(0.3)
        self.block(0.3)
        self.dog.stop()
        self.assertEqual((self.reactor.getDelayedCalls(), self.reactor.long_turn), ([], None))


class Thread(SynchronousTestCase):
    def test_its_thread_finds_out_what_blocks(self) -> None:
        reactor, log = Turning(), Troubles()
        quiet: Any = log
        dog = Watchdog(reactor, quiet)
        dog.start()
        self.addCleanup(dog.stop)
        reactor.turn_began = time.monotonic()
        deadline = time.monotonic() + 60
        while not dog._place_of and time.monotonic() < deadline:
            sum(range(1000))  # busy: this is what blocks
        reactor.end(1.0)
        (said,) = log.said
        self.assertIn("test_its_thread_finds_out_what_blocks", said["at"])


class Reactors(SynchronousTestCase):
    def test_the_reactor_tells_of_a_long_turn_and_of_no_long_wait(self) -> None:
        reactor = LeanReactor()
        heard: list[float] = []
        reactor.long_turn = (0.05, heard.append)
        reactor.doPoll(0.1)  # waits
        reactor.doPoll(0)
        self.assertEqual(heard, [])
        reactor.callLater(0, time.sleep, 0.06)
        reactor.runUntilCurrent()
        self.assertTrue(reactor.turn_began)
        reactor.doPoll(0)
        (took,) = heard
        self.assertGreater(took, 0.06)
