"""Reading a configuration's text files, and how their names are shown."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from relayd.config.texts import Texts
from relayd.rules.language.source import Complaint, Place, Source, did_you_mean

_DISK = Texts()
_FOREIGN = re.compile("[\udc80-\udcff]")  # an octet that is not UTF-8 (PEP 383)
_QUOTED = r'"(?:[^"\\]|\\.)*"'
COMMENT = re.compile(rf"{_QUOTED}|(?:^|(?<=[\s,{{}}]))#.*")
"""What is not read of a line, or (in quotes) may hold what looks like it."""
ASIDE = re.compile(rf"{_QUOTED}|^\s*#.*|\([^()]*\)|[^,:<>]*(?=<[^<>]*>)")
"""The same in aliases and maps: comments, and phrases before an address in angle brackets."""


def read_text(
    path: Path,
    shown: str,
    unread: re.Pattern[str] = COMMENT,
    texts: Texts = _DISK,
    *,
    secret: bool = False,
) -> str:
    """A file's text; raises OSError, or Complaint where it is not UTF-8.

    What is `unread` may be in any other code: it is taken for Latin-1.
    """
    data = texts.secret(path) if secret else texts.octets(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("utf-8-sig", "surrogateescape")
    latin = _FOREIGN.sub(lambda found: chr(ord(found.group()) - 0xDC00), text)
    for number, line in enumerate(text.split("\n"), 1):
        found = _FOREIGN.search(unread.sub(_blank, line)) if not line.isascii() else None
        if found is not None:
            place = Place(Source.of(latin, shown), number, found.start() + 1)
            what = f"octet 0x{ord(found.group()) - 0xDC00:02x} is not UTF-8"
            raise Complaint(place, what, "expected a text in UTF-8")
    return latin


def _blank(found: re.Match[str]) -> str:
    return found.group() if found.group().startswith('"') else " " * len(found.group())


def require_private(path: Path, name: str, place: Place, *, group: bool = True) -> None:
    """The file must not be for everybody's eyes, nor (not `group`) for its group's.

    Raises OSError, or Complaint, which says how to mend it.
    """
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise Complaint(place, f"{name} is no file", "expected one that can be read to its end")
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


def is_there(path: Path) -> bool:
    """Whether something has this name; in a folder that is closed to us nobody knows, so it has."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def similar_file(path: Path) -> str:
    """A suggestion for a file that is not there, is none, or is not for us to read."""
    try:
        if path.is_dir():
            return f'expected a file (include takes a pattern, too: "{path.name}/*.rules")'
        if is_there(path):
            return f"expected a file that this user (uid {os.geteuid()}) may read"
        names = sorted(each.name for each in path.parent.iterdir() if each.name != path.name)
    except PermissionError:
        return f"expected a folder that this user (uid {os.geteuid()}) may enter: {path.parent}"
    except OSError:
        return f"there is no folder {path.parent} either"
    return did_you_mean(path.name, names) or f"expected a readable file {path.name}"
