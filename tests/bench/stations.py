"""Where the CPU of a message goes, station by station: py-spy's samples, told as a table.

A sample counts for the innermost of our modules on its stack; Twisted and the standard library
count for whoever called them, and for the reactor when nobody of ours did. Samples are of what
holds Python's lock; what the kernel and SQLite do without it is told apart, by the kernel's clock.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.bench.jobs import JOBS, Job, Sink, send
from tests.bench.servers import Relayd
from tests.bench.usage import cpu_times

LOOP = "the reactor itself"
STATIONS = (  # the first that matches a module's path below relayd/
    ("session: intake's rim", r"intake/(session|factory|listener|house|limits)|wire"),
    (
        "smtp: server and framing",
        r"smtp/(server|receiving|exchange|content|framing|grammar|state|ev)",
    ),
    ("smtp: server and framing", r"smtp/(replies|extensions|xtext)"),
    ("reception, trace, header", r"intake/"),
    ("rules", r"rules/"),
    ("spool: rows and promises", r"spool/(store|draft|rows|bridge|space|view)"),
    ("spool: the writer's SQLite", r"spool/"),
    ("dispatch and settling", r"relay/(dispatch|settling|limits|verdict|route|sweep)|spool/queue"),
    ("courier and smtp client", r"relay/|smtp/"),
    ("log", r"ops/"),
    (LOOP, r"turns|strand"),
    ("values", r"mail/"),
    ("wiring", r""),
)
_MODULE = re.compile(r"\(relayd/([a-z_/]+)\.py:\d+\)")


def station(stack: str) -> str:
    """Whom a stack of py-spy's counts for."""
    modules = _MODULE.findall(stack)
    if not modules:
        return LOOP
    return next(name for name, pattern in STATIONS if re.match(pattern, modules[-1]))


def shares(raw: str) -> Counter[str]:
    """Samples by station."""
    counted: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, samples = line.rpartition(" ")
        if not re.search(r"Chore|_waiting|queue\.get", stack):
            counted[station(stack)] += int(samples)
    return counted


def main(arguments: Sequence[str] = sys.argv[1:]) -> int:
    """Profile one worker under one job."""
    parser = argparse.ArgumentParser(prog="stations", description=__doc__)
    parser.add_argument("--job", default="5k")
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    options = parser.parse_args(arguments)
    spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:/usr/bin:/usr/local/bin")
    if spy is None:
        print("needs py-spy (pip install py-spy)")
        return 1
    job = next(job for job in JOBS if job.name == options.job)
    with tempfile.TemporaryDirectory(prefix="relay-stations-", dir=options.folder) as name:
        base = Path(name)
        base.chmod(0o755)
        sink = Sink(base)
        server = Relayd(base / "relayd", job, sink.port)
        server.start()
        try:
            send(Job("warm-up", 200), server.port, sink)
            time.sleep(0.5)
            before = cpu_times(server.roots)
            send(job, server.port, sink)  # without the profiler, for the sum
            time.sleep(0.5)
            user, system = (
                (after - was) / job.messages * 1e6
                for after, was in zip(cpu_times(server.roots), before, strict=True)
            )
            raw = base / "raw"
            watched = [spy, "record", "--gil", "--rate", "400", "--format", "raw"]
            profiler = subprocess.Popen(
                [*watched, "-d", str(options.seconds), "-o", str(raw), "-p", str(server.roots[0])],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while profiler.poll() is None:
                send(Job(job.name, max(job.messages // 10, 10), job.size), server.port, sink)
        finally:
            server.stop()
            sink.stop()
        counted = shares(raw.read_text())
    total = sum(counted.values())
    print(f"CPU of one message, job {job.name}, one worker: {user + system:.0f} us")
    print("| station | share | us |\n|---|---|---|")
    for name, samples in [*counted.most_common(), ("the kernel, for all of them", 0)]:
        cost = samples / total * user if samples else system
        print(f"| {name} | {cost / (user + system):.0%} | {cost:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
