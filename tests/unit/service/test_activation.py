"""Sockets from systemd: taken only if they are meant for us, and known by their address."""

from __future__ import annotations

import os
import socket
import unittest

from relayd.service.activation import handed_over, place_of, unwanted


class HandedOver(unittest.TestCase):
    def setUp(self) -> None:
        self.own = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.own.close)
        # a descriptor of its own, as systemd's would be
        self.descriptor = os.dup(self.own.fileno())
        self.port = self.own.getsockname()[1]

    def environment(self, pid: int, count: str = "1", names: str = "smtp") -> dict[str, str]:
        return {"LISTEN_PID": str(pid), "LISTEN_FDS": count, "LISTEN_FDNAMES": names, "LANG": "C"}

    def test_meant_for_us(self) -> None:
        environment = self.environment(77)
        (handed,) = handed_over(environment, 77, self.descriptor)
        self.addCleanup(handed.listening.close)
        self.assertEqual((handed.name, handed.place), ("smtp", ("127.0.0.1", self.port)))
        self.assertFalse(handed.listening.get_inheritable())
        self.assertFalse(handed.listening.getblocking())
        self.assertEqual(environment, {"LANG": "C"})

    def test_meant_for_another_process(self) -> None:
        self.addCleanup(os.close, self.descriptor)
        environment = self.environment(78)
        self.assertEqual(handed_over(environment, 77, self.descriptor), ())
        self.assertEqual(environment, {"LANG": "C"})

    def test_nothing_or_nonsense(self) -> None:
        self.addCleanup(os.close, self.descriptor)
        for count in ("", "0", "-1", "many"):
            self.assertEqual(handed_over(self.environment(77, count), 77, self.descriptor), ())
        self.assertEqual(handed_over({}, 77), ())

    def test_without_names(self) -> None:
        (handed,) = handed_over(self.environment(77, names=""), 77, self.descriptor)
        self.addCleanup(handed.listening.close)
        self.assertEqual(handed.name, "unknown")

    def test_what_no_listener_is_for(self) -> None:
        handed = handed_over(self.environment(77), 77, self.descriptor)
        self.addCleanup(handed[0].listening.close)
        self.assertEqual(list(unwanted(handed, [place_of("127.0.0.1", self.port)])), [])
        ((name, place),) = unwanted(handed, [place_of("127.0.0.1", self.port + 1)])
        self.assertEqual(name, "smtp")
        self.assertIn(str(self.port), place)

    def test_one_address_has_one_spelling(self) -> None:
        self.assertEqual(place_of("0:0:0:0:0:0:0:1", 25), place_of("::1", 25))

    def test_a_unix_socket_has_no_place(self) -> None:
        os.close(self.descriptor)
        with socket.socket(socket.AF_UNIX) as unix:
            (handed,) = handed_over(self.environment(77), 77, os.dup(unix.fileno()))
        self.addCleanup(handed.listening.close)
        self.assertIsNone(handed.place)
