"""Where a process was when it crashed is one line of the one that comes after it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

_DIES = """\
import os, signal, sys
from pathlib import Path
from relayd.ops.lastcrash import keep_last_crash
keep_last_crash(Path(sys.argv[1]), lambda event, **facts: print(event, facts))
def innermost():
    if len(sys.argv) > 2:
        os.kill(os.getpid(), signal.SIGSEGV)
innermost()
"""


class LastCrash(unittest.TestCase):
    def run_one(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command: list[Any] = ["-c", f"ulimit -c 0; exec {sys.executable} - {' '.join(arguments)}"]
        return subprocess.run(
            ["sh", *command], input=_DIES, capture_output=True, text=True, timeout=60, check=False
        )

    def test_the_next_one_says_what_it_was_and_where_once(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "crash"))
            died = self.run_one(path, "now")
            self.assertEqual((died.returncode, died.stdout, died.stderr), (-11, "", ""))
            told = self.run_one(path)
            self.assertIn("crashed before {'what': 'Fatal Python error: Segm", told.stdout)
            self.assertRegex(told.stdout, r"'at': '<stdin>:\d+ innermost < <stdin>:\d+ <module>'")
            self.assertEqual(self.run_one(path).stdout, "")
            self.assertEqual(Path(path).stat().st_mode & 0o777, 0o600)

    def test_without_a_place_for_it_all_goes_on(self) -> None:
        self.assertIn("crashes not kept", self.run_one("/no/such/folder/crash").stdout)


if __name__ == "__main__":
    unittest.main()
