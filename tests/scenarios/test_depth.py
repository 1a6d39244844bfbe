"""A deep queue: listing it, remembering it and starting with it cost next to nothing.

RELAYD_DEPTH=100000 for the full number.
"""

from __future__ import annotations

import os
import time

from tests.scenarios.harness import Relayd, Scenario, free_port, unhurried, wait_until
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
        seconds = min(self.list_all(relay) for _ in range(3))
        self.check(seconds, 1.0, f"relayctl queue with {COUNT} waiting")
        self.check(min(self.start_again(relay) for _ in range(3)), 2.0, "start to first 250")
        wait_until(lambda: relay.ctl("status", check=False).returncode == 0, "all are ready")
        self.assertEqual(len(relay.queue()), COUNT + 3)
        self.check(relay.memory(), MEMORY, "memory after the start")

    def list_all(self, relay: Relayd) -> float:
        """Seconds that a whole listing takes."""
        began = time.monotonic()
        lines = relay.ctl("queue").stdout.splitlines()
        self.assertGreaterEqual(len(lines), COUNT)
        return unhurried(began)

    def start_again(self, relay: Relayd) -> float:
        """Seconds from a start to its first 250; the best of some tells of relayd, not of us."""
        relay.stop()
        began = time.monotonic()
        relay.start(all_workers=False)
        relay.send("ann@example.net", ["bob@example.com"])
        return unhurried(began)

    def check(self, figure: float, limit: float, what: str) -> None:
        """A figure within its limit; shown either way when asked to keep things."""
        if os.environ.get("RELAYD_KEEP"):
            print(f"{what}: {figure:,.2f} (limit {limit:,.2f})")
        self.assertLess(figure, limit, what)
