"""SPF and DKIM say what pyspf and dkimpy say, over the same cases in each run."""

from __future__ import annotations

import os
import time
import unittest

from tests.fuzz.authentication import differences

CASES = 300  # `python -m tests.fuzz.authentication` takes 10,000


class Beside(unittest.TestCase):
    def test_no_difference_is_unexplained(self) -> None:
        seed = int(time.time()) if os.environ.get("RELAYD_RANDOM") else 1
        self.assertEqual(list(differences(CASES, seed)), [], f"seed {seed}")
