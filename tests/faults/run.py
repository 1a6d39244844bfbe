"""A fault as a named, seeded run, and what it showed as a row of the table."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.faults.oracle import Verdict
from tests.faults.stage import Stage


@dataclass
class Row:
    """One line of the table that `make faults` prints."""

    fault: str
    runs: int = 0  # how often relayd was broken
    acknowledged: int = 0  # recipients
    delivered: int = 0
    reported: int = 0
    lost: int = 0
    duplicates: int = 0
    recover: float = 0.0  # the longest, in seconds
    seconds: float = 0.0
    complaints: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, verdict: Verdict, stage: Stage | None = None) -> None:
        """What the oracle found, and relayd's own audit."""
        self.acknowledged += verdict.acknowledged
        self.delivered += verdict.delivered
        self.reported += verdict.reported
        self.lost += len(verdict.lost)
        self.duplicates += verdict.duplicates
        self.complaints += verdict.complaints
        self.demand(verdict.acknowledged > 0, "nothing was acknowledged: the run means nothing")
        if stage is not None:
            self.demand(stage.audited.startswith("clean"), f"audit: {stage.audited}")
            self.demand(stage.left == 0, f"{stage.left} messages still waited at the end")
            self.recover = max([self.recover, *stage.recoveries])

    def demand(self, kept: bool, what: str) -> None:
        """A criterion of this fault's own."""
        if not kept:
            self.complaints.append(what)


Fault = Callable[[Row, int, bool], Awaitable[None]]
"""Fills the row; the seed, and whether the short form is wanted."""

FAULTS: dict[str, Fault] = {}
"""By name, in the order of the table."""


def fault(name: str) -> Callable[[Fault], Fault]:
    """Names a run."""

    def named(function: Fault) -> Fault:
        assert name not in FAULTS, name
        FAULTS[name] = function
        return function

    return named


async def run(name: str, seed: int, *, short: bool) -> Row:
    """One fault; what goes wrong with the run itself is a complaint, too."""
    row = Row(name)
    began = time.monotonic()
    try:
        await FAULTS[name](row, seed, short)
    except AssertionError as error:
        lines = str(error).splitlines()
        row.complaints.append("\n".join([*lines[:1], *lines[-8:]]))
    row.seconds = time.monotonic() - began
    return row
