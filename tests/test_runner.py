"""What may be tried again, alone: a scenario that failed beside others, and nothing else."""

from __future__ import annotations

from tests.runner import AGAIN, failed_by_clocks
from tests.support import TestCase

_SAID = "Traceback (most recent call last):\n=====\n-- more --\nbuiltins.ValueError: no"


def _trial(*blocks: tuple[str, ...]) -> str:
    """As trial reports them: what went wrong, then each test that went wrong by it."""
    shown = "".join(
        f"{'=' * 79}\n[{kind}]\n{_SAID}\n\n{chr(10).join(names)}\n" for kind, *names in blocks
    )
    return f"....\n{shown}{'-' * 79}\nRan 9 tests in 1.000s\n\nFAILED (errors=1, successes=8)\n"


class Again(TestCase):
    def test_each_scenario_once(self) -> None:
        one, two = "tests.scenarios.test_a.B.test_c", "tests.faults.test_d.E.test_f"
        text = _trial(("FAIL", one), ("ERROR", two, one))
        self.assertEqual(failed_by_clocks(text), [one, two])

    def test_nothing_where_another_test_failed(self) -> None:
        for other in ("tests.unit.test_a.B.test_c", "tests.test_growth.B.test_c", "no test"):
            text = _trial(("FAIL", "tests.scenarios.test_a.B.test_c"), ("ERROR", other))
            self.assertEqual(failed_by_clocks(text), [], other)

    def test_nothing_where_many_failed(self) -> None:
        names = [f"tests.scenarios.test_a.B.test_{number}" for number in range(AGAIN + 1)]
        self.assertEqual(failed_by_clocks(_trial(("FAIL", *names[:AGAIN]))), names[:AGAIN])
        self.assertEqual(failed_by_clocks(_trial(("FAIL", *names))), [])

    def test_nothing_where_trial_did_not_come_to_its_end(self) -> None:
        self.assertEqual(failed_by_clocks("Traceback (most recent call last):\n"), [])
