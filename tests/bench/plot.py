"""Draws what was measured, where matplotlib is installed (a development tool only)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class Rated(Protocol):
    """A run, as far as it is drawn."""

    @property
    def server(self) -> str: ...
    @property
    def job(self) -> str: ...
    @property
    def rate(self) -> float: ...


def _figure(width: float, height: float) -> tuple[Any, Any] | None:
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "relayd"  # the same drawing is the same file
    figure, axes = pyplot.subplots(figsize=(width, height))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> str:
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return f"drawn: {path}"


def draw_rates(path: Path, runs: Sequence[Rated], other: str) -> str:
    """Bars: the ratio to the other server, job by job, with the least and the most."""
    made = _figure(8, 4)
    if made is None:
        return "not drawn: needs matplotlib (pip install matplotlib)"
    figure, axes = made
    jobs = list(dict.fromkeys(run.job for run in runs))
    servers = [name for name in dict.fromkeys(run.server for run in runs) if name != other]
    width = 0.8 / max(len(servers), 1)
    for number, server in enumerate(servers):
        for place, job in enumerate(jobs):
            ours = [run.rate for run in runs if (run.server, run.job) == (server, job)]
            theirs = [run.rate for run in runs if (run.server, run.job) == (other, job)]
            if not ours or not theirs:
                continue
            pairs = [mine / its for mine, its in zip(ours, theirs, strict=True)]
            middle = statistics.median(pairs)
            axes.bar(
                place + number * width,
                middle,
                width * 0.9,
                yerr=[[middle - min(pairs)], [max(pairs) - middle]],
                color=f"C{number}",
                label=server if place == 0 else None,
                capsize=2,
            )
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(jobs))], jobs)
    axes.set_ylabel(f"messages per second, {other} = 1")
    axes.legend(frameon=False)
    return _save(figure, path)


def draw_lines(
    path: Path, lines: Mapping[str, Sequence[tuple[float, float]]], across: str, up: str
) -> str:
    """One line per name, from zero."""
    made = _figure(5, 3.2)
    if made is None:
        return "not drawn: needs matplotlib (pip install matplotlib)"
    figure, axes = made
    for name, points in lines.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_ylim(bottom=0)
    if len(lines) > 1:
        axes.legend(frameon=False)
    return _save(figure, path)
