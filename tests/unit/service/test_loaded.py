"""What nobody configured costs nothing: what a start of relayd loads, counted and not timed."""

from __future__ import annotations

import json
import subprocess
import sys
import unittest

LOADING = """\
import dataclasses, json, sys

written = []
make = dataclasses.make_dataclass
dataclasses.make_dataclass = lambda *a, **k: written.append(a[0]) or make(*a, **k)
import relayd.service.{program}

print(json.dumps([sorted(sys.modules), written]))
"""
WHERE_CONFIGURED = (
    *("relayd.web", "relayd.migrate", "relayd.verification", "relayd.demo", "relayd.sendmail"),
    *("relayd.spool.postgresql", "relayd.directories.ldap", "relayd.directories.mysql"),
    *("psycopg", "pymysql", "ldap3", "dkim", "hypothesis", "argparse", "tests"),
)
MODULES = 460  # of ours: more than that are not loaded; 446 today
VALUES = 60  # whose methods are written as it starts, of three hundred; 20 to 30 today


class Loaded(unittest.TestCase):
    def loaded(self, program: str) -> tuple[list[str], list[str]]:
        """All modules, and the values of which one was made."""
        words = [sys.executable, "-c", LOADING.format(program=program)]
        done = subprocess.run(words, capture_output=True, check=True, timeout=120)
        modules, written = json.loads(done.stdout)
        return modules, written

    def test_a_start_loads_nothing_for_what_nobody_configured(self) -> None:
        for program in ("app", "worker"):
            modules, _ = self.loaded(program)
            packages = {".".join(each.split(".")[:n]) for each in modules for n in (1, 2, 3)}
            self.assertEqual(packages & {*WHERE_CONFIGURED}, set(), program)

    def test_a_start_loads_no_more_of_ours_than_it_did(self) -> None:
        for program in ("app", "worker"):
            modules, written = self.loaded(program)
            ours = [each for each in modules if each.startswith("relayd.")]
            self.assertLess(len(ours), MODULES, (program, ours))
            self.assertLess(len(written), VALUES, (program, written))
