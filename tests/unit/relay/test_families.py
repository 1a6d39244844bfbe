"""Two families of one host (RFC 8305): the second is tried a moment later, and one is used."""

from __future__ import annotations

import socket
from typing import Any
from unittest import skipUnless

from relayd.mail.nexthop import HostPort, NextHop
from relayd.mail.outcome import Outcome
from relayd.mail.pacing import SourceAddress
from relayd.relay import dial, newcomers
from relayd.relay.courier import Hop
from relayd.relay.limits import RelayLimits
from relayd.relay.survey import Endpoint
from tests.sink import Script, Sink
from tests.support import TestCase
from tests.unit.relay.test_smtpout import HOP, CourierCase, a_delivery, reactor, says

PATIENT = RelayLimits(connect=60, connection_messages=1)
MUCH = 50.0  # seconds: near to what a hole costs; whoever is not held up has far less to do
MX = "mx.example"


def six(port: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_INET6)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("::1", port))
    made.listen(50)
    return made


def can() -> bool:
    try:
        six().close()
    except OSError:
        return False
    return True


class Hole:
    """Where nothing is answered: its queue of connections is full."""

    def __init__(self, family: socket.AddressFamily, port: int) -> None:
        self.listener = socket.socket(family)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1" if family == socket.AF_INET else "::1", port))
        self.listener.listen(0)
        self.full: list[socket.socket] = []
        for _ in range(3):
            one = socket.socket(family)
            one.setblocking(False)
            one.connect_ex(self.listener.getsockname())
            self.full.append(one)

    def close(self) -> None:
        for each in (*self.full, self.listener):
            each.close()


