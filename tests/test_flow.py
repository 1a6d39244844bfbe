"""docs/flow.md names every file that a message visits: one is sent, and looked after."""

from __future__ import annotations

import re
import subprocess
import sys
import unittest
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PATIENCE = 120.0  # seconds; it takes three


class Flow(unittest.TestCase):
    def test_each_file_that_a_message_visits_is_named(self) -> None:
        """With the whole of relayd in a process of its own, as tests/bench/way.py has it."""
        told = subprocess.run(
            [sys.executable, "-m", "tests.bench.way", "--files", "--recipients", "2"],
            cwd=CHECKOUT,
            capture_output=True,
            check=True,
            text=True,
            timeout=PATIENCE,
        ).stdout
        visited = set(re.findall(r"^ *[0-9]+ (\S+\.py)$", told, re.MULTILINE))
        self.assertIn("smtp/server.py", visited)
        named = set(re.findall(r"`([\w/]+\.py)`", (CHECKOUT / "docs/flow.md").read_text("utf-8")))
        self.assertEqual(sorted(visited - named), [])
