"""What the spool costs by itself: commit and settle, empty and deep. A plain script; see --help."""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.message import RecipientState, Settlement, Submission
from relayd.mail.outcome import Outcome
from relayd.mail.plan import Step
from relayd.mail.reply import Reply
from relayd.spool.sqlite import batch
from relayd.spool.sqlite.bridge import ThreadBridge
from relayd.spool.sqlite.store import Spool
from relayd.spool.view import QueueFilter


class Promise:
    """The cheapest promise: calls back at once."""

    def __init__(self) -> None:
        self.then: Callable[[Any], None] = lambda result: None

    def callback(self, result: Any) -> None:
        self.then(result)

    def errback(self, error: Exception) -> None:
        raise error

    def __await__(self) -> Any:
        yield self


class Nothing:
    """In place of the statements that write the ledger."""

    def execute(self, connection: object, rows: object) -> int:
        return 0


class BenchBridge(ThreadBridge):
    def promise(self) -> Any:
        return Promise()


SENDER = Mailbox("sender", "source.example")
CLIENT = Client("192.0.2.7", 40001, "0.0.0.0:25", "client.source.example", "ESMTP")
SUCCESS = Outcome(Reply.of(250, "2.0.0", "Ok: queued as 4XyZ12345"), "sink.example", "192.0.2.9:25")
TRAIL = (
    Step("accept", "rules.d/10-site.rules:14", 'accept for domain "corp.example"', "corp.example"),
    Step("route", "rules.d/10-site.rules:20", "route for any via inside", "inside"),
)


def submission(hop: str = "inside", recipients: int = 1) -> Submission:
    to = tuple(
        Recipient(
            Mailbox(f"user{n}", "corp.example"), Mailbox(f"user{n}", "corp.example"), hop, SENDER
        )
        for n in range(recipients)
    )
    return Submission(
        Envelope(SENDER, "8BITMIME"), CLIENT, to, 400, False, False, trail=TRAIL, rules="0f3a99bc"
    )


def burn(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(50))


class Load:
    """Commits and settles, a fixed number in flight, from one thread as the reactor would."""

    def __init__(self, spool: Spool, bridge: ThreadBridge, options: argparse.Namespace) -> None:
        self.spool, self.bridge, self.options = spool, bridge, options
        self.content = b"x" * options.size
        self.submission = submission(recipients=options.recipients)
        self.started = self.done = 0
        self.waits: list[float] = []
        self.batches = 0

    def start(self) -> None:
        self.started += 1
        if self.options.busy:
            burn(self.options.busy * 1e-6)
        began = time.perf_counter()
        draft = self.spool.create()
        draft.write(self.content)
        promise: Any = draft.commit(self.submission)

        def accepted(result: Any) -> None:
            self.waits.append(time.perf_counter() - began)
            settled: Any = self.spool.settle(
                [Settlement(record, RecipientState.DELIVERED, SUCCESS) for record in result[1]]
            )
            settled.then = self.finished

        promise.then = accepted

    def finished(self, _: Any) -> None:
        self.done += 1
        if self.started < self.options.messages:
            self.start()

    def run(self) -> None:
        for _ in range(min(self.options.flight, self.options.messages)):
            self.start()
        while self.done < self.options.messages:
            self.batches += self.bridge.pump(1.0)


def fill(spool: Spool, bridge: ThreadBridge, count: int, size: int) -> None:
    began = time.perf_counter()
    content, what = b"y" * size, submission("dead")
    done = [0]

    def one(_: Any) -> None:
        done[0] += 1

    started = 0
    while done[0] < count:
        while started < count and started - done[0] < 4000:
            draft = spool.create()
            draft.write(content)
            promise: Any = draft.commit(what)
            promise.then = one
            started += 1
        bridge.pump(1.0)
    print(f"filled with {count} in {time.perf_counter() - began:.1f} s")


def timed(name: str, bridge: ThreadBridge, promise: Any) -> Any:
    began = time.perf_counter()
    results: list[Any] = []
    promise.then = results.append
    bridge.until(lambda: bool(results))
    print(f"  {name}: {(time.perf_counter() - began) * 1e3:.1f} ms")
    return results[0]


def depth(spool: Spool, bridge: ThreadBridge) -> None:
    timed("destinations", bridge, spool.destinations())
    timed("due, 1000", bridge, spool.due("dead", time.time(), 1000))
    timed("due, 10", bridge, spool.due("dead", time.time(), 10))
    timed("counts", bridge, spool.counts())
    timed("aged, none", bridge, spool.aged(0.0, 0, 100))
    began, after, listed = time.perf_counter(), 0, 0
    while listed < 100_000:
        results: list[Any] = []
        promise: Any = spool.listing(QueueFilter(), after, 1000)
        promise.then = results.append
        while not results:
            bridge.pump(1.0)
        listed += results[0].messages
        if results[0].after is None:
            break
        after = results[0].after
    print(f"  listing of {listed}: {(time.perf_counter() - began) * 1e3:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20000)
    parser.add_argument("--size", type=int, default=5000)
    parser.add_argument("--recipients", type=int, default=1)
    parser.add_argument("--flight", type=int, default=100)
    parser.add_argument("--busy", type=float, default=0, help="us of other work per message")
    parser.add_argument("--depth", type=int, default=0, help="messages already waiting")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--without-ledger", action="store_true", help="what the audit costs")
    options = parser.parse_args()
    if options.without_ledger:
        batch._LEDGER = batch._END = Nothing()  # type: ignore[assignment]
    directory = options.directory or Path(tempfile.mkdtemp(prefix="spool-bench-", dir="/var/tmp"))
    bridge = BenchBridge()
    spool = Spool(directory, bridge)
    spool.open()
    if options.depth:
        fill(spool, bridge, options.depth, options.size)
        depth(spool, bridge)
    load = Load(spool, bridge, options)
    began, cpu = time.perf_counter(), time.process_time()
    load.run()
    seconds, used = time.perf_counter() - began, time.process_time() - cpu
    waits = sorted(load.waits)
    count = options.messages
    print(
        f"{count} messages of {options.size}: {count / seconds:.0f}/s, "
        f"{used / count * 1e6 - options.busy:.1f} us CPU each, {load.batches} wake-ups, commit "
        f"{waits[len(waits) // 2] * 1e3:.1f} ms median, {waits[-len(waits) // 100] * 1e3:.1f} ms "
        f"99th, {waits[-1] * 1e3:.1f} ms worst; "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB"
    )
    began = time.perf_counter()
    closed: Any = spool.close()
    timed("close", bridge, closed)
    again = Spool(directory, bridge)
    began = time.perf_counter()
    again.open()
    print(f"  open: {(time.perf_counter() - began) * 1e3:.1f} ms")
    timed("close", bridge, again.close())
    if options.directory is None:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
