"""Trouble is told once a minute, by one worker for all."""

from __future__ import annotations

import tempfile
from pathlib import Path

from relayd.intake.filterdesk import FilterDesk
from relayd.intake.gatheredfacts import Gatherer
from relayd.rules.ruleset import build
from relayd.shared.seldom import Seldom
from tests.support import TestCase
from tests.unit.intake.scene import HOST, FakeLog, Scene
from tests.unit.intake.test_lookups import Zone
from tests.unit.rules.test_grammar import parse

RULES = "milter m unix:/m\nask m\naccept to @example.com\n"


class SeldomCase(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "told"
        self.now = 1_800_000_000.0

    def seldom(self) -> Seldom:
        return Seldom(lambda: self.now, self.path)


class SeldomTests(SeldomCase):
    def test_one_of_all_workers_tells_and_counts_what_the_others_had(self) -> None:
        workers = [self.seldom() for _ in range(4)]
        self.assertEqual([each.times("x") for each in workers], [1, 0, 0, 0])
        self.now += 59
        self.assertEqual([each.times("x") for each in workers], [0, 0, 0, 0])
        self.now += 1
        self.assertEqual([each.times("x") for each in workers], [8, 0, 0, 0])

    def test_each_thing_is_told_by_itself(self) -> None:
        seldom = self.seldom()
        self.assertEqual([seldom.times(each) for each in "xyx"], [1, 1, 0])

    def test_it_is_not_told_again_because_a_worker_came_back(self) -> None:
        self.seldom().times("x")
        self.assertEqual(self.seldom().times("x"), 0)

    def test_a_clock_that_was_set_back_silences_nobody(self) -> None:
        seldom = self.seldom()
        seldom.times("x")
        self.now -= 86400
        self.assertEqual(seldom.times("x"), 1)

    def test_where_the_file_cannot_be_written_each_tells_for_itself(self) -> None:
        self.path = self.path / "no such folder" / "told"
        workers = [self.seldom(), self.seldom()]
        self.assertEqual([each.times("x") for each in workers], [1, 1])
        self.assertEqual([each.times("x") for each in workers], [0, 0])

    def test_it_does_not_grow_by_what_happens(self) -> None:
        shared, own = self.seldom(), Seldom(lambda: self.now)
        for number in range(5000):
            shared.times(f"x{number}")
            own.times(f"x{number}")
        self.assertLess(self.path.stat().st_size, 1 << 20)
        self.assertLess(len(own._own), 2000)

    def test_nothing_is_opened_before_something_has_happened(self) -> None:
        self.seldom()
        self.assertFalse(self.path.exists())


class WorkersTests(SeldomCase):
    def test_a_filters_trouble_is_one_line_for_all_workers_and_a_number_in_each(self) -> None:
        ruleset, log, scene = build(parse(RULES), {}, HOST), FakeLog(), Scene()
        desks = [
            FilterDesk(scene.clock, log, HOST, lambda: self.now, self.seldom()) for _ in range(2)
        ]
        for desk in desks * 50:
            ((_, asked),) = desk.order(ruleset)
            desk.troubled(asked, "no connection")
        self.assertEqual(len(log.of("trouble")), 1)
        self.assertEqual([desk.view()[0]["trouble"] for desk in desks], [50, 50])
        self.now += 60
        desks[1].troubled(desks[1].order(ruleset)[0][1], "no connection")
        self.assertIn("'times': 100", log.of("trouble")[1])

    def test_a_lists_trouble_is_one_line_for_all_workers(self) -> None:
        log, scene = FakeLog(), Scene()
        for _ in range(2):
            gatherer = Gatherer(
                scene.clock, Zone({}), log, HOST, lambda: self.now, seldom=self.seldom()
            )
            gatherer._trouble("zen", "no answer")
        self.assertEqual(len(log.of("trouble")), 1)
