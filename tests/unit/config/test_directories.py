"""Tables from directories: what a statement makes, and a start without what they held."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from relayd import config
from relayd.rules.tables.snapshot import SnapshotHead, SnapshotTable, write

STATEMENTS = """\
table people postgresql "service=mail" query "SELECT alias, target FROM forwards" refresh 30s
table domains mysql "service=mail" query "SELECT name FROM domains" refresh 60s
table staff ldap ldaps://ldap.example.com base "ou=people,dc=example,dc=com" \
filter "(objectClass=inetOrgPerson)" key mail value mailForwardingAddress refresh 300s
table panel http https://panel.example.com/forwards.json secret file panel.token refresh 60s \
stale 86400s shrink 80% strict
table local sqlite file mail.db query "SELECT a, b FROM f" refresh 60s
"""
RULES = """\
accept to <domains>
forward <people>
next-hop sink smtp 127.0.0.1:9
route any via sink
expect to info@example.com -> ann@example.net
"""


class DirectoriesTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def load(self, text: str) -> config.Settings:
        path = self.folder / "relayd.conf"
        path.write_text(f"hostname gw.example.com\nspool {self.folder}/spool\n{text}")
        return config.load(path)

    def test_each_statement_reads_as_it_is_written(self) -> None:
        items = self.load(STATEMENTS + "accept to <domains>\n").ruleset.items
        self.assertEqual("".join(f"{each}\n" for each in items[:5]), STATEMENTS)

    def test_one_that_was_never_read_refuses_no_start_whatever_is_expected(self) -> None:
        table = self.load(STATEMENTS + RULES).ruleset.tables["people"]
        assert isinstance(table, SnapshotTable)
        self.assertFalse(table.known)

    def test_what_was_passed_over_is_a_warning(self) -> None:
        folder = self.folder / "spool" / "tables"
        folder.mkdir(parents=True)
        write(folder / "people", "people", ["a@@b x@example.net"], SnapshotHead("", 2, 0, 0.0, ""))
        warnings = self.load(STATEMENTS + "accept to <domains>\n").warnings
        self.assertIn('table people, entry "a@@b" is passed over', "\n".join(map(str, warnings)))
