"""Who is new, who comes back, and for how long anybody is known."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from relayd.shared.firstsights import KNOWN, RETRIED, FirstSights

NOW = 1_800_000_000.0
FIVE = 300.0


class FirstSightsTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.sights = self.opened()

    def opened(self) -> FirstSights:
        sights = FirstSights(self.folder, sights=1000, clients=100)
        self.addCleanup(sights.close)
        return sights

    def new(self, later: float, client: str = "192.0.2.0/24", errand: str = "<a> <b>") -> bool:
        seems = self.sights.seems_new(client, errand, NOW + later, FIVE)
        new = self.sights.new(client, errand, NOW + later, FIVE)
        self.assertEqual(new, seems)
        return new

    def test_who_comes_back_in_time_passes_and_no_earlier(self) -> None:
        self.assertEqual([self.new(each) for each in (0, 1, 299)], [True, True, True])
        self.assertFalse(self.new(300))

    def test_who_came_back_is_known_whatever_he_sends(self) -> None:
        self.new(0)
        self.new(301)
        self.assertFalse(self.new(302, errand="<c> <d>"))
        self.assertTrue(self.new(302, "198.51.100.0/24", "<c> <d>"))

    def test_who_came_back_to_somebody_else_is_known_here_too(self) -> None:
        self.assertFalse(self.sights.knows("192.0.2.0/24", NOW))
        self.sights.know("192.0.2.0/24", NOW)
        self.assertTrue(self.sights.knows("192.0.2.0/24", NOW + 1))
        self.assertFalse(self.new(2))

    def test_who_comes_back_too_late_is_new_again(self) -> None:
        self.new(0)
        self.assertTrue(self.new(RETRIED + 1))
        self.assertFalse(self.new(RETRIED + 302))

    def test_who_is_not_heard_of_for_long_is_forgotten(self) -> None:
        self.new(0)
        self.new(400)
        self.assertFalse(self.new(KNOWN - 1000, errand="<c> <d>"))
        self.assertFalse(self.new(2 * KNOWN - 2000, errand="<e> <f>"))  # he was heard of
        self.assertTrue(self.new(3 * KNOWN, errand="<g> <h>"))

    def test_it_is_remembered_over_restarts_and_by_all_workers(self) -> None:
        self.new(0)
        self.sights = self.opened()
        self.assertFalse(self.new(301))
        self.sights = self.opened()
        self.assertFalse(self.new(302, errand="<c> <d>"))

    def test_a_question_notes_nobody(self) -> None:
        for later in (0.0, 400.0):
            self.assertTrue(self.sights.seems_new("x", "<a> <b>", NOW + later, FIVE))

    def test_a_flood_of_errands_forgets_no_client(self) -> None:
        self.new(0)
        self.new(301)
        for number in range(5000):
            self.sights.new("203.0.113.0/24", f"<{number}> <b>", NOW + 400, FIVE)
        self.assertFalse(self.new(500, errand="<c> <d>"))
