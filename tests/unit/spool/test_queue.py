"""Lanes: what is in memory, what is left to the table, and when the rest is due."""

from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.content import CHUNK
from relayd.mail.delivery import Delivery
from relayd.mail.message import RecipientState, Record, Settlement
from relayd.spool.queue import NEVER, Bounds, Lane, Queue, Standing, deliveries, weight
from tests.unit.relay.fakes import DELIVERED, a_message, a_recipient


def a_delivery(ident: int, content: bytes = b"\r\n\r\n0123456789") -> Delivery:
    return Delivery(*a_message(ident, content=content))


class Memory(unittest.TestCase):
    def setUp(self) -> None:
        self.queue = Queue(Bounds(messages=8, octets=1000, look=4))
        self.lane = self.queue.lane("sink", 2)

    def offer(self, *idents: int, lane: Lane | None = None, slots: int = 0) -> list[bool]:
        return [self.queue.offer(lane or self.lane, a_delivery(ident), slots) for ident in idents]

    def look(self, *idents: int, asked: int | None = None) -> bool:
        asked = self.queue.begin_look(self.lane, 0) if asked is None else asked
        return self.queue.end_look(
            self.lane, [a_message(ident) for ident in idents], asked, slots=0
        )

    def started(self) -> list[int]:
        idents = []
        while (delivery := self.queue.take(self.lane)) is not None:
            idents.append(delivery.message.ident)
        return idents

    def test_first_in_first_out(self) -> None:
        self.assertEqual(self.offer(1, 2, 3), [True, True, True])
        self.assertEqual(self.started(), [1, 2, 3])
        self.assertEqual(self.lane.in_flight, 3)

    def test_one_lane_leaves_half_of_the_memory_free(self) -> None:
        self.assertEqual(self.offer(1, 2, 3, 4, 5), [True] * 4 + [False])
        self.assertTrue(self.lane.more)

    def test_once_something_is_left_to_the_table_the_order_is_kept(self) -> None:
        self.offer(1, 2, 3, 4, 5)
        self.queue.release(self.lane, self.queue.take(self.lane))  # type: ignore[arg-type]
        self.assertEqual(self.offer(6), [False])

    def test_what_can_start_at_once_has_room_always(self) -> None:
        for number in range(4):
            self.offer(*range(number * 10, number * 10 + 9), lane=self.queue.lane(f"{number}", 2))
        late = self.queue.lane("late", 2)
        self.assertEqual(self.offer(91, 92, 93, lane=late, slots=5), [True, True, False])

    def test_octets_are_bounded(self) -> None:
        big = a_delivery(1, b"\r\n\r\n" + bytes(900))
        self.assertTrue(self.queue.offer(self.lane, big, 0))
        self.assertEqual(self.queue.octets, 904)
        self.assertFalse(self.queue.offer(self.lane, big, 0))

    def test_a_file_weighs_a_chunk(self) -> None:
        class File:
            size = 10**9

        message, records = a_message(1)
        object.__setattr__(message, "content", File())
        self.assertEqual(weight(Delivery(message, records)), CHUNK)

    def test_release_gives_everything_back(self) -> None:
        self.offer(1)
        delivery = self.queue.take(self.lane)
        assert delivery is not None
        self.assertEqual(self.queue.keys, {(1, 0)})
        self.queue.release(self.lane, delivery)
        self.assertEqual((self.queue.messages, self.queue.octets, self.queue.keys), (0, 0, set()))

    def test_a_lane_that_goes_down_gives_its_memory_back(self) -> None:
        self.offer(1, 2, 3)
        self.queue.take(self.lane)
        self.queue.unload(self.lane)
        self.assertEqual((self.queue.messages, self.lane.loaded, self.lane.more), (1, 0, True))

    def test_a_lane_that_is_down_loads_nothing(self) -> None:
        self.lane.standing = Standing.DOWN
        self.assertEqual(self.offer(1, slots=9), [False])

    def test_a_look_does_not_load_again_what_is_in_memory(self) -> None:
        self.offer(1, 2)
        self.queue.take(self.lane)
        self.assertTrue(self.look(1, 2, 3))
        self.assertEqual(self.started(), [2, 3])

    def test_a_look_that_was_quicker_than_the_news(self) -> None:
        self.look(1)
        self.assertEqual(self.offer(1), [False])
        self.assertEqual(self.started(), [1])

    def test_a_look_asks_for_more_than_is_in_memory(self) -> None:
        self.offer(1, 2)
        self.assertEqual(self.queue.begin_look(self.lane, 0), 2 + 4)

    def test_a_look_that_began_before_the_outcome_was_recorded(self) -> None:
        self.offer(1)
        delivery = self.queue.take(self.lane)
        assert delivery is not None
        asked = self.queue.begin_look(self.lane, 0)
        self.queue.release(self.lane, delivery)
        self.look(1, 2, asked=asked)
        self.assertEqual(self.started(), [2])

    def test_a_look_that_is_full_means_that_there_is_more(self) -> None:
        self.assertFalse(self.look(1, 2, 3, 4))
        self.assertTrue(self.lane.more)
        self.queue.unload(self.lane)
        self.assertTrue(self.look(1, 2, 3))
        self.assertFalse(self.lane.more)

    def test_what_is_spilled_during_a_look_is_not_forgotten(self) -> None:
        asked = self.queue.begin_look(self.lane, 0)
        self.offer(1, 2, 3, 4, 5)
        self.assertFalse(self.look(1, 2, asked=asked))
        self.assertTrue(self.lane.more)

    def test_a_probe_loads_one(self) -> None:
        self.lane.standing = Standing.PROBING
        self.look(1, 2, 3, asked=9)
        self.assertEqual((self.lane.loaded, self.lane.more), (1, True))

    def test_a_look_leaves_held_records_alone(self) -> None:
        message, (record,) = a_message(1)
        held = Record(1, 0, record.recipient, state=RecipientState.HELD)
        asked = self.queue.begin_look(self.lane, 0)
        self.queue.end_look(self.lane, [(message, (held,))], asked, 0)
        self.assertEqual(self.started(), [])

    def test_forget(self) -> None:
        self.offer(1, 2, 3)
        self.queue.forget({2})
        self.assertEqual(self.started(), [1, 3])
        self.assertTrue(self.lane.more)

    def test_forget_reaches_a_look_that_is_under_way(self) -> None:
        for idents in ({2}, None):
            with self.subTest(idents=idents):
                asked = self.queue.begin_look(self.lane, 0)
                self.queue.forget(idents)
                self.look(2, asked=asked)
                self.assertEqual(self.started(), [])

    def test_what_the_sweep_has_claimed_is_not_loaded(self) -> None:
        _, records = a_message(1)
        settlements = [Settlement(records[0], RecipientState.EXPIRED, DELIVERED)]
        asked = self.queue.begin_look(self.lane, 0)
        self.queue.claim(settlements)
        self.queue.disclaim(settlements)
        self.look(1, asked=asked)
        self.assertEqual(self.started(), [])

    def test_what_is_recorded_during_the_watch_is_not_free(self) -> None:
        self.offer(1)
        gone = self.queue.begin_watch()
        delivery = self.queue.take(self.lane)
        assert delivery is not None
        self.assertFalse(self.queue.free(delivery.records[0], gone))
        self.queue.release(self.lane, delivery)
        self.assertFalse(self.queue.free(delivery.records[0], gone))
        self.queue.end_watch()
        self.assertTrue(self.queue.free(delivery.records[0], set()))


