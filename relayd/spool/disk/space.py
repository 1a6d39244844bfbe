"""How much room the disk has, asked once a second, and the reserve kept for a full one."""

from __future__ import annotations

import os
import time
from pathlib import Path

FRESH = 1.0  # seconds that an answer of the file system is good for


class Space:
    """Free octets and inodes against their floors; used by two threads, an old answer is fine."""

    def __init__(self, directory: Path, floor_octets: int, floor_inodes: int) -> None:
        self._directory = directory
        self.keep(floor_octets, floor_inodes)
        self._free = (0, 0)
        self._good_until = float("-inf")

    def keep(self, floor_octets: int, floor_inodes: int) -> None:
        """Other floors from now on."""
        self._floor_octets = floor_octets
        self._floor_inodes = floor_inodes

    def room(self, size: int) -> bool:
        """For a new message of so many octets."""
        if time.monotonic() >= self._good_until:
            self._measure()
        octets, inodes = self._free
        return octets - size >= self._floor_octets and inodes >= self._floor_inodes

    def room_to_grow(self) -> bool:
        """For messages let through by `room` a while ago: they may use half of the floor."""
        if time.monotonic() >= self._good_until:
            self._measure()
        octets, inodes = self._free
        return octets >= self._floor_octets // 2 and inodes >= self._floor_inodes // 2

    def forget(self) -> None:
        """Ask again."""
        self._good_until = float("-inf")

    def _measure(self) -> None:
        now = time.monotonic()
        self._free = self._ask()
        self._good_until = now + FRESH

    def _ask(self) -> tuple[int, int]:
        try:
            found = os.statvfs(self._directory)
        except OSError:
            return -1, -1
        # a file system without a table of inodes says 0 of 0
        inodes = found.f_favail if found.f_files else self._floor_inodes
        return found.f_bavail * found.f_frsize, inodes
