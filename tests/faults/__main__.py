"""Runs the faults and prints one table.

    python -m tests.faults [--short] [--seed N] [WORD ...]

A word picks the faults whose name contains it. A whole long run in which every promise was kept
also writes its table into docs/reliability.md. The exit status is not zero if one was broken. The
same seed repeats the same letters and the same moments.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time

from tests.faults import disk
from tests.faults.controls import CONTROLS, liar
from tests.faults.everything import FAULTS, run
from tests.faults.run import Row
from tests.faults.table import document, heading, line, rewrite


def _show(row: Row) -> None:
    print(line(row), flush=True)
    for remark in row.remarks:
        print(f"    {remark}", file=sys.stderr, flush=True)
    for complaint in row.complaints:
        print(f"    BROKEN: {complaint}", file=sys.stderr, flush=True)


def _controls() -> list[Row]:
    """Both, judged the other way round: what loses nothing is not caught."""
    if disk.missing() or not liar():
        print("no controls: they need root, loop devices and libeatmydata", file=sys.stderr)
        return []
    rows = []
    for control in CONTROLS:
        row = asyncio.run(control())
        row.complaints = [] if row.lost else ["it was not caught"]
        rows.append(row)
        _show(row)
    return rows


def main() -> int:
    """The faults that were asked for, one after another."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--short", action="store_true", help="the forms that CI runs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    # so that whoever stops it leaves no relayd behind, and no disk
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    rows: list[Row] = []
    print(heading(), flush=True)
    for name in FAULTS:
        if options.words and not any(word in name for word in options.words):
            continue
        rows.append(asyncio.run(run(name, options.seed, short=options.short)))
        _show(rows[-1])
    if not rows:
        print("no fault of that name", file=sys.stderr)
        return 1
    controls = [] if options.words else _controls()
    broken = any(row.complaints for row in (*rows, *controls))
    if controls and not broken and not options.short:
        rewrite(document(rows, controls, time.monotonic() - began))
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
