"""The table of `make faults`, on the terminal and in docs/reliability.md."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from tests.faults.run import Row

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"

_COLUMNS = (
    ("fault", 40), ("runs", 5), ("acknowledged", 12), ("delivered", 9), ("reported", 8),
    ("lost", 4), ("duplicates", 10), ("recover s", 9), ("took s", 6),
)  # fmt: skip
_BEGIN, _END = "<!-- written by make faults -->\n", "<!-- up to here -->\n"


def heading() -> str:
    """The first two lines, as Markdown has it."""
    names = " | ".join(name.ljust(width) for name, width in _COLUMNS)
    rule = "-|-".join("-" * width for _, width in _COLUMNS)
    return f"| {names} |\n|-{rule}-|"


def line(row: Row) -> str:
    """One more."""
    numbers = (
        f"{row.runs:,}", f"{row.acknowledged:,}", f"{row.delivered:,}", f"{row.reported:,}",
        f"{row.lost:,}", f"{row.duplicates:,}", f"{row.recover:.1f}", f"{row.seconds:.0f}",
    )  # fmt: skip
    cells = [row.fault.ljust(_COLUMNS[0][1])]
    cells += [text.rjust(width) for text, (_, width) in zip(numbers, _COLUMNS[1:], strict=True)]
    return f"| {' | '.join(cells)} |"


def document(rows: Sequence[Row], controls: Sequence[Row], seconds: float) -> str:
    """What the document says of a whole run: when, where, the table, the remarks."""
    when = time.strftime("%-d %B %Y", time.gmtime())
    lines = [
        f"`make faults` on {when}: {seconds / 60:.0f} minutes on {os.cpu_count()} cores, load"
        f" average {os.getloadavg()[2]:.1f}.",
        "",
        heading().replace("-|", "-:|").replace("-:|", "-|", 1),
        *(line(row) for row in rows),
        "",
        *(f"- {row.fault}: {'; '.join(row.remarks)}" for row in rows if row.remarks),
        *(f"- {row.fault}: caught, {row.lost} recipients lost" for row in controls),
    ]
    return "\n".join(re.sub(r"  +", " ", text) for text in lines) + "\n"


def rewrite(text: str) -> None:
    """Put it into the document, between its marks."""
    whole = DOCUMENT.read_text("utf-8")
    before, _, rest = whole.partition(_BEGIN)
    _, mark, after = rest.partition(_END)
    assert mark, f"no marks in {DOCUMENT}"
    DOCUMENT.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{after}", "utf-8")
