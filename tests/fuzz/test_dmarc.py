"""DMARC says what libopendmarc, mailauth and authheaders say, but where RFC 9989 says otherwise."""

from __future__ import annotations

import os
import random
import time
import unittest
from collections import Counter
from email import message_from_bytes
from email.policy import default

from relayd.intake.vouching import author_domains
from tests.fuzz.dmarc.beside import ORACLES, RULES, differences
from tests.scenarios.harness import missing_peers

CASES = 2000  # `python -m tests.fuzz.dmarc.beside 20000` takes more
FROMS = 3000
NAMES = ("ann@a.example", "Bob <bob@B.example>", '"Carl, x@no.example" <carl@c.example>',
         "dora@d.example (of x@no.example)", '"e@no.example"@e.example', "<f@f.example>",
         "Greta <g@xn--bcher-kva.example>",
         "=?utf-8?q?H=40no=2Eexample?= <h@h.example>")  # fmt: skip


def _seed() -> int:
    return int(time.time()) if os.environ.get("RELAYD_RANDOM") else 1


class Beside(unittest.TestCase):
    def test_no_difference_is_unexplained(self) -> None:
        missing = missing_peers(("opendmarc", "authheaders", "mailauth"))
        if missing:
            self.skipTest(missing)
        explained: Counter[str] = Counter()
        seed = _seed()
        self.assertEqual(list(differences(CASES, seed, explained)), [], f"seed {seed}")
        for oracle in ORACLES:
            same = explained[f"{oracle.name}: the same"]
            self.assertGreater(same, CASES * 3 // 4, oracle.name)
        for rule in RULES:  # each is one that cases of these tell apart
            self.assertTrue(any(rule in words for words in explained), rule)

    def test_authors_are_those_that_the_standard_library_finds(self) -> None:
        chance = random.Random(_seed())
        for number in range(FROMS):
            parts = [chance.choice(NAMES) for _ in range(chance.choice((1, 1, 2, 3)))]
            text = chance.choice((", ", ",\r\n ", " ,")).join(parts)
            if chance.random() < 0.3:
                text = chance.choice(("Some", '"A, b"')) + f": {text};"
                if chance.random() < 0.5:
                    text += f", {chance.choice(NAMES)}"
            header = message_from_bytes(f"From: {text}\r\n\r\n".encode(), policy=default)["From"]
            wanted = dict.fromkeys(each.domain.lower() for each in header.addresses)
            self.assertEqual(author_domains([text.encode()]), tuple(wanted), (number, text))
