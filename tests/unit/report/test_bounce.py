from __future__ import annotations

import unittest
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.address import Mailbox
from relayd.mail.message import RecipientState
from relayd.mail.outcome import Outcome
from relayd.report.bounce import MAX_ENTRIES, Action, action_owed, expand, expanded
from tests.unit.report.examples import (
    DELIVERED,
    GIVE_UP,
    PUT_OFF,
    RECEIVED,
    REFUSED,
    message,
    recipient,
    reports,
    settlement,
)

SUCCESS = "SUCCESS FAILURE"


class NotifyTests(unittest.TestCase):
    """RFC 3461 section 4.1, case by case."""

    def check(
        self,
        notify: str,
        state: RecipientState,
        expected: Action | None,
        *,
        outcome: Outcome = REFUSED,
        warned: bool = False,
        final: bool = False,
    ) -> None:
        settled = settlement(recipient(notify=notify), state, outcome, warned=warned)
        self.assertIs(action_owed(settled, final=final), expected, (notify, state))

    def test_failure(self) -> None:
        for state in (RecipientState.FAILED, RecipientState.EXPIRED):
            self.check("", state, Action.FAILED)
            self.check("FAILURE", state, Action.FAILED)
            self.check("SUCCESS", state, None)
            self.check("DELAY", state, None)
            self.check("NEVER", state, None)

    def test_delay(self) -> None:
        self.check("", RecipientState.QUEUED, Action.DELAYED, outcome=PUT_OFF, warned=True)
        self.check(
            "FAILURE DELAY", RecipientState.QUEUED, Action.DELAYED, outcome=PUT_OFF, warned=True
        )
        self.check("FAILURE", RecipientState.QUEUED, None, outcome=PUT_OFF, warned=True)
        self.check("NEVER", RecipientState.QUEUED, None, outcome=PUT_OFF, warned=True)
        self.check("DELAY", RecipientState.QUEUED, None, outcome=PUT_OFF)

    def test_success(self) -> None:
        self.check("", RecipientState.DELIVERED, None, outcome=DELIVERED)
        self.check("FAILURE", RecipientState.DELIVERED, None, outcome=DELIVERED)
        self.check("NEVER", RecipientState.DELIVERED, None, outcome=DELIVERED)
        self.check(SUCCESS, RecipientState.DELIVERED, Action.RELAYED, outcome=DELIVERED)
        self.check(
            SUCCESS, RecipientState.DELIVERED, Action.DELIVERED, outcome=DELIVERED, final=True
        )
        passed_on = DELIVERED.but(passed_on=True)
        self.check(SUCCESS, RecipientState.DELIVERED, None, outcome=passed_on)
        self.check(SUCCESS, RecipientState.DELIVERED, None, outcome=passed_on, final=True)

    def test_nothing_for_what_the_operator_or_a_rule_did(self) -> None:
        for state in (RecipientState.REMOVED, RecipientState.DISCARDED, RecipientState.HELD):
            for notify in ("", "SUCCESS FAILURE DELAY"):
                self.check(notify, state, None)


