"""The tests of tenure.py: what an old epoch sends is seen, and what comes twice unexcused."""

from __future__ import annotations

import unittest

from tests.faults.journal import Entry
from tests.faults.oracle import Verdict
from tests.faults.tenure import Tenures, stale

TO = "ok-0.a@corp.test"
SENT: list[Entry] = [
    {"kind": "sent", "name": "a", "digest": "d", "via": "gw1", "accepted": [TO], "refused": []},
    {"kind": "answered", "at": 1.0, "name": "a", "code": 250},
]
OUSTED: Entry = {"kind": "ousted", "at": 15.0, "node": "gw1", "since": 10.0}


def fault(at: float = 10.0, node: str = "gw1") -> Entry:
    return {"kind": "fault", "at": at, "node": node}


def arrived(at: float, by: str) -> Entry:
    found = {"kind": "arrived", "at": at, "session": 1, "said": True, "recipients": [TO]}
    return {**found, "name": "a", "digest": "d", "by": by}


class Tenure(unittest.TestCase):
    def judge(self, *entries: Entry) -> Verdict:
        return Tenures([*SENT, *entries], grace=2.0).judge()

    def test_what_the_broken_node_had_just_sent_may_come_again(self) -> None:
        for at in (9.0, 11.5):
            verdict = self.judge(arrived(at, "gw1"), fault(), arrived(20.0, "gw2"))
            self.assertEqual((verdict.duplicates, verdict.complaints), (1, []))

    def test_what_another_node_sent_or_at_another_time_may_not(self) -> None:
        for at, by in ((9.0, "gw2"), (5.0, "gw1"), (13.0, "gw1")):
            verdict = self.judge(arrived(at, by), fault(), arrived(20.0, "gw1"))
            self.assertEqual(verdict.twice, [TO], (at, by))

    def test_a_fault_of_the_database_excuses_nothing(self) -> None:
        verdict = self.judge(arrived(9.9, "gw1"), fault(node=""), arrived(20.0, "gw1"))
        self.assertEqual(verdict.twice, [TO])

    def test_mail_of_the_time_before_that_an_ousted_node_sends_is_of_an_old_epoch(self) -> None:
        entries = [*SENT, fault(), OUSTED]
        self.assertEqual(list(stale([*entries, arrived(16.0, "gw1")])), [TO])
        self.assertEqual(list(stale([*entries, arrived(16.0, "gw2")])), [])
        later = {**OUSTED, "since": 0.5}  # it was taken since
        self.assertEqual(list(stale([*SENT, fault(), later, arrived(16.0, "gw1")])), [])
