"""Reading a configuration's text files, and how their names are shown."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from relayd.rules.language.source import Complaint, Place, Source, did_you_mean


def read_text(path: Path, shown: str) -> str:
    """A file's text; raises OSError, or Complaint where it is not UTF-8."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        source = Source.of(data.decode("latin-1"), shown)
        what = f"octet 0x{data[error.start]:02x} is not UTF-8"
        raise Complaint(Place(source, line, column), what, "expected a text in UTF-8") from None


def require_private(path: Path, name: str, place: Place, *, group: bool = True) -> None:
    """The file must not be for everybody's eyes, nor (not `group`) for its group's.

    Raises OSError, or Complaint, which says how to mend it.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IRWXO | (0 if group else stat.S_IRWXG)):
        whose = "others" if mode & stat.S_IRWXO else "its group"
        raise Complaint(
            place,
            f"{name} holds secrets and is open to {whose} (mode {mode:04o})",
            f"expected e.g. chmod {'640' if group else '600'} {path}",
        )


def short_name(path: Path, folder: Path) -> str:
    """How trails name a file: relative to the configuration's folder where it lies below."""
    relative = os.path.relpath(path, folder)
    return str(path) if relative.startswith("..") else relative


def similar_file(path: Path) -> str:
    """A suggestion for a file that is not there, or is none."""
    if path.is_dir():
        return f'expected a file (include takes a pattern, too: "{path.name}/*.rules")'
    try:
        names = sorted(each.name for each in path.parent.iterdir() if each.name != path.name)
    except OSError:
        return f"there is no folder {path.parent} either"
    return did_you_mean(path.name, names) or f"expected a readable file {path.name}"
