"""What a terminal gets around a command: a pager for long output, a sign of life for long work."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import IO

_USUAL = "less"
_LESS = "FRX"  # ends by itself where all fits on one screen; colours; leaves the screen as it was
SILENT = 1.0  # seconds of work before anything is told of it
_TURN = 0.2  # seconds between two tellings


def pager_of(environment: Mapping[str, str]) -> list[str]:
    """The command that shows long output, as PAGER has it; empty: none is wanted."""
    said = environment.get("PAGER", _USUAL)
    try:
        words = shlex.split(said)
    except ValueError:
        return []
    return [] if words[:1] == ["cat"] else words


@contextmanager
def paged(*, wanted: bool) -> Iterator[None]:
    """What is printed inside goes through the pager, if standard output is a terminal."""
    words = pager_of(os.environ) if wanted and sys.stdout.isatty() and sys.stdin.isatty() else []
    terminal = sys.stdout
    try:
        process = words and subprocess.Popen(
            words, stdin=subprocess.PIPE, env={"LESS": _LESS, **os.environ}, text=True
        )
    except OSError:
        process = None  # there is none: it is printed as it is
    if not process:
        yield
        return
    assert process.stdin is not None
    sys.stdout = _ToPager(process.stdin)  # as much as print needs
    try:
        yield
        process.stdin.flush()
    except (BrokenPipeError, KeyboardInterrupt):
        pass  # whoever reads has seen enough
    finally:
        sys.stdout = terminal
        with suppress(BrokenPipeError):
            process.stdin.close()
        while True:
            with suppress(KeyboardInterrupt):
                process.wait()
                break


class _ToPager:
    """Behind it is a terminal: colours and widths are its."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe

    def write(self, text: str) -> int:
        return self._pipe.write(text)

    def flush(self) -> None:
        self._pipe.flush()

    def isatty(self) -> bool:
        return True


class StillWorking:
    """What takes long says so on a terminal, after a second: `audit ... 12,000 (4 s)`.

    On standard error, and gone at the end; where that is no terminal there is nothing of it.
    """

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        self.count = 0
        self._what = what
        self._seen = sys.stderr.isatty() and not quiet
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> StillWorking:
        if self._seen:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        if self._seen:
            self._over.set()
            self._thread.join()

    def _tell(self) -> None:
        began = time.monotonic()
        told = False
        wait = SILENT
        while not self._over.wait(wait):
            number = f" {self.count:,}" if self.count else ""
            line = f"{self._what} ...{number} ({time.monotonic() - began:.0f} s)"
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
            told, wait = True, _TURN
        if told:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
