"""What an operator changes is not delivered meanwhile; what is under way is not changed."""

from __future__ import annotations

from dataclasses import replace

from relayd.mail.message import RecipientState
from relayd.spool.queue import Key
from tests.spooling import DONE
from tests.support import TestCase
from tests.unit.relay.world import World


class Borrowed(TestCase):
    def setUp(self) -> None:
        self.world = World()
        self.addCleanup(self.world.tearDown)
        self.dispatcher = self.world.dispatcher

    def borrow(self, *idents: int) -> list[bool]:
        return self.dispatcher.borrow([[(ident, 0)] for ident in idents])

    def rerouted(self, ident: int, next_hop: str) -> None:
        """As the spool has it then."""
        key: Key = (ident, 0)
        record = self.world.table.rows[key]
        to = replace(record.recipient, next_hop=next_hop)
        self.world.table.rows[key] = replace(record, recipient=to)

    def end_all(self) -> None:
        while self.world.courier.under_way:
            self.world.courier.finish(DONE)
            self.world.clock.advance(1)

    def test_what_is_under_way_is_not_lent_the_rest_is(self) -> None:
        moving = self.world.accept("sink")
        self.assertEqual(len(self.world.courier.under_way), 1)
        waiting = self.world.add("sink")
        self.assertEqual(self.borrow(moving, waiting), [False, True])
        self.assertEqual(self.borrow(waiting), [False])
        self.end_all()
        self.assertIs(self.world.table.state(moving), RecipientState.DELIVERED)

    def test_what_is_lent_starts_only_when_it_is_back_and_then_by_its_new_way(self) -> None:
        idents = [self.world.accept("sink") for _ in range(100)]
        waiting = [each for each in idents if not self.under_way(each)]
        self.assertTrue(waiting)
        self.assertEqual(self.borrow(*waiting), [True] * len(waiting))
        self.end_all()
        self.world.wait(120)
        self.assertTrue(all((each, 0) in self.world.table.rows for each in waiting))
        for ident in waiting:
            self.rerouted(ident, "other")
        self.dispatcher.bring_back([(ident, 0) for ident in waiting], ["other"])
        self.end_all()
        self.assertFalse(self.world.table.rows)
        went = [each for each in self.world.courier.started if each.message.ident in waiting]
        self.assertEqual({each.records[0].recipient.next_hop for each in went}, {"other"})

    def test_a_look_that_saw_it_as_it_was_loads_nothing_of_it(self) -> None:
        table = self.world.table
        ident = self.world.add("sink")
        table.slow = True
        self.dispatcher.retry(["sink"])
        table.step()  # it has seen the row, and not said so yet
        self.assertEqual(self.borrow(ident), [True])
        self.rerouted(ident, "other")
        self.dispatcher.bring_back([(ident, 0)], ["other"])
        table.slow = False
        while table.steps:
            table.step()
        self.world.wait(120)
        self.assertEqual(
            [each.records[0].recipient.next_hop for each in self.world.courier.started], ["other"]
        )

    def test_a_message_that_came_in_while_it_was_lent_is_not_started_as_it_was(self) -> None:
        ident = self.world.add("sink")
        self.assertEqual(self.borrow(ident), [True])
        message = self.world.table.messages[ident]
        self.dispatcher.accept(message, [self.world.table.rows[ident, 0]])
        self.assertFalse(self.world.courier.started)
        self.rerouted(ident, "other")
        self.dispatcher.bring_back([(ident, 0)], ["other"])
        self.end_all()
        (only,) = self.world.courier.started
        self.assertEqual(only.records[0].recipient.next_hop, "other")

    def under_way(self, ident: int) -> bool:
        return any(each.message.ident == ident for each, _ in self.world.courier.under_way)

    def test_what_comes_back_as_it_was_is_found_again_though_a_look_has_passed_it_over(
        self,
    ) -> None:
        ident = self.world.add("sink")
        self.assertEqual(self.borrow(ident), [True])
        self.dispatcher.retry(["sink"])
        self.world.clock.advance(1)
        self.assertFalse(self.world.courier.started)
        self.dispatcher.bring_back([(ident, 0)], ["sink"])
        self.end_all()
        self.assertIs(self.world.table.state(ident), RecipientState.DELIVERED)
