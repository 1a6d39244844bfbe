"""All faults, in the order of the table: importing a module names its runs."""

# ruff: noqa: I001  the table's order, not the alphabet's
from __future__ import annotations

from tests.faults import kills, hands, disks, crowds, memory, hostile, doors, links, hops, names
from tests.faults import throttles, bounces, beside, pests, dropfolder, unread, checks, cutthrough
from tests.faults import gateways
from tests.faults.run import FAULTS, run

__all__ = [
    "FAULTS", "beside", "bounces", "checks", "crowds", "cutthrough", "disks", "doors",
    "dropfolder", "gateways", "hands", "hops", "hostile", "kills", "links", "memory", "names",
    "pests", "run", "throttles", "unread",
]  # fmt: skip
