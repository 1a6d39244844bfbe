"""Limits as `limits` and `status` tell of them, over counts on disk."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from relayd.config import load_text
from relayd.intake.counting import FOLDER, Limits
from relayd.ops.answers import ForgottenAnswer, LimitsAnswer, ReachedLimitAnswer
from relayd.ops.limitsdesk import NAMED, LimitsDesk
from tests.support import TestCase
from tests.unit.ops.journal import Journal
from tests.unit.ops.test_answers import wrong

RULES = """
hostname gw.example
limit few 2/1h per sender
limit many 50/1h per login
reject over few
reject over many
accept any
"""


class Desk(TestCase):
    def setUp(self) -> None:
        place = TemporaryDirectory()
        self.addCleanup(place.cleanup)
        folder = Path(place.name)
        settings = load_text(RULES, folder)
        self.few = settings.ruleset.limits["few"]
        self.limits = Limits(folder / FOLDER, lambda: 1e9)
        log: Any = Journal()
        self.desk = LimitsDesk(self.limits, lambda: settings, log)

    def told(self, **request: str) -> dict[str, Any]:
        kind = ForgottenAnswer if "forget" in request else LimitsAnswer
        answer = self.desk.answer(request, "uid=0")
        self.assertEqual(list(wrong(answer, kind)), [])
        return answer

    def reached(self) -> list[dict[str, Any]]:
        found = self.desk.reached()
        self.assertEqual(list(wrong(found, list[ReachedLimitAnswer])), [])
        return found

    def test_status_names_what_is_reached_and_the_first_who_did(self) -> None:
        self.assertEqual(self.reached(), [])
        for number in range(NAMED + 2):
            for _ in range(2):
                self.limits.take(self.few, f"s{number}@a.example")
        self.limits.take(self.few, "once@a.example")
        (found,) = self.reached()
        self.assertEqual((found["name"], found["most"], found["over"]), ("few", 2, NAMED + 2))
        self.assertEqual(found["keys"], [f"s{number}@a.example" for number in range(NAMED)])

    def test_limits_and_forget_are_typed(self) -> None:
        for _ in range(2):
            self.limits.take(self.few, "ann@a.example")
        few, many = self.told()["limits"]
        self.assertEqual(few["near"], [{"key": "ann@a.example", "count": 2, "over": True}])
        self.assertEqual(many["near"], [])
        self.assertEqual(self.told(name="few", forget="ann@a.example")["forgotten"], ["few"])
        self.assertEqual(self.reached(), [])
