"""relayd.service: a configuration that is wrong is not tried again and again."""

from __future__ import annotations

import os
import unittest
from pathlib import Path

UNIT = Path(__file__).parents[3] / "packaging" / "debian" / "relayd.service"


class UnitFileTest(unittest.TestCase):
    def test_a_wrong_configuration_is_not_restarted_for_ever_and_a_crash_is(self) -> None:
        lines = UNIT.read_text().splitlines()
        self.assertIn(f"RestartPreventExitStatus={os.EX_CONFIG}", lines)
        self.assertIn("Restart=on-failure", lines)

    def test_it_starts_without_a_configuration_file_where_one_was_good_before(self) -> None:
        lines = UNIT.read_text().splitlines()
        for path in ("/etc/relayd/relayd.conf", "/var/spool/relayd/last-good"):
            self.assertIn(f"ConditionPathExists=|{path}", lines)
        self.assertIn("WorkingDirectory=/var/spool/relayd", lines)

    def test_the_folder_of_the_sockets_that_settings_name_is_there(self) -> None:
        """`metrics` and `console`: /run/relayd/..."""
        self.assertIn("RuntimeDirectory=relayd", UNIT.read_text().splitlines())
        self.assertIn("/run/relayd/* rw,", (UNIT.parent / "apparmor").read_text())

    def test_a_reload_waits_for_the_verdict(self) -> None:
        self.assertIn(
            "ExecReload=/usr/bin/relayctl --config /etc/relayd/relayd.conf reload --quiet",
            UNIT.read_text().splitlines(),
        )
