"""What the tests of this folder stand on: they say what they lack."""

from __future__ import annotations

import os
import unittest
from typing import NoReturn

from tests.faults import cable, cluster, disk, shim
from tests.support import Timed


class Proof(Timed):
    """A test that breaks relayd, or says why it cannot."""

    def need_disk(self) -> None:
        """Loop devices and root."""
        if disk.missing():
            self.lack(disk.missing())

    def need_shim(self) -> None:
        """A compiler."""
        if shim.missing():
            self.lack(shim.missing())

    def need_cable(self) -> None:
        """Network namespaces and TUN devices."""
        if cable.missing():
            self.lack(cable.missing())

    def need_cluster(self) -> None:
        """PostgreSQL."""
        if cluster.missing():
            self.lack(cluster.missing())

    def lack(self, what: str) -> NoReturn:
        """Skip; fail where nothing may be skipped."""
        if os.environ.get("RELAYD_REQUIRE_PEERS"):
            self.fail(f"needs {what}")
        raise unittest.SkipTest(f"needs {what}")
