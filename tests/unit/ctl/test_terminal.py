"""Colours where they are wanted, and lines as wide as the terminal."""

from __future__ import annotations

import io
import os
import sys
import unittest
from unittest.mock import patch

from relayd.ctl.terminal import coloured, colours, cut, width


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Terminals(unittest.TestCase):
    def test_colours_go_by_the_option_then_by_no_color_then_by_the_terminal(self) -> None:
        for wanted, out, environment, expected in (
            ("auto", Terminal(), {}, True),
            ("auto", Terminal(), {"NO_COLOR": "1"}, False),
            ("auto", Terminal(), {"NO_COLOR": ""}, True),
            ("auto", Terminal(), {"TERM": "dumb"}, False),
            ("auto", io.StringIO(), {}, False),
            ("always", io.StringIO(), {"NO_COLOR": "1"}, True),
            ("never", Terminal(), {}, False),
        ):
            with patch.dict(os.environ, environment, clear=True), patch.object(sys, "stdout", out):
                self.assertEqual(colours(wanted), expected, (wanted, environment))

    def test_what_is_amiss_stands_out_and_the_words_stay_the_same(self) -> None:
        lines = [
            "relayd 0.1.0 at gw.example, up 3m",
            "MEND           out: 451 4.7.0 Next hop out does not serve us",
            "NOT LISTENING  192.0.2.1:25: in use",
            "warning        an open relay",
            "shard 0        CANNOT RECORD: nothing is accepted or delivered  sessions 3",
            "DESTINATION                       WAITING  OLDEST   NOW  STATE",
            "a.example                               3      1h     0  open",
        ]
        shown = list(coloured(lines))
        self.assertEqual([("\x1b" in each) for each in shown], [False, *[True] * 5, False])
        self.assertTrue(shown[1].startswith("\x1b[1;31mMEND"))
        plain = [each.replace("\x1b[1;31m", "").replace("\x1b[33m", "") for each in shown]
        self.assertEqual(
            [each.replace("\x1b[1m", "").replace("\x1b[0m", "") for each in plain], lines
        )

    def test_a_table_is_as_wide_as_the_terminal_and_whole_in_a_pipe(self) -> None:
        self.assertEqual(list(cut(["12345", "1234"], 4)), ["123\u2026", "1234"])
        self.assertEqual(list(cut(["12345"], 0)), ["12345"])
        with patch.object(sys, "stdout", io.StringIO()):
            self.assertEqual(width(), 0)
        with patch.dict(os.environ, {"COLUMNS": "40"}), patch.object(sys, "stdout", Terminal()):
            self.assertEqual(width(), 40)
