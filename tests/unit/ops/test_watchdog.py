"""The watchdog over a clock that only the test moves; its thread is called by hand, but once."""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.ops.watchdog import BEAT, QUIET, Watchdog


class Troubles:
    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def trouble(self, event: str, **facts: object) -> None:
        self.said.append({"event": event, **facts})


class Watched(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.log = Troubles()
        log: Any = self.log
        self.dog = Watchdog(self.clock, log, seconds=self.clock.seconds)
        self.dog.start()
        self.addCleanup(self.dog.stop)
        self.dog._stopped.set()  # its thread rests: the test looks in its place

    def block(self, seconds: float) -> None:
        self.clock.rightNow += seconds
        self.dog.look()
        self.clock.advance(0)

    def test_a_reactor_that_beats_in_time_is_not_worth_a_word(self) -> None:
        for _ in range(100):
            self.clock.advance(BEAT)
            self.dog.look()
        self.assertEqual((self.log.said, self.dog.blocked), ([], 0))

    def test_who_blocks_it_is_named_with_how_long(self) -> None:
        self.block(0.5)
        (said,) = self.log.said
        self.assertEqual((said["event"], said["times"]), ("reactor blocked", 1))
        self.assertAlmostEqual(said["seconds"], 0.5 - BEAT, 3)
        self.assertIn("test_watchdog.py", said["at"])
        self.assertIn(" block", said["at"])

    def test_many_times_are_one_line(self) -> None:
        for _ in range(20):
            self.block(0.3)
        self.block(0.9)
        self.clock.advance(QUIET)
        self.assertEqual([said["times"] for said in self.log.said][:1], [1])
        self.assertLessEqual(len(self.log.said), 3)
        self.assertEqual(self.dog.blocked, 21 + 1)  # the test's own leap over QUIET, too
        self.assertGreater(self.dog.worst, 0.8)

    def test_a_reactor_that_waits_for_events_on_a_busy_machine_is_not_blamed(self) -> None:
        def doPoll() -> None:
            self.clock.rightNow += 0.5
            self.dog.look()

        doPoll()
        # the innermost call that it sees is look's own caller's here: say so as the thread would
        self.dog._place = ("epollreactor.py:1 doPoll",)
        self.clock.advance(0)
        self.assertEqual(self.log.said, [])

    def test_after_stop_it_beats_no_more(self) -> None:
        self.dog.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Thread(SynchronousTestCase):
    def test_its_thread_finds_out_what_blocks(self) -> None:
        clock, log = Clock(), Troubles()
        quiet: Any = log
        dog = Watchdog(clock, quiet)
        dog.start()
        self.addCleanup(dog.stop)
        deadline = time.monotonic() + 10
        while dog._place_of < 0 and time.monotonic() < deadline:
            sum(range(1000))  # busy: this is what blocks
        clock.advance(BEAT)
        (said,) = log.said
        self.assertIn("test_its_thread_finds_out_what_blocks", said["at"])
