"""What a server uses while it works: CPU seconds and memory of a whole tree of processes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (the state) on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(roots: Iterable[int]) -> list[int]:
    """These processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - ten times as fast as iterdir
        if name.isdigit():
            try:
                children.setdefault(int(_stat(int(name))[1]), []).append(int(name))
            except OSError:
                continue
    return list(_below(children, roots))


def _below(children: dict[int, list[int]], roots: Iterable[int]) -> Iterator[int]:
    for root in roots:
        yield root
        yield from _below(children, children.get(root, ()))


def cpu_seconds(roots: Iterable[int]) -> float:
    """User and system time of the tree so far, with that of its dead (as waited for)."""
    return sum(cpu_times(roots))


def cpu_times(roots: Iterable[int]) -> tuple[float, float]:
    """The same, apart: user, system."""
    user = system = 0
    for pid in tree(roots):
        try:
            own, kernel, dead, dead_kernel = map(int, _stat(pid)[11:15])
        except OSError:
            continue
        user += own + dead
        system += kernel + dead_kernel
    return user / _TICK, system / _TICK


class _Preference:
    """Lets what is measured go before what else the machine does, the servers all alike."""

    nice = 0

    def __call__(self, processes: Iterable[int]) -> None:
        """Set the priority of these processes' sessions, as far as we may (sched(7), autogroup)."""
        if not self.nice:
            return
        for pid in processes:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, pid, self.nice)
                Path(f"/proc/{pid}/autogroup").write_text(str(self.nice))


prefer = _Preference()


def memory(roots: Iterable[int]) -> int:
    """Resident octets of the tree; pages that processes share count for each of them."""
    octets = 0
    for pid in tree(roots):
        try:
            octets += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        except (OSError, IndexError):
            continue
    return octets


class Peak:
    """The most memory of a tree between `with` and its end, looked at a few times a second."""

    def __init__(self, roots: Sequence[int], every: float = 0.25) -> None:
        self.octets = 0
        self._roots = roots
        self._every = every
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._end.wait(self._every):
            self.octets = max(self.octets, memory(self._roots))

    def __enter__(self) -> Peak:
        self.octets = memory(self._roots)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self.octets = max(self.octets, memory(self._roots))
