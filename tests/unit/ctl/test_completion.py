"""Completion is made of the command line: what a shell offers is what relayctl understands."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from relayd.ctl.completion import SHELLS, completion, levels
from relayd.ctl.relayctl import parser


def _commands(top: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found = {path}
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, each in action.choices.items():
                found |= _commands(each, (*path, name))
    return found


class CompletionTests(unittest.TestCase):
    def offered(self, *words: str) -> list[str]:
        """What bash offers for the last word."""
        script = (
            'source /dev/stdin <<<"$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1));'
            ' _relayctl; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash", "-c", script, "bash", completion("bash"), "relayctl", *words],
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.stderr, "")
        return done.stdout.split()

    def test_no_command_and_no_option_is_left_out(self) -> None:
        found = {level.path: level for level in levels(parser())}
        self.assertEqual(set(found), _commands(parser()))
        for shell in SHELLS:
            text = completion(shell)
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
                        input=completion(shell),
                        capture_output=True,
                        text=True,
                        timeout=60,
                    )
                    self.assertEqual((done.returncode, done.stderr), (0, ""))
