"""Clients that say what costs relayd much and them nothing; other clients beside them are good.

    python -m tests.faults.pests WAY PORT SECONDS

is a process of such clients, so that what the good ones wait for is relayd and not our own loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import sys
import time
from collections.abc import Awaitable, Callable

from relayd.login.scram import Verifier
from relayd.login.users import with_user, write
from tests.faults.crowds import percentile
from tests.faults.hostile import blocked
from tests.faults.injector import Injector, Peer, RefusedError
from tests.faults.run import Row, fault
from tests.faults.stage import Stage, staged
from tests.scenarios.harness import Process, free_port

PROMPT = 1.0  # seconds, at p99, that a good client's transaction may need
MOST_MEMORY = 80  # MB more than before
MOST_LOG = 1500  # kB a second
_PORT = re.compile(r"^listen [0-9.]+:([0-9]+)", re.MULTILINE)
RULES = """table people users file {people}
next-hop out smtp {{host}}:{{port}}
accept to @corp.test
rewrite header From, To, Cc, Reply-To, Sender @old.test -> @new.test
route any via out
"""

Way = Callable[[Peer, int], Awaitable[None]]

_OPEN = (
    b"[\\", b"(", b'"', b"<", b"(\\", b"@", b"a@[", b"<@a:", b'"\\', b"=?", b"a(", b"a,", b"\t",
)  # fmt: skip
_FIELDS = (b"From", b"To", b"Cc", b"Reply-To", b"Sender", b"Date", b"Message-ID", b"Received")


async def _begin(peer: Peer) -> None:
    await peer.want("EHLO pest.test", 250)
    await peer.want("MAIL FROM:<pest@sender.test>", 250)
    await peer.want("RCPT TO:<pest@corp.test>", 250)


async def headers(peer: Peer, number: int) -> None:
    """What opens and never closes, in every field that is looked at."""
    await _begin(peer)
    await peer.want("DATA", 354)
    body = _OPEN[number % len(_OPEN)] * 8000
    field = _FIELDS[number % len(_FIELDS)]
    await peer.give(field + b": " + body + b"\r\n\r\ntext\r\n.\r\n")


async def _storm(peer: Peer, lines: bytes) -> None:
    """Pipelined without end; what is answered is read and forgotten."""
    forgets = asyncio.create_task(_forget(peer))
    try:
        many = lines * (30_000 // len(lines))
        while not forgets.done():
            peer.writer.write(many)
            await peer.writer.drain()
    finally:
        forgets.cancel()


async def _forget(peer: Peer) -> None:
    with contextlib.suppress(OSError):
        while await peer.reader.read(1 << 16):
            pass


def _pipelined(*kinds: bytes) -> Way:
    """A storm of one of these."""

    async def way(peer: Peer, number: int) -> None:
        await peer.want("EHLO pest.test", 250)
        await _storm(peer, kinds[number % len(kinds)])

    return way


commands = _pipelined(
    b"NOOP\r\n",
    b"RSET\r\n",
    b"EHLO pest.test\r\n",
    b"VRFY someone\r\n",
    b"MAIL FROM:<pest@sender.test>\r\nRSET\r\n",
    b"HELP\r\n",
    b"HELO pest.test\r\n",
)
"""What achieves nothing."""

refusals = _pipelined(
    b"MAIL FROM:<pest@sender.test>\r\n",  # 530 where a login is wanted
    b"MAIL FROM:<pest@sender.test> X=Y\r\n",
    b"RCPT TO:<pest@corp.test>\r\n",
    b"AUTH PLAIN AGEAYg==\r\n",
    b"MAIL FROM:<pest@sender.test>\r\nRCPT TO:<x@foreign.test>\r\nRSET\r\n",
)
"""What is refused, each in another way."""


async def unfinished(peer: Peer, _number: int) -> None:
    """A header of almost 1 MiB that does not end, held open."""
    await _begin(peer)
    await peer.want("DATA", 354)
    peer.writer.write(b"X-A: " + b"x" * 900 + b"\r\n")
    for _ in range(1020):
        peer.writer.write(b"X-Another: " + b"y" * 1000 + b"\r\n")
        await asyncio.wait_for(peer.writer.drain(), 30)
    await _forget(peer)


async def bdat(peer: Peer, _number: int) -> None:
    """An octet at a time."""
    await _begin(peer)
    await _storm(peer, b"BDAT 1\r\nx")


WAYS: dict[str, tuple[Way, int]] = {
    "hostile headers": (headers, 6),
    "unended headers": (unfinished, 48),
    "command storms": (commands, 6),
    "refusal storms": (refusals, 6),
    "octet chunks": (bdat, 6),
}
"""By name, with the number of clients at a time."""


async def _come_again(way: Way, ports: list[int], number: int, until: float) -> None:
    for turn in itertools.count(number):
        if time.monotonic() >= until:
            return
        with contextlib.suppress(OSError, EOFError, TimeoutError, ValueError, RefusedError):
            peer = await Peer.dial(("127.0.0.1", ports[turn % len(ports)]))
            try:
                await peer.want("", 220)
                await asyncio.wait_for(way(peer, turn), until - time.monotonic())
            finally:
                peer.close()
        await asyncio.sleep(0.05)


async def _all(name: str, ports: list[int], seconds: float) -> None:
    way, count = WAYS[name]
    until = time.monotonic() + seconds
    await asyncio.gather(*[_come_again(way, ports, each, until) for each in range(count)])


async def _plague(row: Row, stage: Stage, injector: Injector, name: str, seconds: float) -> None:
    """One way for so long."""
    log = stage.folder / "log"
    before, since, written = len(injector.tally.seconds), time.monotonic(), log.stat().st_size
    least = most = stage.relayd.memory()
    ports = _PORT.findall(stage.relayd.config.read_text())
    command = [sys.executable, "-m", "tests.faults.pests", name, ",".join(ports), str(seconds)]
    pests = Process(command, stage.folder / "pests")
    try:
        while time.monotonic() < since + seconds:
            await asyncio.sleep(0.5)
            most = max(most, stage.relayd.memory())
    finally:
        pests.kill()
    took = injector.tally.seconds[before:]
    took.append(time.monotonic() - max(injector.tally.last_acknowledged, since))
    worst, grown = percentile(took, 0.99), (most - least) / 1e6
    rate = (log.stat().st_size - written) / 1e3 / seconds
    still = blocked(stage)
    row.remarks.append(
        f"good clients' p99 {worst:.2f} s, reactor blocked for {still:.2f} s at most,"
        f" memory +{grown:.0f} MB, log {rate:.0f} kB/s"
    )
    row.demand(still < PROMPT, f"reactor blocked for {still:.2f} s")
    row.demand(worst < PROMPT, f"p99 of the good clients {worst:.2f} s")
    row.demand(grown < MOST_MEMORY, f"memory grew by {grown:.0f} MB")
    row.demand(rate < MOST_LOG, f"{rate:.0f} kB of log a second")


async def _hostile(row: Row, seed: int, short: bool, name: str) -> None:
    """The good ones do not notice; memory and log are bounded."""
    async with staged(seed) as stage:
        people = stage.folder / "people"
        write(people, with_user([], "alice@corp.test", Verifier.of("secret", iterations=4096)))
        stage.build(
            rules=RULES.format(people=people),
            settings=f"listen 127.0.0.1:{free_port()} submission\n"
            f"listen 127.0.0.1:{free_port()} auth people submission\nauth-without-tls yes",
        )
        await stage.start()
        injector = stage.inject(kinds=("ok", "no"), sessions=4, pause=0.1, large=0)
        await asyncio.sleep(1.0)
        row.runs = WAYS[name][1]
        await _plague(row, stage, injector, name, 4.0 if short else 20.0)
        await injector.stop()
        wrong = set(injector.tally.codes) - {250}
        row.demand(not wrong, f"good clients heard {sorted(wrong)}")
        row.demand(injector.tally.broken == 0, f"{injector.tally.broken} good sessions broke")
        row.add(await stage.finish(), stage)


def _name(name: str) -> None:
    async def named(row: Row, seed: int, short: bool) -> None:
        await _hostile(row, seed, short, name)

    fault(f"{name}, good clients beside")(named)


for each in WAYS:
    _name(each)


if __name__ == "__main__":
    _, way, where, how_long = sys.argv
    asyncio.run(_all(way, [int(port) for port in where.split(",")], float(how_long)))
