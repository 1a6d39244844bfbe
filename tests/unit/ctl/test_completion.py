"""Completion is made of the command line: what a shell offers is what relayctl understands."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from relayd.ctl.completion import SHELLS, completion, levels
from relayd.ctl.relayctl import parser
from relayd.mail.ident import parse_ident
from relayd.ops.text import queue_lines


def _commands(top: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found = {path}
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, each in action.choices.items():
                found |= _commands(each, (*path, name))
    return found


class CompletionTests(unittest.TestCase):
    def offered(self, *words: str, etc: str = "/nowhere", path: str = "") -> list[str]:
        """What bash offers for the last word; the configuration is in `etc`, relayctl in `path`."""
        text = completion("bash", parser()).replace("/etc/relayd", etc)
        script = (
            'source /dev/stdin <<<"$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1));'
            ' _relayctl; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash", "-c", script, "bash", text, "relayctl", *words],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}"},
        )
        self.assertEqual(done.stderr, "")
        return done.stdout.split()

    def test_no_command_and_no_option_is_left_out(self) -> None:
        found = {level.path: level for level in levels(parser())}
        self.assertEqual(set(found), _commands(parser()))
        for shell in SHELLS:
            text = completion(shell, parser())
            for level in found.values():
                for word, _ in (*level.words, *level.options):
                    spelt = f"-l {word[2:]}" if shell == "fish" and word[:2] == "--" else word
                    spelt = f"-s {word[1:]}" if shell == "fish" and len(word) == 2 else spelt
                    self.assertIn(spelt, text, (shell, level.path))

    def test_bash_offers_commands_theirs_and_options(self) -> None:
        self.assertEqual(self.offered("que"), ["queue"])
        self.assertEqual(self.offered("user", "p"), ["passwd"])
        self.assertEqual(self.offered("--json", "queue", "--ol"), ["--older-than"])
        self.assertEqual(self.offered("import", "post"), ["postfix"])
        self.assertEqual(self.offered("status", "--sen"), [])

    def test_bash_offers_the_values_that_an_option_takes(self) -> None:
        self.assertEqual(self.offered("queue", "--state", ""), ["queued", "held"])
        self.assertEqual(self.offered("hold", "--state", "h"), ["held"])
        self.assertEqual(self.offered("queue", "--sender", ""), [])  # no command, no option
        self.assertIn("--state", self.offered("queue", "--limit", "5", ""))

    def test_bash_offers_the_names_of_next_hops_and_logins(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            Path(name, "rules.d").mkdir()
            Path(name, "relayd.conf").write_text("next-hop office smtp mail.example.com:25\n")
            Path(name, "rules.d", "10.rules").write_text(
                "next-hop\tbackup smtp 192.0.2.1\n#next-hop none smtp 192.0.2.2\n"
                "next-hop $(touch${IFS}oops) smtp 192.0.2.3\noauth isp provider google\n"
            )
            offered = self.offered("queue", "--next-hop", "", etc=name)
            self.assertEqual(sorted(offered), ["backup", "office"])
            self.assertEqual(self.offered("retry", "--destination", "o", etc=name), ["office"])
            self.assertEqual(self.offered("oauth", "enroll", "i", etc=name), ["isp"])

    def test_bash_offers_the_messages_that_wait(self) -> None:
        ident = parse_ident("1K7QJ4V8Z0G0")
        recipient = (0, "b@example.net", "", "", "direct example.net", 0, 1, 0.0, "450 4.2.1 Later")
        row = (ident, 0.0, 300, "a@example.org", [recipient])
        with tempfile.TemporaryDirectory() as name:
            listing = Path(name, "listing")
            listing.write_text("".join(queue_lines([{"rows": [row]}], 60.0)))
            program = Path(name, "relayctl")
            program.write_text(f"#!/bin/sh\ncat {listing}\n")
            program.chmod(0o755)
            for command in ("show", "why", "content", "retry"):
                self.assertEqual(self.offered(command, "1", path=name), ["1K7QJ4V8Z0G0"])

    def test_bash_offers_files_where_one_is_wanted(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            Path(name, "relayd.conf").touch()
            offered = self.offered("explain", "--config", f"{name}/rel")
        self.assertEqual(offered, [f"{name}/relayd.conf"])

    def test_shells_that_are_here_read_it(self) -> None:
        for shell in SHELLS:
            if shutil.which(shell):
                with self.subTest(shell=shell):
                    done = subprocess.run(
                        [shell, "-n", "/dev/stdin"],
                        input=completion(shell, parser()),
                        capture_output=True,
                        text=True,
                        timeout=60,
                    )
                    self.assertEqual((done.returncode, done.stderr), (0, ""))
