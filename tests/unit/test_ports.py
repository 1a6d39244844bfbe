"""Ports for tests' servers: nobody else's, and out of the kernel's way."""

from __future__ import annotations

import socket
import subprocess
import sys
import unittest
from pathlib import Path

from tests.ports import free_port


class Ports(unittest.TestCase):
    def test_below_those_of_outgoing_connections(self) -> None:
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        self.assertLess(max(free_port() for _ in range(50)), lowest)

    def test_claimed_for_as_long_as_the_process_lives(self) -> None:
        port = free_port()
        claim = f"import socket; socket.socket(socket.AF_UNIX).bind('\\0relayd-test-port-{port}')"
        done = subprocess.run([sys.executable, "-c", claim], capture_output=True, text=True)
        self.assertIn("Address already in use", done.stderr)

    def test_free_for_both_protocols(self) -> None:
        port = free_port()
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as server:
                server.bind(("127.0.0.1", port))
