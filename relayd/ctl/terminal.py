"""What a terminal gets beyond plain lines: colours for what is amiss, and tables that fit."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator

from relayd.ops.text import safe

_ALARM = re.compile(r"(?:[A-Z]{2}[A-Z -]*|.*\bCANNOT RECORD\b.*?)(?=  )")
_CAUTION = re.compile(r"(?:warning|slowed|limit|suspended|restart|damaged)(?=  )")
_HEAD = re.compile(r"[A-Z ]+\Z")
_RED, _YELLOW, _BOLD, _END = "\x1b[1;31m", "\x1b[33m", "\x1b[1m", "\x1b[0m"
WHEN = ("auto", "always", "never")


def colours(wanted: str) -> bool:
    """Whether there are to be some: `--color`, or NO_COLOR (no-color.org) and a terminal."""
    if wanted != "auto":
        return wanted == "always"
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain


def width() -> int:
    """Columns of the terminal; 0: there is none, and nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def cut(lines: Iterable[str], columns: int) -> Iterator[str]:
    """Each line of a table as wide as the terminal at the most; 0: as they are."""
    for line in lines:
        yield f"{line[: columns - 1]}\u2026" if 0 < columns < len(line) else line


def harmless(told: str) -> str:
    """Lines of text that steer no terminal, whoever has written them."""
    if told.isprintable():
        return told
    return "\n".join("\t".join(map(safe, line.split("\t"))) for line in told.split("\n"))


def mail(chunks: Iterable[bytes]) -> Iterator[str]:
    """The lines of a message, likewise."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield harmless(line.removesuffix(b"\r").decode("utf-8", "backslashreplace"))
    if rest:
        yield harmless(rest.decode("utf-8", "backslashreplace"))


def coloured(lines: Iterable[str]) -> Iterator[str]:
    """What is amiss in red, what is to be known in yellow, heads of tables in bold."""
    for line in lines:
        if _HEAD.match(line):
            yield f"{_BOLD}{line}{_END}"
        elif found := _ALARM.match(line):
            yield f"{_RED}{found[0]}{_END}{line[found.end() :]}"
        elif found := _CAUTION.match(line):
            yield f"{_YELLOW}{found[0]}{_END}{line[found.end() :]}"
        else:
            yield line
