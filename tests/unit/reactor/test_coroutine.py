"""A strand runs when it can, waits when it must, and tells of what breaks it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import AlreadyCalledError, CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from relayd.reactor.coroutine import Awaited, Hold, log_bug, promise, spawn


class Strands(SynchronousTestCase):
    kind: type[Deferred[Any]] = Deferred

    def setUp(self) -> None:
        self.seen: list[object] = []
        self.broken: list[BaseException] = []

    def run_it(self, coroutine: Coroutine[Deferred[Any], Any, None]) -> None:
        """As the product does."""

        def broken(failure: Failure) -> None:
            assert failure.value is not None
            self.broken.append(failure.value)

        spawn(coroutine, broken)

    async def gather(self, *awaited: Deferred[object]) -> None:
        """What each of them comes to, in order."""
        for each in awaited:
            try:
                self.seen.append(await each)
            except ArithmeticError as error:
                self.seen.append(error.args)
        self.seen.append("end")

    def test_what_has_its_result_is_not_waited_for(self) -> None:
        self.run_it(self.gather(succeed(1), succeed(None), fail(ArithmeticError(3))))
        self.assertEqual(self.seen, [1, None, (3,), "end"])

    def test_what_has_none_is_waited_for(self) -> None:
        first: Deferred[object] = self.kind()
        second: Deferred[object] = self.kind()
        third: Deferred[object] = self.kind()
        self.run_it(self.gather(first, second, third))
        self.assertEqual(self.seen, [])
        second.callback(None)
        self.assertEqual(self.seen, [])
        first.callback(1)
        self.assertEqual(self.seen, [1, None])
        third.errback(ArithmeticError(3))
        self.assertEqual(self.seen, [1, None, (3,), "end"])
        self.assertEqual(self.broken, [])

    def test_one_that_waits_for_another_deferred(self) -> None:
        inner: Deferred[object] = self.kind()
        outer: Deferred[object] = Deferred()
        outer.addCallback(lambda _: inner)
        self.run_it(self.gather(outer))
        outer.callback(1)
        self.assertEqual(self.seen, [])
        inner.callback(2)
        self.assertEqual(self.seen, [2, "end"])

    def test_a_thousand_results_in_a_row_need_no_deeper_stack(self) -> None:
        many: list[Deferred[object]] = [succeed(each) for each in range(5000)]
        self.run_it(self.gather(*many))
        self.assertEqual(len(self.seen), 5001)

    def test_a_bug_is_told_once_and_not_to_the_deferred(self) -> None:
        for early in (True, False):
            waited: Deferred[object] = succeed(1) if early else self.kind()

            async def bug(waited: Deferred[object] = waited) -> None:
                await waited
                raise LookupError

            self.run_it(bug())
            if not early:
                waited.callback(1)
            self.assertIsInstance(self.broken.pop(), LookupError)
            self.assertEqual(self.successResultOf(waited), None if not early else 1)
        self.assertEqual(self.broken, [])

    def test_a_failure_nobody_catches_is_told(self) -> None:
        async def trusting(waited: Deferred[object]) -> None:
            await waited

        waited: Deferred[object] = self.kind()
        self.run_it(trusting(waited))
        waited.errback(LookupError("gone"))
        self.assertIsInstance(self.broken.pop(), LookupError)
        del waited
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(LookupError), [])

    def test_nothing_of_it_is_left_to_the_garbage_collector(self) -> None:
        class Witness:
            pass

        async def hold(witness: Witness, waited: Deferred[object]) -> None:
            await waited
            self.seen.append(type(witness))

        witness = Witness()
        gone = weakref.ref(witness)
        waited: Deferred[object] = self.kind()
        gc.disable()
        self.addCleanup(gc.enable)
        self.run_it(hold(witness, waited))
        del witness
        self.assertIsNotNone(gone())
        waited.callback(None)
        self.assertIsNone(gone())

    def test_a_bug_is_logged_by_its_error_first(self) -> None:
        logged: list[tuple[str, list[tuple[str, object]]]] = []

        class Log:
            def trouble(self, event: str, **facts: object) -> None:
                logged.append((event, list(facts.items())))

        log: Any = Log()
        self.run_it(self.gather(fail(ValueError("x"))))
        log_bug(log, "bug", Failure(self.broken[0]))
        ((event, facts),) = logged
        self.assertEqual((event, facts[0]), ("bug", ("error", "ValueError('x')")))
        self.assertEqual(facts[1][0], "why")
        self.assertIn("ValueError: x", str(facts[1][1]))


class AwaitedOnes(Strands):
    """The same, and all else that a Deferred does."""

    kind = Awaited

    def test_it_comes_once(self) -> None:
        early, late = Awaited[object](), Awaited[object]()
        early.callback(1)
        self.run_it(self.gather(early, late))
        late.callback(2)
        for waited in (early, late):
            self.assertRaises(AlreadyCalledError, waited.callback, 3)
        self.assertEqual(self.seen, [1, 2, "end"])

    def test_it_can_be_cancelled(self) -> None:
        async def patient(waited: Awaited[object]) -> None:
            try:
                self.seen.append(await waited)
            except CancelledError:
                self.seen.append("cancelled")

        answered = Awaited[object](lambda it: it.callback("at the last moment"))
        for waited in (Awaited[object](), answered):
            self.run_it(patient(waited))
            waited.cancel()
        self.assertEqual(self.seen, ["cancelled", "at the last moment"])

    def test_who_holds_a_spawned_one_can_give_it_up(self) -> None:
        async def patient(*several: Deferred[object]) -> None:
            for waited in several:
                try:
                    self.seen.append(await waited)
                except CancelledError:
                    self.seen.append("cancelled")

        for first, second in (
            (Awaited[object](), Awaited[object]()),
            (Deferred[object](), Deferred[object]()),
        ):
            self.seen.clear()
            hold = Hold()
            spawn(patient(first, second), self.broken.append, hold)
            first.callback(1)
            hold.cancel()  # what it waits for now
            self.assertEqual(self.seen, [1, "cancelled"])
            hold.cancel()  # it is over: there is nothing left to give up
        self.assertEqual(self.broken, [])

    def test_a_promise_waits_for_it_and_can_be_cancelled(self) -> None:
        async def twice(waited: Awaited[int]) -> int:
            return 2 * await waited

        waited = Awaited[int]()
        promised = promise(twice(waited))
        self.assertNoResult(promised)
        waited.callback(2)
        self.assertEqual(self.successResultOf(promised), 4)
        promised = promise(twice(Awaited[int]()))
        promised.cancel()
        self.failureResultOf(promised, CancelledError)
