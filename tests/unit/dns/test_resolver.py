"""The cache, the coalescing and the cap, with a lookup that the test answers by hand."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from relayd.dns.answer import Answer, DnsError, DnsTrouble, NoData, NxDomain
from relayd.dns.resolver import CACHE_OCTETS, Resolver
from tests.support import TestCase


class Lookups:
    """Every lookup is a Deferred that the test fires."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: list[tuple[str, str]] = []
        self.pending: dict[tuple[str, str], Deferred[Answer[str]]] = {}
        self.cancelled: list[tuple[str, str]] = []

    async def ask(self, name: str, rdtype: str) -> Answer[Any]:
        key = (name, rdtype)
        self.asked.append(key)
        self.pending[key] = Deferred(lambda _: self.cancelled.append(key))
        return await self.pending[key]

    def answer(self, name: str, rdtype: str = "A", ttl: int = 60) -> None:
        answer = Answer(name, name, ("192.0.2.1",), secure=False, ttl=ttl)
        self.pending.pop((name, rdtype)).callback(answer)

    def fail(self, error: Exception) -> None:
        assert isinstance(error, DnsError)
        self.pending.pop((error.name, error.rdtype)).errback(error)


class Caching(TestCase):
    def setUp(self) -> None:
        self.dns = Lookups()
        self.resolver = Resolver(
            None, ask=self.dns.ask, clock=lambda: self.dns.now, cache_size=3, in_flight=2
        )

    def ask(self, name: str = "a.example") -> Deferred[Answer[str]]:
        return Deferred.fromCoroutine(self.resolver.query(name, "A"))

    def known_for(self, seconds: float, name: str = "a.example") -> None:
        """It is in the cache for that long, to the second."""
        self.dns.now += seconds - 0.5
        self.assertIsNotNone(self.resolver.known(name, "A"))
        self.dns.now += 1
        self.assertIsNone(self.resolver.known(name, "A"))

    def test_answer_is_kept_for_its_ttl(self) -> None:
        first = self.ask()
        self.dns.answer("a.example", ttl=60)
        again = self.ask("A.Example.")
        self.assertIs(self.successResultOf(first), self.successResultOf(again))
        self.assertEqual(len(self.dns.asked), 1)
        self.known_for(60)

    def test_large_answers_push_each_other_out(self) -> None:
        """A stranger decides how large the records of his names are."""
        resolver = Resolver(None, ask=self.dns.ask, clock=lambda: self.dns.now)
        half = "x" * (CACHE_OCTETS // 2)
        for name in ("a.example", "b.example", "b.example", "c.example"):
            asked = Deferred.fromCoroutine(resolver.query(name, "TXT"))
            if not asked.called:
                answer = Answer(name, name, (half,), secure=False, ttl=60)
                self.dns.pending.pop((name, "TXT")).callback(answer)
        self.assertIsNone(resolver.known("a.example", "TXT"))
        self.assertIsNotNone(resolver.known("b.example", "TXT"))
        self.assertIsNotNone(resolver.known("c.example", "TXT"))

    def test_ttl_is_clamped_between_a_second_and_a_day(self) -> None:
        for ttl, seconds in ((0, 1), (10**9, 86400)):
            self.ask()
            self.dns.answer("a.example", ttl=ttl)
            self.known_for(seconds)

    def test_absence_is_kept_between_five_seconds_and_five_minutes(self) -> None:
        for kind in (NxDomain, NoData):
            for ttl, seconds in ((0, 5), (42, 42), (10**6, 300)):
                first = self.ask()
                self.dns.fail(kind("a.example", "A", "no", ttl))
                self.failureResultOf(first, kind)
                self.failureResultOf(self.ask(), kind)
                self.known_for(seconds)

    def test_trouble_is_kept_for_a_moment(self) -> None:
        first = self.ask()
        self.dns.fail(DnsTrouble("a.example", "A", "no"))
        self.failureResultOf(first, DnsTrouble)
        self.failureResultOf(self.ask(), DnsTrouble)
        self.assertEqual(len(self.dns.asked), 1)
        self.known_for(5)

    def test_silence_is_kept_for_as_long_as_it_says(self) -> None:
        asked = self.ask()
        self.dns.fail(DnsTrouble("a.example", "A", "timed out", 60))
        self.failureResultOf(asked, DnsTrouble)
        self.known_for(60)

    def test_a_kept_error_does_not_grow(self) -> None:
        self.ask().addErrback(lambda _: None)
        self.dns.fail(NxDomain("a.example", "A", "no", 300))
        errors = [self.failureResultOf(self.ask(), NxDomain).value for _ in range(3)]
        self.assertEqual(len({id(error) for error in errors}), 3)
        kept = self.resolver.known("a.example", "A")
        assert isinstance(kept, NxDomain)
        self.assertEqual(kept.text, "no")

    def test_the_least_recently_used_goes_first(self) -> None:
        for name in ("a", "b", "c"):
            self.ask(name)
            self.dns.answer(name)
        self.ask("a")
        self.ask("d")
        self.dns.answer("d")
        known = [name for name in "abcd" if self.resolver.known(name, "A")]
        self.assertEqual(known, ["a", "c", "d"])

    def test_forget(self) -> None:
        self.ask()
        self.dns.answer("a.example")
        self.resolver.forget()
        self.assertIsNone(self.resolver.known("a.example", "A"))

    def test_identical_questions_are_asked_once(self) -> None:
        asked = [self.ask() for _ in range(5)] + [self.ask("A.EXAMPLE")]
        self.assertEqual(self.dns.asked, [("a.example", "A")])
        self.dns.answer("a.example")
        for each in asked:
            self.assertEqual(self.successResultOf(each).values, ("192.0.2.1",))

    def test_identical_questions_fail_together(self) -> None:
        asked = [self.ask() for _ in range(3)]
        self.dns.fail(DnsTrouble("a.example", "A", "no"))
        errors = {id(self.failureResultOf(each, DnsTrouble).value) for each in asked}
        self.assertEqual(len(errors), 3)

    def test_one_who_gives_up_does_not_disturb_the_others(self) -> None:
        first, second = self.ask(), self.ask()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.dns.cancelled, [])
        self.dns.answer("a.example")
        self.successResultOf(second)

    def test_the_last_who_gives_up_ends_the_lookup(self) -> None:
        first, second = self.ask(), self.ask()
        first.cancel()
        second.cancel()
        self.failureResultOf(first, CancelledError)
        self.failureResultOf(second, CancelledError)
        self.assertEqual(self.dns.cancelled, [("a.example", "A")])
        self.assertIsNone(self.resolver.known("a.example", "A"))
        third = self.ask()
        self.assertEqual(len(self.dns.asked), 2)
        self.dns.answer("a.example")
        self.successResultOf(third)

    def test_lookups_under_way_are_bounded(self) -> None:
        asked = [self.ask(name) for name in ("a", "b", "c", "d")]
        self.assertEqual(self.dns.asked, [("a", "A"), ("b", "A")])
        self.dns.answer("b")
        self.assertEqual(self.dns.asked[2:], [("c", "A")])
        asked[3].cancel()  # while it waits its turn
        self.failureResultOf(asked[3], CancelledError)
        asked[0].cancel()
        self.failureResultOf(asked[0], CancelledError)
        last = [self.ask("e"), self.ask("f")]
        self.dns.answer("c")
        self.dns.answer("e")
        self.dns.answer("f")
        for each in (*asked[1:3], *last):
            self.successResultOf(each)

    def test_a_bug_in_the_lookup_reaches_all_and_is_not_kept(self) -> None:
        asked = [self.ask(), self.ask()]
        self.dns.pending[("a.example", "A")].errback(ZeroDivisionError())
        for each in asked:
            self.failureResultOf(each, ZeroDivisionError)
        self.assertIsNone(self.resolver.known("a.example", "A"))
