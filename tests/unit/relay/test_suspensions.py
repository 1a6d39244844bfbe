"""What the operator has told to wait does, what comes later too; then it goes on by itself."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd.mail.client import Client
from relayd.mail.message import RecipientState
from relayd.mail.outcome import Meaning
from relayd.relay.suspensions import Suspension, Suspensions
from relayd.spool.queue import Standing
from relayd.spool.view import QueueFilter
from tests.support import TestCase
from tests.unit.relay.fakes import Log, a_message, a_recipient
from tests.unit.relay.test_sites import ISP, SAID, Far, told


class Waiting(Far):
    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(start=False)
        self.suspensions = Suspensions(folder, self.log, self.clock.seconds)
        self.dispatcher._suspensions = self.suspensions
        self.suspensions.told.append(self.dispatcher._suspend)
        self.suspensions.load()
        self.courier.reply = lambda record: SAID
        self.dispatcher.start()
        self.clock.advance(0)

    def suspend(self, kind: str, whom: str, seconds: float = 7200.0) -> None:
        until = self.clock.seconds() + seconds
        self.suspensions.suspend(Suspension(kind, whom, until, "so much spam", "uid=0"))

    def from_login(self, login: str, domain: str = "a.example") -> int:
        self.ident += 1
        message, records = a_message(
            self.ident, [a_recipient(f"x@{domain}", "direct")], received_at=self.clock.seconds()
        )
        message = message.__class__(
            **{
                **{name: getattr(message, name) for name in message.__slots__},
                "client": Client("192.0.2.1", login=login),
            }
        )
        self.table.add((message, records))
        self.dispatcher.accept(message, records)
        return self.ident

    @property
    def went(self) -> int:
        return len(self.table.ended)


class Lanes(TestCase):
    def test_a_domain_and_what_comes_later_until_the_time_is_up(self) -> None:
        world = Waiting()
        world.mail("a.example")
        world.suspend("destination", "A.example.")
        for _ in range(50):
            world.mail("a.example")
        world.mail("b.example")
        self.assertEqual(world.went, 2)
        view = world.lane("direct a.example")
        self.assertIs(view.standing, Standing.SUSPENDED)
        self.assertEqual(view.probe_at, world.clock.seconds() + 7200)
        self.assertIn("so much spam", str(view.trouble))
        settled = len(world.table.settled)
        world.wait(7190)
        self.assertEqual((world.went, len(world.table.settled)), (2, settled))
        world.wait(60)
        self.assertEqual(world.went, 52)
        self.assertIs(world.lane("direct a.example").standing, Standing.OPEN)

    def test_a_domain_however_it_is_spelt(self) -> None:
        for whom, domain in (
            ("[192.0.2.9]", "[192.0.2.9]"),
            ("[IPv6:2001:DB8::9]", "[ipv6:2001:db8::9]"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("@XN--BCHER-KVA.example.", "bücher.example"),
        ):
            with self.subTest(whom=whom):
                world = Waiting()
                world.suspend("destination", whom)
                world.mail(domain)
                self.assertEqual(world.went, 0)
                world.suspensions.resume("destination", whom.upper())
                self.assertEqual(world.went, 1)

    def test_a_lane_that_is_not_there_yet(self) -> None:
        world = Waiting()
        world.suspend("destination", "a.example")
        world.mail("a.example")
        world.mail("a.example", "direct,isp")
        self.assertEqual(world.went, 0)
        world.suspensions.resume("destination", "a.example")
        self.assertEqual(world.went, 2)

    def test_a_named_next_hop(self) -> None:
        world = Waiting()
        world.suspend("destination", "ISP")
        world.mail("a.example", "isp")
        self.assertEqual(world.went, 0)
        world.suspensions.resume()
        self.assertEqual(world.went, 1)

    def test_a_next_hop_among_several(self) -> None:
        """The other one is for when it is down: the operator has told the mail to wait."""
        world = Waiting()
        world.suspend("destination", "isp")
        world.mail("a.example", "sink,isp")
        self.assertEqual(world.went, 0)
        world.suspensions.resume("destination", "isp")
        self.assertEqual(world.went, 1)

    def test_the_other_way_of_a_provider_that_blocks_us(self) -> None:
        world = Waiting()
        world.mail("1.big", "direct,isp")
        self.assertEqual(world.went, 1)
        world.sites.blocked("big", "", told(Meaning.BLOCKED))
        world.suspend("destination", "isp")
        ident = world.mail("1.big", "direct,isp")
        last = world.table.rows[ident, 0].last
        self.assertIn("Suspended (destination isp)", str(last and last.reply))
        self.assertEqual((world.went, world.table.rows[ident, 0].attempts), (1, 0))

    def test_a_provider_by_the_first_look_up_of_each_domain(self) -> None:
        world = Waiting()
        world.mail("1.big")
        world.suspend("provider", "big")
        for number in range(5):
            world.mail(f"{number}.big")
        world.mail("well.example")
        self.assertEqual(world.went, 2)
        self.assertIs(world.lane("direct 4.big").standing, Standing.SUSPENDED)
        world.suspensions.resume("provider", "big")
        world.wait(1)
        self.assertEqual(world.went, 7)

    def test_the_operator_s_retry_does_not_end_it(self) -> None:
        world = Waiting()
        world.suspend("destination", "a.example")
        world.mail("a.example")
        world.dispatcher.retry(None)
        self.assertEqual(world.went, 0)


class Messages(TestCase):
    def check(self, kind: str, whom: str, mine: int, world: Waiting) -> None:
        record = world.table.rows[mine, 0]
        self.assertIs(record.state, RecipientState.QUEUED)
        self.assertEqual(record.attempts, 0)
        # no further away than the schedule knows: it is put off again then
        self.assertEqual(record.next_attempt, world.clock.seconds() + 3630)
        last = record.last
        assert last is not None
        self.assertIn(f"Suspended ({kind} {whom})", str(last.reply))
        said = Suspension(kind, whom, 0.0).said
        self.assertTrue(str(last.reply).startswith(said))
        world.wait(7100)
        self.assertEqual(world.went, 1)
        world.wait(200)
        self.assertEqual(world.went, 2)

    def test_a_sender_by_his_mailbox_or_his_domain(self) -> None:
        for whom in ("alice@example.org", "@example.org"):
            world = Waiting()
            world.suspend("sender", whom.upper())
            mine = world.accept("isp", sender="alice@example.org")
            world.accept("isp", sender="bob@example.net")
            self.assertEqual(world.went, 1)
            self.check("sender", whom, mine, world)

    def test_a_sender_however_his_domain_is_spelt(self) -> None:
        for whom in ("<Alice@ÉXAMPLE.example>", "@xn--xample-9ua.example", "@éxample.EXAMPLE"):
            for sender in ("alice@éxample.example", "alice@XN--xample-9ua.example"):
                with self.subTest(whom=whom, sender=sender):
                    world = Waiting()
                    world.suspend("sender", whom)
                    world.accept("isp", sender=sender)
                    self.assertEqual(world.went, 0)

    def test_what_no_mail_can_have_is_refused(self) -> None:
        for whom in ("not an address", "@", "a@b@c", "ann@", "@-"):
            with self.subTest(whom=whom), self.assertRaisesRegex(ValueError, "give ADDRESS"):
                Waiting().suspend("sender", whom)

    def test_the_null_sender(self) -> None:
        world = Waiting()
        world.suspend("sender", "<>")
        mine = world.accept("isp", sender="")
        world.accept("isp")
        self.assertEqual(world.went, 1)
        self.check("sender", "<>", mine, world)

    def test_a_login(self) -> None:
        world = Waiting()
        world.suspend("login", "alice")
        mine = world.from_login("alice")
        world.from_login("bob")
        self.assertEqual(world.went, 1)
        self.check("login", "alice", mine, world)

    def test_a_domain_by_a_next_hop_and_the_others_of_the_message_go(self) -> None:
        world = Waiting()
        world.suspend("destination", "a.example")
        world.for_domains("a.example", "b.example")
        self.assertEqual(world.went, 1)
        world.wait(7300)
        self.assertEqual(world.went, 2)


class Resumed(TestCase):
    def test_what_is_being_put_off_just_then_goes_on_too(self) -> None:
        """Whoever looks in the table for what it has put off comes a moment too early."""
        world = Waiting()
        world.suspend("sender", "@example.org")
        world.table.slow = True
        world.accept("isp")
        self.assertEqual(world.went, 0)
        world.suspensions.resume("sender", "@example.org")
        for _ in range(20):
            while world.table.steps:
                world.table.step()
            world.clock.advance(0.1)
        self.assertEqual(world.went, 1)


class NoAttempts(TestCase):
    """What is put off has asked nobody: it takes no turn from mail that may go."""

    def mail(self, world: Waiting, sender: str, next_hop: str = "direct") -> int:
        world.ident += 1
        accepted = a_message(
            world.ident,
            [a_recipient("x@1.big", next_hop)],
            received_at=world.clock.seconds(),
            sender=sender,
        )
        world.table.add(accepted)
        world.dispatcher.accept(*accepted)
        return world.ident

    def test_a_rate_is_for_those_who_are_not_suspended(self) -> None:
        world = Waiting()
        world.apply("provider big mx .big.test\npace provider big rate 6/1m\n")
        world.suspend("sender", "@news.example")
        for _ in range(30):
            self.mail(world, "x@news.example")
        ann = self.mail(world, "ann@a.example")
        world.wait(30)
        self.assertIn(ann, [ident for ident, _ in world.table.ended])
        self.assertEqual(world.went, 1)
        for _ in range(3):
            self.mail(world, "ann@a.example")
        world.wait(11)
        self.assertEqual(world.went, 3, "at once, and ten seconds later")

    def test_the_question_whether_a_block_is_over_is_left_to_others(self) -> None:
        world = Waiting()
        self.mail(world, "ann@a.example", "direct,isp")
        world.sites.blocked("big", "", told(Meaning.BLOCKED))
        world.suspend("sender", "@news.example")
        world.wait(3700)
        self.mail(world, "x@news.example", "direct,isp")
        world.hops.clear()
        self.mail(world, "ann@a.example", "direct,isp")
        self.assertEqual(world.hops[-1].targets, ("1.big", ISP))
        self.assertFalse(any(site.blocks for site in world.sites.gated()))


class Kept(TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def test_a_restart_changes_nothing(self) -> None:
        world = Waiting(self.folder)
        world.suspend("provider", "big")
        world.suspend("destination", "a.example", 10.0)
        again = Waiting(self.folder)
        again.mail("1.big")
        again.mail("a.example")
        self.assertEqual(again.went, 0)
        self.assertEqual(
            [(one.kind, one.whom) for one in again.suspensions.all()],
            [("provider", "big"), ("destination", "a.example")],
        )
        again.wait(60)
        self.assertEqual(again.went, 1)
        again.suspensions.resume()
        self.assertEqual(json.loads((self.folder / "suspended").read_text()), [])

    def test_two_workers_write_the_same(self) -> None:
        one, other = (Waiting(self.folder) for _ in range(2))
        for world in (one, other):
            world.suspend("sender", "@a.example")
            world.suspend("login", "bob")
        self.assertEqual(len(json.loads((self.folder / "suspended").read_text())), 2)
        self.assertEqual([each.name for each in self.folder.iterdir()], ["suspended"])

    def test_a_file_that_is_nonsense_stops_nobody(self) -> None:
        for text in ("{", "[1]", '[{"kind": "login"}]', '{"a": 1}'):
            (self.folder / "suspended").write_text(text)
            log = Log()
            suspensions = Suspensions(self.folder, log, lambda: 0.0)
            suspensions.load()
            self.assertEqual(list(suspensions.all()), [])
            self.assertEqual(log.troubles[0][0], "suspensions not read")

    def test_a_time_that_was_written_as_a_text(self) -> None:
        (self.folder / "suspended").write_text(
            '[{"kind": "destination", "whom": "a.example", "until": "9e9"}]'
        )
        suspensions = Suspensions(self.folder, Log(), lambda: 0.0)
        suspensions.load()
        self.assertIsNotNone(suspensions.of_lane("direct a.example", None))

    def test_a_filter_finds_what_one_has_put_off(self) -> None:
        from relayd.spool.sqlite.matching import matches

        world = Waiting()
        world.suspend("login", "alice")
        mine, other = world.from_login("alice"), world.from_login("bob", "c.example")
        wanted = QueueFilter(reply=Suspension("login", "alice", 0.0).said)
        self.assertTrue(matches(wanted, world.table.messages[mine], world.table.rows[mine, 0]))
        self.assertNotIn((other, 0), world.table.rows)
