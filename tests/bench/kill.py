"""How long mail waits when its worker is killed under load, and whether any of it is lost."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from tests.bench.jobs import Job
from tests.bench.latency import receive, transaction
from tests.bench.servers import Relayd2, remove

SESSIONS = 16
PACE = 0.08  # seconds between two messages of a session: 200 a second in all
REPLY_TIME = 0.06  # seconds the next hop thinks about each message: some are always under way


@dataclass(frozen=True, slots=True)
class Kill:
    """What came of one kill."""

    waiting: int  # messages that had been acknowledged and had not arrived when it happened
    last: float  # seconds until the last of them had
    lost: int

    def line(self) -> str:
        """A row of the table."""
        return f"| {self.waiting} | {self.last:.2f} s | {self.lost} |"


class _Load:
    """Sessions that send without an end, and begin anew when they are cut."""

    def __init__(self, port: int) -> None:
        self.acknowledged: dict[int, float] = {}
        self._port = port
        self._numbers = itertools.count()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(SESSIONS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No more."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._session()
            except (OSError, AssertionError):
                time.sleep(0.01)

    def _session(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as connection:
            send = transaction(connection)
            while not self._over.is_set():
                number = next(self._numbers)
                send(number)
                self.acknowledged[number] = time.monotonic()
                time.sleep(PACE)


def measure(base: Path, kills: int) -> list[Kill]:
    """Kill one of two workers so many times."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=200)
    arrivals: SimpleQueue[tuple[int, float]] = multiprocessing.SimpleQueue()
    sink = multiprocessing.Process(
        target=receive, args=(listening, arrivals, REPLY_TIME), daemon=True
    )
    sink.start()
    server = Relayd2(base / "kill", Job("5k", 1), listening.getsockname()[1])
    server.start()
    arrived: dict[int, float] = {}

    def collect() -> None:
        while True:
            number, at = arrivals.get()
            arrived.setdefault(number, at)

    threading.Thread(target=collect, daemon=True).start()
    found = []
    try:
        load = _Load(server.port)
        for turn in range(kills):
            time.sleep(2.0)
            workers = Path(f"/proc/{server.roots[0]}/task/{server.roots[0]}/children")
            victim = int(workers.read_text().split()[turn % 2])
            acknowledged = set(load.acknowledged)
            at = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            waiting = {n for n in acknowledged if arrived.get(n, at) >= at}
            until = time.monotonic() + 60
            while not waiting <= arrived.keys() and time.monotonic() < until:
                time.sleep(0.01)
            missing = waiting - arrived.keys()
            last = max([arrived[n] - at for n in waiting - missing], default=0.0)
            found.append(Kill(len(waiting), last, len(missing)))
        load.stop()
    finally:
        server.stop()
        sink.kill()
        listening.close()
        remove(server.folder)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on a real disk")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-kill-", dir=options.folder) as name:
        base = Path(name)
        base.chmod(0o755)
        print("| waiting at the kill | the last of them arrived after | lost |\n|---|---|---|")
        for each in measure(base, options.kills):
            print(each.line())


if __name__ == "__main__":
    main()
