"""All faults, in the order of the table: importing a module names its runs."""

from __future__ import annotations

from tests.faults import crowds, disks, hops, kills, names
from tests.faults.run import FAULTS, run

__all__ = ["FAULTS", "crowds", "disks", "hops", "kills", "names", "run"]
