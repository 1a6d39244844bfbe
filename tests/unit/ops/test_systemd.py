from __future__ import annotations

import os
import socket
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.internet.task import Clock

from relayd.ops.systemd import Notices


class Telling(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = str(Path(folder.name) / "notify")
        self.clock = Clock()

    def listener(self, address: str) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(listening.close)
        listening.setblocking(False)
        listening.bind(address)
        return listening

    def heard(self, listening: socket.socket) -> list[str]:
        found = []
        try:
            while True:
                found.append(listening.recv(4096).decode())
        except BlockingIOError:
            return found

    def test_the_states_of_a_life(self) -> None:
        listening = self.listener(self.path)
        notices = Notices({"NOTIFY_SOCKET": self.path}, self.clock.callLater)
        notices.ready("serving")
        notices.reloading()
        notices.stopping()
        first, second, third = self.heard(listening)
        self.assertEqual(first, f"READY=1\nMAINPID={os.getpid()}\nSTATUS=serving")
        self.assertRegex(second, r"\ARELOADING=1\nMONOTONIC_USEC=\d+\Z")
        self.assertEqual(third, "STOPPING=1")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_watchdog_is_fed_twice_in_its_time(self) -> None:
        listening = self.listener("\0" + self.path)
        environment = {"NOTIFY_SOCKET": "@" + self.path, "WATCHDOG_USEC": "30000000"}
        notices = Notices(environment, self.clock.callLater)
        notices.ready()
        notices.ready()
        self.heard(listening)
        self.clock.pump([15, 15])
        self.assertEqual(self.heard(listening), ["WATCHDOG=1"] * 2)

    def test_anothers_watchdog_and_nonsense_are_none_of_ours(self) -> None:
        self.listener(self.path)
        for wrong in ({"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}):
            environment = {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": "1000000", **wrong}
            Notices(environment, self.clock.callLater).ready()
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nobody_to_tell(self) -> None:
        for environment in ({}, {"NOTIFY_SOCKET": self.path}):
            notices = Notices(environment, self.clock.callLater)
            notices.ready()
            notices.stopping()