class Time(unittest.TestCase):
    def test_the_earliest_counts(self) -> None:
        queue = Queue(Bounds())
        lane = queue.lane("sink", 2)
        queue.due_at(lane, 30.0)
        queue.due_at(lane, 20.0)
        queue.due_at(lane, 40.0)
        self.assertEqual(queue.next_alarm(), 20.0)
        self.assertEqual(queue.ripe(19.0, 9), [])
        self.assertEqual(queue.ripe(20.0, 9), [lane])
        self.assertTrue(lane.more)
        self.assertEqual(queue.ripe(99.0, 9), [])
        self.assertEqual(queue.next_alarm(), NEVER)

    def test_a_lane_that_is_down_wakes_for_its_probe(self) -> None:
        queue = Queue(Bounds())
        lane = queue.lane("sink", 2)
        queue.due_at(lane, 10.0)
        lane.standing = Standing.DOWN
        lane.probe_at = 60.0
        self.assertEqual(queue.ripe(10.0, 9), [lane])
        queue.arm(lane)
        self.assertEqual(queue.next_alarm(), 60.0)

    def test_a_hundred_thousand_lanes_wake_in_steps(self) -> None:
        queue = Queue(Bounds())
        for number in range(100_000):
            queue.due_at(queue.lane(f"direct {number}.example", 5), 5.0)
        self.assertEqual(len(queue.ripe(5.0, 1000)), 1000)
        self.assertEqual(len(queue.ripe(5.0, 200_000)), 99_000)

    def test_idle_lanes_are_pruned(self) -> None:
        queue = Queue(Bounds())
        queue.lane("idle", 2)
        queue.due_at(queue.lane("waiting", 2), 10.0)
        queue.lane("down", 2).standing = Standing.DOWN
        queue.prune(0.0)
        self.assertEqual(set(queue.lanes), {"waiting", "down"})

    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50))), st.integers(0, 60))
    def test_ripe_is_what_is_due(self, times: list[tuple[int, int]], now: int) -> None:
        queue = Queue(Bounds())
        for name, when in times:
            queue.due_at(queue.lane(f"{name}", 2), when)
        ripe = {lane.destination for lane in queue.ripe(now, 99)}
        self.assertEqual(ripe, {f"{name}" for name, when in times if when <= now})
        later = [when for name, when in times if f"{name}" not in ripe]
        self.assertEqual(queue.next_alarm(), min(later, default=NEVER))


class Grouping(unittest.TestCase):
    def test_each_record_is_in_one_delivery(self) -> None:
        recipients = [
            a_recipient(f"u{n}@example.com", f"hop{n % 3}", header=n % 2) for n in range(700)
        ]
        message, records = a_message(1, recipients)
        parts = deliveries(message, records)
        self.assertEqual(
            sorted(record.number for part in parts for record in part.records), list(range(700))
        )
        for part in parts:
            self.assertLessEqual(len(part.records), 100)
            self.assertEqual(
                len({(each.recipient.next_hop, each.recipient.header) for each in part.records}), 1
            )

    def test_nobody_is_nothing(self) -> None:
        self.assertEqual(deliveries(a_message(1)[0], []), [])
