"""Mistyped commands, options and choices of relayctl: what may have been meant."""

from __future__ import annotations

import contextlib
import io
import unittest

from relayd.ctl.mistyped import mistyped
from relayd.ctl.relayctl import main, parser


class Mistyped(unittest.TestCase):
    def test_what_may_have_been_meant(self) -> None:
        for line, wanted in (
            ("chek", 'there is no command "chek": did you mean "check"?'),
            ("queue --lmit 3", 'there is no option "--lmit": did you mean "--limit"?'),
            ("queue --state helt", '--state "helt": did you mean "held"?'),
            ("queue --state=helt", '--state "helt": did you mean "held"?'),
            ("user ad joe", 'there is no action "ad": did you mean "add"?'),
            ("user add joe --fle x", 'there is no option "--fle": did you mean "--file"?'),
            ("import postfx /etc", 'there is no source "postfx": did you mean "postfix"?'),
            ("import postfix / --ouput x",
             'there is no option "--ouput": did you mean "--output"?'),
            ("why --jsn", 'there is no option "--jsn": did you mean "--json"?'),
            ("explain --sendr a@b c@d", 'there is no option "--sendr": did you mean "--sender"?'),
            ("--limit 3 queue",
             'there is no option "--limit": it stands behind its command: queue'),
            ("show -x", 'there is no option "-x": see relayctl show --help'),
        ):  # fmt: skip
            self.assertIn(wanted, mistyped(parser(), line.split()), line)

    def test_every_command_and_option_is_known(self) -> None:
        for line in ("status", "-c /x queue --limit 3", "--config=/x --json status", "-c/x status",
                     "queue --lim 3", "show a b c", "remove --all --note hold",
                     "import postfix /etc --verify all --dry-run", "user add joe", "check chek",
                     "explain --from 192.0.2.1 --sender -- a@b.example", "--version"):  # fmt: skip
            self.assertEqual(mistyped(parser(), line.split()), "", line)

    def test_it_is_said_in_one_line_with_status_2(self) -> None:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            self.assertEqual(main(["chek"]), 2)
        self.assertEqual(
            said.getvalue(), 'relayctl: there is no command "chek": did you mean "check"?\n'
        )

    def test_help_is_a_word_as_well(self) -> None:
        for words, wanted in (
            (["help"], "usage: relayctl [OPTION ...] COMMAND"),
            (["help", "queue"], "relayctl queue [-h]"),
            (["help", "user", "add"], "relayctl user add [-h]"),
        ):
            said = io.StringIO()
            with contextlib.redirect_stdout(said), self.assertRaises(SystemExit) as ended:
                main(words)
            self.assertEqual(ended.exception.code, 0)
            self.assertIn(wanted, said.getvalue())