class OwedTests(unittest.TestCase):
    def test_one_report_for_all_failures_of_an_attempt(self) -> None:
        (report,) = reports(
            message(),
            settlement(recipient("a@example.org"), number=0),
            settlement(recipient("b@example.org"), number=1),
            settlement(recipient("c@example.org"), RecipientState.DELIVERED, DELIVERED, number=2),
            settlement(recipient("d@example.org"), RecipientState.EXPIRED, PUT_OFF, number=3),
        )
        self.assertIs(report.action, Action.FAILED)
        self.assertEqual(
            [entry.recipient.mailbox.local for entry in report.entries], ["a", "b", "d"]
        )
        self.assertEqual([entry.expired for entry in report.entries], [False, False, True])

    def test_each_action_has_its_own_report(self) -> None:
        failure, delay, success = reports(
            message(),
            settlement(
                recipient("a@example.org", notify=SUCCESS), RecipientState.DELIVERED, DELIVERED
            ),
            settlement(recipient("b@example.org"), RecipientState.QUEUED, PUT_OFF, warned=True),
            settlement(recipient("c@example.org")),
        )
        self.assertIs(failure.action, Action.FAILED)
        self.assertIs(delay.action, Action.DELAYED)
        self.assertEqual(delay.retry_until, RECEIVED + GIVE_UP)
        self.assertIs(success.action, Action.RELAYED)

    def test_never_a_report_for_the_null_reverse_path(self) -> None:
        about = message(sender=None)
        for state in RecipientState:
            self.assertEqual(
                reports(about, settlement(recipient(notify=SUCCESS), state, warned=True)), ()
            )

    def test_a_list_owner_hears_of_the_members(self) -> None:
        owner = Mailbox("owner-list", "example.com")
        srs = Mailbox("SRS0=abcd=EF=sender.example=alice", "example.com")
        member = replace(recipient("m@example.net"), reverse_path=owner)
        outside = replace(recipient("o@example.net"), reverse_path=srs)
        found = reports(
            message(),
            settlement(member),
            settlement(outside, number=1),
            settlement(recipient("p@example.net"), number=2),
        )
        self.assertEqual(
            [(str(report.to), len(report.entries)) for report in found],
            [("owner-list@example.com", 1), ("alice@sender.example", 2)],
        )
        self.assertEqual(reports(message(sender=None), settlement(member)), ())

    def test_given_up_between_attempts_quotes_the_last_one(self) -> None:
        (report,) = reports(
            message(),
            settlement(recipient(), RecipientState.EXPIRED, None, last=PUT_OFF, attempted=False),
        )
        self.assertIs(report.entries[0].outcome, PUT_OFF)
        self.assertEqual(report.entries[0].attempted_at, 0.0)

    @given(st.integers(0, 3 * MAX_ENTRIES))
    def test_no_recipient_is_left_out_however_many(self, count: int) -> None:
        settled = [settlement(recipient(f"u{n}@example.org"), number=n) for n in range(count)]
        found = reports(message(), *settled)
        told = [entry.recipient.mailbox.local for report in found for entry in report.entries]
        self.assertEqual(told, [f"u{n}" for n in range(count)])
        self.assertTrue(all(len(report.entries) <= MAX_ENTRIES for report in found))


class ExpandTests(unittest.TestCase):
    """RFC 3461, multiple-recipient aliases."""

    def test_success_is_told_once_and_taken_from_each(self) -> None:
        given_ = [
            recipient("a@example.net", "list@example.com", notify="SUCCESS FAILURE", orcpt="x;y"),
            recipient("b@example.net", "list@example.com", notify="SUCCESS FAILURE", orcpt="x;y"),
            recipient("c@example.net", "c@example.com", notify="SUCCESS"),
        ]
        kept, aliases = expand(given_)
        self.assertEqual(kept[0].notify, {"FAILURE"})
        self.assertEqual(kept[1].notify, {"FAILURE"})
        self.assertEqual(kept[0].orcpt, "x;y")
        self.assertIs(kept[2], given_[2])
        self.assertEqual([str(alias.mailbox) for alias in aliases], ["list@example.com"])
        (report,) = expanded(message(), aliases)
        self.assertIs(report.action, Action.EXPANDED)

    def test_success_alone_becomes_never(self) -> None:
        kept, _ = expand([recipient(m, "l@example.com", notify="SUCCESS") for m in ("a@b", "c@d")])
        self.assertEqual([r.notify for r in kept], [{"NEVER"}, {"NEVER"}])

    def test_nothing_changes_without_success(self) -> None:
        given_ = (recipient("a@b", "l@e"), recipient("c@d", "l@e", notify="FAILURE"))
        self.assertEqual(expand(given_), (given_, ()))

    def test_no_report_for_the_null_reverse_path(self) -> None:
        self.assertEqual(expanded(message(sender=None), [recipient()]), ())
