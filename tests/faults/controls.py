"""Two that break the promise on purpose: a harness that does not catch them proves nothing."""

from __future__ import annotations

import ctypes.util

from tests.faults.disks import power_cuts
from tests.faults.run import Row


def liar() -> str:
    """The library that makes fsync do nothing; empty if it is not here."""
    return ctypes.util.find_library("eatmydata") or ""


async def lying_disk() -> Row:
    """A disk that says that all is on the platter when nothing is; its power is cut."""
    row = Row("control: a disk that lies about fsync")
    await power_cuts(row, 1, 3, environment={"LD_PRELOAD": liar()})
    return row


async def hasty() -> Row:
    """A relayd that says 250 before the commit."""
    row = Row("control: 250 before the commit")
    await power_cuts(row, 1, 3, entry="tests.faults.hasty", patience=5.0)
    return row


CONTROLS = (lying_disk, hasty)
