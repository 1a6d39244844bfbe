"""Files of the drop folder of which some recipients are taken over, while others have to wait."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

_WRITING = ".new"  # no name that a file in the drop folder has


class PartlyTaken:
    """A note on each such file, in a folder of ours beside the drop folder.

    The file itself stays as its owner left it: whose it is, is the kernel's word about it, and it
    goes on counting as his. A note holds for these very octets, as far as the file system tells.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._notes: dict[str, tuple[str, frozenset[int]]] = {}  # by the name of the file

    def load(self, drops: Path) -> None:
        """What was noted in an earlier life, but of files that have gone from the drop folder."""
        with contextlib.suppress(FileNotFoundError):
            for each in tuple(self._folder.iterdir()):
                with contextlib.suppress(OSError, ValueError, TypeError):
                    stamp, *numbers = json.loads(each.read_text("ascii"))
                    self._notes[each.name] = stamp, frozenset(numbers)
                if not os.path.lexists(drops / each.name):
                    self.forget(each.name)

    def recipients(self, name: str, status: os.stat_result) -> frozenset[int]:
        """Which of the recipients on the slip are taken: their numbers, from 0."""
        stamp, numbers = self._notes.get(name, ("", frozenset()))
        return numbers if stamp == _stamp(status) else frozenset()

    def note(self, name: str, status: os.stat_result, recipients: frozenset[int]) -> None:
        """These are taken; durable when it returns. Raises OSError, and knows it all the same."""
        self._notes[name] = _stamp(status), recipients
        self._folder.mkdir(mode=0o700, exist_ok=True)
        fresh = self._folder / _WRITING
        with fresh.open("w", encoding="ascii") as file:
            json.dump([_stamp(status), *sorted(recipients)], file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._folder / name)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def forget(self, name: str) -> None:
        """The file has gone."""
        if self._notes.pop(name, None) is not None:
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"
