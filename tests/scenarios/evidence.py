"""What a failed scenario leaves behind: its processes, relayd's queues, the ends of all logs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

TAIL = 6000  # characters of each log
WHOLE = 48000  # trial's workers pass on 64 KiB of text at most


class Ended(Protocol):
    """A process of ours."""

    arguments: list[str]

    @property
    def status(self) -> int | None:
        """Its exit status; None if it runs."""


class Asked(Protocol):
    """A relayd that can be asked for its queue."""

    def ctl(self, *arguments: str, check: bool, seconds: float) -> subprocess.CompletedProcess[str]:
        """Run relayctl."""


def gathered(folder: Path, processes: Iterable[Ended], relays: Iterable[Asked]) -> str:
    """All of it as one text, for a failure's message."""
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    parts = [f"--- at {time.strftime('%FT%TZ', time.gmtime())}, load {load}"]
    for process in processes:
        state = "runs" if process.status is None else f"ended with {process.status}"
        parts.append(f"{state}: {' '.join(process.arguments)}"[:200])
    parts += living(folder)
    for relay in relays:
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            done = relay.ctl("queue", check=False, seconds=60.0)
            parts.append(f"--- relayctl queue\n{(done.stdout + done.stderr)[-TAIL:]}")
    text = "\n".join([*parts, *logs(folder)])
    return text.encode("ascii", "backslashreplace").decode()[:WHOLE]


def living(folder: Path) -> Iterator[str]:
    """The processes that work below the folder, also those that left their starter."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            where = (entry / "cwd").readlink()
            if folder in where.parents:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                words = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                )
                yield f"process {entry.name} {state} in {where.name}: {words}"[:200]


def logs(folder: Path) -> Iterator[str]:
    """The end of every log below the folder, whatever wrote it."""
    for path in sorted(folder.rglob("*")):
        if path.name == "log" or path.name.startswith("log-") or path.suffix in (".out", ".log"):
            with contextlib.suppress(OSError):
                text = path.read_text("utf-8", "replace")
                yield f"--- {path.relative_to(folder)}\n{text[-TAIL:]}"
