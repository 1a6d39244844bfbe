"""The oracle's own test: a journal in which something is wrong must not pass for a good one."""

from __future__ import annotations

import unittest

from tests.faults.journal import Entry
from tests.faults.oracle import RECORDING, Oracle, Verdict

OK, NO = "ok-0.a@corp.test", "no-1.a@corp.test"
REPORT = (
    "Message-ID: <1@gw.test>\r\nMIME-Version: 1.0\r\n"
    'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n'
    "--b\r\nContent-Type: text/plain\r\n\r\nSorry.\r\n"
    "--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; gw.test\r\n\r\n"
    f"Final-Recipient: rfc822; {NO}\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n--b--\r\n"
)


def sent(code: int = 250, *, accepted: tuple[str, ...] = (OK, NO)) -> list[Entry]:
    letter = {"kind": "sent", "name": "a", "digest": "d", "accepted": accepted, "refused": ()}
    return [letter, *([{"kind": "answered", "name": "a", "code": code}] if code else [])]


def arrived(**more: object) -> Entry:
    return {
        "kind": "arrived",
        "at": 10.0,
        "session": 1,
        "said": True,
        "recipients": [OK],
        "name": "a",
        "digest": "d",
        **more,
    }


def report(**more: object) -> Entry:
    return {
        "kind": "report",
        "at": 10.0,
        "session": 1,
        "said": True,
        "recipients": ["a@sender.test"],
        "text": REPORT,
        **more,
    }


FAULT: list[Entry] = [{"kind": "fault", "at": 10.5}, {"kind": "cut", "at": 10.6, "session": 1}]


class Judgement(unittest.TestCase):
    def judge(self, *entries: Entry) -> Verdict:
        return Oracle(entries).judge()

    def test_all_is_well(self) -> None:
        verdict = self.judge(*sent(), arrived(), report())
        self.assertEqual(verdict.complaints, [])
        self.assertEqual((verdict.acknowledged, verdict.delivered, verdict.reported), (2, 1, 1))

    def test_acknowledged_and_gone(self) -> None:
        self.assertEqual(self.judge(*sent(), report()).lost, [OK])
        self.assertEqual(self.judge(*sent(), arrived()).lost, [NO])

    def test_delivered_and_reported_as_failed(self) -> None:
        verdict = self.judge(*sent(), arrived(recipients=[OK, NO]), report())
        self.assertEqual(verdict.both, [NO])

    def test_reported_though_nothing_was_wrong_with_it(self) -> None:
        wrong = report(text=REPORT.replace(NO, OK))
        self.assertEqual(self.judge(*sent(), wrong, report()).wrongly_reported, [OK])

    def test_in_two_reports(self) -> None:
        second = report(text=REPORT.replace("<1@", "<2@"))
        self.assertEqual(len(self.judge(*sent(), arrived(), report(), second).twice), 1)

    def test_altered_on_the_way(self) -> None:
        verdict = self.judge(*sent(), arrived(digest="e"), report())
        self.assertEqual(verdict.altered, [OK])

    def test_refused_and_yet_there(self) -> None:
        self.assertEqual(self.judge(*sent(451), arrived()).unwanted, [OK])
        self.assertEqual(self.judge(*sent(accepted=(NO,)), arrived(), report()).unwanted, [OK])
        self.assertEqual(self.judge(arrived()).unwanted, [OK])

    def test_never_answered_may_arrive_or_not(self) -> None:
        self.assertEqual(self.judge(*sent(0)).complaints, [])
        verdict = self.judge(*sent(0), arrived())
        self.assertEqual((verdict.complaints, verdict.unanswered), ([], 1))

    def test_twice_without_a_fault(self) -> None:
        verdict = self.judge(*sent(), arrived(), arrived(at=11.0, session=2), report())
        self.assertEqual((verdict.twice, verdict.duplicates), ([OK], 0))

    def test_twice_after_a_fault_that_cut_the_session(self) -> None:
        again = arrived(at=12.0, session=2)
        verdict = self.judge(*sent(), arrived(), *FAULT, again, report())
        self.assertEqual((verdict.complaints, verdict.duplicates), ([], 1))

    def test_twice_because_its_reply_was_never_sent(self) -> None:
        again = arrived(at=12.0, session=2)
        verdict = self.judge(*sent(), arrived(said=False), again, report())
        self.assertEqual((verdict.complaints, verdict.duplicates), ([], 1))

    def test_twice_long_before_the_fault(self) -> None:
        early = arrived(at=1.0)
        self.assertEqual(self.judge(*sent(), early, *FAULT, arrived(), report()).twice, [OK])

    def test_a_moment_before_the_fault_whatever_became_of_its_session(self) -> None:
        moment, again = 10.5 - RECORDING, arrived(at=12.0, session=2)
        for at, told in (
            (moment + 0.01, True),  # relayd may not have written it down
            (moment - 0.01, False),  # it had the time
            (moment - 3.0, False),
        ):
            with self.subTest(at):
                # its session had come to its end: nothing was cut
                verdict = self.judge(*sent(), arrived(at=at), FAULT[0], again, report())
                self.assertEqual(verdict.twice, [] if told else [OK])
                self.assertEqual(verdict.duplicates, int(told))

    def test_a_report_a_moment_before_the_fault(self) -> None:
        for at, twice in ((10.5 - RECORDING / 2, []), (10.5 - RECORDING * 2, [NO])):
            with self.subTest(at):
                first, again = report(at=at), report(at=12.0, session=2)
                verdict = self.judge(*sent(), arrived(), first, FAULT[0], again)
                self.assertEqual(verdict.twice, twice)
