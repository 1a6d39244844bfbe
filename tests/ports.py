"""Loopback ports for servers that tests start: none is handed out twice while its taker lives."""

from __future__ import annotations

import contextlib
import random
import socket

# below those that the kernel takes for outgoing connections, 32768 and up: a connection of anyone
# may not sit on a port between its choice and its server's start, or its server's end and return
_PORTS = range(10000, 32000)
_claims: list[socket.socket] = []


def free_port() -> int:
    """A port of 127.0.0.1 that is free for TCP and UDP, and ours among all processes that ask."""
    while True:
        port = random.choice(_PORTS)
        # an abstract name, which goes away with this process
        claim = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            claim.bind(f"\0relayd-test-port-{port}")
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET, kind) as probe:
                    probe.bind(("127.0.0.1", port))
            _claims.append(claim)
            return port
        claim.close()
