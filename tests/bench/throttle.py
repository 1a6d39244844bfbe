"""What share of attempts a provider refuses that takes only so many messages in so many seconds.

    python -m tests.bench.throttle --stage mail --messages 200 --checkout DIR

One row for each stage at which the provider may say so; `--checkout` measures another tree.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_port
from tests.scenarios.harness import CHECKOUT, Relayd
from tests.scenarios.injector import inject
from tests.sink import Asked, Sink

STAGES = ("mail", "rcpt", "content")
REFUSAL = "421 4.7.28 Our system has detected an unusual rate of mail from your address"


class Throttle:
    """A provider's script: `most` are let by in any `seconds` at this stage, others hear 421."""

    def __init__(
        self, stage: str = "mail", most: int = 10, seconds: float = 10.0, reply: str = REFUSAL
    ) -> None:
        self.stage = stage
        self.most = most
        self.seconds = seconds
        self.reply = reply
        self.allowed = 0
        self.refused = 0
        self._lately: deque[float] = deque()
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> str | None:
        """Count at our own stage; sessions ask from threads of their own."""
        if asked.stage != self.stage:
            return None
        with self._lock:
            now = time.monotonic()
            while self._lately and self._lately[0] <= now - self.seconds:
                self._lately.popleft()
            if len(self._lately) >= self.most:
                self.refused += 1
                return self.reply
            self._lately.append(now)
            self.allowed += 1
            return None

    @property
    def share(self) -> float:
        """Of all that was asked, what part was refused."""
        return self.refused / max(self.allowed + self.refused, 1)


@dataclass(frozen=True, slots=True)
class Pace:
    """What was found at one stage."""

    stage: str
    delivered: int
    attempts: int
    refused: int
    seconds: float  # until all were delivered, or we gave up waiting

    def line(self) -> str:
        """A row of the table."""
        share = self.refused / max(self.attempts, 1)
        return (
            f"| {self.stage} | {self.delivered} | {self.attempts} | {self.refused} "
            f"| {share:.2f} | {self.seconds:.0f} s |"
        )


class _Other(Relayd):
    """relayd of any checkout."""

    checkout = CHECKOUT

    @property
    def environment(self) -> dict[str, str]:
        """Finds that checkout first."""
        return {"PYTHONPATH": str(self.checkout)}


def measure(
    stage: str, messages: int, most: int, seconds: float, longest: float, checkout: Path
) -> Pace:
    """Fill the queue, and wait until the provider has taken everything."""
    throttle = Throttle(stage, most, seconds)
    with tempfile.TemporaryDirectory(prefix="relay-throttle-") as name, Sink(throttle) as sink:
        folder, port = Path(name), free_port()
        settings = (
            f"hostname gw.example.com\nspool {folder / 'spool'}\ncontrol {folder / 'control'}\n"
            f"listen 127.0.0.1:{port}\nworkers 1\nnext-hop out smtp 127.0.0.1:{sink.port}\n"
            "accept from 127.0.0.0/8\nroute any via out\n"
        )
        relay = _Other(folder, settings, port=port, address="127.0.0.1", host=None)
        relay.checkout = checkout
        relay.start()
        try:
            began = time.monotonic()
            inject(port, messages)
            until = began + longest
            while len(sink.arrived) < messages and time.monotonic() < until:
                time.sleep(0.2)
            took = time.monotonic() - began
        finally:
            relay.stop()
        arrived = len(sink.arrived)
    return Pace(stage, arrived, throttle.allowed + throttle.refused, throttle.refused, took)


def main() -> None:
    """Every stage in turn."""
    parser = argparse.ArgumentParser(prog="throttle", description=__doc__)
    parser.add_argument("--stage", action="append", choices=STAGES)
    parser.add_argument("--messages", type=int, default=200)
    parser.add_argument("--most", type=int, default=10, help="so many messages are taken ...")
    parser.add_argument("--seconds", type=float, default=10.0, help="... in so many seconds")
    parser.add_argument("--longest", type=float, default=3600.0, help="seconds to wait for all")
    parser.add_argument("--checkout", type=Path, default=CHECKOUT)
    options = parser.parse_args()
    os.environ.pop("RELAYD_WORKERS", None)
    print("| refused at | delivered | attempts | refused | share | took |")
    print("|---|---|---|---|---|---|", flush=True)
    for stage in options.stage or STAGES:
        found = measure(
            *(stage, options.messages, options.most, options.seconds),
            *(options.longest, options.checkout),
        )
        print(found.line(), flush=True)


if __name__ == "__main__":
    main()
