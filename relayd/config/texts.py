"""The text files of a configuration: as they are on disk, or as they were when it was read.

A worker that is started again must not find rules that the others have not, nor a mistake that was
refused: it reads what the master has read. So does a start with a mistake on disk
(relayd.config.lastgood), but for secrets: these are as they are on disk, or not at all.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path


class Texts:
    """Reads from disk."""

    def octets(self, path: Path) -> bytes:
        """A file's content; raises OSError."""
        return path.read_bytes()

    def secret(self, path: Path) -> bytes:
        """The same of a file with passwords, of which no copy is to lie on disk."""
        return path.read_bytes()

    def has(self, path: Path) -> bool:
        """Whether there is such a file, or folder."""
        return path.exists()

    def piece(self, path: Path, most: int) -> bytes:
        """The beginning of a file that anybody may have put there; raises OSError."""
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:  # noqa: PTH123 - opened so that no pipe is waited for
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "it is no file")
            return file.read(most)

    def look(self, path: str) -> object:
        """What differs where the file does; None: it is not known."""
        try:
            found = os.lstat(path)
        except OSError:
            return None
        if stat.S_ISLNK(found.st_mode):
            return None  # it looks the same whatever becomes of what it leads to
        return found.st_ctime_ns, found.st_mtime_ns, found.st_ino, found.st_size, found.st_mode

    def keep(self, path: str, octets: bytes) -> None:
        """What is in force of a file, whose path is absolute, whatever stands there."""

    @property
    def draft(self) -> str | None:
        """The absolute path of what somebody is writing, who wants to hear of every mistake."""
        return None

    def find(self, pattern: str) -> list[str]:
        """The paths that a pattern of `include` fits, in the order of their names."""
        return sorted(glob.glob(pattern))  # noqa: PTH207 - glob's own spelling


class DraftedTexts(Texts):
    """Reads from disk, but for one file that is being written."""

    def __init__(self, path: Path, draft: bytes) -> None:
        self._path = _name(path)
        self._draft = draft

    @property
    def draft(self) -> str | None:
        """See Texts."""
        return self._path

    def octets(self, path: Path) -> bytes:
        """See Texts."""
        return self._draft if _name(path) == self._path else super().octets(path)

    def piece(self, path: Path, most: int) -> bytes:
        """See Texts."""
        return self._draft[:most] if _name(path) == self._path else super().piece(path, most)

    def look(self, path: str) -> object:
        """See Texts."""
        return None if path == self._path else super().look(path)


class RecordedTexts(Texts):
    """Reads from disk, or from other texts, and knows what it was."""

    def __init__(self, source: Texts | None = None) -> None:
        self._source = source or Texts()
        self._octets: dict[str, bytes] = {}
        self._secret: dict[str, bytes] = {}
        self._there: dict[str, None] = {}
        self._found: dict[str, list[str]] = {}

    def octets(self, path: Path) -> bytes:
        """See Texts."""
        self._octets[_name(path)] = octets = self._source.octets(path)
        return octets

    def piece(self, path: Path, most: int) -> bytes:
        """See Texts."""
        return self._source.piece(path, most)

    def look(self, path: str) -> object:
        """See Texts."""
        return self._source.look(path)

    def secret(self, path: Path) -> bytes:
        """See Texts."""
        self._secret[_name(path)] = octets = self._source.secret(path)
        return octets

    def has(self, path: Path) -> bool:
        """See Texts."""
        there = self._source.has(path)
        if there:
            self._there[_name(path)] = None
        return there

    def find(self, pattern: str) -> list[str]:
        """See Texts."""
        self._found[_name(pattern)] = found = self._source.find(pattern)
        return found

    def keep(self, path: str, octets: bytes) -> None:
        """See Texts."""
        self._octets[path] = octets

    def without_secrets(self) -> bytes:
        """What may lie on disk of it, for RememberedTexts."""
        return self._packed(self._octets)

    def taken(self) -> bytes:
        """All of it for RememberedTexts, once: it is not kept here any longer."""
        packed = self._packed({**self._octets, **self._secret})
        self.forget()
        return packed

    def forget(self) -> None:
        """It is not needed any longer."""
        self._octets, self._secret, self._there, self._found = {}, {}, {}, {}

    def _packed(self, octets: Mapping[str, bytes]) -> bytes:
        sizes = {name: len(each) for name, each in octets.items()}
        head = {"sizes": sizes, "there": list(self._there), "found": self._found}
        return b"".join([json.dumps(head).encode(), b"\n", *octets.values()])


class RememberedTexts(Texts):
    """What RecordedTexts has read; raises ValueError where it is not whole."""

    def __init__(self, packed: bytes) -> None:
        head, _, rest = packed.partition(b"\n")
        read = json.loads(head)
        self._there = frozenset(read["there"])
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
            return self._octets[_name(path)]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None

    def piece(self, path: Path, most: int) -> bytes:
        """See Texts."""
        return self.octets(path)[:most]

    def look(self, path: str) -> object:
        """See Texts."""
        return self._octets.get(path)

    def secret(self, path: Path) -> bytes:
        """See Texts; one that was left out is read from disk."""
        found = self._octets.get(_name(path))
        return super().secret(path) if found is None else found

    def has(self, path: Path) -> bool:
        """See Texts."""
        return _name(path) in self._there

    def find(self, pattern: str) -> list[str]:
        """See Texts."""
        return self._found.get(_name(pattern), [])


def _name(path: Path | str) -> str:
    """However it was spelled: the master's configuration may be named from where it was started."""
    return os.path.abspath(path)  # noqa: PTH100 - symlinks stay
