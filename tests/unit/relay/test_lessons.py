"""What an attempt teaches about its destination."""

from __future__ import annotations

from collections import deque

from relayd.mail.message import RecipientState, Record, Settlement
from relayd.mail.outcome import Blame, Outcome, postponed
from relayd.mail.reply import Reply
from relayd.relay.limits import RelayLimits
from relayd.relay.retrypolicy import RetryPolicy
from relayd.report.bounce import Action
from relayd.spool.queue import Bounds, Standing
from tests.support import TestCase
from tests.unit.relay.fakes import (
    BUSY,
    DEAD,
    DELIVERED,
    DENIED,
    REFUSED,
    TOO_FAST,
    TOO_MANY,
)
from tests.unit.relay.world import World

HOUR = 3600.0
DAY = 24 * HOUR


class Trouble(TestCase):
    def test_a_busy_mailbox_backs_off_alone(self) -> None:
        world = World()
        ident = world.accept()
        world.courier.finish(BUSY)
        row = world.table.rows[ident, 0]
        self.assertEqual((row.attempts, row.next_attempt), (1, world.clock.seconds() + 60))
        self.assertIs(world.standing, Standing.OPEN)
        world.wait(59)
        self.assertEqual(world.courier.under_way, [])
        world.wait(1)
        world.courier.finish(BUSY)
        self.assertEqual(world.table.rows[ident, 0].next_attempt, world.clock.seconds() + 300)

    def test_a_dead_destination_shuts_its_lane(self) -> None:
        world = World()
        for _ in range(10):
            world.accept()
        self.assertEqual(len(world.courier.under_way), 5)
        for _ in range(5):
            world.courier.finish(DEAD)
        self.assertIs(world.standing, Standing.DOWN)
        self.assertEqual(world.lane("sink").failures, 1)
        self.assertEqual(world.log.notices, ["next hop down"])
        now = world.clock.seconds()
        self.assertEqual({each.next_attempt for each in world.table.settled}, {now})
        self.assertEqual(world.lane("sink").probe_at, now + 60)
        self.assertEqual(len(world.table.settled), 5)

    def test_a_lane_that_is_down_costs_nothing(self) -> None:
        world = World()
        world.accept()
        world.courier.finish(DEAD)
        calls, lines = len(world.table.calls), len(world.log.attempts)
        for _ in range(1000):
            world.accept()
        self.assertEqual(len(world.table.calls), calls)
        self.assertEqual(len(world.log.attempts), lines)
        self.assertEqual(world.dispatcher._queue.messages, 0)
        self.assertEqual(world.courier.under_way, [])
        world.wait(60)
        self.assertEqual(len(world.courier.under_way), 1)
        world.courier.finish(DEAD)
        self.assertEqual(len(world.table.settled), 2)
        world.wait(299)
        self.assertEqual(world.courier.under_way, [])
        world.wait(1)
        world.courier.reply = lambda record: DELIVERED
        world.courier.finish(DELIVERED)
        self.assertEqual(len(world.table.ended), 1001)
        self.assertEqual(world.log.notices, ["next hop down", "next hop up"])

    def test_a_dead_destination_does_not_delay_the_others(self) -> None:
        world = World(RelayLimits(deliveries=20))
        for number in range(100):
            world.accept(f"dead{number}")
        while world.courier.under_way:
            world.courier.finish(DEAD)
        world.wait(60)
        self.assertEqual(len(world.courier.under_way), 5)
        world.accept("good")
        self.assertEqual(world.courier.started[-1].records[0].recipient.next_hop, "good")
        while world.courier.under_way:
            world.courier.finish(DEAD)
        self.assertEqual(len(world.courier.started), 201)

    def test_one_421_among_successes_narrows_the_window(self) -> None:
        world = World()
        for _ in range(30):
            world.accept()
        for _ in range(10):
            world.courier.finish(DELIVERED)
        window = world.lane("sink").window
        world.courier.finish(TOO_MANY)
        self.assertIs(world.standing, Standing.SLOWED)
        self.assertEqual(world.lane("sink").window, window - 1)

    def test_the_window_grows_with_success_up_to_its_limit(self) -> None:
        world = World(RelayLimits(window=8))
        for _ in range(40):
            world.accept()
        self.assertEqual(len(world.courier.under_way), 5)
        for _ in range(10):
            world.courier.finish(DELIVERED)
        self.assertEqual(len(world.courier.under_way), 8)

    def test_after_a_restart_a_destination_in_trouble_is_probed(self) -> None:
        world = World(start=False)
        for _ in range(10):
            ident = world.add("sink")
            row = world.table.rows[ident, 0]
            world.table.rows[ident, 0] = row.__class__(
                ident, 0, row.recipient, attempts=3, last=DEAD
            )
        world.dispatcher.start()
        world.clock.advance(0)
        self.assertEqual(len(world.courier.under_way), 1)
        world.courier.finish(DEAD)
        self.assertEqual(world.lane("sink").probe_at, world.clock.seconds() + HOUR)

    def test_a_poisonous_message_does_not_block_its_lane(self) -> None:
        world = World()
        poison = world.accept()
        for _ in range(3):
            world.accept()
        world.courier.reply = lambda each: DEAD if each.message == poison else DELIVERED
        while world.courier.under_way:
            number = world.courier.under_way[0][0].message.ident
            world.courier.finish(DEAD if number == poison else DELIVERED)
        for _ in range(20):
            world.accept()
        world.wait(1200)
        self.assertEqual(set(world.table.rows), {(poison, 0)})

    def test_a_smaller_window_holds_at_once_for_destinations_that_are_there(self) -> None:
        world = World()
        for _ in range(4):
            world.accept()
        self.assertEqual(len(world.courier.under_way), 4)
        while world.courier.under_way:
            world.courier.finish(DELIVERED)
        world.dispatcher.apply(RetryPolicy(), RelayLimits(window=1))
        for _ in range(4):
            world.accept()
        self.assertEqual(len(world.courier.under_way), 1)


