"""A message whose client waits for its first attempt: what is recorded, and what he hears."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from relayd.mail.envelope import NEVER, NOBODY
from relayd.mail.message import RecipientState
from relayd.mail.outcome import UNANSWERED, failed, postponed
from relayd.reactor.coroutine import promise
from relayd.relay.firstattempt import AT_THE_DOOR, COMES_AGAIN, FirstAttempt
from tests.support import TestCase
from tests.unit.relay.fakes import DEAD, DELIVERED, REFUSED, a_message, a_recipient
from tests.unit.relay.world import World

HELD, QUEUED = RecipientState.HELD, RecipientState.QUEUED
LATER = postponed("4.7.1", "greylisted", code=450)
PATIENCE = 20.0


class CutThrough(TestCase):
    def setUp(self) -> None:
        self.world = World()
        self.addCleanup(self.world.tearDown)
        self.heard: list[bool] = []

    def begin(
        self, *hops: str, notify: str = "", sender: str = "alice@example.org", copies: int = 0
    ) -> FirstAttempt:
        """Of a message that is on hold for its client."""
        self.world.ident += 1
        wanted = frozenset(notify.split())
        recipients = [
            replace(a_recipient(f"user{number}@example.com", hop), notify=wanted)
            for number, hop in enumerate(hops)
        ]
        for number in range(len(hops) - copies, len(hops)):
            recipients[number] = replace(recipients[number], original=NOBODY, notify=NEVER)
        message, records = a_message(self.world.ident, recipients, sender=sender)
        held = tuple(replace(each, state=HELD, last=UNANSWERED) for each in records)
        self.world.table.add((message, held))
        first = self.world.dispatcher.attempt(message, held, PATIENCE)
        waited: Any = first.refused_by_all()
        waited.addCallback(self.heard.append)
        return first

    def answered(self, first: FirstAttempt) -> None:
        """As the spool has it once the client is about to hear 250."""
        for key, record in list(self.world.table.rows.items()):
            if key[0] == first.message.ident and record.state is HELD:
                self.world.table.rows[key] = replace(record, state=QUEUED, last=None)
        first.take()

    def states(self, first: FirstAttempt) -> list[RecipientState]:
        ident = first.message.ident
        return [self.world.table.state(ident, each.number) for each in first.records]

    def refuse(self, first: FirstAttempt) -> bool:
        return bool(self.successResultOf(promise(first.refuse())))

    def test_refused_by_all_is_recorded_without_a_report_and_only_once_it_is_asked_for(
        self,
    ) -> None:
        first = self.begin("a", "b")
        self.world.courier.finish(REFUSED)
        self.assertEqual(self.heard, [])
        self.world.courier.finish(REFUSED)
        self.assertEqual(self.heard, [True])
        self.assertEqual(self.world.table.settled, [])
        self.assertTrue(self.refuse(first))
        self.world.wait(60)
        self.assertEqual(self.states(first), [RecipientState.FAILED] * 2)
        self.assertEqual({each.note for each in self.world.table.settled}, {AT_THE_DOOR})
        self.assertEqual(self.world.table.reports, [])
        self.assertEqual(self.world.dispatcher._queue.keys, set())

    def test_a_copy_is_neither_waited_for_nor_left_behind(self) -> None:
        for answer in (REFUSED, DELIVERED):
            self.heard.clear()
            first = self.begin("a", "b", copies=1)
            self.assertEqual(len(self.world.courier.under_way), 1)
            self.world.courier.finish(answer)
            self.assertEqual(self.heard, [answer is REFUSED])
            if answer is REFUSED:
                self.assertTrue(self.refuse(first))
                self.assertIs(self.states(first)[1], RecipientState.REMOVED)
            else:
                self.answered(first)
                self.world.wait(1)
                self.world.courier.finish(DELIVERED)
                self.assertIs(self.states(first)[1], RecipientState.DELIVERED)
        self.assertEqual(self.world.table.reports, [])

    def test_a_client_that_is_gone_once_it_is_recorded_leaves_a_report(self) -> None:
        first = self.begin("a")
        self.world.courier.finish(REFUSED)
        self.refuse(first)
        self.successResultOf(promise(first.report()))
        self.assertEqual(len(self.world.table.reports), 1)

    def test_whatever_is_no_refusal_ends_the_waiting_at_once(self) -> None:
        for outcome in (DELIVERED, LATER, DEAD):
            self.heard.clear()
            first = self.begin("a", "b")
            self.world.courier.finish(outcome)
            self.assertEqual(self.heard, [False], outcome)
            self.answered(first)
            self.world.courier.finish(DELIVERED)
            self.assertIs(self.states(first)[1], RecipientState.DELIVERED)

    def test_what_is_delivered_is_recorded_before_the_answer_the_rest_after_it(self) -> None:
        first = self.begin("a", "b")
        self.world.courier.finish(REFUSED)
        self.world.courier.finish(DELIVERED)
        self.assertEqual(self.states(first), [HELD, RecipientState.DELIVERED])
        self.answered(first)
        self.world.wait(10)
        self.assertEqual(self.states(first), [RecipientState.FAILED, RecipientState.DELIVERED])
        self.assertEqual(len(self.world.table.reports), 1)

    def test_two_outcomes_in_one_delivery(self) -> None:
        first = self.begin("a", "a")
        self.world.courier.finish((REFUSED, DELIVERED))
        self.assertEqual(self.heard, [False])
        self.answered(first)
        self.world.wait(10)
        self.assertEqual(self.states(first), [RecipientState.FAILED, RecipientState.DELIVERED])
        self.assertEqual(len(self.world.table.reports), 1)

    def test_when_the_time_is_over_the_attempt_goes_on_and_a_refusal_is_reported(self) -> None:
        first = self.begin("a")
        self.world.clock.advance(PATIENCE)
        self.assertEqual(self.heard, [False])
        self.answered(first)
        self.world.courier.finish(REFUSED)
        self.world.wait(10)
        self.assertEqual(self.states(first), [RecipientState.FAILED])
        self.assertEqual(len(self.world.table.reports), 1)
        started = [each.message.ident for each in self.world.courier.started]
        self.assertEqual(started.count(first.message.ident), 1)

    def test_a_report_of_success_is_owed_as_ever(self) -> None:
        first = self.begin("a", notify="SUCCESS")
        self.world.courier.finish(DELIVERED)
        self.answered(first)
        self.assertEqual([each.action.value for each in self.world.table.reports], ["relayed"])

    def test_where_the_next_hop_is_down_nobody_waits_and_it_is_found_in_the_table(self) -> None:
        self.world.accept("a")
        self.world.courier.finish(DEAD)
        self.assertFalse(self.world.dispatcher.prompt("a"))
        self.assertTrue(self.world.dispatcher.prompt("b"))
        first = self.begin("a")
        self.assertEqual(self.heard, [False])
        self.answered(first)
        self.world.courier.reply = lambda record: DELIVERED
        self.world.wait(3600)
        self.assertEqual(self.states(first), [RecipientState.DELIVERED])

    def test_without_room_in_memory_it_is_found_in_the_table_once_it_is_queued(self) -> None:
        for _ in range(3):
            self.world.add("a")
        self.world.dispatcher._scheduler.lane("a").more = True
        first = self.begin("a")
        self.assertEqual(self.heard, [False])
        self.world.courier.reply = lambda record: DELIVERED
        self.answered(first)
        while self.world.courier.under_way:
            self.world.courier.finish(DELIVERED)
        self.world.wait(60)
        self.assertEqual(self.states(first), [RecipientState.DELIVERED])

    def test_a_spool_that_cannot_record_a_refusal_lets_the_client_come_again(self) -> None:
        first = self.begin("a")
        self.world.courier.finish(REFUSED)
        self.world.table.healthy = False
        self.assertFalse(self.refuse(first))
        self.world.table.healthy = True
        self.world.dispatcher.recovered()
        self.world.wait(10)
        self.assertEqual(self.states(first), [RecipientState.FAILED])
        self.assertEqual(self.world.table.reports, [])

    def test_a_client_that_is_to_come_again_has_the_message_still(self) -> None:
        first = self.begin("a", "b", "c")
        self.world.courier.finish(REFUSED)
        self.world.courier.finish(LATER)
        self.world.table.healthy = False
        first.come_again()
        self.world.table.healthy = True
        self.world.dispatcher.recovered()
        self.world.courier.reply = lambda record: DELIVERED
        self.world.wait(7200)
        self.assertEqual(
            {self.world.table.ended[first.message.ident, number].note for number in (0, 1)},
            {COMES_AGAIN},
        )
        self.assertEqual(self.world.table.reports, [])

    def test_a_stop_ends_the_waiting(self) -> None:
        self.begin("a")
        self.world.dispatcher.stop(5.0)
        self.assertEqual(self.heard, [False])
        self.assertFalse(self.world.dispatcher.prompt("b"))

    def test_a_refused_report_at_the_door_is_not_lost_mail(self) -> None:
        first = self.begin("a", sender="")
        self.world.courier.finish(failed("5.1.1", "no"))
        self.refuse(first)
        self.assertEqual(self.world.dispatcher.lost_reports, 0)
