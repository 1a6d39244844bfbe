"""All faults, in the order of the table: importing a module names its runs."""

# ruff: noqa: I001  the table's order, not the alphabet's
from __future__ import annotations

from tests.faults import kills, hands, disks, crowds, memory, hostile, doors, links, hops, names
from tests.faults import beside, throttles, unread, pests, dropfolder
from tests.faults.run import FAULTS, run

__all__ = [
    "FAULTS", "crowds", "disks", "doors", "hands", "hops", "hostile", "kills", "links", "memory",
    "names", "run",
]  # fmt: skip
