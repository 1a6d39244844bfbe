"""SPF and DKIM say what pyspf and dkimpy say, over cases made anew in each run of CI."""

from __future__ import annotations

import time
import unittest

from tests.fuzz.authentication import differences

CASES = 300  # `python -m tests.fuzz.authentication` takes 10,000


class Beside(unittest.TestCase):
    def test_no_difference_is_unexplained(self) -> None:
        seed = int(time.time())
        self.assertEqual(list(differences(CASES, seed)), [], f"seed {seed}")
