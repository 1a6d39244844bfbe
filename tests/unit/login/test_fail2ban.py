"""The fail2ban filter finds every refused login, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd.intake.authentication import ENOUGH, FAILED, TOO_FAST, TROUBLE
from relayd.mail.client import Client
from relayd.ops.maillog import LineLog

FILTER = Path(__file__).parents[3] / "packaging" / "fail2ban" / "relayd.conf"
NASTY = 'x command="AUTH PLAIN" reply="535 5.7.8 a" \\" refused client=[192.0.2.9]:1 helo=x'


def lines() -> tuple[list[str], list[str]]:
    """Lines that are to be found, and lines that are not."""
    made: list[bytes] = []
    log = LineLog(made.append, clock=lambda: 1_763_787_840.5, later=lambda call: call())

    def line(write: object) -> str:
        made.clear()
        assert callable(write)
        write()
        log.flush()
        return b"".join(made).decode()

    here, there = Client("192.0.2.7", 4711, helo="pc"), Client("2001:db8::7", 4711, helo=NASTY)
    wanted = [
        line(lambda each=each, reply=reply: log.refused(each, "AUTH PLAIN", str(reply), "login x"))
        for each in (here, there)
        for reply in (FAILED, TOO_FAST, ENOUGH)
    ]
    wanted.append(line(lambda: log.refused(here, "AUTH SCRAM-SHA-256", str(FAILED), NASTY)))
    others = [
        line(lambda: log.refused(here, "RCPT TO:<a@b.example>", "550 5.7.1 Relaying denied")),
        line(lambda: log.refused(there, "RCPT TO:<a@b.example>", "550 5.7.1 Relaying denied")),
        line(lambda: log.refused(here, "AUTH PLAIN", str(TROUBLE), "Dovecot does not answer")),
        line(lambda: log.refused(here, NASTY, "500 5.5.2 What?", NASTY)),
        line(lambda: log.refused(here, "AUTH", "501 5.5.2 Not base64")),
        line(lambda: log.session(there, messages=0, refused=1, seconds=1.0, end="quit")),
        line(lambda: log.trouble("login refused", login="isp", host=NASTY, why="535 5.7.8 no")),
    ]
    return wanted, others


class FilterTests(unittest.TestCase):
    def setUp(self) -> None:
        self.program = shutil.which("fail2ban-regex")
        if self.program is None:
            reason = "needs fail2ban-regex (apt-get install fail2ban)"
            if os.environ.get("RELAYD_REQUIRE_PEERS"):
                self.fail(reason)
            raise unittest.SkipTest(reason)

    def matched(self, log: list[str]) -> str:
        """What fail2ban-regex finds in this log."""
        with TemporaryDirectory() as folder:
            path = Path(folder, "log")
            path.write_text("".join(log))
            done = subprocess.run(
                [str(self.program), "--out", "<ip>", str(path), str(FILTER)],
                capture_output=True,
                text=True,
                timeout=60,
            )
        self.assertNotIn("ERROR", done.stdout + done.stderr)
        return done.stdout

    def test_finds_refused_logins(self) -> None:
        wanted, _ = lines()
        found = self.matched(wanted).split()
        self.assertEqual(sorted(found), ["192.0.2.7"] * 4 + ["2001:db8::7"] * 3)

    def test_finds_nothing_else(self) -> None:
        _, others = lines()
        self.assertEqual(self.matched(others).split(), [])

    def test_as_journald_shows_it(self) -> None:
        wanted, _ = lines()
        stamped = [f"2026-01-01T00:00:00Z {line.partition(' ')[2]}" for line in wanted]
        self.assertEqual(len(self.matched(stamped).split()), 7)
