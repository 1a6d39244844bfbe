"""The tables of docs/api.md, out of relayd/ops/answers.py: what stands there is written once.

    python -m tests.apidoc

writes them anew. A test compares.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from relayd.ops import answers

PLACE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
HEADING = "## The answers\n"


def sections() -> Iterator[str]:
    """One for each type, in the order of the module."""
    source = Path(answers.__file__).read_text("utf-8")
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            yield f"### {node.name}\n\n{ast.get_docstring(node)}\n"
            rows = [_row(field, lines) for field in node.body if isinstance(field, ast.AnnAssign)]
            yield "\n".join(["| field | type | |", "|---|---|---|", *rows, ""])


def _row(field: ast.AnnAssign, lines: list[str]) -> str:
    """One field; the comment behind it says more."""
    kind, said = ast.unparse(field.annotation), []
    if kind.startswith("NotRequired["):
        kind, said = kind.removeprefix("NotRequired[").removesuffix("]"), ["may be missing"]
    line = lines[(field.end_lineno or field.lineno) - 1][field.end_col_offset :]
    said += [line.partition("#")[2].strip()] if "#" in line else []
    return f"| `{ast.unparse(field.target)}` | {kind.replace(' | ', ' or ')} | {'; '.join(said)} |"


def written() -> str:
    """The whole document, with the tables as they are to be."""
    before, heading, _ = PLACE.read_text("utf-8").partition(HEADING)
    return f"{before}{heading}\n" + "\n".join(sections())


if __name__ == "__main__":
    PLACE.write_text(written(), "utf-8")
