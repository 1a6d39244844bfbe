"""Whose turn it is among hosts of a domain, some of which did not answer."""

from __future__ import annotations

from twisted.internet.task import Clock

from relayd.mail.outcome import Outcome
from relayd.mail.reply import Reply
from relayd.relay.newcomers import FIRST_WAIT, WALK, Newcomers
from relayd.relay.survey import Endpoint
from tests.support import TestCase

FIRST, SECOND = (Endpoint(f"mx{at}.example", f"192.0.2.{at}", 25) for at in (1, 2))
HOUR = 3600.0


class InOrder(TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(HOUR)
        self.newcomers = Newcomers(self.clock.seconds)

    def order(self) -> list[Endpoint]:
        endpoints, _ = self.newcomers.in_order([FIRST, SECOND], self.clock.seconds() + HOUR)
        return list(endpoints)

    def silent(self, endpoint: Endpoint) -> None:
        began = self.newcomers.knocked(endpoint)
        self.clock.advance(FIRST_WAIT)
        self.newcomers.answered(endpoint, began, session=False)

    def takes(self, endpoint: Endpoint) -> None:
        self.newcomers.heard([Outcome(Reply.of(250, "2.0.0", "Ok"), "mx", str(endpoint))])

    def test_who_did_not_answer_is_asked_behind_the_others(self) -> None:
        self.assertEqual(self.order(), [FIRST, SECOND])
        self.silent(FIRST)
        self.assertEqual(self.order(), [SECOND, FIRST])
        self.silent(SECOND)
        self.silent(SECOND)
        self.assertEqual(self.order(), [FIRST, SECOND])

    def test_a_preferred_host_that_was_silent_once_is_not_passed_over_for_ever(self) -> None:
        self.silent(FIRST)
        self.takes(SECOND)
        self.assertEqual(self.order(), [SECOND, FIRST])
        self.clock.advance(25 * HOUR)
        self.assertEqual(self.order(), [FIRST, SECOND])
        self.assertEqual(self.newcomers.wait(FIRST), FIRST_WAIT)

    def test_who_takes_mail_is_where_the_domain_wants_it_at_once(self) -> None:
        self.silent(FIRST)
        self.takes(FIRST)
        self.assertEqual(self.order(), [FIRST, SECOND])
        self.assertEqual(self.newcomers.silences(FIRST), 0)

    def test_who_has_taken_mail_keeps_its_place_when_it_is_silent(self) -> None:
        self.takes(FIRST)
        lost = Outcome(Reply.of(451, "4.4.2", "Connection lost"), "", str(FIRST))
        self.newcomers.heard([lost])
        self.assertEqual(self.order(), [FIRST, SECOND])

    def test_retries_hours_apart_still_wait_longer_each_time(self) -> None:
        for times in range(1, 5):
            self.silent(FIRST)
            self.clock.advance(4 * HOUR)
            self.assertEqual(self.newcomers.wait(FIRST), FIRST_WAIT * 2.0**times)

    def test_an_attempt_is_short_where_all_are_new(self) -> None:
        now = self.clock.seconds()
        self.assertEqual(self.newcomers.in_order([FIRST, SECOND], now + HOUR)[1], now + WALK)
        self.takes(SECOND)
        self.assertEqual(self.newcomers.in_order([FIRST, SECOND], now + HOUR)[1], now + HOUR)
