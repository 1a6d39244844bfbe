"""relayctl on a terminal of 80 columns and 24 lines, beside a relayd that has something to say."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

from tests.scenarios.harness import Relayd, Scenario

RULES = """\
accept  from 127.0.0.0/8
route   any via out
next-hop out smtp 127.0.0.1:1
"""


class OnATerminal:
    """One command on a pseudo-terminal."""

    def __init__(self, relay: Relayd, *arguments: str, **environment: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(slave)
        known = {name: each for name, each in os.environ.items() if name not in ("NO_COLOR",)}
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "relayd.ctl.relayctl", "--config", str(relay.config)),
                *arguments,
            ],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**known, **relay.environment, "TERM": "xterm", **environment},
            start_new_session=True,
        )
        self._slave = slave
        self.seen = ""

    def until(self, words: str, seconds: float = 60.0) -> str:
        """What was printed, once it has a regular expression."""
        deadline = time.monotonic() + seconds
        while not re.search(words, self.seen):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._master], [], [], left)[0]:
                raise AssertionError(f"not within {seconds} s: {words}\n{self.seen!r}")
            self.seen += os.read(self._master, 65536).decode()
        return self.seen

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def end(self) -> int:
        """Its exit status; what is left is read."""
        while self._process.poll() is None:
            if select.select([self._master], [], [], 0.05)[0]:
                self.seen += os.read(self._master, 65536).decode()
        while select.select([self._master], [], [], 0.05)[0]:
            self.seen += os.read(self._master, 65536).decode()
        self.after = termios.tcgetattr(self._slave)
        os.close(self._slave)
        os.close(self._master)
        return self._process.wait()


class Terminals(Scenario):
    def setUp(self) -> None:
        super().setUp()
        self.relay = self.relayd(RULES)

    def test_top_is_live_fits_and_ends_by_q(self) -> None:
        top = OnATerminal(self.relay, "top", "--interval", "1")
        top.until(r"DESTINATION")
        for _ in range(20):  # so many that they are a figure, however long a look takes
            self.relay.send("a@b.example", ["c@d.example"])
        top.until(r"accepted 0\.[1-9]|accepted [1-9]")
        top.until(r"waiting 20 messages")
        top.type("q")
        self.assertEqual(top.end(), 0)
        self.assertEqual(top.before, top.after)
        self.assertTrue(top.seen.rstrip().endswith("\x1b[?25h\x1b[?1049l"))
        for page in top.seen.split("\x1b[H")[1:]:
            plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", page)
            lines = plain.replace("\r", "").split("\n")
            self.assertLessEqual(len(lines), 24)
            self.assertLessEqual(max(map(len, lines)), 80)

    def test_top_in_a_pipe_says_what_it_needs(self) -> None:
        done = self.relay.ctl("top", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("top needs a terminal", done.stderr)

    def test_long_output_goes_through_the_pager_and_colours_stay(self) -> None:
        pager = {"PAGER": "sed s/^/seen:/"}
        status = OnATerminal(self.relay, "status", **pager)
        self.assertEqual(status.end(), 0)
        self.assertIn("seen:relayd ", status.seen)
        for wanted in (("--no-pager",), ("--json", "--no-pager")):
            plain = OnATerminal(self.relay, "status", *wanted, **pager)
            plain.end()
            self.assertNotIn("seen:", plain.seen)
        self.relay.ctl("suspend", "--destination", "out", "--for", "1h")
        coloured = OnATerminal(self.relay, "status", **pager)
        coloured.end()
        self.assertIn("\x1b[33msuspended", coloured.seen)
        without = OnATerminal(self.relay, "status", NO_COLOR="1", **pager)
        without.end()
        self.assertNotIn("\x1b[3", without.seen)

    def test_no_mail_and_no_mistake_steers_the_terminal(self) -> None:
        steering = "\x1b]0;mine\x07\x1b[2J\u202e\x9b31m"
        lines = f"Subject: {steering}\r\n\tfolded\r\n\r\ngr\u00fcn \x1b[8m".encode() + b"\xff\r\n"
        self.relay.ctl("suspend", "--destination", "out", "--for", "1h")
        ident = self.relay.send("a@b.example", ["c@d.example"], lines)
        for command in (
            ("content", ident), ("show", ident), ("find", "--subject", "mine"), ("headers", ident),
            ("suspend", "--destination", steering, "--for", "1h"), ("show", steering),
            (f"status{steering}",), ("status", f"--{steering}"),
        ):  # fmt: skip
            looked = OnATerminal(self.relay, *command, NO_COLOR="1", PAGER="cat")
            looked.end()
            for each in ("\x1b", "\x07", "\u202e", "\x9b"):
                self.assertNotIn(each, looked.seen, command)
            if command[0] == "content":
                self.assertIn("\tfolded\r\n\r\ngr\u00fcn \\x1b[8m\\xff\r\n", looked.seen)
        done = subprocess.run(
            [sys.executable, "-m", "relayd.ctl.relayctl", "--config", str(self.relay.config),
             "content", ident], capture_output=True, env={**os.environ, **self.relay.environment},
        )  # fmt: skip
        self.assertTrue(done.stdout.endswith(lines), "octet for octet into a pipe")

    def test_records_leave_as_a_table_and_as_lines_of_json(self) -> None:
        content = b"Message-ID: <1@b.example>\r\nSubject: =cmd|' /C calc'!A0\r\n\r\nx\r\n"
        ident = self.relay.send("-x@b.example", ["c@d.example", "e@d.example"], content)
        rows = [*csv.DictReader(io.StringIO(self.relay.ctl("find", "--csv").stdout))]
        self.assertEqual([row["recipient"] for row in rows], ["c@d.example", "e@d.example"])
        self.assertEqual({row["subject"] for row in rows}, {"'=cmd|' /C calc'!A0"})
        self.assertEqual({row["sender"] for row in rows}, {"'-x@b.example"})
        self.assertEqual({row["id"] for row in rows}, {ident})
        rows = [*csv.DictReader(io.StringIO(self.relay.ctl("queue", "--csv").stdout))]
        self.assertEqual([row["mailbox"] for row in rows], ["c@d.example", "e@d.example"])
        self.assertRegex(rows[0]["received_at"], r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        lines = self.relay.ctl("find", "--jsonl").stdout.splitlines()
        self.assertEqual({json.loads(line)["subject"] for line in lines}, {"=cmd|' /C calc'!A0"})
        lines = self.relay.ctl("queue", "--jsonl").stdout.splitlines()
        self.assertEqual([json.loads(line)["id"] for line in lines], [ident])
