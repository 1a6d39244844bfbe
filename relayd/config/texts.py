"""The text files of a configuration: as they are on disk, or as they were when it was read.

A worker that is started again must not find rules that the others have not, nor a mistake that was
refused: it reads what the master has read.
"""

from __future__ import annotations

import errno
import glob
import json
import os
from pathlib import Path


class Texts:
    """Reads from disk."""

    def octets(self, path: Path) -> bytes:
        """A file's content; raises OSError."""
        return path.read_bytes()

    def has(self, path: Path) -> bool:
        """Whether there is such a file."""
        return path.exists()

    def find(self, pattern: str) -> list[str]:
        """The paths that a pattern of `include` fits, in the order of their names."""
        return sorted(glob.glob(pattern))  # noqa: PTH207 - glob's own spelling


class RecordedTexts(Texts):
    """Reads from disk, and knows what it was."""

    def __init__(self) -> None:
        self._octets: dict[str, bytes] = {}
        self._found: dict[str, list[str]] = {}

    def octets(self, path: Path) -> bytes:
        """See Texts."""
        self._octets[str(path)] = octets = path.read_bytes()
        return octets

    def find(self, pattern: str) -> list[str]:
        """See Texts."""
        self._found[pattern] = found = super().find(pattern)
        return found

    def taken(self) -> bytes:
        """All of it for RememberedTexts, once: it is not kept here any longer."""
        sizes = {name: len(octets) for name, octets in self._octets.items()}
        head = json.dumps({"sizes": sizes, "found": self._found}).encode() + b"\n"
        packed = b"".join([head, *self._octets.values()])
        self._octets, self._found = {}, {}
        return packed


class RememberedTexts(Texts):
    """What RecordedTexts has read; raises ValueError where it is not whole."""

    def __init__(self, packed: bytes) -> None:
        head, _, rest = packed.partition(b"\n")
        read = json.loads(head)
        self._found: dict[str, list[str]] = read["found"]
        self._octets: dict[str, bytes] = {}
        at = 0
        for name, size in read["sizes"].items():
            self._octets[name] = rest[at : at + size]
            at += size
        if at != len(rest):
            raise ValueError("it is being written")

    def octets(self, path: Path) -> bytes:
        """See Texts."""
        try:
            return self._octets[str(path)]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None

    def has(self, path: Path) -> bool:
        """See Texts."""
        return str(path) in self._octets

    def find(self, pattern: str) -> list[str]:
        """See Texts."""
        return self._found.get(pattern, [])
