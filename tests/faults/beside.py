"""Destinations that never answer, and their name servers, beside a next hop that is well.

Who has done nothing wrong is not to notice: what is measured is how long mail for the good next
hop is on its way, alone and beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from tests.faults.names import NameServer
from tests.faults.run import Row, fault
from tests.faults.sink import HangUpError, Mood, Session, Sink
from tests.faults.stage import Stage, staged
from tests.faults.transit import slowest

GOOD = "corp.test"  # its sub-domains are the bad ones
RULES = """next-hop out smtp {hop}:{{port}}
accept to @corp.test, @.corp.test
route to @corp.test, @sender.test via out
route any direct
"""
PROMPT = 2.0  # seconds from 250 to delivered, at p99, that the good one may need
_LATE = 10.0  # seconds for each reply of those who answer just in time


class Tarpit(Mood):
    """Many exchangers, each with an address of its own that says which vice it has."""

    def __init__(self) -> None:
        self.better = asyncio.Event()
        self.times = 0

    async def say(self, stage: str, session: Session) -> bytes | None:
        """Nothing at all, or late."""
        if self.better.is_set():
            return None
        self.times += stage == "connect"
        vice = _vice(session)
        if vice == "silent":
            await self.better.wait()
            raise HangUpError
        if vice == "late":
            await self._rest(_LATE)
        return None

    async def send(self, reply: bytes, session: Session) -> None:
        """Whole, or octet by octet once it has greeted."""
        if _vice(session) == "drips" and not reply.startswith(b"220"):
            for octet in reply[:-1]:
                if not self.better.is_set():
                    await super().send(bytes((octet,)), session)
                    await self._rest(1.0)
                    reply = reply[1:]
        await super().send(reply, session)

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.better.wait(), seconds)


def _vice(session: Session) -> str:
    address = str(session.writer.get_extra_info("sockname")[0])
    return ("silent", "drips", "late")[int(address.rpartition(".")[2]) % 3]


class Exchangers(NameServer):
    """For which every domain has an exchanger with an address of its own.

    `silent`: it says nothing about the bad ones; the good next hop's name it always knows.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.silent = False
        self._addresses = (f"127.1.{high}.{low}" for high in range(250) for low in range(1, 250))
        self._known: dict[str, str] = {}

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """A query."""
        if not self.silent or b"\x03hop\x04test\x00" in data:
            super().datagram_received(data, addr)
        else:
            self.asked += 1

    def speak(self) -> None:
        """From now on it answers."""
        self.silent = False

    def records(self, name: str, rdtype: str) -> list[str]:
        """Every one is asked for by its name."""
        if rdtype == "A" and name == "hop.test.":
            return ["127.0.0.1"]
        if rdtype == "A" and name.startswith("mx."):
            if name not in self._known:
                self._known[name] = next(self._addresses)
            return [self._known[name]]
        return [f"10 mx.{name}"] if rdtype == "MX" else []


async def _measured(stage: Stage, seconds: float) -> float:
    """p99 of the good next hop from now on for so long."""
    began = time.monotonic()
    await asyncio.sleep(seconds)
    # who has come in the last moments has had no time yet
    return slowest(stage.journal, GOOD, began, time.monotonic() - PROMPT / 2)


async def _crowded(stage: Stage, count: int) -> None:
    """So many messages for as many bad domains are with relayd."""
    bad = stage.inject(kinds=("ok", "no"), domains=2 * count, pause=0.0, large=0)
    await stage.until(lambda: bad.tally.acknowledged >= count, f"{count} messages wait")
    await bad.stop()


async def _beside(
    row: Row,
    seed: int,
    short: bool,
    server: Exchangers,
    mood: Mood,
    better: Callable[[], None],
    hop: str,
) -> None:
    """The good one alone, then beside the others until they are better; the verdict on it."""
    count, seconds = (160, 6.0) if short else (800, 40.0)
    port = await server.start()
    async with staged(seed, workers=1 + (not short)) as stage:
        there = Sink(stage.journal, mood)
        there.host = "0.0.0.0"  # every address of the loopback net
        await there.start()
        stage.build(
            rules=RULES.format(hop=hop),
            settings=f"resolver 127.0.0.1:{port}\nrelay-port {there.port}\n"
            "internal-destinations 127.0.0.0/8",
        )
        try:
            await stage.start()
            stage.inject(kinds=("ok", "no"), sessions=4, pause=0.1, large=0)
            alone = await _measured(stage, 4.0)
            await _crowded(stage, count)
            beside = await _measured(stage, seconds)
            row.runs = count
            better()
            row.add(await stage.finish(), stage)
        finally:
            await there.stop()
    row.remarks.append(
        f"accept to delivered at the good next hop, p99: {beside:.2f} s beside {count} messages for"
        f" them, {alone:.2f} s alone"
    )
    row.demand(alone < PROMPT, f"p99 of the good next hop alone {alone:.2f} s")
    row.demand(beside < PROMPT, f"p99 of the good next hop beside them {beside:.2f} s")


@fault("silent exchangers beside a good next hop")
async def tarpits(row: Row, seed: int, short: bool) -> None:
    """They never greet, or drip, or answer just in time; mail for them owes reports."""
    mood = Tarpit()
    await _beside(row, seed, short, Exchangers(seed), mood, mood.better.set, "{host}")
    row.demand(mood.times > 0, "nobody came to them")


@fault("silent DNS beside a good next hop")
async def unnamed(row: Row, seed: int, short: bool) -> None:
    """Nobody says where the others are; the good next hop's name is known, and often asked for."""
    server = Exchangers(seed)
    server.silent = True
    await _beside(row, seed, short, server, Mood(), server.speak, "hop.test")
