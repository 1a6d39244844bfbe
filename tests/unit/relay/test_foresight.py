"""What was foreseen of copies is held against what next hops say."""

from __future__ import annotations

from dataclasses import replace

from relayd.mail.address import Mailbox
from relayd.mail.outcome import Meaning, Outcome
from relayd.mail.plan import FORECAST, Step
from relayd.mail.reply import Reply
from tests.support import TestCase
from tests.unit.relay.fakes import a_message, a_recipient
from tests.unit.relay.test_sites import SAID, Far


def told(code: int, status: str, text: str, meaning: Meaning | None = None) -> Outcome:
    return Outcome(Reply.of(code, status, text), "mx1.big.test", meaning=meaning)


UNAUTHENTICATED = told(550, "5.7.26", "This mail has been blocked")


class Held(TestCase):
    def counted(self, forecast: str, *outcomes: Outcome) -> tuple[int, int]:
        """How often it was right and wrong, for one copy with these answers in a row."""
        world = Far()
        said = iter(outcomes)
        world.courier.reply = lambda record: next(said)
        mailbox = Mailbox("alice", "1.big")
        recipient = replace(a_recipient(str(mailbox), "direct"), original=Mailbox("i", "o.example"))
        message, records = a_message(7, [recipient], received_at=world.clock.seconds())
        world.table.add((message, records))
        foresight = world.dispatcher.foresight
        self.verdicts: list[bool] = []
        foresight.on_verdict = self.verdicts.append
        foresight.note(7, [Step(FORECAST, "", forecast, f"{mailbox}: why")])
        world.dispatcher.accept(message, records)
        for _ in outcomes:
            world.clock.advance(3600)
        self.notices = world.log.notices
        self.waiting = len(foresight.waiting)
        self.assertEqual(self.verdicts.count(True), foresight.right)
        self.assertEqual(self.verdicts.count(False), foresight.wrong)
        return foresight.right, foresight.wrong

    def test_pass(self) -> None:
        self.assertEqual(self.counted("pass", SAID), (1, 0))
        self.assertEqual(self.counted("pass", UNAUTHENTICATED), (0, 1))
        self.assertIn("forecast was wrong", self.notices)
        self.assertEqual(self.waiting, 0)

    def test_fails(self) -> None:
        self.assertEqual(self.counted("fails", SAID), (0, 1))
        self.assertEqual(self.counted("fails", UNAUTHENTICATED), (1, 0))

    def test_other_words_for_it(self) -> None:
        for outcome in (
            told(554, "5.7.9", "not accepted for policy reasons", Meaning.UNAUTHENTICATED),
            told(550, "5.7.515", "Access denied: does not meet DMARC"),
            told(550, "5.7.1", "rejected by DMARC policy of sender.example"),
            told(550, "5.7.23", "SPF validation failed"),
        ):
            self.assertEqual(self.counted("pass", outcome), (0, 1), outcome)

    def test_what_is_about_something_else_counts_for_nothing(self) -> None:
        for outcome in (
            told(550, "5.1.1", "no such user"),
            told(550, "5.7.1", "spam"),
            Outcome(Reply.of(550, "5.7.26", "our own words")),
        ):
            self.assertEqual(self.counted("pass", outcome), (0, 0), outcome)
            self.assertEqual(self.waiting, 0)

    def test_what_is_put_off_counts_when_it_is_decided(self) -> None:
        busy = told(451, "4.3.0", "busy")
        self.assertEqual(self.counted("pass", busy), (0, 0))
        self.assertEqual(self.waiting, 1)
        self.assertEqual(self.counted("pass", busy, SAID), (1, 0))

    def test_a_risk_is_no_forecast(self) -> None:
        self.assertEqual(self.counted("at risk", SAID), (0, 0))
        self.assertEqual(self.waiting, 0)
