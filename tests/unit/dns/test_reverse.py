"""Reverse names: forward-confirmed, never waited for longer than a second, cancellable."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from relayd.dns.answer import Answer, DnsError, DnsTrouble, NoData, NxDomain
from relayd.dns.hostname import host_name, is_loopback
from relayd.dns.resolver import Resolver
from relayd.dns.reverse import MOST_NAMES, PATIENCE, NameLookup, ReverseNames
from tests.support import TestCase

ADDRESS = "192.0.2.7"
POINTER = "7.2.0.192.in-addr.arpa"


class Zone:
    """Answers at once, or when the test says so."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], tuple[str, ...] | type[DnsError]] = {}
        self.asked: list[tuple[str, str]] = []
        self.held: Deferred[None] | None = None
        self.cancelled = 0

    async def ask(self, name: str, rdtype: str) -> Answer[Any]:
        self.asked.append((name, rdtype))
        if self.held is not None:
            await self.held
        found = self.records.get((name, rdtype), NxDomain)
        if isinstance(found, tuple):
            return Answer(name, name, found, secure=False, ttl=60)
        raise found(name, rdtype, "said so", 60)

    def hold(self) -> None:
        def gone(_: object) -> None:
            self.cancelled += 1

        self.held = Deferred(gone)

    def go_on(self) -> None:
        held, self.held = self.held, None
        assert held is not None
        held.callback(None)


class ReverseCase(TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.zone = Zone()
        self.resolver = Resolver(None, ask=self.zone.ask, clock=self.clock.seconds)
        self.names = ReverseNames(self.resolver, self.clock)

    def look_up(self, address: str = ADDRESS) -> NameLookup:
        return self.names.look_up(address)

    def found(self, address: str = ADDRESS) -> str | None:
        lookup = self.look_up(address)
        self.assertTrue(lookup.over)
        return lookup.name


class Confirmed(ReverseCase):
    def test_a_name_that_leads_back(self) -> None:
        self.zone.records = {(POINTER, "PTR"): ("Mail.Example.com",)}
        self.zone.records["mail.example.com", "A"] = ("192.0.2.8", ADDRESS)
        self.assertEqual(self.found(), "mail.example.com")
        # and from now on nobody is asked
        self.assertEqual(self.names.known(ADDRESS), "mail.example.com")
        self.assertEqual(len(self.zone.asked), 2)

    def test_of_ipv6(self) -> None:
        pointer = "1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa"
        self.zone.records = {(pointer, "PTR"): ("six.example.com",)}
        self.zone.records["six.example.com", "AAAA"] = ("2001:db8::1",)
        self.assertEqual(self.found("2001:db8::1"), "six.example.com")

    def test_there_is_none(self) -> None:
        for records in (
            {},
            {(POINTER, "PTR"): NoData},
            {(POINTER, "PTR"): ("liar.example",), ("liar.example", "A"): ("192.0.2.9",)},
            {(POINTER, "PTR"): ("liar.example",)},
            {(POINTER, "PTR"): ("a b.example", "(x)", "", "..", "-", "x" * 254, "ü.example")},
        ):
            self.zone.records = dict(records)
            self.names.forget()
            self.assertEqual(self.found(), "", records)
            self.assertEqual(self.names.known(ADDRESS), "")
        self.assertEqual(self.found("not an address"), "")

    def test_one_of_several(self) -> None:
        self.zone.records = {
            (POINTER, "PTR"): ("broken.example", "gone.example", "right.example"),
            ("broken.example", "A"): DnsTrouble,
            ("right.example", "A"): (ADDRESS,),
        }
        self.assertEqual(self.found(), "right.example")

    def test_trouble_is_not_known_rather_than_none(self) -> None:
        for records in (
            {(POINTER, "PTR"): DnsTrouble},
            {(POINTER, "PTR"): ("a.example",), ("a.example", "A"): DnsTrouble},
        ):
            self.zone.records = dict(records)  # type: ignore[arg-type]
            self.names.forget()
            self.assertIsNone(self.found(), records)
            self.assertIsNone(self.names.known(ADDRESS))

    def test_of_a_thousand_names_a_few_are_asked_about(self) -> None:
        self.zone.records = {(POINTER, "PTR"): tuple(f"n{n}.example" for n in range(1000))}
        self.assertEqual(self.found(), "")
        self.assertEqual(len(self.zone.asked), 1 + MOST_NAMES)

    def test_loopback_asks_nobody(self) -> None:
        for address in ("127.0.0.1", "127.9.9.9", "::1"):
            self.assertTrue(is_loopback(address))
            self.assertEqual(self.found(address), "localhost")
        self.assertEqual(self.zone.asked, [])

    def test_what_a_file_lists_comes_first(self) -> None:
        names = ReverseNames(
            self.resolver,
            self.clock,
            listed={ADDRESS: "printer"}.__getitem__,
        )
        self.assertEqual(names.known(ADDRESS), "printer")
        self.assertEqual(self.zone.asked, [])

    def test_names_of_hosts(self) -> None:
        for text, name in (
            ("A.B.", "a.b"),
            ("_x.y", "_x.y"),
            ("a..b", ""),
            (".", ""),
            ("a\r\nb", ""),
        ):
            self.assertEqual(host_name(text), name)


class Waiting(ReverseCase):
    def test_for_a_second_from_its_beginning_and_no_longer(self) -> None:
        self.zone.hold()
        lookup = self.look_up()
        self.clock.advance(0.4)
        waiting = Deferred.fromCoroutine(lookup.wait())
        self.clock.advance(0.5)
        self.assertNoResult(waiting)
        self.clock.advance(PATIENCE - 0.9)
        self.successResultOf(waiting)
        self.assertFalse(lookup.over)
        self.assertFalse(lookup.worth_waiting)
        self.successResultOf(Deferred.fromCoroutine(lookup.wait()))

    def test_until_it_is_there(self) -> None:
        self.zone.hold()
        lookup = self.look_up()
        waiting = Deferred.fromCoroutine(lookup.wait())
        self.zone.go_on()
        self.successResultOf(waiting)
        self.assertEqual(lookup.name, "")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_wait_can_be_given_up(self) -> None:
        self.zone.hold()
        waiting = Deferred.fromCoroutine(self.look_up().wait())
        waiting.cancel()
        self.failureResultOf(waiting)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_it_ends_with_the_client(self) -> None:
        self.zone.hold()
        self.look_up().cancel()
        self.assertEqual(self.zone.cancelled, 1)

    def test_what_is_late_is_found_for_the_next_time(self) -> None:
        self.zone.records = {(POINTER, "PTR"): ("a.example",), ("a.example", "A"): (ADDRESS,)}
        self.zone.hold()
        lookup = self.look_up()
        self.clock.advance(PATIENCE)
        lookup.cancel()
        self.zone.go_on()
        self.assertEqual(self.names.known(ADDRESS), "a.example")

    def test_many_sessions_of_one_client_ask_once(self) -> None:
        self.zone.hold()
        lookups = [self.look_up() for _ in range(50)]
        for each in lookups[:49]:
            each.cancel()
        self.assertEqual((len(self.zone.asked), self.zone.cancelled), (1, 0))
        lookups[49].cancel()
        self.assertEqual(self.zone.cancelled, 1)
