"""Passwords are hashed in threads, a few at a time, whoever goes away meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from relayd.intake.accounttables import AT_ONCE, AccountTables
from tests.support import TestCase


class Threads:
    """A thread pool whose work is done when the test says so."""

    def __init__(self) -> None:
        self.work: list[tuple[Callable[..., None], Callable[[], bool]]] = []

    def seconds(self) -> float:
        return 0.0

    def getThreadPool(self) -> Threads:
        return self

    def callInThreadWithCallback(
        self, done: Callable[..., None], work: Callable[[], bool], *_: object, **__: object
    ) -> None:
        self.work.append((done, work))

    def callFromThread(self, function: Callable[..., None], *args: object) -> None:
        function(*args)

    def finish(self) -> None:
        done, work = self.work.pop(0)
        done(True, work())


class HashingTests(TestCase):
    def setUp(self) -> None:
        self.threads = Threads()
        reactor: Any = self.threads
        self.tables = AccountTables(reactor, dict)

    def hash(self) -> Deferred[bool]:
        return Deferred.fromCoroutine(self.tables._in_thread(lambda: True))

    def test_only_a_few_at_a_time(self) -> None:
        asked = [self.hash() for _ in range(AT_ONCE + 2)]
        self.assertEqual(len(self.threads.work), AT_ONCE)
        for each in asked:
            self.threads.finish()
            self.assertIs(self.successResultOf(each), True)

    def test_who_goes_while_waiting_is_not_hashed_for(self) -> None:
        asked = [self.hash() for _ in range(AT_ONCE + 2)]
        asked[AT_ONCE].cancel()
        self.failureResultOf(asked[AT_ONCE], CancelledError)
        for _ in range(AT_ONCE + 1):
            self.threads.finish()
        self.assertEqual(self.threads.work, [])
        self.assertIs(self.successResultOf(asked[-1]), True)

    def test_who_goes_while_hashed_for_frees_no_place_before_the_hash_is_done(self) -> None:
        asked = [self.hash() for _ in range(AT_ONCE + 1)]
        asked[0].cancel()
        self.failureResultOf(asked[0], CancelledError)
        self.assertEqual(len(self.threads.work), AT_ONCE)
        self.threads.finish()
        self.assertEqual(len(self.threads.work), AT_ONCE)
        self.threads.finish()
        self.threads.finish()
        self.assertIs(self.successResultOf(asked[-1]), True)
