"""What messages that wait for a dead destination cost all others: start, memory, queue, rate."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.message import Submission
from relayd.spool.sqlite.store import Spool
from tests.bench.jobs import Job, Sink, send
from tests.bench.plot import draw_lines
from tests.bench.servers import Relayd, Relayd2, remove
from tests.bench.spool_bench import BenchBridge
from tests.bench.usage import Peak, cpu_seconds, tree
from tests.scenarios.harness import CHECKOUT

FLIGHT = 4000  # commits under way while filling
SETTINGS = """next-hop dead smtp 127.0.0.1:9
retry 1h"""


def fill(spool: Path, shard: int, count: int) -> None:
    """Put so many small messages for `dead` into a shard."""
    bridge = BenchBridge()
    store = Spool(spool, bridge, shard=shard, lock=spool / f"shard-{shard}" / "lock")
    store.open()
    sender = Mailbox("sender", "source.example")
    client = Client("192.0.2.7", 40001, "0.0.0.0:25", "client.source.example", "ESMTP")
    to = Mailbox("user", "dead.example")
    submission = Submission(
        Envelope(sender), client, (Recipient(to, to, "dead", sender),), 26, False, False
    )
    content = b"Subject: one of many\r\n\r\n" + b"x" * 300 + b"\r\n"
    done = 0

    def one(_: object) -> None:
        nonlocal done
        done += 1

    started = 0
    while done < count:
        while started < count and started - done < FLIGHT:
            draft = store.create()
            draft.write(content)
            promise = draft.commit(submission)
            promise.then = one  # type: ignore[attr-defined]  # the bench's own promise
            started += 1
        bridge.pump(1.0)
    closed: list[object] = []
    ending = store.close()
    ending.then = closed.append  # type: ignore[attr-defined]
    bridge.until(lambda: bool(closed))


@dataclass(frozen=True, slots=True)
class Depth:
    """What was found at one depth."""

    waiting: int
    first_220: float  # seconds from the start of twistd
    rate: float
    cpu: float  # seconds per 1,000 messages
    memory: int  # octets, the processes' own share (PSS)
    queue: float  # seconds of `relayctl queue`

    def line(self) -> str:
        """A row of the table."""
        return (
            f"| {self.waiting:,} | {self.first_220:.2f} s | {self.rate:.0f}/s | {self.cpu:.2f} "
            f"| {self.memory >> 20} MB | {self.queue:.2f} s |"
        )


def shares(roots: Sequence[int]) -> int:
    """Memory of the tree, shared pages shared out (PSS)."""
    octets = 0
    for pid in tree(roots):
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    octets += int(line.split()[1]) * 1024
        except OSError:
            continue
    return octets


def first_greeting(port: int, until: float = 60.0) -> float:
    """Seconds until somebody says 220."""
    began = time.monotonic()
    while time.monotonic() < began + until:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=until) as connection:
                if connection.recv(3) == b"220":
                    return time.monotonic() - began
        except OSError:
            time.sleep(0.005)
    raise RuntimeError("no greeting")


class _Deep(Relayd):
    """relayd over a spool that was filled before."""

    settings = SETTINGS

    def wait_listening(self) -> None:
        """The first greeting counts from here."""
        self.first_220 = first_greeting(self.port)


class _Deep2(_Deep, Relayd2):
    """The same with two workers."""


def measure(waiting: int, workers: int, messages: int, base: Path, runs: int) -> Depth:
    """Fill, start, relay, ask."""
    sink = Sink(Path(tempfile.mkdtemp(dir=base)))
    job = Job("5k", messages)
    server = (_Deep2 if workers == 2 else _Deep)(base / f"depth-{waiting}", job, sink.port)
    began = time.monotonic()
    if waiting:
        spool = server.folder / "spool"
        command = [sys.executable, "-m", "tests.bench.depth", "--fill", str(spool)]
        part = waiting // workers
        fillers = [
            subprocess.Popen([*command, str(shard), str(part)], cwd=CHECKOUT)
            for shard in range(workers)
        ]
        if any(filler.wait() for filler in fillers):
            raise RuntimeError("the spool could not be filled")
        print(f"filled with {waiting:,} in {time.monotonic() - began:.0f} s", flush=True)
    server.start()
    try:
        send(Job("warm-up", 200), server.port, sink)
        rates = []
        before = cpu_seconds(server.roots)
        with Peak(server.roots):
            for _ in range(runs):
                rates.append(messages / send(job, server.port, sink))
        used = cpu_seconds(server.roots) - before
        memory = shares(server.roots)
        began = time.monotonic()
        subprocess.run(
            [
                *(sys.executable, "-m", "relayd.ctl.relayctl", "queue"),
                *("--config", str(server.folder / "relayd.conf")),
            ],
            stdout=subprocess.DEVNULL,
            check=True,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        )
        queue = time.monotonic() - began
    finally:
        server.stop()
        sink.stop()
    remove(server.folder)
    rate = sorted(rates)[len(rates) // 2]
    return Depth(waiting, server.first_220, rate, used / runs / messages * 1000, memory, queue)


def main() -> None:
    """Every depth in turn."""
    parser = argparse.ArgumentParser(prog="depth", description=__doc__)
    parser.add_argument("--depths", default="0,100000,1000000")
    parser.add_argument("--workers", type=int, choices=(1, 2), default=2)
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on a real disk")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--fill", nargs=3, metavar=("SPOOL", "SHARD", "COUNT"))
    options = parser.parse_args()
    if options.fill:
        fill(Path(options.fill[0]), int(options.fill[1]), int(options.fill[2]))
        return
    found = []
    with tempfile.TemporaryDirectory(prefix="relay-depth-", dir=options.folder) as name:
        base = Path(name)
        base.chmod(0o755)
        for depth in map(int, options.depths.split(",")):
            found.append(measure(depth, options.workers, options.messages, base, options.runs))
            print(found[-1].line(), flush=True)
    print("| waiting | start to 220 | rate | CPU s/1000 | memory | relayctl queue |")
    print("|---|---|---|---|---|---|")
    for each in found:
        print(each.line())
    if options.plot:
        points = [(float(each.waiting), each.cpu) for each in found]
        print(draw_lines(options.plot, {"": points}, "messages waiting", "CPU s/1000"))


if __name__ == "__main__":
    main()
