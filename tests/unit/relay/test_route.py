"""Names to next hops, looked up anew at each attempt."""

from __future__ import annotations

import unittest

from relayd.mail.address import Mailbox
from relayd.mail.envelope import Recipient
from relayd.mail.nexthop import HostPort, NextHop
from relayd.mail.outcome import Blame, Outcome
from relayd.mail.reply import Severity
from relayd.relay.courier import Hop
from relayd.relay.route import route

A = NextHop("a", hosts=(HostPort("a.example", 25),))
B = NextHop("b", "lmtp", unix="/run/b")
DEFINED = {"a": A, "b": B}


def to(next_hop: str, mailbox: str = "x@Example.NET") -> Recipient:
    address = Mailbox.parse(mailbox)
    return Recipient(address, address, next_hop)


class Routing(unittest.TestCase):
    def test_direct_goes_by_the_folded_domain(self) -> None:
        self.assertEqual(route(to("direct"), {}), Hop(domain="example.net"))
        self.assertEqual(
            route(to("direct", "x@B\u00fccher.example"), {}), Hop(domain="xn--bcher-kva.example")
        )
        self.assertEqual(route(to("direct", "x@[192.0.2.1]"), {}), Hop(domain="[192.0.2.1]"))

    def test_names_in_order(self) -> None:
        self.assertEqual(route(to("a"), DEFINED), Hop((A,)))
        self.assertEqual(route(to("b, a"), DEFINED), Hop((B, A)))
        self.assertEqual(route(to("b,a"), DEFINED), Hop((B, A)))

    def test_an_undefined_name_waits_for_the_operator(self) -> None:
        for name in ("gone", "gone, lost"):
            outcome = route(to(name), DEFINED)
            assert isinstance(outcome, Outcome)
            self.assertIs(outcome.severity, Severity.TRANSIENT)
            self.assertIs(outcome.blame, Blame.DESTINATION)
            self.assertEqual(str(outcome.reply), f"451 4.3.5 Next hop {name} is not defined")

    def test_what_is_left_of_several_is_used(self) -> None:
        self.assertEqual(route(to("gone, a"), DEFINED), Hop((A,)))

    def test_what_the_rules_refused_of_dropped_mail_is_reported(self) -> None:
        outcome = route(to("refused 550 5.7.1 Go away, please"), DEFINED)
        assert isinstance(outcome, Outcome)
        self.assertIs(outcome.severity, Severity.PERMANENT)
        self.assertEqual(str(outcome.reply), "550 5.7.1 Go away, please")
