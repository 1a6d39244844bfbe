"""Which worker takes a connection: its share, never nobody, and what leaves together comes back."""

from __future__ import annotations

import os
import select
import unittest
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from relayd.intake.accepting import PATIENCE, WINDOW, AcceptBalancer
from relayd.shared.sessioncounts import SessionCounts, shared_session_counts

PORT = -2  # not a descriptor: its readiness is the backlog's


def rings(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


class Backlog:
    """The connections that wait at the socket of all workers."""

    def __init__(self) -> None:
        self.waiting = 0


class Reactor(Clock):
    """Time, and a turn that tells those who wait for connections."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:  # noqa: ANN401 - any of Twisted's
        if reader not in self.readers:
            self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:  # noqa: ANN401
        if reader in self.readers:
            self.readers.remove(reader)


class Port:
    """A listening port whose connections come from a backlog."""

    def __init__(self, backlog: Backlog, reactor: Reactor) -> None:
        self.numberAccepts = 100
        self.backlog = backlog
        self.reactor = reactor
        self.accepted: Any = None
        reactor.addReader(self)

    def fileno(self) -> int:
        return PORT

    def stopReading(self) -> None:
        self.reactor.removeReader(self)

    def doRead(self) -> None:
        for _ in range(min(self.numberAccepts, self.backlog.waiting)):
            self.backlog.waiting -= 1
            self.accepted(1)


class Worker:
    def __init__(self, shared: Sequence[int], number: int, backlog: Backlog) -> None:
        self.reactor = Reactor()
        self.backlog = backlog
        self.levels = SessionCounts(shared, number)
        self.accept_balancer = AcceptBalancer(self.reactor, self.levels)
        self.port = Port(backlog, self.reactor)
        self.port.accepted = self.accept_balancer.count

    def open(self) -> None:
        self.accept_balancer.open([self.port])

    def turn(self) -> None:
        """What the reactor does when there is something to read."""
        for reader in list(self.reactor.readers):
            descriptor = reader.fileno()
            waits = self.backlog.waiting if descriptor == PORT else rings(descriptor)
            if waits:
                reader.doRead()

    @property
    def sessions(self) -> int:
        return self.accept_balancer.sessions


class Turnstiles(unittest.TestCase):
    def workers(self, count: int) -> list[Worker]:
        shared = shared_session_counts(count)
        for each in shared:
            self.addCleanup(os.close, each)
        self.backlog = Backlog()
        return [Worker(shared, number, self.backlog) for number in range(count)]

    def opened(self, count: int) -> list[Worker]:
        workers = self.workers(count)
        for worker in workers:
            worker.open()
        return workers

    def come(self, workers: list[Worker], count: int) -> None:
        """So many clients, one after the other."""
        for _ in range(count):
            self.backlog.waiting += 1
            for _ in range(3):
                for worker in workers:
                    worker.turn()
            self.assertEqual(self.backlog.waiting, 0)

    def leave(self, worker: Worker, count: int) -> None:
        for _ in range(count):
            worker.accept_balancer.count(-1)

    def test_who_comes_one_by_one_is_dealt_out_evenly(self) -> None:
        workers = self.opened(3)
        self.come(workers, 30)
        numbers = [worker.sessions for worker in workers]
        self.assertEqual(sum(numbers), 30)
        self.assertLessEqual(max(numbers) - min(numbers), 2)

    def test_those_that_left_together_come_back_to_one(self) -> None:
        one, other = workers = self.opened(2)
        self.come(workers, 20)
        before = (one.sessions, other.sessions)
        self.leave(one, one.sessions)
        for _ in range(before[0]):
            self.backlog.waiting += 1
            other.turn()  # even when the other one looks first
            one.turn()
        self.assertEqual((one.sessions, other.sessions), before)

    def test_up_to_its_share_a_worker_need_not_have_the_fewest(self) -> None:
        one, other = workers = self.opened(2)
        self.come(workers, 20)
        self.leave(one, 3)
        self.leave(other, other.sessions - 2)
        before = (one.sessions, other.sessions)
        self.backlog.waiting = 2
        one.turn()
        self.assertEqual((one.sessions, other.sessions), (before[0] + 2, before[1]))

    def test_a_share_is_forgotten_when_there_are_fewer(self) -> None:
        one, other = workers = self.opened(2)
        self.come(workers, 20)
        self.leave(one, one.sessions)
        self.leave(other, other.sessions - 5)
        for _ in range(3):
            for worker in workers:
                worker.reactor.advance(WINDOW + 0.01)
            self.come(workers, 1)
        self.assertEqual((one.sessions, other.sessions), (3, 5))
        self.come(workers, 8)
        self.assertLessEqual(abs(one.sessions - other.sessions), 2)

    def test_more_than_ever_before_are_taken_too(self) -> None:
        workers = self.opened(2)
        self.backlog.waiting = 1000
        for _ in range(1000):
            for worker in workers:
                worker.turn()
        self.assertEqual([worker.sessions for worker in workers], [500, 500])

    def test_one_that_hangs_is_stepped_in_for(self) -> None:
        one, other = workers = self.opened(2)
        self.come(workers, 2)
        one.accept_balancer.count(-1)  # its turn, but it does nothing any more
        self.backlog.waiting = 5
        other.turn()
        self.assertEqual((self.backlog.waiting, other.sessions), (5, 1))
        other.reactor.advance(PATIENCE)
        self.assertEqual((self.backlog.waiting, other.sessions), (0, 6))
        self.backlog.waiting = 5
        other.turn()
        other.reactor.advance(PATIENCE)
        self.assertEqual(self.backlog.waiting, 0)

    def test_one_that_dies_is_stepped_in_for(self) -> None:
        one, other = workers = self.opened(2)
        self.come(workers, 2)
        one.accept_balancer.count(-1)
        self.backlog.waiting = 1
        other.turn()
        self.assertEqual(self.backlog.waiting, 1)  # it steps back for the first
        self.backlog.waiting = 0
        one.accept_balancer.close()
        other.reactor.advance(PATIENCE)
        self.come([other], 7)
        self.assertEqual(other.sessions, 8)

    def test_for_one_that_is_back_soon_its_share_waits(self) -> None:
        one, other = workers = self.opened(2)
        self.come(workers, 20)
        before = (one.sessions, other.sessions)
        self.leave(one, one.sessions)
        one.accept_balancer.close()
        one.levels.expect()
        self.backlog.waiting = before[0]
        other.turn()
        other.reactor.advance(PATIENCE)
        self.assertEqual(other.sessions, before[1])
        one.levels.expect_no_more()
        other.reactor.advance(PATIENCE)
        self.assertEqual((other.sessions, self.backlog.waiting), (20, 0))

    def test_after_the_end_nothing_is_taken_or_told(self) -> None:
        one, other = workers = self.opened(2)
        self.come(workers, 2)
        self.backlog.waiting = 1
        one.accept_balancer.close()
        one.accept_balancer.count(-1)
        one.turn()
        one.reactor.advance(10 * PATIENCE)
        self.assertEqual((one.sessions, self.backlog.waiting), (0, 1))
        self.assertEqual(one.reactor.getDelayedCalls(), [])
        other.turn()
        self.assertEqual(self.backlog.waiting, 0)

    @settings(deadline=None)
    @given(
        st.integers(2, 4),
        st.lists(
            st.tuples(
                st.sampled_from(["come", "go", "turn", "time", "close", "open"]),
                st.integers(0, 3),
                st.integers(1, 12),
            ),
            max_size=60,
        ),
    )
    def test_whatever_happens_somebody_takes_what_waits(
        self, count: int, steps: list[tuple[str, int, int]]
    ) -> None:
        workers = self.opened(count)
        serving = [True] * count
        for what, which, number in steps:
            index = which % count
            worker = workers[index]
            if what == "come":
                self.backlog.waiting += number
            elif what == "go" and worker.sessions:
                worker.accept_balancer.count(-min(number, worker.sessions))
            elif what == "turn":
                worker.turn()
            elif what == "time":
                worker.reactor.advance(number / 10)
            elif what == "close" and serving[index] and sum(serving) > 1:
                worker.accept_balancer.close()
                serving[index] = False
            elif what == "open" and not serving[index]:
                worker.open()
                serving[index] = True
        self.backlog.waiting += 1
        for worker in workers:
            worker.reactor.advance(PATIENCE)
        for _ in range(self.backlog.waiting * count + count):
            for worker in workers:
                worker.turn()
        self.assertEqual(self.backlog.waiting, 0)
        self.doCleanups()  # descriptors of a hundred examples are many
