"""Of fifty forwarded addresses the one that brings spam is found, and slowed alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.message import Record
from relayd.mail.outcome import Meaning, Outcome
from relayd.mail.reply import Reply
from tests.support import TestCase
from tests.unit.relay.fakes import a_message, a_recipient
from tests.unit.relay.test_sites import SAID, Far

SPAM = Outcome(Reply.of(550, "5.7.1", "low reputation"), "mx1.big.test", meaning=Meaning.CONTENT)


class Forwarder(Far):
    def __init__(self) -> None:
        super().__init__()
        self.courier.reply = lambda record: SPAM if self.spam(record) else SAID

    def spam(self, record: Record) -> bool:
        return record.recipient.original.local == "club7"

    def forward(self, number: int, login: str = "") -> int:
        self.ident += 1
        recipient = replace(
            a_recipient(f"user{number}@{number}.big", "direct"),
            original=Mailbox(f"club{number}", "ours.example"),
        )
        message, records = a_message(self.ident, [recipient], received_at=self.clock.seconds())
        message = replace(message, client=Client("192.0.2.1", login=login))
        self.table.add((message, records))
        self.dispatcher.accept(message, records)
        return self.ident

    @property
    def ended(self) -> Counter[str]:
        """By the address that was forwarded; not the reports."""
        locals_ = (each.record.recipient.original.local for each in self.table.ended.values())
        return Counter(local for local in locals_ if local.startswith("club"))


class Blamed(TestCase):
    def test_of_fifty_the_one_is_found_and_slowed_alone(self) -> None:
        world = Forwarder()
        for _ in range(40):
            for number in range(50):
                world.forward(number)
            world.clock.advance(1)
        first, *others = world.dispatcher.origins()
        self.assertEqual(first["origin"], "forward club7@ours.example")
        self.assertEqual((others, world.log.notices), ([], ["origin slowed"]))
        ended = world.ended
        self.assertEqual(ended.pop("club7") < 12, True)
        self.assertEqual(set(ended.values()), {40})
        self.assertEqual(list(world.sites.gated()), [])
        waiting = list(world.table.rows.values())
        self.assertEqual({record.attempts for record in waiting}, {0})
        said = str(waiting[-1].last and waiting[-1].last.reply)
        self.assertIn("Slowed (forward club7@ours.example)", said)

    def test_what_waits_goes_by_and_by_and_faster_when_it_is_clean(self) -> None:
        world = Forwarder()
        for _ in range(20):
            world.forward(7)
            world.clock.advance(1)
        self.assertGreater(len(world.table.rows), 5)
        world.spam = lambda record: False  # type: ignore[method-assign]
        world.wait(3600 * 3, step=5)
        self.assertEqual(world.table.rows, {})
        self.assertEqual(world.ended, {"club7": 20})

    def test_a_login_is_an_origin_before_the_address_is(self) -> None:
        world = Forwarder()
        for _ in range(10):
            world.forward(7, login="bob")
        self.assertEqual([each["origin"] for each in world.dispatcher.origins()], ["login bob"])

    def test_a_few_among_many_are_nothing(self) -> None:
        world = Forwarder()
        count = 0

        def spam(record: Record) -> bool:
            nonlocal count
            count += 1
            return count % 10 == 0

        world.spam = spam  # type: ignore[method-assign]
        for _ in range(200):
            world.forward(3)
        self.assertEqual(world.log.notices, [])
        (found,) = world.dispatcher.origins()
        self.assertLess(float(str(found["share"])), 0.15)

    def test_nothing_is_counted_where_nobody_complains(self) -> None:
        world = Forwarder()
        for _ in range(100):
            world.forward(3)
        self.assertEqual(world.dispatcher._origins._known, {})
