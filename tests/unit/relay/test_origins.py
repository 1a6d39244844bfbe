"""Of fifty forwarded addresses the one that brings spam is found, and slowed alone."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.message import Record
from relayd.mail.outcome import Meaning, Outcome
from relayd.mail.reply import Reply
from relayd.relay.origins import Origins, begin_anew
from relayd.shared.counters import SharedCounters, shared_memory
from tests.support import TestCase
from tests.unit.relay.fakes import a_message, a_recipient
from tests.unit.relay.test_sites import SAID, Far

SPAM = Outcome(Reply.of(550, "5.7.1", "low reputation"), "mx1.big.test", meaning=Meaning.CONTENT)


class Forwarder(Far):
    def __init__(
        self, *, counters: SharedCounters | None = None, folder: Path | None = None
    ) -> None:
        super().__init__()
        self.dispatcher._origins = Origins(
            self.log, self.clock.seconds, lambda: 0.5, counters=counters, folder=folder
        )
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


class Workers(TestCase):
    """Each hears a part of the words, and all of them count."""

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        descriptor = shared_memory(2)
        self.addCleanup(os.close, descriptor)
        self.worlds = tuple(
            Forwarder(counters=SharedCounters(descriptor, 2, row), folder=self.folder)
            for row in range(2)
        )

    def wait(self, seconds: float) -> None:
        for world in self.worlds:
            world.clock.advance(seconds)

    def test_the_one_of_fifty_is_found_after_as_many_words_as_by_one_worker(self) -> None:
        alone = Forwarder()
        for _ in range(8):
            for number in range(50):
                alone.forward(number)
        for _ in range(4):
            for world in self.worlds:
                for number in range(50):
                    world.forward(number)
        self.assertEqual(alone.ended["club7"], 5)
        self.assertEqual(sum(world.ended["club7"] for world in self.worlds), 5)
        for world in self.worlds:
            self.assertEqual(world.log.notices, ["origin slowed"])
            ended = world.ended
            del ended["club7"]
            self.assertEqual(set(ended.values()), {4})
            self.assertEqual(list(world.sites.gated()), [])

    def test_a_worker_that_has_heard_nothing_slows_it_too(self) -> None:
        one, other = self.worlds
        for _ in range(6):
            one.forward(7)
        self.assertEqual(one.ended["club7"], 5)
        for _ in range(3):
            other.forward(7)
            other.forward(8)
        self.assertEqual(other.ended, {"club8": 3})

    def test_what_another_one_delivers_well_counts_for_it(self) -> None:
        one, other = self.worlds
        one.forward(7)
        other.spam = lambda record: False  # type: ignore[method-assign]
        for _ in range(50):
            other.forward(7)
        for _ in range(9):
            one.forward(7)
        self.assertEqual((one.ended["club7"], one.log.notices), (10, []))

    def test_a_worker_that_begins_later_knows_who_is_slowed(self) -> None:
        one, other = self.worlds
        for _ in range(6):
            one.forward(7)
        origins = other.dispatcher._origins
        later = Forwarder(counters=origins._counters, folder=self.folder)
        later.forward(7)
        self.assertEqual(later.ended, {})

    def test_when_it_is_clean_it_goes_freely_again_at_both(self) -> None:
        for world in self.worlds:
            for _ in range(20):
                world.forward(7)
        for world in self.worlds:
            world.spam = lambda record: False  # type: ignore[method-assign]
        for _ in range(3600):
            self.wait(5)
        self.assertEqual([world.table.rows for world in self.worlds], [{}, {}])

    def test_it_begins_anew_with_a_restart(self) -> None:
        one, _ = self.worlds
        for _ in range(6):
            one.forward(7)
        begin_anew(self.folder)
        descriptor = shared_memory(2)
        self.addCleanup(os.close, descriptor)
        again = Forwarder(counters=SharedCounters(descriptor, 2, 0), folder=self.folder)
        for _ in range(6):
            again.forward(7)
        self.assertEqual(again.ended["club7"], 5)

    def test_a_disk_in_trouble_leaves_each_its_own_count(self) -> None:
        nowhere = self.folder / "nowhere"
        world = Forwarder(counters=self.worlds[0].dispatcher._origins._counters, folder=nowhere)
        for _ in range(6):
            world.forward(7)
        self.assertEqual(world.ended["club7"], 5)


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
