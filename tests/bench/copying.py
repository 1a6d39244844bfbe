"""`relayctl spool copy` of a full queue: to a database and back, killed once on each way.

    python -m tests.bench.copying [--messages 100000]

One message in a thousand has 5 MB. All are to be in one place only, and what comes back is held
against what was there, octet for octet; the exit status says whether it is the same.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg

from relayd.spool.copy import FolderEnd
from relayd.spool.sqlite.store import Spool
from tests.bench.spool_bench import BenchBridge, submission
from tests.postgresqlserver import PostgresqlServer, empty_spool

FLIGHT = 500  # commits under way while filling
COPY = (sys.executable, "-m", "relayd.ctl.relayctl", "spool", "copy")


def size_of(number: int) -> int:
    """Of the message of that number, in octets."""
    if number % 1000 == 0:
        return 5_000_000
    return 100_000 if number % 100 == 50 else 3000


def fill(folder: Path, count: int) -> None:
    """Put so many messages there, for one to three recipients."""
    bridge = BenchBridge()
    spool = Spool(folder, bridge)
    spool.open()
    started, done = 0, [0]

    def one(_: Any) -> None:
        done[0] += 1

    while done[0] < count:
        while started < count and started - done[0] < FLIGHT:
            draft = spool.create()
            draft.write((b"%09d\r\n" % started) * (size_of(started) // 11))
            promise: Any = draft.commit(submission(recipients=started % 3 + 1))
            promise.then = one
            started += 1
        bridge.pump(1.0)
    closed: Any = spool.close()
    ended: list[None] = []
    closed.then = ended.append
    while not ended:
        bridge.pump(1.0)


def digests(end: FolderEnd) -> dict[int, bytes]:
    """Of each message that waits there, all that is known of it and its content."""
    found = {}
    with closing(end):
        for step in end.waiting():
            for each in step:
                digest = hashlib.blake2b(repr(each[:-1]).encode(), digest_size=16)
                for piece in each.pieces():
                    digest.update(piece)
                found[each.row.ident] = digest.digest()
    return found


def move(source: str, target: str, killed_after: float) -> tuple[float, float]:
    """Seconds, and those of relayctl's CPU, that it takes; killed once, and said again."""
    began, used = time.monotonic(), _cpu_of_children()
    process = subprocess.Popen([*COPY, source, target], stdout=subprocess.DEVNULL)
    try:
        process.wait(killed_after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    while (done := subprocess.run([*COPY, source, target], capture_output=True)).returncode:
        if b"another process is node" not in done.stderr:  # the server has not noticed its end
            raise SystemExit(done.stderr.decode())
    return time.monotonic() - began, _cpu_of_children() - used


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """There and back."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.copying")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--killed-after", type=float, default=20.0, help="seconds")
    options = parser.parse_args()
    with ExitStack() as held:
        place = held.enter_context(tempfile.TemporaryDirectory())
        server = PostgresqlServer()
        held.callback(server.stop)
        folder = Path(place) / "spool"
        where = empty_spool(server)
        fill(folder, options.messages)
        before = digests(FolderEnd(folder))
        octets = sum(map(size_of, range(options.messages)))
        print(f"{len(before):,} messages, {octets / 1e6:,.0f} MB", flush=True)
        for name, way in (("there", (str(folder), where)), ("back", (where, str(folder)))):
            seconds, used = move(*way, options.killed_after)
            print(f"{name}: {seconds:.0f} s, {used:.0f} s of CPU", flush=True)
            with psycopg.connect(where) as connection:
                found = connection.execute("SELECT count(*) FROM relayd.message").fetchone()
            assert found == ((len(before) if name == "there" else 0),), found
        assert digests(FolderEnd(folder)) == before
        print("identical")


if __name__ == "__main__":
    main()
