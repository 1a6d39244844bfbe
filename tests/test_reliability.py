"""docs/reliability.md names tests as its proof: each of them is there."""

from __future__ import annotations

import re
import unittest
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
DOCUMENT = CHECKOUT / "docs" / "reliability.md"

_PROOF = re.compile(r"`(tests/[\w./-]+\.py)`((?: test_\w+,?)*)")


class Proofs(unittest.TestCase):
    def test_every_test_named_is_there(self) -> None:
        missing = []
        found = 0
        for name, tests in _PROOF.findall(DOCUMENT.read_text("utf-8")):
            text = (CHECKOUT / name).read_text("utf-8")
            for test in re.findall(r"test_\w+", tests):
                found += 1
                if f"def {test}(" not in text:
                    missing.append(f"{name}: {test}")
        self.assertEqual(missing, [])
        self.assertGreater(found, 30)
