from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from relayd.intake.limits import Admission, SessionLimits, client_key


class Keys(unittest.TestCase):
    def test_ipv4_is_counted_by_address(self) -> None:
        self.assertEqual(client_key("192.0.2.1"), "192.0.2.1")

    def test_ipv6_is_counted_by_network(self) -> None:
        self.assertEqual(client_key("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64")
        self.assertEqual(client_key("fe80::1%eth0"), client_key("fe80::2"))

    def test_mapped_ipv4_is_ipv4(self) -> None:
        self.assertEqual(client_key("::ffff:192.0.2.1"), "192.0.2.1")

    def test_what_is_no_address_counts_as_itself(self) -> None:
        self.assertEqual(client_key("a:b"), "a:b")


class Others:
    """What other workers have, and what they were told of us."""

    def __init__(self, counts: dict[str, int]) -> None:
        self.counts = counts
        self.told: dict[str, int] = {}

    def add(self, key: str, change: int) -> None:
        self.told[key] = self.told.get(key, 0) + change

    def get(self, key: str) -> int:
        return self.counts.get(key, 0)


class Admissions(unittest.TestCase):
    def setUp(self) -> None:
        self.now = 1000.0

    def admission(self, **limits: float) -> Admission:
        return Admission(SessionLimits(**limits), lambda: self.now)  # type: ignore[arg-type]

    def test_per_client(self) -> None:
        admission = self.admission(per_client=2)
        self.assertIsNone(admission.admit("2001:db8::1"))
        self.assertIsNone(admission.admit("2001:db8::2"))
        self.assertEqual(
            str(admission.admit("2001:db8::3")), "421 4.7.0 Too many sessions from your address"
        )
        self.assertIsNone(admission.admit("2001:db8:0:1::3"))
        admission.leave("2001:db8::1")
        self.assertIsNone(admission.admit("2001:db8::3"))

    def test_in_all(self) -> None:
        admission = self.admission(in_all=2)
        self.assertIsNone(admission.admit("192.0.2.1"))
        self.assertIsNone(admission.admit("192.0.2.2"))
        self.assertEqual(
            str(admission.admit("192.0.2.3")), "421 4.3.2 Too many sessions, try again later"
        )
        self.assertEqual((admission.in_all, admission.refused), (2, 1))

    def test_other_workers_count_too(self) -> None:
        elsewhere = Others({"192.0.2.1": 5, "192.0.2.2": 4})
        admission = Admission(SessionLimits(per_client=5), lambda: self.now, elsewhere)
        self.assertIsNotNone(admission.admit("192.0.2.1"))
        self.assertIsNone(admission.admit("192.0.2.2"))
        self.assertIsNotNone(admission.admit("192.0.2.2"))
        self.assertEqual(elsewhere.told, {"192.0.2.2": 1})
        admission.leave("192.0.2.2")
        self.assertEqual(elsewhere.told, {"192.0.2.2": 0})

    def test_new_sessions_in_a_minute(self) -> None:
        admission = self.admission(new_per_minute=3)
        for _ in range(3):
            self.assertIsNone(admission.admit("192.0.2.1"))
            admission.leave("192.0.2.1")
        self.assertIsNotNone(admission.admit("192.0.2.1"))
        self.assertIsNone(admission.admit("192.0.2.2"))
        self.now += 60
        self.assertIsNone(admission.admit("192.0.2.1"))
        self.now -= 3600  # the clock was set back: nobody waits an hour for that
        self.assertIsNone(admission.admit("192.0.2.1"))

    def test_stress_comes_and_goes_without_flapping(self) -> None:
        admission = self.admission(in_all=10, per_client=0, stress_at=0.8, relax_at=0.5)
        for _ in range(8):
            self.assertFalse(admission.stressed)
            admission.admit("192.0.2.1")
        self.assertTrue(admission.stressed)
        for _ in range(3):
            admission.leave("192.0.2.1")
            self.assertTrue(admission.stressed)
        admission.leave("192.0.2.1")
        self.assertFalse(admission.stressed)

    def test_descriptors_limit_sessions(self) -> None:
        limits = SessionLimits(in_all=12_000, per_client=7)
        self.assertEqual(limits.within(1024).in_all, 768)
        self.assertEqual(limits.within(1024).per_client, 7)
        self.assertEqual(limits.within(1 << 20).in_all, 12_000)
        self.assertEqual(SessionLimits(in_all=0).within(1024).in_all, 768)

    def test_no_limits(self) -> None:
        admission = self.admission(in_all=0, per_client=0)
        for _ in range(200):
            self.assertIsNone(admission.admit("192.0.2.1"))

    @given(st.lists(st.integers(0, 5)))
    def test_counts_are_exact_and_leave_nothing_behind(self, addresses: list[int]) -> None:
        admission = self.admission(per_client=3, in_all=8)
        inside = [
            f"192.0.2.{number}"
            for number in addresses
            if admission.admit(f"192.0.2.{number}") is None
        ]
        self.assertEqual(admission.in_all, len(inside))
        self.assertLessEqual(len(inside), 8)
        for address in inside:
            admission.leave(address)
        self.assertEqual((admission.in_all, admission._sessions), (0, {}))
