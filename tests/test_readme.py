"""README.md is read first: every example in it is a file that is run, every figure is looked up."""

from __future__ import annotations

import contextlib
import io
import re
import unittest
from pathlib import Path

from relayd.ctl import relayctl
from tests.scenarios.test_open_relay import TRICKS

CHECKOUT = Path(__file__).resolve().parents[1]
EXAMPLES = CHECKOUT / "docs" / "examples" / "readme"
_BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _cells(page: str, first: str) -> list[list[str]]:
    """The rows of the table whose head begins with this cell."""
    text = (CHECKOUT / "docs" / page).read_text("utf-8")
    rows = text.partition(f"| {first} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip(" *") for cell in row.strip("|").split("|")] for row in rows]


class Readme(unittest.TestCase):
    def setUp(self) -> None:
        self.text = (CHECKOUT / "README.md").read_text("utf-8")
        # before the picture of the inside, where blocks are something else
        self.blocks = _BLOCK.findall(self.text.partition("## Two commands")[0])

    def said(self, *arguments: str) -> str:
        """What relayctl answers, on either output."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            relayctl.main(list(arguments))
        return out.getvalue()

    def test_the_rules_are_eight_lines_that_load(self) -> None:
        rules = (EXAMPLES / "site.rules").read_text()
        self.assertEqual(self.blocks[0], rules)
        self.assertEqual(len(rules.splitlines()), 8)
        self.assertIn("is good", self.said("check", str(EXAMPLES / "relayd.conf")))

    def test_explain_answers_as_shown(self) -> None:
        command, _, answer = self.blocks[1].partition("\n")
        words = command.removeprefix("$ relayctl ").split()
        config = ("--config", str(EXAMPLES / "relayd.conf"))
        self.assertEqual(self.said(*config, *words, "--offline"), answer)

    def test_the_complaint_is_as_shown(self) -> None:
        command, _, answer = self.blocks[2].partition("\n")
        name = command.removeprefix("$ relayctl check ")
        said = self.said("check", str(EXAMPLES / name)).replace(f"{EXAMPLES}/", "")
        self.assertEqual(said, answer)
        self.assertEqual(len(self.blocks), 3)

    def test_the_figures_are_those_of_their_pages(self) -> None:
        for word in ("three times", "a third", "8,000 times", "200,000", "none lost", "50 ways"):
            self.assertIn(word, self.text)
        for job, server, _, ratio, cpu, _ in _cells("performance.md", "job"):
            if (job, server) == ("5k", "relayd-2"):
                self.assertGreaterEqual(float(ratio.split("*")[0]), 3.0)
                ours = float(cpu)
            elif (job, server) == ("5k", "postfix"):
                theirs = float(cpu)
        self.assertLess(ours, theirs / 3)
        faults = _cells("reliability.md", "fault")
        number = [int(row[1].replace(",", "")) for row in faults]
        acknowledged = [int(row[2].replace(",", "")) for row in faults]
        self.assertGreater(sum(number), 8_000)
        self.assertGreater(sum(acknowledged), 200_000)
        self.assertEqual({row[5] for row in faults}, {"0"})
        self.assertGreaterEqual(len(TRICKS), 50)
