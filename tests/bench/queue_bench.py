"""How long `relayctl queue` takes with many messages waiting; prints seconds.

python -m tests.bench.queue_bench [MESSAGES [DIRECTORY]]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred, maybeDeferred

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.message import Message, RecipientState, Record, Settlement, Submission
from relayd.mail.outcome import postponed
from relayd.ops.commands import Backend, OperatorCommands
from relayd.ops.control import ControlFactory, listen
from relayd.ops.maillog import LineLog
from relayd.spool.sqlite.store import Spool

reactor: Any = the_reactor
HEAD = b"Subject: one of many\r\n\r\n"


class ReactorBridge:
    """The spool's bridge onto Twisted's reactor."""

    def promise(self) -> Deferred[Any]:
        return Deferred()

    def call(self, function: Callable[..., None], *args: object) -> None:
        reactor.callFromThread(function, *args)


async def fill(spool: Spool, count: int) -> None:
    """Accept so many messages, and put each off once."""
    client = Client("192.0.2.9", 4711, "127.0.0.1:2525", "client.example", "ESMTP")
    trouble = postponed("4.4.1", "Connection refused")
    for start in range(0, count, 500):
        waiting = []
        for number in range(start, min(start + 500, count)):
            draft = spool.create()
            draft.write(HEAD + b"x" * 200 + b"\r\n")
            to = Mailbox(f"recipient{number}", f"domain{number % 50}.example")
            recipient = Recipient(to, to, reverse_path=Mailbox("sender", "example.com"))
            waiting.append(
                draft.commit(
                    Submission(
                        Envelope(Mailbox("sender", "example.com")),
                        client,
                        (recipient,),
                        header_size=len(HEAD),
                        eight_bit=False,
                        utf8_header=False,
                    )
                )
            )
        accepted: list[tuple[Message, tuple[Record, ...]]] = [await each for each in waiting]
        settlements = [
            Settlement(record, RecipientState.QUEUED, trouble, next_attempt=time.time() + 3600)
            for _, records in accepted
            for record in records
        ]
        await spool.settle(settlements)


async def measure(count: int, directory: Path) -> None:
    """Fill, serve, and ask from another process."""
    log = LineLog(sys.stderr.buffer.write, clock=time.time, later=lambda flush: None)
    spool = Spool(directory, ReactorBridge(), log=log)
    spool.open()
    began = time.perf_counter()
    await fill(spool, count)
    print(f"filled with {count} in {time.perf_counter() - began:.1f} s")
    backend = Backend(0, spool, lambda: (), dict)

    async def no_explain(request: object) -> dict[str, Any]:
        return {}

    async def no_complaint() -> str:
        return ""

    commands = OperatorCommands(
        [backend],
        about=dict,
        explain=no_explain,
        check=no_complaint,
        reload=no_complaint,
        log=log,
    )
    path = directory / "control"
    port = listen(reactor, path, ControlFactory(reactor, commands, log))
    for what in (["queue"], ["queue", "--json"], ["queue", "--limit", "10"], ["status"]):
        for _ in range(3):
            began = time.perf_counter()
            lines = await asked([*what, "--socket", str(path)])
            print(f"{' '.join(what):16}  {time.perf_counter() - began:6.3f} s  {lines} lines")
    await maybeDeferred(port.stopListening)
    await spool.close()


def asked(arguments: list[str]) -> Deferred[int]:
    """How many lines relayctl printed."""
    from twisted.internet.threads import deferToThread

    def ask() -> int:
        command = [sys.executable, "-m", "relayd.ctl.relayctl", *arguments]
        with tempfile.TemporaryFile() as output:
            subprocess.run(command, stdout=output, check=True)
            output.seek(0)
            return output.read().count(b"\n")

    return deferToThread(ask)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    directory = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp())

    def done(result: object) -> None:
        if result is not None:
            print(result)
        reactor.stop()

    reactor.callWhenRunning(
        lambda: Deferred.fromCoroutine(measure(count, directory / "spool")).addBoth(done)
    )
    reactor.run()


if __name__ == "__main__":
    main()
