"""Files with rules that are changed from afar: read with a version, replaced whole or not at all.

A version is the hash of what is in the file, so whoever replaces a text says which one he has seen:
two people do not overwrite each other, nor does one what an editor has written meanwhile. What was
replaced is kept, so that there is a way back.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from relayd.spool.disk.content import sync_directory

MOST = 256 << 10  # octets of a file that is changed from afar
KEPT = 20  # versions of each file
FOLDER = "rules-before"  # in the spool directory
_IDENT = re.compile(r"[0-9]{16}\Z")


class EditError(Exception):
    """It cannot be done; `str(error)` says why."""


class EditConflictError(EditError):
    """The file is another one than it was."""


@dataclass(frozen=True, slots=True)
class SourceText:
    """What is in a file."""

    text: str  # its lines end with a line feed
    version: str
    crlf: bool = False  # on disk they end with CR LF

    def octets(self, text: str) -> bytes:
        """Another text, as this file would have it."""
        lines = text.replace("\r\n", "\n")
        if lines and not lines.endswith("\n"):
            lines += "\n"
        found = lines.replace("\n", "\r\n") if self.crlf else lines
        if (line := unprintable(lines)) is not None:
            raise EditError(line)
        return _bounded(found.encode())


def version_of(octets: bytes) -> str:
    """The version of a file that holds this."""
    return sha256(octets).hexdigest()


def read_source(path: Path) -> SourceText:
    """What is in a file that can be shown and taken back as it is; raises EditError."""
    octets = _bounded(read_octets(path))
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise EditError("it is not UTF-8: nobody would get it back as it is") from None
    lines = text.replace("\r\n", "\n")
    if (why := unprintable(lines)) is not None:
        raise EditError(why)
    return SourceText(lines, version_of(octets), "\r\n" in text)


def _bounded(octets: bytes) -> bytes:
    if len(octets) > MOST:
        raise EditError(f"it has more than {MOST >> 10} KiB: too many to be changed from here")
    return octets


def read_octets(path: Path) -> bytes:
    """All that is in a file; raises EditError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # nobody is waited for at the other end of a pipe
            raise EditError("it is no regular file")
        return path.read_bytes()
    except OSError as error:
        raise EditError(f"{path}: {error.strerror or error}") from None


def unprintable(lines: str) -> str | None:
    """Where there is something that a browser would not show, or not give back as it is."""
    for number, line in enumerate(lines.split("\n"), 1):
        if not line.replace("\t", "").isprintable():
            found = next(each for each in line if not each.isprintable() and each != "\t")
            code = found.encode("unicode_escape").decode()
            return f"line {number}: {code} is not printable, and would not be seen here"
    return None


def replace_source(path: Path, version: str, octets: bytes) -> bytes:
    """Replace what has this version, durably; what was there before. Raises EditError."""
    real = Path(os.path.realpath(path))
    name = ""
    try:
        status = real.stat()
        handle, name = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(octets)
            file.flush()
            os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                with contextlib.suppress(PermissionError):
                    os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fsync(file.fileno())
        before = real.read_bytes()
        if version_of(before) != version:
            raise EditConflictError("it has been changed meanwhile")
        Path(name).replace(real)
        name = ""
        sync_directory(real.parent)
    except PermissionError:
        why = f"relayd's user (uid {os.geteuid()}) may not write to {real.parent}"
        raise EditError(why) from None
    except OSError as error:
        raise EditError(f"{error.filename or real}: {error.strerror or error}") from None
    finally:
        if name:
            with contextlib.suppress(OSError):
                Path(name).unlink()
    return before


@dataclass(frozen=True, slots=True)
class KeptSource:
    """What a file held before somebody replaced it."""

    ident: str
    text: str
    version: str
    at: float  # when it was replaced, seconds since the epoch
    by: str  # who has done it
    after: str  # the version that came


class KeptSources:
    """Those of all files, in a folder of the spool."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, name: str, octets: bytes, at: float, by: str, after: str) -> None:
        """One more; the oldest ones go. Raises EditError."""
        folder = self._of(name)
        found = {
            "file": name,
            "text": octets.decode("utf-8", "replace").replace("\r\n", "\n"),
            "version": version_of(octets),
            "at": at,
            "by": by,
            "after": after,
        }
        try:
            for each in (folder.parent, folder):  # a mode is for the last of a path alone
                each.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / f"{int(at * 1e6):016d}"
            beside = path.with_suffix(".new")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            with os.fdopen(os.open(beside, flags, 0o600), "wb") as file:
                file.write(json.dumps(found).encode())
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
            sync_directory(folder)
            for each in self._paths(name)[KEPT:]:
                each.unlink(missing_ok=True)
        except OSError as error:
            why = f"nothing was done: what was there cannot be kept: {error.strerror or error}"
            raise EditError(why) from None

    def of(self, name: str) -> Iterator[KeptSource]:
        """Those of one file, the newest first."""
        for path in self._paths(name):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                said = json.loads(path.read_bytes())
                yield KeptSource(
                    path.name,
                    str(said["text"]),
                    str(said["version"]),
                    float(said["at"]),
                    str(said["by"]),
                    str(said["after"]),
                )

    def _paths(self, name: str) -> list[Path]:
        found = [each for each in self._of(name).glob("*") if _IDENT.match(each.name)]
        return sorted(found, key=lambda each: each.name, reverse=True)

    def _of(self, name: str) -> Path:
        return self._folder / sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
