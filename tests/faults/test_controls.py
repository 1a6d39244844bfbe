"""The harness proves something only if it catches those who break the promise on purpose."""

from __future__ import annotations

import asyncio

from tests.faults.controls import hasty, liar, lying_disk
from tests.faults.proof import Proof


class Controls(Proof):
    def test_a_disk_that_lies_about_fsync_is_caught(self) -> None:
        self.need_disk()
        if not liar():
            self.lack("libeatmydata (apt-get install libeatmydata1)")
        row = asyncio.run(lying_disk())
        self.assertGreater(row.lost, 0, row)

    def test_a_relayd_that_answers_before_the_commit_is_caught(self) -> None:
        self.need_disk()
        row = asyncio.run(hasty())
        self.assertGreater(row.lost, 0, row)
