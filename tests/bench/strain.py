"""What relayd keeps in memory: ten thousand idle sessions, and messages too big to keep."""

from __future__ import annotations

import argparse
import resource
import selectors
import socket
import tempfile
import time
from pathlib import Path

from tests.bench.depth import shares
from tests.bench.jobs import Job, Sink, send
from tests.bench.servers import Relayd, Relayd2
from tests.bench.usage import Peak

MIB = 1 << 20


def idle(sessions: int, base: Path) -> str:
    """So many sessions that were greeted and say nothing; then one more."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sink = Sink(Path(tempfile.mkdtemp(dir=base)))
    server = Relayd2(base / "idle", Job("idle", 1, sessions=sessions), sink.port)
    server.start()
    before = shares(server.roots)
    connections = []
    try:
        with selectors.DefaultSelector() as selector:
            for number in range(sessions):
                connection = socket.socket()
                connection.bind((f"127.0.{number >> 12}.1", 0))
                connection.connect(("127.0.0.1", server.port))
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ)
                connections.append(connection)
            greeted, until = 0, time.monotonic() + 60
            while greeted < sessions and time.monotonic() < until:
                for key, _ in selector.select(1):
                    selector.unregister(key.fileobj)
                    greeted += key.fileobj.recv(3) == b"220"  # type: ignore[union-attr]
        after = shares(server.roots)
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port)) as one_more:
            one_more.recv(3)
            wait = time.monotonic() - began
    finally:
        for connection in connections:
            connection.close()
        server.stop()
        sink.stop()
    return (
        f"{greeted:,} idle sessions, two workers: {after // MIB} MB in all "
        f"({before // MIB} MB without), {(after - before) / sessions / 1024:.1f} KiB each; "
        f"one more is greeted after {wait * 1000:.0f} ms"
    )


def big(size: int, messages: int, base: Path) -> str:
    """So many messages of this size at once."""
    sink = Sink(Path(tempfile.mkdtemp(dir=base)))
    job = Job("big", messages, size=size, sessions=messages)
    server = Relayd(base / f"big-{messages}", job, sink.port)
    server.start()
    try:
        send(Job("warm-up", 100), server.port, sink)
        with Peak(server.roots, every=0.02) as peak:
            before = peak.octets
            seconds = send(job, server.port, sink)
    finally:
        server.stop()
        sink.stop()
    return (
        f"{messages} of {size / 1e6:.0f} MB at once: {before // MIB} MB before, "
        f"{peak.octets // MIB} MB at most, in {seconds:.1f} s"
    )


def main() -> None:
    """All of it, or what is named."""
    parser = argparse.ArgumentParser(prog="strain", description=__doc__)
    parser.add_argument("--what", default="idle,big,many")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on a real disk")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-strain-", dir=options.folder) as name:
        base = Path(name)
        base.chmod(0o755)
        for what in options.what.split(","):
            if what == "idle":
                print(idle(10_000, base))
            elif what == "big":
                print(big(50_000_000, 1, base))
            elif what == "many":
                print(big(25_000_000, 200, base))


if __name__ == "__main__":
    main()
