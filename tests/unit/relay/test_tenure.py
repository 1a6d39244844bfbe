"""Deliveries end before others may begin the same."""

from __future__ import annotations

import unittest

from twisted.internet.task import Clock

from relayd.relay.tenure import TenureWatch
from relayd.spool.lease import Lease
from tests.unit.relay.fakes import Log


class TenureTests(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.lease = Lease(self.clock.seconds)
        self.lease.renewed(0.0)
        self.cuts: list[float] = []
        cut = lambda: self.cuts.append(self.clock.seconds())  # noqa: E731
        self.watch = TenureWatch(self.clock, self.lease, cut, Log())
        self.watch.start()
        self.addCleanup(self.watch.stop)

    def test_nothing_starts_from_a_third_of_the_lease_on(self) -> None:
        self.clock.advance(9)
        assert self.lease.may_start()
        self.clock.advance(2)
        assert not self.lease.may_start()
        assert self.lease.may_go_on()

    def test_what_is_under_way_is_cut_off_once_at_two_thirds(self) -> None:
        self.clock.pump([1.0] * 19)
        assert self.cuts == []
        self.clock.pump([1.0] * 20)
        assert self.cuts == [20.0]

    def test_a_sign_of_life_in_time_is_all_that_is_needed(self) -> None:
        for _ in range(20):
            self.lease.renewed(self.clock.seconds())
            self.clock.pump([1.0] * 8)
        assert self.cuts == []

    def test_after_a_loss_nothing_goes_on_before_all_is_forgotten(self) -> None:
        seen: list[bool] = []
        self.lease.on_lost = lambda: seen.append(self.lease.may_go_on())
        self.lease.lost()
        self.lease.renewed(self.clock.seconds())
        assert not self.lease.may_start()
        self.lease.taken_up()
        assert seen == [False]
        assert self.lease.may_start()
