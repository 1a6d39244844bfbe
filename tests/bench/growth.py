"""How the CPU of a message grows with recipients, size, sessions, rules and workers."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tests.bench.jobs import Job, Sink, send
from tests.bench.plot import draw_lines
from tests.bench.servers import Relayd, remove
from tests.bench.usage import cpu_seconds

BASE = Job("growth", 1200)
ACROSS: dict[str, Sequence[int]] = {
    "recipients": (1, 5, 20, 50, 100),
    "size": (1_000, 5_000, 20_000, 60_000, 200_000, 1_000_000),
    "sessions": (1, 5, 20, 100, 200),
    "rules": (0, 100, 1_000, 10_000),
    "workers": (1, 2, 4),
}


class _Grown(Relayd):
    """relayd with so many workers, and so many rules before the one that matches."""

    count = 1
    rules = 0

    def start(self) -> None:
        """With `count` workers."""
        type(self).workers = self.count
        super().start()

    def _rules(self) -> Iterator[str]:
        for number in range(self.rules):
            yield f"rewrite recipient user{number}@other.example -> person{number}@other.example"


def job_for(what: str, value: int) -> Job:
    """The job with this one thing changed, and fewer messages where each is more work."""
    if what == "recipients":
        return replace(BASE, recipients=value, messages=max(BASE.messages // value, 100))
    if what == "size":
        return replace(BASE, size=value, messages=max(min(30_000_000 // value, 1500), 60))
    if what == "sessions":
        return replace(BASE, sessions=value)
    return BASE


def cost(what: str, value: int, base: Path, runs: int) -> float:
    """Milliseconds of CPU for one message, the median of a few runs."""
    job = job_for(what, value)
    sink = Sink(Path(tempfile.mkdtemp(dir=base)))
    _Grown.count = value if what == "workers" else 1
    _Grown.rules = value if what == "rules" else 0
    server = _Grown(base / f"{what}-{value}", job, sink.port)
    server.start()
    found = []
    try:
        send(Job("warm-up", 200), server.port, sink)
        for _ in range(runs):
            time.sleep(0.3)
            before = cpu_seconds(server.roots)
            send(job, server.port, sink)
            time.sleep(0.3)
            found.append((cpu_seconds(server.roots) - before) / job.messages * 1000)
    finally:
        server.stop()
        sink.stop()
        remove(server.folder)
    return sorted(found)[len(found) // 2]


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(prog="growth", description=__doc__)
    parser.add_argument("--what", default=",".join(ACROSS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on a real disk")
    parser.add_argument("--plots", type=Path, help="a folder for one drawing each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-growth-", dir=options.folder) as name:
        base = Path(name)
        base.chmod(0o755)
        for what in options.what.split(","):
            points = []
            for value in ACROSS[what]:
                points.append((float(value), cost(what, value, base, options.runs)))
                print(f"| {what} | {value:,} | {points[-1][1]:.2f} ms |", flush=True)
            if options.plots:
                drawing = options.plots / f"{what}.svg"
                print(draw_lines(drawing, {"": points}, what, "CPU of a message, ms"))


if __name__ == "__main__":
    main()
