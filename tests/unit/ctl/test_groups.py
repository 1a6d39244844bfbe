"""`relayctl help`: every command stands in one group, with a line about it."""

from __future__ import annotations

import argparse
import unittest

from relayd.ctl.commandline import GROUPS
from relayd.ctl.relayctl import PAGED, parser


class Groups(unittest.TestCase):
    def test_every_command_stands_in_one_group(self) -> None:
        (commands,) = (
            action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)
        )
        grouped = [name for _, names in GROUPS for name in names]
        self.assertEqual(sorted(grouped), sorted(commands.choices))
        self.assertEqual(PAGED - {*grouped}, set())

    def test_help_says_each_once_in_80_columns(self) -> None:
        told = parser().format_help()
        for title, names in GROUPS:
            self.assertIn(f"\n{title}:\n", told)
            for name in names:
                self.assertRegex(told, rf"(?m)^  {name} +\w")
        self.assertIn("--no-pager", told)
        self.assertLessEqual(max(map(len, told.splitlines())), 100)


if __name__ == "__main__":
    unittest.main()
