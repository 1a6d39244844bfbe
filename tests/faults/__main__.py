"""Runs the faults and prints one table.

    python -m tests.faults [--short] [--seed N] [--times N] [--table FILE] [WORD ...]

A word picks the faults whose name contains it. The exit status is not zero if a promise was
broken. The same seed repeats the same letters and the same moments.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from tests.faults.everything import FAULTS, run
from tests.faults.run import Row

COLUMNS = (
    ("fault", 36), ("runs", 5), ("acknowledged", 12), ("delivered", 9), ("reported", 8),
    ("lost", 4), ("duplicates", 10), ("recover s", 9), ("took s", 6),
)  # fmt: skip


def heading() -> str:
    """The first two lines of the table, as Markdown has it."""
    names = " | ".join(name.ljust(width) for name, width in COLUMNS)
    rule = "-|-".join("-" * width for _, width in COLUMNS)
    return f"| {names} |\n|-{rule}-|"


def line(row: Row) -> str:
    """One more."""
    numbers = (
        f"{row.runs:,}", f"{row.acknowledged:,}", f"{row.delivered:,}", f"{row.reported:,}",
        f"{row.lost:,}", f"{row.duplicates:,}", f"{row.recover:.1f}", f"{row.seconds:.0f}",
    )  # fmt: skip
    cells = [row.fault.ljust(COLUMNS[0][1])]
    cells += [text.rjust(width) for text, (_, width) in zip(numbers, COLUMNS[1:], strict=True)]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """The faults that were asked for, one after another."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--short", action="store_true", help="the forms that CI runs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", type=Path, help="keep the table in this file as well")
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    lines = [heading()]
    print(heading(), flush=True)
    broken = []
    for name in FAULTS:
        if options.words and not any(word in name for word in options.words):
            continue
        row = asyncio.run(run(name, options.seed, short=options.short))
        lines.append(line(row))
        print(lines[-1], flush=True)
        for remark in row.remarks:
            print(f"    {remark}", file=sys.stderr, flush=True)
        for complaint in row.complaints:
            broken.append(name)
            print(f"    BROKEN: {complaint}", file=sys.stderr, flush=True)
    if options.table:
        options.table.write_text("\n".join(lines) + "\n")
    if len(lines) == 1:
        print("no fault of that name", file=sys.stderr)
    return int(bool(broken) or len(lines) == 1)


if __name__ == "__main__":
    sys.exit(main())