@skipUnless(can(), "no IPv6 on loopback")
class Families(CourierCase, TestCase):
    """Both addresses have one port, as hosts of mail do; the first one is preferred."""

    def setUp(self) -> None:
        super().setUp()
        self.courier.apply(PATIENT)

    def both(self, first: str, sink: str, script: Script | None = None) -> Sink:
        """A host whose `first` address is a hole or not, with a sink at the other."""
        families = {"4": socket.AF_INET, "6": socket.AF_INET6}
        made = self.sink(script) if sink == "4" else Sink(script, bind=six)
        if sink == "6":
            self.sinks.append(made)
        self.endpoints.clear()
        (other,) = set("46") - {sink}
        hole = Hole(families[other], made.port)
        self.addCleanup(hole.close)
        addresses = {"4": "127.0.0.1", "6": "::1"}
        for each in (first, *(set("46") - {first})):
            self.endpoints.append(Endpoint(MX, addresses[each], made.port))
        return made

    async def timed(self, hop: Hop = HOP) -> tuple[Outcome, float]:
        began = reactor.seconds()
        (outcome,) = await self.deliver(a_delivery(), hop)
        return outcome, reactor.seconds() - began

    async def test_a_hole_in_one_family_costs_a_quarter_of_a_second(self) -> None:
        for hole, other in (("6", "4"), ("4", "6")):
            for hop in (
                Hop(domain="example.com"),
                Hop((NextHop("out", "smtp", (HostPort(MX, 25),)),)),
            ):
                self.courier = self.a_courier(limits=PATIENT)
                self.patch(dial, "HEAD_START", 0.25)
                sink = self.both(hole, other)
                outcome, seconds = await self.timed(hop)
                self.assertEqual((outcome.reply.code, len(sink.arrived)), (250, 1), str(outcome))
                self.assertIn("127.0.0.1" if other == "4" else "::1", outcome.remote_address)
                self.assertTrue(dial.HEAD_START <= seconds < MUCH, seconds)
                # and nothing at all for a while
                self.patch(dial, "HEAD_START", MUCH)
                for number in range(2, 5):
                    outcome, seconds = await self.timed(hop)
                    self.assertEqual((outcome.reply.code, len(sink.arrived)), (250, number))
                    self.assertLess(seconds, MUCH)

    async def test_who_answers_in_time_is_alone(self) -> None:
        sink = self.sink()
        other = Sink(bind=lambda: six(sink.port))
        self.sinks.append(other)
        self.endpoints.append(Endpoint(MX, "::1", sink.port))
        outcome, _ = await self.timed()
        self.assertEqual((outcome.reply.code, sink.sessions, other.sessions), (250, 1, 0))

    async def test_what_is_refused_goes_on_at_once(self) -> None:
        sink = self.sink()
        self.endpoints.insert(0, Endpoint(MX, "::1", sink.port))  # nobody listens there
        self.patch(dial, "HEAD_START", MUCH)
        outcome, seconds = await self.timed()
        self.assertEqual(outcome.reply.code, 250)
        self.assertLess(seconds, MUCH)

    async def test_the_first_one_wins_late_and_the_other_one_is_let_go(self) -> None:
        """The hole is filled while both are tried."""
        sink = self.sink()
        hole = Hole(socket.AF_INET6, sink.port)
        self.addCleanup(hole.close)
        self.endpoints.append(Endpoint(MX, "::1", sink.port))
        self.patch(dial, "HEAD_START", 0.0)
        for _ in range(5):
            outcome, _ = await self.timed()
            self.assertEqual((outcome.reply.code, "127.0.0.1" in outcome.remote_address), (250, 1))
        self.assertEqual(sink.sessions, 5)
        self.assertLessEqual(self.courier.connections, 1)

    async def test_one_session_is_counted_and_one_is_seen(self) -> None:
        """Both are there, and both are tried at once: one of them hears a greeting."""
        sink = self.sink()
        other = Sink(bind=lambda: six(sink.port))
        self.sinks.append(other)
        self.endpoints.append(Endpoint(MX, "::1", sink.port))
        self.patch(dial, "HEAD_START", 0.0)
        opened: list[object] = []
        pool: Any = self.courier._pool
        was = pool.opened

        def count_it(made: object) -> None:
            opened.append(made)
            was(made)

        pool.opened = count_it
        for count in range(1, 6):
            outcome, _ = await self.timed()
            self.assertEqual(outcome.reply.code, 250)
            self.assertEqual((len(opened), len(sink.arrived) + len(other.arrived)), (count, count))

    async def test_after_a_refusal_the_slow_one_has_its_turn_at_the_end(self) -> None:
        sink = self.both("6", "4", says("connect", "421 4.3.2 busy"))
        behind = self.sink()
        self.endpoints[-1] = Endpoint("mx2.example", "127.0.0.1", behind.port)
        outcome, seconds = await self.timed()
        self.assertEqual((outcome.reply.code, sink.sessions, behind.sessions), (250, 1, 1))
        self.assertLess(seconds, MUCH)

    async def test_both_are_holes_and_the_next_host_is_asked(self) -> None:
        self.courier.apply(RelayLimits(connect=2.0))
        sink = self.sink()
        self.endpoints.clear()
        port = sink.port
        hole = Hole(socket.AF_INET6, port)
        self.addCleanup(hole.close)
        sink.kill()
        dead = Hole(socket.AF_INET, port)
        self.addCleanup(dead.close)
        self.endpoints += [Endpoint(MX, "::1", port), Endpoint(MX, "127.0.0.1", port)]
        behind = self.sink()
        self.endpoints[-1] = Endpoint("mx2.example", "127.0.0.1", behind.port)
        outcome, seconds = await self.timed()
        self.assertEqual((outcome.reply.code, behind.sessions), (250, 1))
        self.assertLess(seconds, 4.0)  # not one after the other

    async def test_a_source_is_of_the_family_that_is_used(self) -> None:
        sink = self.both("6", "4")
        source = SourceAddress("bulk", ("127.0.0.9", "::1"), "bulk.example.com")
        outcome, _ = await self.timed(Hop(domain="example.com", source=source))
        self.assertEqual(outcome.reply.code, 250)
        (arrived,) = sink.arrived
        self.assertEqual((arrived.hello, arrived.peer), ("bulk.example.com", "127.0.0.9"))

    async def test_a_source_without_the_other_family_never_tries_it(self) -> None:
        self.courier.apply(RelayLimits(connect=2.0))
        sink = self.both("6", "4")
        source = SourceAddress("bulk", ("::1",), "bulk.example.com")
        outcome, _ = await self.timed(Hop(domain="example.com", source=source))
        self.assertEqual((outcome.reply.code, sink.sessions), (451, 0))

    async def test_stopped_in_the_middle_both_are_given_up(self) -> None:
        self.patch(dial, "HEAD_START", 0.0)
        self.both("6", "4").kill()
        hole = Hole(socket.AF_INET, self.endpoints[0].port)
        self.addCleanup(hole.close)
        going = self.deliver(a_delivery())
        reactor.callLater(0.1, self.courier.abort)
        (outcome,) = await going
        self.assertEqual((outcome.reply.code, self.courier.connections), (451, 0))

    async def test_who_was_slower_is_no_newcomer_that_keeps_others_waiting(self) -> None:
        self.both("6", "4")
        await self.timed()
        doors: newcomers.Newcomers = self.courier._newcomers
        self.assertEqual(doors._doors, {})
        for endpoint in self.endpoints:
            self.assertEqual(doors.silences(endpoint), 0)