class NotServed(TestCase):
    """Next hops that refuse us for some of the mail, or for all: for which, others show."""

    def world(self, *refused: str) -> World:
        """A next hop that does not relay for these domains."""
        world = World()
        world.courier.reply = lambda record: (
            DENIED if record.recipient.mailbox.domain in refused else DELIVERED
        )
        return world

    def test_one_domain_that_is_not_relayed_stops_no_other(self) -> None:
        world = self.world("bad.test")
        for _ in range(30):
            world.for_domains("bad.test")
        for _ in range(20):
            world.for_domains("good.test")
        self.assertEqual(len(world.table.ended), 20)
        self.assertEqual(world.log.notices, ["next hop refuses some"])
        lane = world.lane("sink")
        self.assertIs(lane.standing, Standing.REFUSING)
        self.assertIs(lane.trouble, DENIED)
        now = world.clock.seconds()
        self.assertEqual({each.next_attempt for each in world.table.rows.values()}, {now + 60})

    def test_none_taken_and_two_domains_refused_is_down(self) -> None:
        world = self.world("a.test", "b.test")
        world.for_domains("a.test")
        self.assertIs(world.standing, Standing.REFUSING)
        world.for_domains("b.test")
        self.assertIs(world.standing, Standing.DOWN)
        world.wait(1)  # one more look whether others are served
        started = len(world.courier.started)
        for _ in range(100):
            world.for_domains("a.test")
            world.for_domains("b.test")
        world.wait(50)
        self.assertEqual(len(world.courier.started), started)

    def test_a_message_for_two_domains_is_as_good_as_two(self) -> None:
        world = self.world("a.test", "b.test")
        world.for_domains("a.test", "b.test")
        self.assertIs(world.standing, Standing.DOWN)

    def test_mail_for_a_domain_that_nobody_asked_for_is_a_probe_at_once(self) -> None:
        world = self.world("a.test", "b.test", "c.test")
        for domain in ("a.test", "b.test"):
            world.for_domains(domain)
        for _ in range(200):
            world.for_domains("a.test")
        for domain in ("c.test", "good.test"):
            world.wait(5, step=1)
            world.for_domains(domain)
        self.assertEqual(len(world.table.ended), 1)
        self.assertIsNot(world.standing, Standing.DOWN)

    def test_a_message_for_a_refused_domain_and_another_is_a_probe_too(self) -> None:
        world = self.world("a.test", "b.test")
        for domains in (("a.test",), ("b.test",), ("a.test", "good.test")):
            world.for_domains(*domains)
        self.assertEqual(len(world.table.ended), 1)

    def test_a_probe_is_for_a_domain_that_was_not_refused(self) -> None:
        world = self.world("a.test", "b.test")
        for _ in range(30):
            for domain in ("a.test", "b.test"):
                world.for_domains(domain, accept=False)
        good = world.for_domains("good.test", accept=False)
        world.dispatcher.retry(["sink"])
        world.wait(2, step=1)
        self.assertEqual(world.table.state(good), RecipientState.DELIVERED)

    def test_a_probe_is_not_the_same_mail_each_time(self) -> None:
        """Of a sender it may be said, too."""
        world = World()
        trouble = DENIED.but(blame=Blame.DESTINATION)
        bad = [world.accept() for _ in range(5)]
        world.courier.reply = lambda record: trouble if record.message in bad else DELIVERED
        while world.courier.under_way:
            world.courier.finish(trouble)
        self.assertIs(world.standing, Standing.DOWN)
        good = world.accept()
        world.wait(60)
        self.assertEqual(world.table.state(good), RecipientState.DELIVERED)

    def test_one_that_serves_us_is_not_down_for_stray_domains(self) -> None:
        world = self.world("a.test", "b.test", "c.test")
        world.for_domains("good.test")
        world.wait(300)
        for domain in ("a.test", "b.test", "c.test"):
            world.for_domains(domain)
        self.assertIs(world.standing, Standing.REFUSING)

    def test_what_was_refused_and_is_taken_is_shown_no_more(self) -> None:
        world = self.world("a.test")
        world.for_domains("a.test")
        world.courier.reply = lambda record: DELIVERED
        world.for_domains("good.test")
        self.assertIs(world.standing, Standing.REFUSING)
        world.wait(60)
        self.assertIs(world.standing, Standing.OPEN)
        self.assertIsNone(world.lane("sink").trouble)

    def test_after_a_reload_all_of_it_goes_at_once(self) -> None:
        world = self.world("a.test")
        for _ in range(250):
            world.for_domains("a.test")
        self.assertEqual(len(world.table.rows), 250)
        world.courier.reply = lambda record: DELIVERED
        dispatcher = world.dispatcher
        dispatcher.apply(dispatcher._retry_policy, dispatcher._limits)
        self.assertEqual(len(world.table.rows), 0)

    def test_a_reload_that_mends_nothing_is_no_flood(self) -> None:
        world = self.world("a.test")
        for _ in range(250):
            world.for_domains("a.test")
        dispatcher = world.dispatcher
        dispatcher.apply(dispatcher._retry_policy, dispatcher._limits)
        self.assertLessEqual(len(world.courier.started), 250 + Bounds().look)


