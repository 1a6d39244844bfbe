"""Addresses of sources that go and come."""

from __future__ import annotations

import unittest

from twisted.internet.task import Clock

from relayd.mail.pacing import SourceAddress
from relayd.relay.lostaddresses import LOOK, LostAddresses, is_there
from tests.unit.relay.fakes import Log

BULK = SourceAddress("bulk", ("192.0.2.10", "2001:db8::10"), "bulk.example")


class Lost(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.log = Log()
        self.there: set[str] = set()
        self.back: list[str] = []
        self.addresses = LostAddresses(
            self.clock, self.log, self.clock.seconds, self.there.__contains__
        )
        self.addresses.told.append(self.back.append)

    def known(self) -> list[object]:
        return [each["address"] for each in self.addresses.documents()]

    def test_it_is_said_once_and_looked_for_until_it_is_back(self) -> None:
        for _ in range(3):
            self.addresses.lost(BULK, "192.0.2.10")
        self.addresses.lost(BULK, "2001:db8::10")
        self.assertEqual(self.known(), ["192.0.2.10", "2001:db8::10"])
        self.clock.advance(LOOK)
        self.assertEqual(self.back, [])
        self.there.add("192.0.2.10")
        self.clock.advance(LOOK)
        self.assertEqual((self.back, self.known()), (["bulk"], ["2001:db8::10"]))
        self.there.add("2001:db8::10")
        self.clock.advance(LOOK)
        self.assertEqual((self.known(), self.clock.getDelayedCalls()), ([], []))
        self.addresses.lost(BULK, "192.0.2.10")  # once more
        self.assertEqual(self.known(), ["192.0.2.10"])

    def test_what_no_source_names_any_more_is_nobody_s_loss(self) -> None:
        self.addresses.lost(BULK, "192.0.2.10")
        self.addresses.apply({"bulk": BULK})
        self.assertEqual(self.known(), ["192.0.2.10"])
        self.addresses.apply({"bulk": SourceAddress("bulk", ("192.0.2.11",), "bulk.example")})
        self.assertEqual(self.known(), [])
        self.clock.advance(LOOK)
        self.assertEqual((self.back, self.clock.getDelayedCalls()), ([], []))

    def test_an_attempt_by_the_rules_before_finds_none_lost(self) -> None:
        self.addresses.apply({"bulk": SourceAddress("bulk", ("192.0.2.11",), "bulk.example")})
        self.addresses.lost(BULK, "192.0.2.10")
        self.assertEqual((self.known(), self.log.troubles), ([], []))
        self.addresses.apply({})
        self.addresses.lost(BULK, "192.0.2.11")
        self.assertEqual((self.known(), self.clock.getDelayedCalls()), ([], []))
        self.addresses.apply({"bulk": BULK})
        self.addresses.lost(BULK, "192.0.2.10")
        self.assertEqual(self.known(), ["192.0.2.10"])

    def test_stopped_it_looks_no_more(self) -> None:
        self.addresses.lost(BULK, "192.0.2.10")
        self.addresses.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_system_knows(self) -> None:
        self.assertTrue(is_there("127.0.0.9"))
        self.assertFalse(is_there("192.0.2.77"))
        self.assertFalse(is_there("2001:db8::77"))
