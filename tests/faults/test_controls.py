"""The harness proves something only if it catches those who break the promise on purpose."""

from __future__ import annotations

import asyncio
import ctypes.util

from tests.faults.disks import power_cuts
from tests.faults.proof import Proof
from tests.faults.run import Row


class Controls(Proof):
    def test_a_disk_that_lies_about_fsync_is_caught(self) -> None:
        self.need_disk()
        library = ctypes.util.find_library("eatmydata")
        if library is None:
            self.lack("libeatmydata (apt-get install libeatmydata1)")
        row = Row("libeatmydata and power cuts")
        asyncio.run(power_cuts(row, 1, 3, environment={"LD_PRELOAD": str(library)}))
        self.assertGreater(row.lost, 0, row)

    def test_a_relayd_that_answers_before_the_commit_is_caught(self) -> None:
        self.need_disk()
        row = Row("250 before the commit")
        asyncio.run(power_cuts(row, 1, 3, entry="tests.faults.hasty", patience=5.0))
        self.assertGreater(row.lost, 0, row)