class Slower(TestCase):
    """Next hops that live, but want less."""

    def world(self, messages: int) -> World:
        world = World()
        for _ in range(messages):
            world.accept()
        return world

    def turned_away(self, world: World) -> list[Settlement]:
        return [each for each in world.table.settled if each.state is RecipientState.QUEUED]

    def test_a_next_hop_that_takes_two_connections_is_never_down(self) -> None:
        world = self.world(40)
        courier = world.courier
        for _ in range(1000):
            if courier.under_way[2:]:
                courier.finish(TOO_MANY, 2)
            elif courier.under_way:
                courier.finish(DELIVERED)
            else:
                world.wait(1, step=0.1)
        self.assertEqual(len(world.table.ended), 40)
        self.assertEqual(world.log.notices, ["next hop slowed"])
        self.assertLessEqual(len(self.turned_away(world)), 5)

    def test_who_was_turned_away_has_spent_no_attempt_and_goes_soon(self) -> None:
        world = self.world(3)
        world.courier.finish(TOO_MANY)
        (turned,) = self.turned_away(world)
        row = world.table.rows[turned.record.message, 0]
        self.assertEqual((row.attempts, row.last), (0, TOO_MANY))
        self.assertEqual(row.next_attempt, world.clock.seconds() + 1)
        world.courier.finish(DELIVERED)
        world.courier.finish(DELIVERED)
        world.wait(1)
        self.assertEqual(world.courier.under_way[0][0].message.ident, turned.record.message)

    def test_connections_that_are_cut_instead_of_refused_narrow_the_window_too(self) -> None:
        world = self.world(10)
        world.courier.finish(DELIVERED)
        world.courier.finish(postponed("4.4.2", "Connection lost"))
        self.assertIs(world.standing, Standing.SLOWED)
        self.assertEqual(self.turned_away(world)[0].attempted, False)

    def test_a_next_hop_that_is_gone_is_down_at_once(self) -> None:
        world = self.world(30)
        for _ in range(10):
            world.courier.finish(DELIVERED)
        lost = len(world.courier.under_way)
        for _ in range(lost):
            world.courier.finish(postponed("4.4.2", "Connection lost"))
        while world.courier.under_way:
            world.courier.finish(DEAD)
        self.assertIs(world.standing, Standing.DOWN)
        self.assertEqual(world.lane("sink").failures, 1)
        self.assertLessEqual(len(self.turned_away(world)), lost + 5)
        world.wait(61)
        world.courier.finish(DELIVERED)
        self.assertEqual(world.lane("sink").window, 5)  # it was no limit

    def test_one_connection_in_ten_that_is_lost_does_not_close_the_lane(self) -> None:
        world = self.world(1000)
        for number in range(2000):
            if not world.courier.under_way:
                world.wait(1, step=0.5)
            elif number % 10 == 9:
                world.courier.finish(postponed("4.4.2", "Connection lost"))
            else:
                world.courier.finish(DELIVERED)
        self.assertEqual(world.table.rows, {})
        self.assertEqual(world.log.notices[0], "next hop slowed")
        self.assertNotIn("next hop down", world.log.notices)

    def test_what_may_be_delivered_is_not_sent_again_at_once(self) -> None:
        world = self.world(10)
        world.courier.finish(DELIVERED)
        world.courier.finish(postponed("4.4.2", "Connection lost").but(in_doubt=True))
        (turned,) = self.turned_away(world)
        self.assertTrue(turned.attempted)
        self.assertEqual(turned.next_attempt, world.clock.seconds() + 60)

    def test_one_message_that_is_always_turned_away_spends_its_attempts_at_last(self) -> None:
        world = World()
        poison = world.accept()
        world.courier.reply = lambda each: TOO_MANY if each.message == poison else DELIVERED
        world.courier.finish(DEAD)
        for _ in range(400):
            world.accept()
            world.wait(1, step=0.25)
        self.assertGreater(world.table.rows[poison, 0].attempts, 1)
        world.wait(200, step=0.1)
        self.assertEqual(len(world.table.ended), 400)

    def test_all_refused_at_once_and_nothing_ever_taken_is_down(self) -> None:
        world = self.world(5)
        for _ in range(5):
            world.courier.finish(TOO_MANY)
        self.assertIs(world.standing, Standing.DOWN)

    def test_what_began_before_a_421_does_not_widen_the_window(self) -> None:
        world = self.world(30)
        for _ in range(4):
            world.courier.finish(TOO_MANY, 1)
        self.assertEqual(world.lane("sink").window, 1)
        world.courier.finish(DELIVERED)
        self.assertEqual(world.lane("sink").window, 1)
        self.assertEqual(len(world.courier.under_way), 1)

    def test_what_began_before_the_trouble_does_not_open_the_lane(self) -> None:
        for outcome in (DELIVERED, BUSY, REFUSED):
            world = self.world(30)
            world.courier.finish(DEAD, 1)
            self.assertIs(world.standing, Standing.DOWN)
            world.courier.finish(outcome)
            self.assertIs(world.standing, Standing.DOWN, outcome)
            started = [str(each.records[0].recipient.mailbox) for each in world.courier.started[5:]]
            self.assertEqual(started, [])

    def test_a_connection_that_lived_on_makes_a_probe_come_soon(self) -> None:
        world = self.world(30)
        for _ in range(3):
            world.courier.finish(postponed("4.4.2", "Connection lost"), 2)
        for _ in range(2):
            world.courier.finish(DELIVERED)
        self.assertEqual(world.courier.under_way, [])
        world.wait(1, step=0.5)
        self.assertEqual(len(world.courier.under_way), 1)
        world.courier.finish(DEAD)
        self.assertEqual(world.lane("sink").probe_at, world.clock.seconds() + 60)

    def test_what_began_before_a_probe_does_not_judge_it(self) -> None:
        world = self.world(30)
        world.courier.finish(DEAD, 1)
        world.dispatcher.retry(["sink"])  # the probe waits for those that are under way
        for _ in range(3):
            world.courier.finish(DEAD)
        self.assertEqual(world.lane("sink").failures, 1)
        world.courier.finish(DEAD)
        self.assertEqual(len(world.courier.under_way), 1)
        world.courier.finish(DEAD)
        self.assertEqual(world.lane("sink").failures, 2)

    def test_a_probe_that_is_told_to_come_later_does_not_open_the_lane(self) -> None:
        """In words about this mail, as at RCPT: they ask for less all the same."""
        later = Outcome(Reply.of(450, "4.7.28", "too fast"), remote_mta="mx.example")
        world = self.world(1)
        world.courier.finish(DELIVERED)
        world.courier.reply = lambda record: later
        for _ in range(40):
            world.accept()
        while world.standing is not Standing.DOWN:
            world.wait(1, step=1)
        started = len(world.courier.started)
        world.wait(world.lane("sink").probe_at - world.clock.seconds() + 1, step=1)
        self.assertEqual(len(world.courier.started), started + 1)
        self.assertIs(world.standing, Standing.DOWN)

    def throttled(self, most: int, seconds: float, messages: int = 200) -> tuple[float, float]:
        """What share was refused of a lane's attempts, and how many seconds it took."""
        world = World()
        taken: deque[float] = deque()
        refused = 0

        def reply(record: Record) -> Outcome:
            nonlocal refused
            now = world.clock.seconds()
            while taken and taken[0] <= now - seconds:
                taken.popleft()
            if len(taken) >= most:
                refused += 1
                return TOO_FAST
            taken.append(now)
            return DELIVERED

        world.courier.reply = reply
        began = world.clock.seconds()
        for _ in range(messages):
            world.accept()
        while world.table.rows and world.clock.seconds() < began + HOUR:
            world.wait(0.1, step=0.1)
        self.assertEqual(world.table.rows, {})
        return refused / (refused + messages), world.clock.seconds() - began

    def test_a_provider_that_takes_ten_in_ten_seconds_refuses_few(self) -> None:
        share, seconds = self.throttled(10, 10.0)
        self.assertLess(share, 0.15)
        self.assertLess(seconds, 300)

    def test_a_provider_that_takes_one_a_second_refuses_few(self) -> None:
        share, seconds = self.throttled(1, 1.0)
        self.assertLess(share, 0.15)
        self.assertLess(seconds, 350)

    def test_a_provider_that_takes_ten_a_minute_refuses_few(self) -> None:
        share, seconds = self.throttled(10, 60.0, messages=100)
        self.assertLess(share, 0.25)
        self.assertLess(seconds, 1200)

    def test_the_pace_is_forgotten_when_there_is_no_limit_any_more(self) -> None:
        world = self.world(30)
        for _ in range(4):
            world.courier.finish(TOO_MANY, 1)
        world.courier.reply = lambda record: DELIVERED
        world.courier.finish(DELIVERED)
        for _ in range(300):
            world.accept()
        world.wait(5, step=0.1)
        self.assertEqual(world.log.notices, ["next hop slowed", "next hop takes it all again"])
        self.assertEqual(world.table.rows, {})

    def test_retry_ends_a_pause(self) -> None:
        world = self.world(1)
        world.courier.finish(DELIVERED)
        world.accept()
        world.courier.finish(TOO_FAST)
        world.accept()
        self.assertEqual(world.courier.under_way, [])
        world.dispatcher.retry(["sink"])
        self.assertEqual(len(world.courier.under_way), 1)

    def test_a_clock_that_is_set_back_ends_a_pause(self) -> None:
        world = self.world(1)
        world.courier.finish(DELIVERED)
        world.accept()
        world.courier.finish(TOO_FAST)
        world.accept()
        world.now = lambda: world.clock.seconds() - 86_400.0
        world.courier.reply = lambda record: DELIVERED
        world.wait(120)
        self.assertEqual(world.table.rows, {})

    def test_who_is_too_old_expires_though_the_refusal_is_excused(self) -> None:
        world = World()
        world.accept()
        old, late = world.accept(age=5 * DAY), world.accept(age=4 * HOUR)
        world.courier.finish(TOO_MANY, 1)
        world.courier.finish(TOO_MANY, 1)
        self.assertIs(world.table.state(old), RecipientState.EXPIRED)
        self.assertTrue(world.table.rows[late, 0].warned)
        self.assertEqual(
            [each.action for each in world.table.reports], [Action.FAILED, Action.DELAYED]
        )

    def test_who_waits_his_turn_behind_a_slowed_lane_is_warned_of(self) -> None:
        world = World(RelayLimits(bounds=Bounds(messages=10)))
        world.accept()
        world.courier.finish(DELIVERED)
        for _ in range(100):
            world.accept()
        allowed = [0.0]

        def reply(record: Record) -> Outcome:
            if record.message > 999 or world.clock.seconds() >= allowed[0]:
                allowed[0] = world.clock.seconds() + 600
                return DELIVERED
            return TOO_FAST

        while world.courier.under_way:
            world.courier.finish(TOO_FAST)
        world.courier.reply = reply
        world.wait(5 * HOUR)
        warned = [each for each in world.table.reports if each.action is Action.DELAYED]
        self.assertGreater(len(warned), 50)
