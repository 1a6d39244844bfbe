"""A cable between two hosts of our own: every packet passes through our hands, or does not.

Two network namespaces with a TUN device each; what one host sends is read here, and written to
the other's device, by and by. It needs nothing of the kernel's traffic control.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import random
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.scenarios import network
from tests.scenarios.network import Host

NEAR, FAR = "192.0.2.1", "192.0.2.2"

_TUN = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_LATEST = 0.08  # seconds that a packet may be held back: others overtake it
_HEADERS = 40  # octets of IP and TCP
_counter = itertools.count(1)


def missing() -> str:
    """Why no cable can be had here; empty if it can."""
    return network.missing() or ("" if _TUN.exists() else str(_TUN))


class Cable:
    """Well at first. The chances, of each packet, may be changed at any time."""

    def __init__(self, seed: int) -> None:
        self.lost = self.doubled = self.late = self.damaged = 0.0
        self.dead: frozenset[str] = frozenset()  # addresses that nothing comes from any more
        self.carried = self.dropped = 0
        self._random = random.Random(f"cable {seed}")
        self._prefix = f"r{os.getpid():x}c{next(_counter)}"
        self.near, self.far = self._host("near", NEAR), self._host("far", FAR)
        self._ends = [self._device(host) for host in (self.near, self.far)]
        for host, address in ((self.near, NEAR), (self.far, FAR)):
            _ip("-n", host.namespace, "address", "add", f"{address}/30", "dev", "tun0")
            _ip("-n", host.namespace, "link", "set", "tun0", "up")
        loop = asyncio.get_running_loop()
        for source, target, address in ((0, 1, NEAR), (1, 0, FAR)):
            ends = self._ends[source], self._ends[target]
            loop.add_reader(ends[0], self._carry, *ends, address)

    def well(self) -> None:
        """Nothing is wrong any more."""
        self.lost = self.doubled = self.late = self.damaged = 0.0
        self.dead = frozenset()

    def close(self) -> None:
        """Take everything away."""
        for end in self._ends:
            asyncio.get_running_loop().remove_reader(end)
            os.close(end)
        for host in (self.near, self.far):
            subprocess.run(["ip", "netns", "del", host.namespace], check=False)

    def _host(self, name: str, address: str) -> Host:
        host = Host(name, f"{self._prefix}{name}")
        _ip("netns", "add", host.namespace)
        _ip("-n", host.namespace, "link", "set", "lo", "up")
        return host

    @staticmethod
    def _device(host: Host) -> int:
        def made() -> int:
            end = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            wanted = struct.pack("16sH22x", b"tun0", _IFF_TUN | _IFF_NO_PI)
            fcntl.ioctl(end, _TUNSETIFF, wanted)
            return end

        return host.call(made)

    def _carry(self, source: int, target: int, address: str) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):  # then others have their turn
                self._pass_on(os.read(source, 65536), target, address)

    def _pass_on(self, packet: bytes, target: int, address: str) -> None:
        draw = self._random.random
        if address in self.dead or draw() < self.lost:
            self.dropped += 1
            return
        if draw() < self.damaged and len(packet) > _HEADERS:
            # a single bit: the sum that TCP keeps always tells that
            at = self._random.randrange(_HEADERS, len(packet))
            flipped = packet[at] ^ (1 << self._random.randrange(8))
            packet = packet[:at] + bytes((flipped,)) + packet[at + 1 :]
        for _ in range(1 + (draw() < self.doubled)):
            self.carried += 1
            if draw() < self.late:
                wait = self._random.uniform(0, _LATEST)
                asyncio.get_running_loop().call_later(wait, self._write, target, packet)
            else:
                self._write(target, packet)

    @staticmethod
    def _write(target: int, packet: bytes) -> None:
        with contextlib.suppress(OSError):  # its queue is full, or it is gone: lost
            os.write(target, packet)


@contextmanager
def cable(seed: int) -> Iterator[Cable]:
    """A cable that is taken away at the end; to be used in a running event loop."""
    made = Cable(seed)
    try:
        yield made
    finally:
        made.close()


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"
