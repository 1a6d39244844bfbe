"""A pager where there is a terminal, and a sign of life for what takes long."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import time
import unittest
from typing import Any
from unittest.mock import patch

from relayd.ctl import pager
from relayd.ctl.pager import StillWorking, paged, pager_of
from tests.unit.ctl.test_terminal import Terminal


class Pagers(unittest.TestCase):
    def test_it_is_what_pager_says(self) -> None:
        for said, expected in (
            (None, ["less"]),
            ("less -S", ["less", "-S"]),
            ("more", ["more"]),
            ("cat", []),
            ("", []),
            ("'unbalanced", []),
        ):
            environment = {} if said is None else {"PAGER": said}
            self.assertEqual(pager_of(environment), expected, said)

    def printed(self, command: str, *, wanted: bool = True, tty: bool = True) -> str:
        """What is seen of two lines on a terminal."""
        master, slave = pty.openpty()
        terminal = Terminal() if tty else io.StringIO()
        with (
            os.fdopen(slave, "w") as out,
            patch.object(sys, "stdout", out if tty else terminal),
            patch.object(sys, "stdin", Terminal()),
            patch.dict(os.environ, {"PAGER": command}),
            patch.object(subprocess, "Popen", self.opened(out)),
        ):
            with paged(wanted=wanted):
                print("one")
                print("two")
            sys.stdout.flush()
            seen = "" if tty else terminal.getvalue()
            while "two" not in seen:
                seen += os.read(master, 1000).decode()
        os.close(master)
        return seen.replace("\r\n", "\n")

    def opened(self, out: object) -> object:
        real: Any = subprocess.Popen
        return lambda *words, **more: real(*words, **more, stdout=out)

    def test_on_a_terminal_all_goes_through_it(self) -> None:
        self.assertEqual(self.printed("sed s/^/seen:/"), "seen:one\nseen:two\n")

    def test_not_in_a_pipe_nor_where_nobody_wants_it_nor_where_there_is_none(self) -> None:
        self.assertEqual(self.printed("sed s/^/seen:/", tty=False), "one\ntwo\n")
        self.assertEqual(self.printed("sed s/^/seen:/", wanted=False), "one\ntwo\n")
        self.assertEqual(self.printed("/no/such/pager"), "one\ntwo\n")

    def test_who_has_seen_enough_ends_it(self) -> None:
        with (
            patch.object(sys, "stdout", Terminal()),
            patch.object(sys, "stdin", Terminal()),
            patch.dict(os.environ, {"PAGER": "true"}),
            paged(wanted=True),
        ):
            for _ in range(100_000):
                print("a line that nobody reads")


class Signs(unittest.TestCase):
    def told(self, stderr: io.StringIO, seconds: float) -> str:
        with (
            patch.object(sys, "stderr", stderr),
            patch.object(pager, "SILENT", 0.02),
            patch.object(pager, "_TURN", 0.01),
            StillWorking("audit") as progress,
        ):
            progress.count = 12_000
            until = time.monotonic() + 60
            while seconds and not stderr.getvalue() and time.monotonic() < until:
                time.sleep(0.01)
        return stderr.getvalue()

    def test_what_takes_long_says_so_on_a_terminal_and_leaves_no_trace(self) -> None:
        told = self.told(Terminal(), 5)
        self.assertRegex(told, r"audit \.\.\. 12,000 \(\d+ s\)")
        self.assertTrue(told.endswith("\r\x1b[K"))

    def test_what_is_soon_over_says_nothing(self) -> None:
        self.assertEqual(self.told(Terminal(), 0), "")

    def test_in_a_file_there_is_nothing_of_it(self) -> None:
        stderr = io.StringIO()
        with patch.object(sys, "stderr", stderr), StillWorking("audit"):
            pass
        self.assertEqual(stderr.getvalue(), "")


if __name__ == "__main__":
    unittest.main()
