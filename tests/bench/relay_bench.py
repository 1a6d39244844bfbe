"""How much mail relayd relays, beside Postfix: the same job in turns, pair by pair.

Every pair runs the servers one after the other on this machine, so that what else the machine
does hits both; the figure that counts is the ratio of the two within a pair, and its median.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.bench.jobs import JOBS, Job, Sink, send
from tests.bench.plot import draw_rates
from tests.bench.servers import (
    SERVERS,
    Relayd,
    Server,
    beside,
    needs,
    packaged_python,
    remove,
)
from tests.bench.tunnels import before_server, before_sink
from tests.bench.usage import Peak, cpu_seconds, prefer

WARM_UP = 100  # messages before the clock starts: daemons and connections are there then
DIRECTORIES = 300  # ... and the spool's directories for large content
REST = 0.4  # seconds after the last message, for what is still being recorded


@dataclass(frozen=True, slots=True)
class Run:
    """What one server did with one job, once."""

    server: str
    job: str
    rate: float  # messages a second, from the first connection to the last message at the sink
    cpu: float  # seconds per 1,000 messages, all processes of the server
    memory: int  # octets at most, resident, shared pages counted for each process
    load: float  # of the machine when it began


def warm_up(job: Job) -> Job:
    """A little of the same."""
    count = min(WARM_UP, max(job.messages // 10, 10))
    if job.size > 100_000:
        return replace(job, messages=DIRECTORIES, size=100_000)
    return replace(job, messages=count, sessions=min(job.sessions, 20))


def measure(kind: type[Server], job: Job, base: Path, *, trace: Path | None = None) -> Run:
    """Start the server, do the job, stop it."""
    folder = base / f"{kind.name}-{time.monotonic_ns()}"
    sink_folder = Path(tempfile.mkdtemp(dir=base))
    sink = Sink(sink_folder)
    tunnels = [before_sink(sink_folder, sink)] if job.tls else []
    server = kind(folder, job, tunnels[0].port if tunnels else sink.port, trace)
    try:
        server.start()
        port = server.port
        if job.tls:
            tunnels.append(before_server(sink_folder, port))
            port = tunnels[1].port
        prefer([os.getpid(), sink.pid, *[each.pid for each in tunnels], *server.roots])
        try:
            send(warm_up(job), port, sink)
            time.sleep(REST)
            load = os.getloadavg()[0]
            before = cpu_seconds(server.roots)
            with Peak(server.roots) as peak:
                seconds = send(job, port, sink)
                time.sleep(REST)
            used = cpu_seconds(server.roots) - before
        except (RuntimeError, AssertionError) as error:
            raise RuntimeError(f"{kind.name}: {error}\n{server.log()}") from error
        finally:
            server.stop()
    finally:
        for tunnel in tunnels:
            tunnel.stop()
        sink.stop()
        remove(folder)
        remove(sink_folder)
    count = job.messages
    return Run(kind.name, job.name, count / seconds, used / count * 1000, peak.octets, load)


def syncs(kind: type[Server], job: Job, base: Path) -> float:
    """fsync and fdatasync calls per message, counted by strace in a run of its own."""
    trace = base / "strace"
    measure(kind, job, base, trace=trace)
    rows = [line.split() for line in trace.read_text().splitlines()]
    # % time, seconds, usecs/call, calls, perhaps errors, name
    calls = sum(int(row[3]) for row in rows if row and row[-1] in ("fsync", "fdatasync"))
    return calls / (job.messages + warm_up(job).messages)


def bench(job: Job, kinds: Sequence[type[Server]], pairs: int, base: Path) -> list[Run]:
    """All servers in turns, the order turned round each time."""
    runs: list[Run] = []
    for pair in range(pairs):
        for kind in kinds if pair % 2 == 0 else reversed(kinds):
            run = measure(kind, job, base)
            print(
                f"  {job.name:10} {run.server:10} {run.rate:7.0f}/s  {run.cpu:6.2f} s/1000  "
                f"{run.memory >> 20:4} MB  load {run.load:.1f}",
                flush=True,
            )
            runs.append(run)
    return runs


def ratios(runs: Sequence[Run], job: str, server: str, other: str) -> list[float]:
    """Rate of one server to the other's, pair by pair."""
    ours = [run.rate for run in runs if (run.job, run.server) == (job, server)]
    theirs = [run.rate for run in runs if (run.job, run.server) == (job, other)]
    return [mine / its for mine, its in zip(ours, theirs, strict=True)]


