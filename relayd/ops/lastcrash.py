"""Where a process was when it crashed: kept in a file, and told by the one that takes its place.

Python can write that in the midst of a SIGSEGV, but over many lines and in no form of ours. So it
goes to a file, and is a line of the log when the next process starts.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable
from pathlib import Path

_MOST = 64 * 1024  # octets that are read of it
_INNERMOST = 6  # calls that the line shows

_kept: list[int] = []  # the descriptor stays open as long as the process lives


def keep_last_crash(path: Path, trouble: Callable[..., object]) -> None:
    """Tell the one before, and keep the next one; without the file nothing is kept."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        told = os.pread(file, _MOST, 0).decode("ascii", "replace")
        if told:
            os.ftruncate(file, 0)
    except OSError as error:
        trouble("crashes not kept", file=str(path), why=error.strerror or str(error))
        return
    if told:
        what, where = read(told)
        trouble("crashed before", what=what, at=where)
    faulthandler.enable(file)
    for each in _kept:
        os.close(each)
    _kept[:] = [file]


def read(told: str) -> tuple[str, str]:
    """What Python says of a crash: what it was, and the innermost calls of the thread."""
    lines = [line.strip() for line in told.splitlines()]
    calls: list[str] = []
    current = False
    for line in lines:
        if line.startswith(("Current thread", "Stack (most recent")):
            current = True
        elif line.startswith("Thread"):
            current = False
        elif current and line.startswith("File ") and len(calls) < _INNERMOST:
            name, _, rest = line.removeprefix("File ").partition(", line ")
            number, _, function = rest.partition(" in ")
            calls.append(f"{Path(name.strip(chr(34))).name}:{number} {function}")
    what = next((line for line in lines if line), "")
    return what, " < ".join(calls) or "unknown"
