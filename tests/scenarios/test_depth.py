"""A deep queue: listing it, remembering it and starting with it cost next to nothing.

RELAYD_DEPTH=100000 for the full number.
"""

from __future__ import annotations

import os
import time

from tests.scenarios.harness import Scenario, free_port
from tests.scenarios.injector import inject

COUNT = int(os.environ.get("RELAYD_DEPTH", "5000"))
MEMORY = 200 << 20  # octets


class Deep(Scenario):
    def test_many_messages_waiting_for_a_dead_destination(self) -> None:
        relay = self.relayd(
            f"next-hop dead smtp 127.0.0.1:{free_port()}\naccept from 127.0.0.0/8\n"
            "route any via dead\n"
        )
        injected = inject(relay.port, COUNT, size=1000, sessions=8)
        self.assertEqual(len(injected.acknowledged), COUNT, injected.refused)
        self.check(relay.memory(), MEMORY, "memory with them waiting")
        relay.ctl("status")
        began = time.monotonic()
        lines = relay.ctl("queue").stdout.splitlines()
        seconds = time.monotonic() - began
        self.assertGreaterEqual(len(lines), COUNT)
        self.check(seconds, 1.0, f"relayctl queue with {COUNT} waiting")
        relay.stop()
        began = time.monotonic()
        relay.start()
        relay.send("ann@example.net", ["bob@example.com"])
        self.check(time.monotonic() - began, 2.0, "from start to the first 250")
        self.assertEqual(len(relay.queue()), COUNT + 1)
        self.check(relay.memory(), MEMORY, "memory after the start")

    def check(self, figure: float, limit: float, what: str) -> None:
        """A figure within its limit; shown either way when asked to keep things."""
        if os.environ.get("RELAYD_KEEP"):
            print(f"{what}: {figure:,.2f} (limit {limit:,.2f})")
        self.assertLess(figure, limit, what)
