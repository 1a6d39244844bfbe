"""What the whole suite is, what a run may leave to another, what it may try again."""

from __future__ import annotations

import re
import unittest
from pathlib import Path

from tests.runner import AGAIN, LONGEST, failed_by_clocks, suites

CI = Path(__file__).resolve().parents[1] / ".ci" / "run"


class SuitesTest(unittest.TestCase):
    def test_every_module_is_in_it_once(self) -> None:
        quick, scenarios = suites()
        there = {path.stem for path in Path(__file__).parent.glob("scenarios/test_*.py")}
        self.assertEqual(sorted(scenarios), sorted(f"tests.scenarios.{name}" for name in there))
        self.assertIn("tests.unit", quick)
        self.assertIn("tests.test_runner", quick)

    def test_the_longest_begin(self) -> None:
        first = [f"tests.scenarios.{name}" for name in LONGEST]
        self.assertEqual(suites()[1][: len(first)], first)

    def test_what_is_left_to_another_run_is_not_begun_and_all_else_is(self) -> None:
        (quick, most), (same, scenarios) = suites(["test_browser"]), suites()
        self.assertEqual(quick, same)
        self.assertEqual({*scenarios} - {*most}, {"tests.scenarios.test_browser"})

    def test_a_module_that_is_not_there_is_told(self) -> None:
        with self.assertRaisesRegex(ValueError, "test_browsers"):
            suites(["test_browser", "test_browsers"])


class LeftTest(unittest.TestCase):
    """`.ci/run` says of what it leaves out once that there is more of it everywhere."""

    def test_one_stack_runs_all_and_of_each_kind_all_run_something(self) -> None:
        text = CI.read_text("utf-8")
        left = set(",".join(re.findall(r"(?m)^once\w*\+?=,?(\S+)$", text)).split(","))
        lines = [
            line for line in text.replace("\\\n", "").splitlines() if line.startswith("suite ")
        ]
        self.assertEqual(
            ["--without" in line for line in lines if "faults" not in line], [False, True, True]
        )
        rest = suites(left)[1]
        for name in ("test_console", "test_providers", "test_import_debian"):
            self.assertIn(f"tests.scenarios.{name}", rest)


_SAID = "Traceback (most recent call last):\n=====\n-- more --\nbuiltins.ValueError: no"


def _trial(*blocks: tuple[str, ...]) -> str:
    """As trial reports them: what went wrong, then each test that went wrong by it."""
    shown = "".join(
        f"{'=' * 79}\n[{kind}]\n{_SAID}\n\n{chr(10).join(names)}\n" for kind, *names in blocks
    )
    return f"....\n{shown}{'-' * 79}\nRan 9 tests in 1.000s\n\nFAILED (errors=1, successes=8)\n"


class AgainTest(unittest.TestCase):
    """What may be tried again, alone: what failed beside others, and knows a clock."""

    def test_each_once(self) -> None:
        one, two = "tests.scenarios.test_a.B.test_c", "tests.faults.test_d.E.test_f"
        three = "tests.unit.relay.test_a.B.test_c"
        text = _trial(("FAIL", one), ("ERROR", two, one), ("ERROR", three))
        self.assertEqual(failed_by_clocks(text), [one, two, three])

    def test_nothing_where_another_test_failed(self) -> None:
        for other in ("tests.fuzz.test_a.B.test_c", "tests.test_a.B.test_c", "no test"):
            text = _trial(("FAIL", "tests.scenarios.test_a.B.test_c"), ("ERROR", other))
            self.assertEqual(failed_by_clocks(text), [], other)

    def test_nothing_where_many_failed(self) -> None:
        names = [f"tests.scenarios.test_a.B.test_{number}" for number in range(AGAIN + 1)]
        self.assertEqual(failed_by_clocks(_trial(("FAIL", *names[:AGAIN]))), names[:AGAIN])
        self.assertEqual(failed_by_clocks(_trial(("FAIL", *names))), [])

    def test_nothing_where_trial_did_not_come_to_its_end(self) -> None:
        self.assertEqual(failed_by_clocks("Traceback (most recent call last):\n"), [])