def table(runs: Sequence[Run], synced: dict[str, dict[str, float]], other: str) -> str:
    """The summary, in the form docs/performance.md has it."""
    counted = " | syncs/message" if synced else ""
    lines = [
        f"| job | server | rate, median | ratio to {other}: median (min-max) "
        f"| CPU s/1000{counted} | peak memory |",
        "|---|---|---|---|---|---|" + "---|" * bool(synced),
    ]
    for job in dict.fromkeys(run.job for run in runs):
        for server in dict.fromkeys(run.server for run in runs):
            own = [run for run in runs if (run.job, run.server) == (job, server)]
            if not own:
                continue
            pairs = ratios(runs, job, server, other) if server != other else []
            against = (
                f"**{statistics.median(pairs):.2f}** ({min(pairs):.2f}-{max(pairs):.2f})"
                if pairs
                else "1"
            )
            sync = synced.get(job, {}).get(server)
            told = "" if not synced else " | " if sync is None else f" | {sync:.2f}"
            lines.append(
                f"| {job} | {server} | {statistics.median(run.rate for run in own):.0f}/s "
                f"| {against} | {statistics.median(run.cpu for run in own):.2f}{told} "
                f"| {max(run.memory for run in own) >> 20} MB |"
            )
    return "\n".join(lines)


def options_of(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="relay_bench", description=__doc__)
    parser.add_argument("--jobs", default=",".join(job.name for job in JOBS), help="%(default)s")
    parser.add_argument("--servers", default="postfix,relayd-1,relayd-2", help=", ".join(SERVERS))
    parser.add_argument("--beside", type=Path, help="a checkout of before: before-1, before-2")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages, one pair")
    parser.add_argument("--syncs", action="store_true", help="count fsyncs (needs strace)")
    parser.add_argument("--nice", type=int, default=0, help="of load and servers, when others work")
    parser.add_argument("--python", default="", help="that runs relayd (as the package does)")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on a real disk")
    parser.add_argument("--plot", type=Path, help="draw the rates here, .svg or .png")
    parser.add_argument("--json", type=Path, help="write all runs here; or add to those in it")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] = sys.argv[1:]) -> int:
    """Run what was asked for."""
    options = options_of(arguments)
    if options.beside is not None:
        SERVERS.update({kind.name: kind for kind in beside(options.beside.resolve())})
    names = options.servers.split(",")
    lacking = needs(names)
    for name, reason in lacking.items():
        print(f"left out: {name}, which needs {reason}")
    kinds = [SERVERS[name] for name in names if name not in lacking]
    if "the load" in lacking or not kinds:
        print("nothing to measure")
        return 1
    Relayd.python = options.python
    print(f"relayd runs on {options.python or packaged_python()}")
    prefer.nice = options.nice
    wanted = options.jobs.split(",")
    jobs = [job.quick() if options.quick else job for job in JOBS if job.name in wanted]
    runs: list[Run] = []
    synced: dict[str, dict[str, float]] = {}
    if options.json and options.json.exists():
        kept = json.loads(options.json.read_text())
        runs = [Run(**each) for each in kept["runs"] if each["job"] not in wanted]
        synced = {job: each for job, each in kept["syncs"].items() if job not in wanted}
    with tempfile.TemporaryDirectory(prefix="relay-bench-", dir=options.folder) as name:
        base = Path(name)
        base.chmod(0o755)
        for job in jobs:
            runs += bench(job, kinds, 1 if options.quick else options.pairs, base)
            if options.syncs:
                synced[job.name] = {
                    kind.name: syncs(kind, job.quick(), base)
                    for kind in kinds
                    if kind.name != "nothing"
                }
    other = "postfix" if "postfix" in {run.server for run in runs} else names[0]
    print(table(runs, synced, other))
    if options.json:
        kept = {"runs": [asdict(run) for run in runs], "syncs": synced}
        options.json.write_text(json.dumps(kept, indent=1))
    if options.plot:
        print(draw_rates(options.plot, runs, other))
    return 0


if __name__ == "__main__":
    sys.exit(main())
