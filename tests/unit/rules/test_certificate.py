"""The condition `certificate`: known clients without an authority."""

from __future__ import annotations

import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd import config
from tests.unit.rules.sample import outcome

WHOLE, KEY, OTHER = "a1" * 32, "b2" * 32, "c3" * 32
RELAYED, DENIED = "x@y.example direct", "reject 550 5.7.1"


class CertificateTests(unittest.TestCase):
    def check(self, rules: str, expected: dict[str, str], **files: str) -> None:
        with TemporaryDirectory() as folder:
            for name, text in files.items():
                (Path(folder) / name).write_text(text)
            site = config.load_text(rules, Path(folder))
        for certificate, verdict in expected.items():
            with self.subTest(certificate):
                found = outcome(site.ruleset, "x@y.example", certificate=certificate)
                self.assertEqual(found, verdict)
        self.assertTrue(site.ruleset.wants_certificate)

    def test_by_either_fingerprint(self) -> None:
        colons = ":".join(KEY[at : at + 2].upper() for at in range(0, 64, 2))
        self.check(
            f'accept certificate {WHOLE}\naccept certificate "{colons}"\n',
            {f"{WHOLE} {OTHER}": RELAYED, f"{OTHER} {KEY}": RELAYED, f"{OTHER} {OTHER}": DENIED}
            | {"": DENIED},
        )

    def test_by_table(self) -> None:
        self.check(
            "table known file known\naccept certificate <known>\n",
            {f"{WHOLE} {OTHER}": RELAYED, f"{OTHER} {KEY}": RELAYED, f"{OTHER} {OTHER}": DENIED}
            | {"": DENIED},
            known=f"# backup server\n{WHOLE.upper()}\n{KEY}\n",
        )

    def test_any_and_none(self) -> None:
        self.check(
            "accept from 10.0.0.0/8\naccept any when certificate any\n",
            {f"{WHOLE} {KEY}": RELAYED, "": DENIED},
        )

    def test_not_asked_for_where_no_rule_looks(self) -> None:
        site = config.load_text("accept any\n", Path("/nowhere"))
        self.assertFalse(site.ruleset.wants_certificate)
