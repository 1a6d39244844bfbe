"""What is started when, and what follows from outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.mail.address import Mailbox
from relayd.mail.content import BytesContent
from relayd.mail.envelope import DIRECT, Direction
from relayd.mail.message import Message, RecipientState, Settlement
from relayd.mail.outcome import Outcome, failed, postponed
from relayd.mail.reply import Reply
from relayd.relay.courier import Hop
from relayd.relay.gathering import LONGEST, LULL
from relayd.relay.limits import RelayLimits
from relayd.relay.lost import COPIES
from relayd.relay.retrypolicy import RetryPolicy, judge_waiting
from relayd.report.bounce import Action
from relayd.report.dsn import Written, write
from relayd.spool.errors import SpoolError, SpoolFull
from relayd.spool.queue import Bounds, Standing
from relayd.spool.schedule import Schedule
from relayd.spool.view import Accepted, NewMessage
from tests.support import TestCase
from tests.unit.relay.fakes import (
    BUSY,
    DEAD,
    DELIVERED,
    DENIED,
    REFUSED,
    TOO_FAST,
    TOO_MANY,
    a_message,
    a_recipient,
)
from tests.unit.relay.world import World
from tests.unit.report.examples import PLAIN, message, recipient, reports, settlement

HOUR = 3600.0
DAY = 24 * HOUR


class Flow(TestCase):
    def test_a_fresh_message_leaves_from_memory(self) -> None:
        world = World()
        ident = world.accept()
        self.assertEqual([each.message.ident for each in world.courier.started], [ident])
        world.courier.finish(DELIVERED)
        self.assertEqual(world.table.state(ident), RecipientState.DELIVERED)
        self.assertNotIn("due", world.table.calls)

    def test_acceptance_does_not_wait_for_the_table(self) -> None:
        world = World(start=False)
        world.table.slow = True
        world.dispatcher.start()
        world.accept()
        self.assertEqual(len(world.courier.under_way), 1)

    def test_what_is_accepted_before_the_start_leaves_at_the_start(self) -> None:
        world = World(start=False)
        world.accept()
        self.assertEqual(world.courier.under_way, [])
        world.dispatcher.start()
        self.assertEqual(len(world.courier.under_way), 1)

    def test_recipients_of_one_next_hop_share_a_transaction(self) -> None:
        world = World()
        world.accept("a", "b", "a")
        self.assertEqual(
            [len(each.records) for each in world.courier.started],
            [2, 1],
        )

    def test_many_recipients_are_spread_over_transactions(self) -> None:
        world = World()
        world.accept(*["a"] * 250)
        self.assertEqual([len(each.records) for each in world.courier.started], [100, 100, 50])

    def test_different_reverse_paths_are_different_transactions(self) -> None:
        world = World()
        recipients = [a_recipient("x@example.com"), a_recipient("y@example.com", header=1)]
        message, records = world.table.add(a_message(9, recipients))
        world.dispatcher.accept(message, records)
        self.assertEqual(len(world.courier.started), 2)

    def test_the_table_is_taken_up_at_the_start(self) -> None:
        world = World(start=False)
        idents = [world.add("sink") for _ in range(3)] + [world.add("other")]
        world.courier.reply = lambda record: DELIVERED
        world.dispatcher.start()
        world.clock.advance(0)
        world.clock.advance(0)
        self.assertEqual({world.table.state(ident) for ident in idents}, {RecipientState.DELIVERED})

    def test_held_mail_is_not_touched(self) -> None:
        world = World()
        message, (record,) = a_message(5)
        held = record.__class__(5, 0, record.recipient, state=RecipientState.HELD)
        world.dispatcher.accept(message, (held,))
        self.assertEqual(world.courier.started, [])

    def test_a_deep_queue_flows_through_a_bounded_memory(self) -> None:
        world = World(RelayLimits(bounds=Bounds(messages=40, look=10)), start=False)
        for _ in range(500):
            world.add("sink")
        world.dispatcher.start()
        world.clock.advance(0)
        most = 0
        while world.courier.under_way:
            world.courier.finish(DELIVERED)
            most = max(most, world.dispatcher._queue.messages)
        self.assertEqual(len(world.table.ended), 500)
        self.assertLessEqual(most, 40)

    def test_lanes_share_the_slots(self) -> None:
        world = World(RelayLimits(deliveries=4))
        for _ in range(10):
            world.accept("a")
        for _ in range(10):
            world.accept("b")
        for _ in range(12):
            world.courier.finish(DELIVERED)
        names = [each.records[0].recipient.next_hop for each in world.courier.started]
        self.assertEqual(names[8:16].count("b"), 4)

    def test_slow_lanes_do_not_fill_the_memory(self) -> None:
        world = World(RelayLimits(bounds=Bounds(messages=64)))
        for number in range(6):
            for _ in range(100):
                world.accept(f"slow{number}")
        self.assertLess(world.dispatcher._queue.messages, 64 + 6 * 5)
        world.accept("quick")
        self.assertEqual(world.courier.started[-1].records[0].recipient.next_hop, "quick")

    def test_nothing_remains_in_memory(self) -> None:
        world = World()
        for number in range(50):
            world.accept(f"hop{number % 7}")
        while world.courier.under_way:
            world.courier.finish(DELIVERED)
        world.wait(900)
        queue = world.dispatcher._queue
        self.assertEqual((queue.messages, queue.octets, queue.keys, queue.lanes), (0, 0, set(), {}))


class Mishaps(TestCase):
    def test_an_unknown_next_hop_waits_for_the_admin(self) -> None:
        world = World()
        world.route_outcome = postponed("4.3.5", "no next hop of that name")
        ident = world.accept()
        world.accept()
        self.assertEqual(world.courier.started, [])
        self.assertIs(world.standing, Standing.DOWN)
        world.route_outcome = None
        world.dispatcher.apply(RetryPolicy(), RelayLimits())
        self.assertEqual(len(world.courier.under_way), 1)
        world.courier.reply = lambda record: DELIVERED
        world.courier.finish(DELIVERED)
        world.wait(60)
        self.assertEqual(world.table.state(ident), RecipientState.DELIVERED)

    def test_a_courier_with_a_bug_loses_nothing(self) -> None:
        world = World()
        ident = world.accept()
        world.courier.under_way.pop()[1].errback(RuntimeError("bug"))
        self.assertEqual(world.table.rows[ident, 0].attempts, 1)
        self.assertIs(world.standing, Standing.OPEN)
        self.assertEqual(world.log.troubles[0][0], "courier failed")

    def test_a_courier_that_miscounts_loses_nothing(self) -> None:
        world = World()
        ident = world.accept("sink", "sink")
        world.courier.under_way.pop()[1].callback((DELIVERED,))
        self.assertEqual({world.table.rows[ident, n].attempts for n in (0, 1)}, {1})


class Newcomers(TestCase):
    """Domains that do not answer take their share of the slots, and no more."""

    def silent(self, domains: int, limits: RelayLimits | None = None) -> World:
        world = World(limits)
        for number in range(domains):
            world.mail_to(f"silent{number}.example")
        return world

    def served(self, domains: int) -> World:
        """They have taken mail, and now say nothing."""
        world = World()
        world.courier.reply = lambda record: DELIVERED
        for number in range(domains):
            world.mail_to(f"good{number}.example")
        world.courier.reply = None
        return world

    def test_a_named_next_hop_starts_at_once_beside_silent_domains(self) -> None:
        world = self.silent(160)
        self.assertEqual(len(world.courier.under_way), 25)
        world.accept("gateway")
        self.assertEqual(world.courier.started[-1].records[0].recipient.next_hop, "gateway")

    def test_a_domain_that_has_delivered_starts_at_once_beside_silent_ones(self) -> None:
        world = World()
        good = world.mail_to("good.example")
        world.courier.finish(DELIVERED)
        world.wait(300)  # its lane is forgotten meanwhile, but not that it works
        self.assertNotIn("direct good.example", world.dispatcher._queue.lanes)
        for number in range(160):
            world.mail_to(f"silent{number}.example")
        again = world.mail_to("good.example")
        self.assertEqual(world.courier.started[-1].message.ident, again)
        self.assertIs(world.table.state(good), RecipientState.DELIVERED)

    def test_many_messages_to_one_silent_domain_leave_room_for_other_new_ones(self) -> None:
        world = World()
        for number in range(10):
            for _ in range(10):
                world.mail_to(f"silent{number}.example")
        world.mail_to("new.example")
        self.assertEqual(
            str(world.courier.started[-1].records[0].recipient.mailbox.domain), "new.example"
        )

    def test_a_new_domain_among_a_thousand_dead_ones_has_its_turn(self) -> None:
        world = self.silent(1000)
        new = world.mail_to("new.example")
        for _ in range(1001):
            delivery = world.courier.under_way[0][0]
            world.courier.finish(DELIVERED if delivery.message.ident == new else DEAD)
            if delivery.message.ident == new:
                break
        self.assertIs(world.table.state(new), RecipientState.DELIVERED)

    def test_new_domains_of_another_sender_do_not_wait_behind_a_thousand(self) -> None:
        for accept in (True, False):  # as it comes, and from the table
            with self.subTest(accept=accept):
                world = self.silent(1000)
                ours = [
                    world.mail_to(f"new{number}.example", sender="bob@other.example", accept=accept)
                    for number in range(3)
                ]
                reports = world.mail_to("owed.example", sender="", accept=accept)
                if not accept:
                    world.dispatcher.retry([f"direct new{number}.example" for number in range(3)])
                    world.dispatcher.retry(["direct owed.example"])
                    world.clock.advance(0)
                for number in range(1000):  # those of the thousand come and go on meanwhile
                    world.mail_to(f"more{number}.example")
                for _ in range(12):
                    world.courier.finish(DEAD)
                begun = {each.message.ident for each in world.courier.started}
                self.assertLessEqual({*ours, reports}, begun)

    def test_a_new_domain_does_not_wait_for_those_known_to_be_dead(self) -> None:
        world = World(start=False)
        for number in range(1000):
            ident = world.mail_to(f"dead{number}.example", accept=False)
            row = world.table.rows[ident, 0]
            world.table.rows[ident, 0] = replace(row, attempts=3, last=DEAD)
        world.dispatcher.start()
        for _ in range(10):
            world.clock.advance(0)
        self.assertEqual(len(world.courier.under_way), 25)
        new = world.mail_to("new.example")
        self.assertEqual(world.courier.started[-1].message.ident, new)
        self.assertLessEqual(world.dispatcher._queue.messages, 1100)

    def test_every_dead_domain_is_probed_in_time(self) -> None:
        world = self.silent(200)
        world.courier.reply = lambda record: DEAD
        while world.courier.under_way:
            world.courier.finish(DEAD)
        world.wait(HOUR)
        self.assertEqual({row.attempts > 3 for row in world.table.rows.values()}, {True})

    def test_new_domains_that_all_take_mail_have_more_slots(self) -> None:
        world = self.served(30)
        for number in range(100):
            world.mail_to(f"new{number}.example")
        self.assertEqual(len(world.courier.under_way), 50)
        for _ in range(10):
            world.courier.finish(DEAD)
        self.assertLess(len(world.courier.under_way), 45)

    def test_a_domain_that_worked_and_died_is_no_better_than_others(self) -> None:
        world = self.served(60)
        for number in range(60):
            world.mail_to(f"good{number}.example")
        self.assertEqual(len(world.courier.under_way), 60)
        while world.courier.under_way:
            world.courier.finish(DEAD)
        world.wait(60)
        self.assertEqual(len(world.courier.under_way), 25)

    def test_domains_never_take_the_last_slots(self) -> None:
        world = self.served(200)
        for number in range(200):
            world.mail_to(f"good{number}.example")
        self.assertEqual(len(world.courier.under_way), 90)
        world.accept("gateway")
        self.assertEqual(world.courier.started[-1].records[0].recipient.next_hop, "gateway")

    def test_silent_named_next_hops_leave_room_for_another(self) -> None:
        world = World()
        for number in range(30):
            for _ in range(10):
                world.accept(f"silent{number}")
        world.accept("gateway")
        self.assertEqual(world.courier.started[-1].records[0].recipient.next_hop, "gateway")

    def test_more_slots_after_a_reload_are_used(self) -> None:
        world = self.silent(160)
        world.dispatcher.apply(RetryPolicy(), RelayLimits(deliveries=200))
        self.assertEqual(len(world.courier.under_way), 50)

    def test_new_limits_reach_the_courier_the_slots_and_the_memory(self) -> None:
        world = World()
        limits = RelayLimits(deliveries=7, bounds=Bounds(messages=9))
        world.dispatcher.apply(RetryPolicy(), limits)
        self.assertIs(world.courier.limits, limits)
        self.assertIs(world.dispatcher._scheduler.limits, limits)
        self.assertEqual(world.dispatcher._queue.bounds, limits.bounds)

    def test_a_new_schedule_is_the_next_attempt_s(self) -> None:
        world = World()
        ident = world.accept()
        world.dispatcher.apply(RetryPolicy(Schedule.parse("7m"), jitter=0.0), RelayLimits())
        world.courier.finish(BUSY)
        self.assertEqual(world.table.rows[ident, 0].next_attempt, world.clock.seconds() + 7 * 60)


class Reports(TestCase):
    def test_a_failure_is_reported_in_the_same_settlement(self) -> None:
        world = World()
        ident = world.accept()
        world.courier.finish(REFUSED)
        self.assertIs(world.table.state(ident), RecipientState.FAILED)
        self.assertEqual([each.action for each in world.table.reports], [Action.FAILED])
        self.assertEqual(world.table.calls.count("settle"), 1)
        self.assertEqual(world.log.reports[0][1:], ("alice@example.org", "failed"))
        # the report is mail like any other
        self.assertEqual(
            str(world.courier.under_way[0][0].records[0].recipient.mailbox)[:5], "alice"
        )

    def test_no_report_about_a_report(self) -> None:
        world = World()
        ident = world.accept(sender="")
        world.courier.finish(REFUSED)
        self.assertIs(world.table.state(ident), RecipientState.FAILED)
        self.assertEqual(world.table.reports, [])

    def test_too_old_is_expired_at_its_attempt(self) -> None:
        world = World()
        ident = world.accept(age=5 * DAY)
        world.courier.finish(BUSY)
        self.assertIs(world.table.state(ident), RecipientState.EXPIRED)
        self.assertTrue(world.table.reports[0].entries[0].expired)

    def test_the_last_attempt_is_when_the_time_is_up(self) -> None:
        world = World()
        ident = world.accept(age=5 * DAY - 30)
        world.courier.finish(BUSY)
        self.assertEqual(world.table.rows[ident, 0].next_attempt, world.clock.seconds() + 30)

    def test_a_delay_is_reported_once(self) -> None:
        world = World()
        world.accept(age=4 * HOUR)
        for _ in range(3):
            world.courier.finish(BUSY)
            world.wait(301)
        told = [each.action for each in world.table.reports if not each.lost]
        self.assertEqual(told, [Action.DELAYED])

    def test_a_report_that_cannot_be_written_delays_the_failure(self) -> None:
        world = World()
        world.dispatcher._write_report = lambda report: 1 // 0  # type: ignore[assignment,return-value]
        ident = world.accept()
        world.courier.finish(REFUSED)
        self.assertIs(world.table.state(ident), RecipientState.QUEUED)
        self.assertEqual(world.log.troubles[0][0], "report not written")
        world.dispatcher._write_report = world.table.write_report
        world.wait(60)
        world.courier.finish(REFUSED)
        world.wait(LULL)
        self.assertIs(world.table.state(ident), RecipientState.FAILED)
        self.assertEqual(len(world.table.reports), 1)


NOWHERE = failed("5.1.2", "No such domain")


class Together(TestCase):
    """What is found together is told in one report, and nobody is crossed off without it."""

    def told(self, world: World) -> list[list[str]]:
        return [
            sorted(entry.recipient.mailbox.local for entry in report.entries)
            for report in world.table.reports
        ]

    def everybody(self, count: int) -> list[str]:
        return sorted(f"user{number}" for number in range(count))

    def test_thirty_recipients_at_thirty_dead_domains_are_one_report(self) -> None:
        world = World()
        ident = world.accept(*[f"dead{number}" for number in range(30)])
        for _ in range(29):
            world.courier.finish(NOWHERE)
        self.assertEqual((world.table.settled, world.table.reports), ([], []))
        world.courier.finish(NOWHERE)
        self.assertEqual(self.told(world), [self.everybody(30)])
        self.assertEqual(len(world.table.ended), 30)
        self.assertEqual(world.table.calls.count("settle"), 1)
        self.assertEqual(world.dispatcher._queue.parts, {1_000_000: 1})
        self.assertIs(world.table.state(ident, 29), RecipientState.FAILED)

    def test_those_that_wait_for_a_slot_are_waited_for(self) -> None:
        world = World(RelayLimits(deliveries=4))
        world.accept(*[f"dead{number}" for number in range(30)])
        for _ in range(30):
            world.courier.finish(NOWHERE)
        self.assertEqual(self.told(world), [self.everybody(30)])

    def test_refusals_by_rule_are_told_with_the_others(self) -> None:
        world = World()
        world.dispatcher._route = lambda recipient: (
            Hop(domain="example.com")
            if (refusal := Direction.parse(recipient.next_hop).refusal) is None
            else Outcome(refusal)
        )
        world.accept("refused 550 5.7.1 not for you", "refused 550 5.1.1 gone", "other")
        self.assertEqual(world.table.reports, [])
        world.courier.finish(REFUSED)
        self.assertEqual(self.told(world), [self.everybody(3)])

    def test_a_slow_destination_holds_up_the_others_for_seconds_only(self) -> None:
        world = World()
        ident = world.accept("dead", "slow")
        world.courier.finish(REFUSED)
        world.wait(LONGEST - 0.1)
        self.assertEqual(world.table.reports, [])
        world.wait(0.1)
        self.assertEqual(self.told(world), [["user0"]])
        self.assertIs(world.table.state(ident), RecipientState.FAILED)
        world.courier.finish(REFUSED)
        self.assertEqual(self.told(world), [["user0"], ["user1"]])

    def test_what_is_delivered_never_waits(self) -> None:
        world = World()
        ident = world.accept("a", "a", "slow")
        world.courier.finish([DELIVERED, REFUSED])
        self.assertIs(world.table.state(ident, 0), RecipientState.DELIVERED)
        self.assertIs(world.table.state(ident, 1), RecipientState.QUEUED)
        world.courier.finish(DELIVERED)
        self.assertIs(world.table.state(ident, 1), RecipientState.FAILED)
        self.assertEqual(self.told(world), [["user1"]])

    def test_a_death_while_bad_news_waits_loses_nobody(self) -> None:
        world = World()
        ident = world.accept("dead", "slow")
        world.courier.finish(REFUSED)
        after = World(start=False)  # all that is left is the table
        after.table, after.dispatcher._shelf = world.table, world.table
        self.assertEqual(
            [record.state for record in after.table.rows.values()],
            [RecipientState.QUEUED, RecipientState.QUEUED],
        )
        self.assertEqual((ident, 0) in after.table.ended, False)

    def test_stopping_tells_at_once(self) -> None:
        world = World()
        ident = world.accept("dead", "slow")
        world.courier.finish(REFUSED)
        stopped = world.dispatcher.stop(5.0)
        self.assertIs(world.table.state(ident), RecipientState.FAILED)
        self.assertEqual(self.told(world), [["user0"]])
        world.courier.finish(REFUSED)
        self.assertEqual(self.told(world), [["user0"], ["user1"]])
        self.successResultOf(stopped)
        self.assertEqual(world.clock.getDelayedCalls(), [])

    def test_a_single_recipient_is_told_at_once(self) -> None:
        world = World()
        ident = world.accept()
        timers = len(world.clock.getDelayedCalls())
        world.courier.finish(REFUSED)
        self.assertIs(world.table.state(ident), RecipientState.FAILED)
        self.assertEqual(len(world.table.reports), 1)
        self.assertEqual(len(world.clock.getDelayedCalls()), timers)

    def test_two_messages_are_two_reports(self) -> None:
        world = World()
        world.accept("a", "b")
        world.accept("a", "b")
        for _ in range(4):
            world.courier.finish(REFUSED)
        self.assertEqual(self.told(world), [self.everybody(2)] * 2)

    def test_given_up_at_the_same_moment_is_one_report(self) -> None:
        world = World()
        world.courier.reply = lambda record: DELIVERED if record.message > 999 else BUSY
        world.accept(*[f"busy{number}" for number in range(30)])
        world.wait(5 * HOUR)
        self.assertEqual([each.action for each in world.table.reports], [Action.DELAYED])
        self.assertEqual(self.told(world), [self.everybody(30)])
        world.wait(5 * DAY, step=300)
        self.assertEqual(self.told(world), [self.everybody(30)] * 2)

    def test_thirty_lanes_that_are_down_are_one_warning_and_one_report(self) -> None:
        world = World()
        ident = world.accept(*[f"down{number}" for number in range(30)])
        while world.courier.under_way:
            world.courier.finish(DEAD)
        world.courier.reply = lambda record: DELIVERED if record.message > 999 else DEAD
        world.wait(5 * HOUR)
        self.assertEqual(self.told(world), [self.everybody(30)])
        world.wait(5 * DAY, step=300)
        self.assertEqual(self.told(world), [self.everybody(30)] * 2)
        self.assertIs(world.table.state(ident, 29), RecipientState.EXPIRED)

    def test_attempts_that_drift_apart_are_few_warnings(self) -> None:
        world = World()
        world.dispatcher.apply(RetryPolicy(Schedule.parse("1m 5m*2 1h"), jitter=0.1), RelayLimits())
        world.dispatcher._random = Random(7).random
        world.courier.reply = lambda record: DELIVERED if record.message > 999 else BUSY
        world.accept(*[f"busy{number}" for number in range(30)])
        world.wait(6 * HOUR)
        self.assertEqual({each.action for each in world.table.reports}, {Action.DELAYED})
        self.assertLessEqual(len(world.table.reports), 4)
        names = sorted(name for names in self.told(world) for name in names)
        self.assertEqual(names, self.everybody(30))

    def test_a_sick_spool_is_waited_for(self) -> None:
        world = World()
        world.accept("a", "b")
        world.table.healthy = False
        world.courier.finish(REFUSED)
        world.courier.finish(REFUSED)
        self.assertEqual(world.table.reports, [])
        world.table.healthy = True
        world.wait(5)
        self.assertEqual(self.told(world), [self.everybody(2)])

    @given(st.lists(st.sampled_from([REFUSED, DELIVERED, BUSY]), min_size=1, max_size=6), st.data())
    def test_everybody_who_failed_is_told_of_once(
        self, ends: list[Outcome], data: st.DataObject
    ) -> None:
        world = World()
        ident = world.accept(*[f"hop{number}" for number in range(len(ends))])
        wanted = []
        for _ in ends:
            mine = [
                at
                for at, (each, _) in enumerate(world.courier.under_way)
                if each.message.ident == ident
            ]
            at = data.draw(st.sampled_from(mine))
            number = world.courier.under_way[at][0].records[0].number
            wanted += [f"user{number}"] if ends[number] is REFUSED else []
            world.courier.finish(ends[number], at)
            world.wait(data.draw(st.sampled_from([0.0, 3.0])))
        world.wait(LONGEST)
        told = [name for names in self.told(world) for name in names]
        self.assertEqual(sorted(told), sorted(wanted))
        for number, end in enumerate(ends):
            if end is REFUSED:
                self.assertIs(world.table.state(ident, number), RecipientState.FAILED)


TOO_EIGHT = failed("5.6.3", "Next hop takes no 8-bit content", code=554)


def a_report(body: bytes = b"all is well\r\n", *, require_tls: bool = False) -> Written:
    content = PLAIN.replace(b"all is well.\r\n", body)
    about = message(content, body="8BITMIME", require_tls=require_tls)
    (report,) = reports(about, settlement(recipient()))
    return write(
        report,
        ident=7,
        hostname="gw.example.com",
        now=0.0,
        route=lambda to: (a_recipient(str(to)),),
    )


def octets(about: Message) -> bytes:
    return b"".join(about.content.chunks())


class LostReports(TestCase):
    """A report of ours that is refused goes again, smaller; at last the postmaster hears."""

    def carry(self, written: Written | None = None, *, client: str = "") -> tuple[World, int]:
        written = written or a_report("wohlgemüt\r\n".encode())
        world = World()
        submission = written.submission
        accepted = world.table.add(
            a_message(
                5,
                submission.recipients,
                sender="",
                content=written.content,
                client=client,
                eight_bit=submission.eight_bit,
                require_tls=submission.envelope.require_tls,
            )
        )
        world.dispatcher.accept(*accepted)
        return world, 5

    def test_an_eight_bit_report_goes_again_in_seven_bits(self) -> None:
        world, ident = self.carry()
        world.courier.finish(TOO_EIGHT)
        self.assertIs(world.table.state(ident), RecipientState.FAILED)
        (again,) = world.table.smaller
        self.assertTrue(again.content.isascii())
        self.assertEqual(again.recipients[0].mailbox, Mailbox("alice", "sender.example"))
        (delivery,) = [each for each, _ in world.courier.under_way]
        self.assertIsNone(delivery.message.envelope.reverse_path)
        self.assertEqual(world.table.calls.count("settle"), 1)  # one transaction
        self.assertEqual((world.dispatcher.lost_reports, world.log.troubles), (0, []))
        self.assertEqual(world.log.reports[0][2], "smaller")

    def test_each_refusal_of_form_or_size_makes_it_smaller(self) -> None:
        for outcome in (
            failed("5.6.3", "no 8-bit", code=554),
            failed("5.6.9", "no UTF-8 header", code=554),
            failed("5.6.0", "bare CR", code=554),
            failed("5.6.1", "media not supported", code=554),
            failed("5.3.4", "too large", code=552),
            failed("5.2.3", "too large for you"),
            Outcome(Reply.parse("552 too much mail data")),
        ):
            world, _ = self.carry()
            world.courier.finish(outcome)
            self.assertEqual(len(world.table.smaller), 1, outcome)

    def test_smaller_three_times_then_the_postmaster_then_no_more(self) -> None:
        world, _ = self.carry()
        world.courier.finish(TOO_EIGHT)
        world.courier.finish(failed("5.3.4", "too large", code=552))
        first, second = world.table.smaller
        self.assertGreater(len(first.content), len(second.content))
        self.assertNotIn(b"Subject: =?utf-8", second.content)
        world.courier.finish(failed("5.3.4", "too large", code=552))
        *_, third = world.table.smaller
        self.assertGreater(len(second.content), len(third.content))
        world.courier.finish(failed("5.3.4", "too large", code=552))
        (copy,) = world.table.reports
        self.assertTrue(copy.lost)
        self.assertEqual(copy.to.local, "postmaster")
        self.assertIn(b"".join(third.content.splitlines(True)[-3:]), octets(copy.about))
        self.assertEqual(world.dispatcher.lost_reports, 1)
        (line,) = world.log.troubles
        self.assertEqual((line[0], line[1]["postmaster"]), ("report lost", "told"))
        world.courier.finish(REFUSED)
        self.assertEqual(world.courier.under_way, [])
        self.assertEqual((len(world.table.reports), len(world.table.smaller)), (1, 3))
        self.assertEqual(world.dispatcher.lost_reports, 2)
        self.assertEqual(world.log.troubles[1][1]["postmaster"], "no: this was the copy")
        self.assertEqual(world.table.rows, {})

    def test_a_report_to_nobody_is_lost_at_once(self) -> None:
        world, ident = self.carry()
        world.courier.finish(REFUSED)
        self.assertEqual((len(world.table.smaller), len(world.table.reports)), (0, 1))
        self.assertTrue(octets(world.table.reports[0].about).isascii())
        self.assertIs(world.table.state(ident), RecipientState.FAILED)

    def test_an_expired_report_is_lost(self) -> None:
        world, ident = self.carry()
        world.courier.reply = lambda record: DELIVERED if record.message > 999 else BUSY
        world.courier.finish(BUSY)
        world.wait(6 * DAY, step=300)
        self.assertIs(world.table.state(ident), RecipientState.EXPIRED)
        self.assertEqual(world.dispatcher.lost_reports, 1)
        self.assertEqual(len(world.table.reports), 1)

    def test_a_report_without_smtputf8_for_its_address_is_lost_not_reduced(self) -> None:
        world, _ = self.carry()
        world.courier.finish(failed("5.6.7", "no non-ASCII addresses", code=553))
        self.assertEqual((len(world.table.smaller), len(world.table.reports)), (0, 1))

    def test_a_report_whose_way_back_requires_no_tls_goes_redacted(self) -> None:
        written = a_report(require_tls=True)
        self.assertTrue(written.submission.envelope.require_tls)
        world, _ = self.carry(written)
        world.courier.finish(failed("5.7.30", "no REQUIRETLS"))
        (again,) = world.table.smaller
        self.assertFalse(again.require_tls)
        for secret in (b"from the sea", b"=C3=BC", b"all is well", b"To: bob"):
            self.assertNotIn(secret, again.content)
        self.assertIn(b"Final-Recipient: rfc822; bob@example.org", again.content)

    def test_a_redacted_report_follows_one_that_waited_for_tls_in_vain(self) -> None:
        world, _ = self.carry(a_report(require_tls=True))
        world.courier.reply = lambda record: DELIVERED if record.message > 999 else DEAD
        world.courier.finish(DEAD)
        world.wait(6 * DAY, step=300)
        self.assertEqual([each.require_tls for each in world.table.smaller], [False])
        self.assertEqual(world.dispatcher.lost_reports, 0)

    def test_reports_of_others_are_no_business_of_ours(self) -> None:
        world, ident = self.carry(client="192.0.2.1")
        world.courier.finish(TOO_EIGHT)
        self.assertIs(world.table.state(ident), RecipientState.FAILED)
        self.assertEqual((world.table.smaller, world.table.reports), ([], []))
        self.assertEqual(world.dispatcher.lost_reports, 0)

    def test_a_flood_of_lost_reports_is_no_flood_to_the_postmaster(self) -> None:
        world, _ = self.carry()
        world.courier.reply = lambda record: DELIVERED if record.message > 999 else REFUSED
        world.courier.finish(REFUSED)
        for ident in range(10, 10 + 3 * COPIES):
            accepted = a_message(ident, sender="", content=a_report().content, client="")
            world.dispatcher.accept(*world.table.add(accepted))
        self.assertEqual(len(world.table.reports), COPIES)
        self.assertEqual(world.dispatcher.lost_reports, 3 * COPIES + 1)
        self.assertEqual(len(world.log.troubles), 3 * COPIES + 1)
        world.wait(HOUR)
        world.dispatcher.accept(*world.table.add(a_message(9, sender="", client="")))
        self.assertEqual(len(world.table.reports), COPIES + 1)

    def test_a_report_that_cannot_be_read_is_lost_all_the_same(self) -> None:
        class Gone(BytesContent):
            def chunks(self, start: int = 0) -> Iterator[bytes]:
                raise OSError("gone")

        world = World()
        message_, records = a_message(5, sender="", client="")
        message_ = replace(message_, content=Gone(b"x"))
        world.dispatcher.accept(*world.table.add((message_, records)))
        world.courier.finish(TOO_EIGHT)
        self.assertEqual(len(world.table.reports), 1)


class Sweeping(TestCase):
    def test_mail_of_a_dead_lane_is_warned_of_and_expires(self) -> None:
        world = World()
        first = world.accept()
        idents = [world.accept() for _ in range(120)]
        world.courier.reply = lambda record: DELIVERED if record.message > 999 else DEAD
        while world.courier.under_way:
            world.courier.finish(DEAD)
        world.wait(5 * HOUR)
        warned = [each for each in world.table.reports if each.action is Action.DELAYED]
        self.assertEqual({each.about.ident for each in warned}, {first, *idents})
        self.assertEqual(len(warned), 121)
        world.wait(5 * DAY, step=300)
        failed = [
            each for each in world.table.reports if each.action is Action.FAILED and not each.lost
        ]
        self.assertEqual({each.about.ident for each in failed}, {first, *idents})
        self.assertEqual(len(failed), 121)
        self.assertEqual(
            {world.table.state(ident) for ident in (first, *idents)}, {RecipientState.EXPIRED}
        )

    def test_who_was_never_tried_is_attempted_first_however_old(self) -> None:
        message, (record,) = a_message(1)
        policy = RetryPolicy()
        for age in (5 * HOUR, 6 * DAY):
            self.assertIsNone(judge_waiting(message, record, None, policy, now=age))
        expired = judge_waiting(message, record, DEAD, policy, now=6 * DAY)
        assert expired is not None
        self.assertIs(expired.state, RecipientState.EXPIRED)

    def test_a_short_lifetime_is_kept_by_those_that_only_wait_too(self) -> None:
        world = World()
        retry_policy = RetryPolicy(Schedule.parse("1s 2s"), warn_after=4, give_up=12, jitter=0.0)
        world.dispatcher.apply(retry_policy, RelayLimits())
        world.wait(60)  # the sweep's pause from before
        world.courier.reply = lambda record: DELIVERED if record.message > 999 else DEAD
        idents = [world.accept() for _ in range(20)]
        while world.courier.under_way:
            world.courier.finish(DEAD)
        world.wait(20, step=0.5)
        for action in (Action.DELAYED, Action.FAILED):
            told = [
                each.about.ident
                for each in world.table.reports
                if each.action is action and not each.lost
            ]
            self.assertEqual(sorted(told), sorted(idents), action)

    def test_a_clock_that_jumps_ahead_expires_nothing_untried(self) -> None:
        world = World()
        world.accept()
        world.courier.finish(DEAD)
        ident = world.accept()
        world.clock.advance(6 * DAY)
        world.courier.reply = lambda record: DELIVERED
        world.courier.finish(DELIVERED)
        self.assertIs(world.table.state(ident), RecipientState.DELIVERED)
        self.assertEqual(world.table.reports, [])

    def test_a_clock_that_is_set_back_keeps_nobody_waiting_for_it(self) -> None:
        world = World()
        ident = world.accept()
        world.courier.finish(BUSY)
        back = 86_400.0
        world.now = lambda: world.clock.seconds() - back
        world.courier.reply = lambda record: DELIVERED
        world.wait(600)
        self.assertIs(world.table.state(ident), RecipientState.DELIVERED)

    def test_a_clock_that_was_set_back_before_the_start_keeps_nobody_waiting(self) -> None:
        world = World(start=False)
        ident = world.add("sink")
        record = world.table.rows[ident, 0]
        world.table.rows[ident, 0] = replace(record, next_attempt=world.clock.seconds() + 86_400)
        world.courier.reply = lambda record: DELIVERED
        world.dispatcher.start()
        world.wait(60)
        self.assertIs(world.table.state(ident), RecipientState.DELIVERED)


class SpoolTrouble(TestCase):
    def test_delivery_stops_while_outcomes_cannot_be_recorded(self) -> None:
        world = World()
        first = world.accept()
        others = [world.accept() for _ in range(20)]
        world.table.healthy = False
        for _ in range(5):
            world.courier.finish(DELIVERED)
        self.assertEqual(world.courier.under_way, [])
        world.wait(100)
        self.assertEqual(len(world.courier.started), 5)
        self.assertTrue(world.dispatcher.stalled)
        world.table.healthy = True
        world.courier.reply = lambda record: DELIVERED
        world.wait(2)
        self.assertEqual(
            {world.table.state(ident) for ident in (first, *others)}, {RecipientState.DELIVERED}
        )
        self.assertEqual(len(world.courier.started), 21)
        told = [event for event, _ in world.log.troubles]
        self.assertEqual(told.count("outcome not recorded"), 5)

    def test_a_spool_that_is_well_again_without_a_word_is_noticed(self) -> None:
        world = World()
        world.table.healthy = False
        world.accept()
        self.assertEqual(world.courier.started, [])
        world.table.healthy = True
        world.wait(2, step=0.5)
        self.assertEqual(len(world.courier.started), 1)

    def test_what_is_owed_is_settled_first(self) -> None:
        world = World()
        ident = world.accept()
        world.table.healthy = False
        world.courier.finish(DELIVERED)
        later = world.accept()
        world.table.healthy = True
        world.table.slow = True
        world.dispatcher.recovered()
        self.assertEqual(len(world.courier.started), 1)
        while world.table.steps:
            world.table.step()
        self.assertIs(world.table.state(ident), RecipientState.DELIVERED)
        self.assertEqual(world.courier.started[-1].message.ident, later)

    def test_an_outcome_the_spool_will_not_take_does_not_stop_the_others(self) -> None:
        world = World()
        bad = world.accept()
        settle = world.table._settle

        def refuse(
            settlements: Sequence[Settlement], reports: Sequence[NewMessage]
        ) -> list[Accepted]:
            if settlements[0].record.message == bad:
                raise SpoolError("constraint failed")
            return settle(settlements, reports)

        world.table._settle = refuse  # type: ignore[method-assign]
        world.courier.finish(DELIVERED)
        world.wait(10, step=1)
        ident = world.accept()
        world.courier.finish(DELIVERED)
        self.assertIs(world.table.state(ident), RecipientState.DELIVERED)
        world.wait(HOUR)
        self.assertEqual(len(world.courier.started), 2)
        self.assertEqual(
            [event for event, _ in world.log.troubles],
            [
                "outcome not recorded",
                "outcome cannot be recorded; the recipients rest until a restart",
            ],
        )

    def test_what_a_full_spool_will_not_take_is_recorded_when_there_is_room(self) -> None:
        """However often it is well again for a moment, as a database that is full can be."""
        world = World()
        ident = world.accept()
        settle = world.table._settle
        full = True

        def refuse(
            settlements: Sequence[Settlement], reports: Sequence[NewMessage]
        ) -> list[Accepted]:
            if full:
                raise SpoolFull("no space left")
            return settle(settlements, reports)

        world.table._settle = refuse  # type: ignore[method-assign]
        world.courier.finish(DELIVERED)
        world.wait(60, step=1)
        full = False
        world.wait(10, step=1)
        self.assertIs(world.table.state(ident), RecipientState.DELIVERED)
        self.assertEqual([event for event, _ in world.log.troubles], ["outcome not recorded"])
        world.accept()
        self.assertEqual(len(world.courier.started), 2)

    def test_an_unreadable_table_is_read_again(self) -> None:
        world = World(start=False)
        world.table.healthy = False
        ident = world.add("sink")
        world.dispatcher.start()
        world.wait(10)
        world.table.healthy = True
        world.courier.reply = lambda record: DELIVERED
        world.wait(10)
        self.assertIs(world.table.state(ident), RecipientState.DELIVERED)


class Operator(TestCase):
    def test_retry_probes_a_dead_lane_now(self) -> None:
        world = World()
        world.accept()
        world.courier.finish(DEAD)
        world.accept()
        world.dispatcher.retry(["sink"])
        self.assertEqual(len(world.courier.under_way), 1)
        world.courier.reply = lambda record: DELIVERED
        world.courier.finish(DELIVERED)
        world.wait(60)
        self.assertEqual(world.table.rows, {})

    def test_retry_of_one_recipient(self) -> None:
        world = World()
        ident = world.accept()
        world.courier.finish(BUSY)
        row = world.table.rows[ident, 0]
        world.table.rows[ident, 0] = row.__class__(ident, 0, row.recipient, attempts=1)
        world.dispatcher.changed("retry", [(ident, 0)])
        world.clock.advance(1)
        self.assertEqual(len(world.courier.under_way), 1)

    def test_removed_mail_is_not_started(self) -> None:
        world = World(RelayLimits(first_window=1))
        world.accept()
        doomed, other = world.accept(), world.accept()
        del world.table.rows[doomed, 0]
        world.dispatcher.changed("remove", [(doomed, 0)])
        world.courier.finish(DELIVERED)
        world.courier.finish(DELIVERED)
        self.assertEqual(world.courier.under_way, [])
        self.assertEqual(
            [each.message.ident for each in world.courier.started], [doomed - 1, other]
        )

    def test_mail_held_in_flight_is_not_put_back(self) -> None:
        world = World()
        ident = world.accept()
        row = world.table.rows[ident, 0]
        world.table.rows[ident, 0] = row.__class__(
            ident, 0, row.recipient, state=RecipientState.HELD
        )
        world.dispatcher.changed("hold", [(ident, 0)])
        world.courier.finish(BUSY)
        self.assertEqual(world.table.settled, [])
        world.wait(HOUR)
        self.assertEqual(len(world.courier.started), 1)

    def test_mail_held_in_flight_may_still_be_delivered(self) -> None:
        world = World()
        ident = world.accept()
        world.dispatcher.forget([ident])
        world.courier.finish(DELIVERED)
        self.assertIs(world.table.state(ident), RecipientState.DELIVERED)

    def test_a_look_that_saw_a_removed_message_does_not_bring_it_back(self) -> None:
        world = World(start=False)
        ident = world.add("sink")
        world.table.slow = True
        world.dispatcher.start()
        world.table.step()
        world.table.step()  # destinations
        world.clock.advance(0)
        world.table.step()  # due: seen, not yet told
        del world.table.rows[ident, 0]
        world.dispatcher.forget([ident])
        while world.table.steps:
            world.table.step()
        self.assertEqual(world.courier.started, [])


class Mended(TestCase):
    """Somebody mends what is in the way while an attempt is under way that knows nothing of it."""

    NO_ADDRESS = postponed("4.3.5", "Source bulk: 192.0.2.2 is no address of this host")
    UNDEFINED = postponed("4.3.5", "Next hop sink is not defined")
    NO_SECRET = postponed("4.3.5", "Login isp: the secret is not there any more")
    NO_TLS = postponed("4.7.4", "TLS (verify) is not met by mx.example: not offered")

    def ends(self, queue: str, trouble: Outcome, mended: Callable[[World], None]) -> World:
        """An attempt that begins before it is mended and ends after that."""
        world = World()
        world.ident += 1
        world.dispatcher.accept(
            *world.table.add(
                a_message(world.ident, [a_recipient("bob@example.com", queue)], received_at=1e6)
            )
        )
        mended(world)
        world.courier.finish(trouble)
        world.clock.advance(1)
        return world

    def test_a_reload_is_not_lost_on_what_began_before_it(self) -> None:
        for queue, trouble in (
            ("direct from bulk", self.NO_ADDRESS),
            ("direct", self.NO_TLS),
            ("sink", DEAD),
            ("sink", self.UNDEFINED),
            ("sink", self.NO_SECRET),
            ("sink", DENIED),
        ):
            with self.subTest(queue=queue, trouble=str(trouble.reply)):
                world = self.ends(queue, trouble, reload)
                self.assertEqual(len(world.courier.under_way), 1)
                # it was in vain: now it waits
                world.courier.finish(trouble)
                world.clock.advance(30)
                self.assertEqual(world.courier.under_way, [])

    def test_an_address_that_is_back_before_the_attempt_without_it_is_over(self) -> None:
        world = self.ends(
            "direct from bulk",
            self.NO_ADDRESS,
            lambda world: world.dispatcher.source_is_back("bulk"),
        )
        self.assertEqual(len(world.courier.under_way), 1)

    def test_another_source_s_address_is_nothing_to_it(self) -> None:
        world = self.ends(
            "direct from bulk", self.NO_ADDRESS, lambda world: world.dispatcher.source_is_back("x")
        )
        self.assertEqual(world.courier.under_way, [])

    def test_the_operator_s_retry_while_the_probe_before_it_is_under_way(self) -> None:
        world = World()
        world.accept()
        world.courier.finish(DEAD)
        world.wait(60)
        waiting = world.accept()
        self.assertEqual(len(world.courier.under_way), 1)
        world.dispatcher.changed("retry", [(waiting, 0)])
        world.clock.advance(1)
        world.courier.finish(DEAD)
        self.assertEqual(len(world.courier.under_way), 1)

    def test_a_reload_with_many_under_way_is_one_more_probe(self) -> None:
        world = World()
        for _ in range(20):
            world.accept()
        many = len(world.courier.under_way)
        reload(world)
        for _ in range(many):
            world.courier.finish(DEAD)
        self.assertEqual(len(world.courier.under_way), 1)
        world.courier.finish(DEAD)
        self.assertEqual(world.courier.under_way, [])

    def test_a_probe_does_not_wait_for_a_connection_that_hangs(self) -> None:
        """Its reply went to an address that is gone: it ends in minutes."""
        for queue, trouble in (("direct from bulk", self.NO_ADDRESS), ("sink", DEAD)):
            with self.subTest(queue=queue):
                world = World()
                for _ in range(3):
                    world.accept(queue)
                world.courier.finish(trouble, 1)  # the others hang
                (lane,) = world.dispatcher.lanes()
                self.assertIs(lane.standing, Standing.DOWN)
                reload(world)
                world.clock.advance(1)
                self.assertEqual(len(world.courier.under_way), 3)
                world.accept(queue)
                self.assertEqual(len(world.courier.under_way), 3, "one probe")
                world.courier.finish(DELIVERED, 0)  # of those, which says nothing
                self.assertEqual(len(world.courier.under_way), 2)
                world.courier.reply = lambda record: DELIVERED
                world.courier.finish(DELIVERED, 1)  # the probe
                world.courier.finish(DEAD)
                world.wait(7200)
                self.assertEqual(world.table.rows, {})

    def test_a_direct_domain_that_is_dead_is_not_asked_because_of_a_reload(self) -> None:
        self.assertEqual(self.ends("direct", DEAD, lambda world: None).courier.under_way, [])
        world = World()
        world.mail_to("dead.test")
        world.courier.finish(DEAD)
        reload(world)
        self.assertEqual(world.courier.under_way, [])

    def test_tls_that_is_not_demanded_any_more(self) -> None:
        world = World()
        world.mail_to("plain.test")
        world.courier.finish(self.NO_TLS)
        world.clock.advance(1)
        self.assertEqual(world.courier.under_way, [])
        reload(world)
        self.assertEqual(len(world.courier.under_way), 1)

    def test_an_address_that_is_gone_is_no_connection_that_was_lost(self) -> None:
        """Others go by older connections: the lane is down all the same, and so is woken."""
        world = World()
        for _ in range(3):
            world.mail_to("busy.test")
        world.courier.finish(DELIVERED)
        world.courier.finish(self.NO_ADDRESS)
        (lane,) = world.dispatcher.lanes()
        self.assertIs(lane.standing, Standing.DOWN)


def reload(world: World) -> None:
    """The settings are read again."""
    dispatcher = world.dispatcher
    dispatcher.apply(dispatcher._retry_policy, dispatcher._limits)


class Stopping(TestCase):
    def test_stop_waits_for_what_is_under_way(self) -> None:
        world = World()
        ident = world.accept()
        stopped = world.dispatcher.stop(5.0)
        self.assertTrue(world.courier.closed)
        self.assertNoResult(stopped)
        world.courier.finish(DELIVERED)
        self.successResultOf(stopped)
        self.assertIs(world.table.state(ident), RecipientState.DELIVERED)
        self.assertEqual(world.clock.getDelayedCalls(), [])

    def test_what_takes_too_long_stays_queued_as_it_was(self) -> None:
        world = World()
        ident = world.accept()
        stopped = world.dispatcher.stop(5.0)
        world.clock.advance(5.0)
        self.successResultOf(stopped)
        self.assertEqual(world.table.rows[ident, 0].attempts, 0)
        self.assertEqual(world.table.settled, [])

    def test_what_was_cut_off_closes_no_lane(self) -> None:
        world = World()
        world.accept()
        stopped = world.dispatcher.stop(5.0)
        world.clock.advance(5.0)
        self.successResultOf(stopped)
        self.assertIs(world.standing, Standing.OPEN)
        self.assertNotIn("next hop down", world.log.notices)

    def test_what_ends_badly_before_the_grace_is_over_is_still_a_lesson(self) -> None:
        world = World()
        ident = world.accept()
        stopped = world.dispatcher.stop(5.0)
        world.courier.finish(DEAD)
        self.successResultOf(stopped)
        self.assertIs(world.standing, Standing.DOWN)
        self.assertEqual(world.table.rows[ident, 0].attempts, 1)

    def test_nothing_starts_any_more(self) -> None:
        world = World()
        world.accept()
        stopped = world.dispatcher.stop(5.0)
        world.accept()
        world.courier.finish(DELIVERED)
        self.successResultOf(stopped)
        self.assertEqual(len(world.courier.started), 1)

    def test_stop_with_a_broken_spool_ends(self) -> None:
        world = World()
        world.accept()
        world.table.healthy = False
        world.courier.finish(DELIVERED)
        stopped = world.dispatcher.stop(5.0)
        world.wait(10, step=1)
        self.successResultOf(stopped)
        self.assertEqual(world.log.troubles[-1][0], "stopped with outcomes not recorded")
        self.assertEqual(world.clock.getDelayedCalls(), [])

    def test_a_slow_spool_may_record_the_last_words_of_what_was_cut_off(self) -> None:
        world = World()
        world.table.slow = True
        ident = world.accept()
        stopped = world.dispatcher.stop(5.0)
        world.courier.reply = lambda _: DELIVERED
        world.courier.finish(DELIVERED)
        world.clock.advance(5.0)
        self.assertNoResult(stopped)
        while world.table.steps:
            world.table.step()
        self.successResultOf(stopped)
        self.assertIs(world.table.state(ident), RecipientState.DELIVERED)
        self.assertEqual((world.log.troubles, world.clock.getDelayedCalls()), ([], []))


class Anything(TestCase):
    @settings(max_examples=80, deadline=None)
    @given(st.data())
    def test_every_recipient_ends_once_and_nothing_is_delivered_twice(
        self, data: st.DataObject
    ) -> None:
        """Whatever the outcomes, their order, and the order in which the spool answers.

        Courier and Table assert: no record with two couriers, none delivered again after a
        success, none settled after its end.
        """
        world = World(
            RelayLimits(
                deliveries=4,
                window=3,
                first_window=2,
                looks=2,
                bounds=Bounds(messages=6, look=2),
            ),
            start=False,
        )
        table, courier = world.table, world.courier
        for _ in range(data.draw(st.integers(0, 6))):
            world.add(*data.draw(HOPS))
        table.slow = True
        world.dispatcher.start()
        for _ in range(data.draw(st.integers(0, 60))):
            self.move(world, data)
        table.healthy = True
        for _ in range(400):
            while table.steps or courier.under_way:
                if table.steps:
                    table.step()
                else:
                    courier.finish(DELIVERED)
            world.clock.advance(60.0)
            if not table.rows:
                break
        self.assertEqual(table.rows, {}, list(world.dispatcher.lanes()))
        self.assertEqual(set(table.ended), table.known)
        queue = world.dispatcher._queue
        self.assertEqual((queue.messages, queue.octets, queue.keys), (0, 0, set()))
        held = [share for share in world.dispatcher._scheduler._all_shares if share.in_flight]
        self.assertEqual((world.dispatcher.in_flight, len(held)), (0, 0))
        world.tearDown()

    def move(self, world: World, data: st.DataObject) -> None:
        table, courier = world.table, world.courier
        moves = ["accept", "time", "health", "retry"]
        moves += ["step"] * 4 if table.steps else []
        moves += ["finish"] * 4 if courier.under_way else []
        match data.draw(st.sampled_from(moves)):
            case "accept":
                world.accept(*data.draw(HOPS))
            case "time":
                world.clock.advance(data.draw(st.sampled_from([0.0, 1.0, 61.0, 4000.0])))
            case "health":
                table.healthy = data.draw(st.sampled_from([True, True, False]))
            case "retry":
                world.dispatcher.retry(data.draw(st.sampled_from([None, ["a"]])))
            case "step":
                table.step(data.draw(st.integers(0, 9)))
            case "finish":
                number = data.draw(st.integers(0, 9))
                delivery = courier.under_way[number % len(courier.under_way)][0]
                outcomes = [data.draw(OUTCOMES) for _ in delivery.records]
                courier.finish(outcomes, number)


HOPS = st.lists(st.sampled_from(["a", "b", DIRECT]), min_size=1, max_size=3)
OUTCOMES = st.sampled_from(
    [DELIVERED, DELIVERED, BUSY, DEAD, DEAD, TOO_MANY, TOO_MANY, TOO_FAST, REFUSED]
)
