"""The short form of every fault. `make faults` runs the long ones."""

from __future__ import annotations

import asyncio

from tests.faults.everything import FAULTS, run
from tests.faults.proof import Proof

NEED_DISK = (
    "power cut",
    "power cut, two workers",
    "disk full, then freed",
    "inodes gone, then freed",
    "disk full at a cluster's database",
)
NEED_CLUSTER = ("cluster", "nodes", "primary", "COMMIT")
NEED_CABLE = ("packets", "links")
LONG_FORM_ONLY = (
    "memory missing for a moment",  # thousands of places, a few in each run
)
NEED_SHIM = ("EIO", "ENOSPC", "EROFS", "clock")


class Faults(Proof):
    """Methods are added below, one for each fault."""

    def show(self, name: str) -> None:
        if any(word in name for word in NEED_DISK):
            self.need_disk()
        if any(word in name for word in NEED_SHIM):
            self.need_shim()
        if any(word in name for word in NEED_CABLE):
            self.need_cable()
        if any(word in name for word in NEED_CLUSTER):
            self.need_cluster()
        row = asyncio.run(run(name, 1, short=True))
        self.assertEqual(row.complaints, [], row)
        self.assertEqual(row.lost, 0, row)


def _add(name: str) -> None:
    def test(self: Faults) -> None:
        self.show(name)

    words = "".join(letter if letter.isalnum() else " " for letter in name).split()
    test.__name__ = "test_" + "_".join(words)
    setattr(Faults, test.__name__, test)


for each in FAULTS:
    if each not in LONG_FORM_ONLY:
        _add(each)
