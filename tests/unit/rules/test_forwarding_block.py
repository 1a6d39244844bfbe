"""One set of rules for forwards that others trust, as an operator would write it, unchanged."""

from __future__ import annotations

import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd import config
from relayd.authentication.dkimsigning import new_private_key
from tests.unit.rules.test_grammar import parse

SITE = """\
hostname  gw.example.com
include   rules.d/*.rules
"""
BESIDE = """\
accept    to info@example.com, bob@example.com
accept    login any
forward   info@example.com -> alice@gmail.example
"""
BLOCK = """\
# /etc/relayd/rules.d/30-trust.rules
dkim      gateway   domain gw.example.com selector s2026r key file dkim/s2026r.pem, selector s2026e key file dkim/s2026e.pem
dkim      example   domain example.com    selector s2026 key file dkim/example.pem
sign      sender @example.com with example                        when login any
sign      any with gateway                                        when forwarded
srs       domain gw.example.com keys file srs.keys

reject    when breaks dmarc and spf fail                          550 5.7.1 "It would be refused where it is forwarded to"
rewrite   header From any -> srs                                  when breaks dmarc

route     any direct cut-through 20s                              when forwarded
route     any direct

expect    to info@example.com when dkim pass -> alice@gmail.example direct sender srs
"""


class Whole(unittest.TestCase):
    def load(self, block: str = BLOCK) -> config.Settings:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        site = Path(folder.name) / "relayd.conf"
        rules = site.parent / "rules.d"
        (rules / "dkim").mkdir(parents=True)
        site.write_text(SITE)
        (rules / "10-site.rules").write_text(BESIDE)
        (rules / "30-trust.rules").write_text(block)
        secrets = {
            "srs.keys": b"secret\n",
            "dkim/s2026r.pem": new_private_key(ed25519=False),
            "dkim/s2026e.pem": new_private_key(ed25519=True),
            "dkim/example.pem": new_private_key(ed25519=True),
        }
        for name, octets in secrets.items():
            (rules / name).touch(mode=0o600)
            (rules / name).write_bytes(octets)
        return config.load(site)

    def test_forwarding_block(self) -> None:
        settings = self.load()
        self.assertEqual(settings.warnings, ())
        self.assertEqual(len(settings.ruleset.expects), 1)
        self.assertEqual(sorted(settings.signing), ["example", "gateway"])
        self.assertTrue(settings.ruleset.foretells)

    def test_each_statement_prints_and_reads_as_itself(self) -> None:
        for item in parse(BLOCK):
            self.assertEqual(parse(str(item)), [item])

    def test_what_it_says_is_told_by_more_tests(self) -> None:
        self.load(
            BLOCK
            + "expect to info@example.com when breaks dmarc and spf fail -> reject 550 5.7.1\n"
            "expect to info@example.com when breaks dmarc -> alice@gmail.example sender srs\n"
            "expect to bob@example.com when breaks dmarc and spf fail -> bob@example.com direct\n"
        )
