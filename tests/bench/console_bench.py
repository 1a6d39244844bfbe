"""What a look at each screen of the console costs with many messages waiting; prints milliseconds.

python -m tests.bench.console_bench [MESSAGES [DIRECTORY]]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet import reactor as the_reactor

from relayd.config.values import ConsolePlace, MetricsPlace
from relayd.login.guesses import Guesses
from relayd.login.users import Seat
from relayd.ops.commands import Backend, OperatorCommands
from relayd.ops.maillog import LineLog
from relayd.ops.suspending import SuspendingDesk
from relayd.reactor.coroutine import promise
from relayd.relay.suspensions import Suspensions
from relayd.spool.sqlite.store import Spool
from relayd.web.api import Api
from relayd.web.console import Console
from relayd.web.entrance import Entrance
from relayd.web.exchange import WebRequest
from tests.bench.queue_bench import ReactorBridge, fill

reactor: Any = the_reactor
PLACE = ConsolePlace(MetricsPlace(path=Path("/console")))
SCREENS = ("/", "/queue", "/queue?recipient=recipient99999", "/queue?state=held", "/health")
ABOUT = {"hostname": "gw.example.com", "pid": 1, "version": "0"}


async def measure(count: int, directory: Path) -> None:
    """Fill, and look at each screen five times."""
    log = LineLog(sys.stderr.buffer.write, clock=time.time, later=lambda flush: None)
    spool = Spool(directory, ReactorBridge(), log=log)
    spool.open()
    await fill(spool, count)

    async def nothing(*_: object) -> Any:
        return ""

    suspensions = Suspensions(directory, log, time.time)
    commands = OperatorCommands(
        [Backend(0, spool, lambda: (), dict)],
        suspending=SuspendingDesk(suspensions, list, list, log, time.time),
        about=lambda: ABOUT, explain=nothing, check=nothing, reload=nothing, log=log,
    )  # fmt: skip

    def nobody(table: str) -> Mapping[str, Seat]:
        return {}

    def closed(table: str) -> Entrance:
        raise AssertionError(table)

    api = Api(commands, lambda token: None, Guesses(time.monotonic))
    # a clock that runs: nobody is told what was made for somebody else
    console = Console(commands, api, "gw", closed, nobody, monotonic=lambda: time.monotonic() * 1e6)
    for address in SCREENS:
        path, _, query = address.partition("?")
        asked = WebRequest("GET", path, PLACE, "", "uid=0", False, query, {"host": ["localhost"]})
        cost, took = [], []
        for _ in range(5):
            used, began = time.process_time(), time.perf_counter()
            answer = await console.answer(asked)
            cost.append(time.process_time() - used)
            took.append(time.perf_counter() - began)
            assert answer.status == 200, answer.body
        print(f"{address:32}  {min(cost) * 1e3:8.1f} ms of CPU  {min(took) * 1e3:8.1f} ms")
    await spool.close()


def main() -> None:
    """Measure in a folder of its own, unless one is named."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(temporary, "spool")

        def run() -> None:
            done = promise(measure(count, directory))
            done.addErrback(lambda failure: failure.printTraceback())
            done.addBoth(lambda _: reactor.stop())

        reactor.callWhenRunning(run)
        reactor.run()


if __name__ == "__main__":
    main()
