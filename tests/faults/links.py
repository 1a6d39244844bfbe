"""The network between the hosts: packets get lost, doubled, late, damaged; links die and return."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.faults.cable import FAR, NEAR, Cable, cable
from tests.faults.injector import Door, Injector
from tests.faults.run import Row, fault
from tests.faults.stage import Stage, staged

_SETTINGS = "connect-timeout 5s"
_SILENCE = 30.0  # seconds that a peer may go on with a session whose other end is no more


@asynccontextmanager
async def _apart(seed: int, workers: int) -> AsyncIterator[tuple[Stage, Cable, Injector]]:
    """relayd on one host, clients and next hop on the other."""
    with cable(seed) as link:
        async with staged(seed, workers=workers, host=FAR, world=link.far) as stage:
            stage.build(settings=_SETTINGS, host=link.near, address=NEAR)
            await stage.start()
            door = Door(stage.relayd.address, link.far)
            injector = stage.inject(kinds=("ok", "no", "late"), pause=0.05, door=door)
            yield stage, link, injector


@fault("packets lost, doubled, late, damaged")
async def lossy(row: Row, seed: int, short: bool) -> None:
    """TCP's business, until it is ours: mail flows all the while, octet for octet."""
    async with _apart(seed, 1 + (not short)) as (stage, link, injector):
        for lost in (0.1,) if short else (0.02, 0.05, 0.1, 0.2, 0.3):
            link.lost, link.doubled, link.late, link.damaged = lost, 0.05, 0.2, 0.02
            row.runs += 1
            await asyncio.sleep(4.0)
        link.well()
        row.recover = await stage.flows()
        row.remarks.append(f"{link.dropped:,} of {link.carried + link.dropped:,} packets dropped")
        await injector.stop()
        row.add(await stage.finish(), stage)
        wrong = {code for code in injector.tally.codes if code >= 500}
        row.demand(not wrong, f"clients heard {sorted(wrong)}")


@fault("links that die and return")
async def dead(row: Row, seed: int, short: bool) -> None:
    """In both directions, in one, and with a relayd that is killed meanwhile."""
    ways: tuple[tuple[frozenset[str], bool], ...] = (
        (frozenset({NEAR, FAR}), False),
        (frozenset({NEAR}), False),
        (frozenset({FAR}), False),
        (frozenset({NEAR, FAR}), True),
    )
    async with _apart(seed, 1 + (not short)) as (stage, link, injector):
        for gone, killed in ways[:1] if short else ways * 2:
            await asyncio.sleep(1.5)
            stage.sink.fault("link dies")
            link.dead = gone
            row.runs += 1
            await asyncio.sleep(3.0)
            if killed:
                await stage.kill()
            link.well()
            stage.sink.fault("link returns")
            if killed:
                await stage.start()
            row.recover = max(row.recover, await stage.flows())
        await injector.stop()
        row.add(await stage.finish(in_flight=_SILENCE), stage)
        wrong = {code for code in injector.tally.codes if code >= 500}
        row.demand(not wrong, f"clients heard {sorted(wrong)}")
