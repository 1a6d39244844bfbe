"""Several gateways share a PostgreSQL, and one of them is broken, or the way to it, or itself."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.cluster import LEASE, MAILBOXES, USUAL, Cluster, Node, clustered
from tests.faults.disk import disk
from tests.faults.run import Row, fault
from tests.faults.shim import Shim

if TYPE_CHECKING:
    from tests.postgresqlserver import PostgresqlServer, Wire

SOON = 20.0  # seconds until mail is taken again, on a busy machine
UNDER_WAY = 0.3  # seconds in which the database does what has reached it


@contextmanager
def _database(*settings: str, inside: Path | None = None) -> Iterator[PostgresqlServer]:
    from tests.postgresqlserver import PostgresqlServer

    server = PostgresqlServer(*settings, inside=inside)
    try:
        yield server
    finally:
        server.stop()


@asynccontextmanager
async def _cluster(
    seed: int, names: int, *, lease: float = LEASE, wired: bool = False, shim: bool = False
) -> AsyncIterator[tuple[Cluster, PostgresqlServer, dict[str, Wire], Shim | None]]:
    """Nodes that run, and mail comes in. Each has a wire of its own, or the first one a shim."""
    from tests.postgresqlserver import Wire

    async with clustered(seed) as stage:
        with ExitStack() as held:
            server = held.enter_context(_database())
            stage.where = server.where
            wires: dict[str, Wire] = {}
            faulty = Shim(stage.folder, stage.folder / "spool") if shim else None
            for number in range(1, names + 1):
                name = f"gw{number}.test"
                where = server.where
                if wired:
                    place = stage.folder / f"wire{number}"
                    place.mkdir()
                    wire = wires[name] = Wire(place, server)
                    held.callback(wire.close)
                    for each in (wire.flowing, wire.up, wire.down):
                        held.callback(each.set)
                    where = wire.where
                broken = faulty.environment if faulty and number == 1 else None
                stage.add(name, where, broken)
            await stage.create(lease)
            await stage.begin()
            stage.inject_all()
            yield stage, server, wires, faulty


def _under_way(stage: Cluster, node: Node) -> int:
    """Of how many recipients the outcome may be lost with this node."""
    return MAILBOXES * max(stage.open_sessions(node), 2)


@fault("kill -9 of nodes of a cluster")
async def kill_nodes(row: Row, seed: int, short: bool) -> None:
    """Others send its mail after the lease, or the node itself if it is back before."""
    draw = random.Random(f"nodes {seed}")
    async with _cluster(seed, 3) as (stage, *_):
        twice = 0
        for number in range(2 if short else 200):
            await asyncio.sleep(draw.uniform(0.05, 1.0))
            node = draw.choice(stage.nodes)
            epoch = await stage.epoch(node)
            twice += _under_way(stage, node)
            stage.sink.fault("kill", node.name)
            since = time.monotonic()
            await asyncio.to_thread(node.kill)
            row.runs += 1
            if number % 2 == 0:
                await stage.ousted(node, epoch, since)
            await stage.begin(node)
        await stage.end(row, grace=1.0, twice=twice)


@fault("nodes frozen past their lease")
async def freeze_nodes(row: Row, seed: int, short: bool) -> None:
    """SIGSTOP, then SIGCONT: it wakes in the middle of deliveries that are others' by now."""
    draw = random.Random(f"frozen {seed}")
    async with _cluster(seed, 2) as (stage, *_):
        twice = 0
        for _ in range(1 if short else 30):
            await asyncio.sleep(draw.uniform(0.3, 1.0))
            node = draw.choice(stage.nodes)
            epoch = await stage.epoch(node)
            twice += _under_way(stage, node)
            stage.sink.fault("frozen", node.name)
            since = time.monotonic()
            node.signal(signal.SIGSTOP)
            row.runs += 1
            await stage.ousted(node, epoch, since)
            await asyncio.sleep(draw.uniform(0.0, 1.0))
            node.signal(signal.SIGCONT)
            await _back(row, stage, node)
        await stage.end(row, grace=1.0, twice=twice)


async def _back(row: Row, stage: Cluster, node: Node) -> None:
    """The node takes mail again, by itself."""
    injector = stage.injectors[stage.nodes.index(node)]
    took = await stage.takes_mail(injector, time.monotonic())
    row.recover = max(row.recover, took)
    row.demand(took < SOON, f"{node.name} takes mail only after {took:.1f} s")


@fault("nodes cut off from the database")
async def cut_off(row: Row, seed: int, short: bool) -> None:
    """Both ways, or one of them: what it had said comes late, and what it was told."""
    draw = random.Random(f"cut off {seed}")
    async with _cluster(seed, 2, wired=True) as (stage, _, wires, _):
        twice = 0
        for number in range(2 if short else 30):
            await asyncio.sleep(draw.uniform(0.3, 1.0))
            node = draw.choice(stage.nodes)
            wire = wires[node.name]
            epoch = await stage.epoch(node)
            way = (wire.flowing, wire.up, wire.down)[number % 3]
            stage.sink.fault("cut off", node.name)
            since = time.monotonic()
            way.clear()
            row.runs += 1
            if number % 5 == 4:  # sooner than others could notice
                await asyncio.sleep(draw.uniform(0.0, LEASE / 3))
            else:
                await asyncio.sleep(UNDER_WAY)
                twice += await stage.unrecorded()
                await stage.ousted(node, epoch, since)
                await asyncio.sleep(draw.uniform(0.0, 1.0))
            way.set()
            await _back(row, stage, node)
        await stage.end(row, twice=twice)


@fault("restarts of a cluster's database")
async def restart_database(row: Row, seed: int, short: bool) -> None:
    """In order, at once, by SIGKILL; for a moment, or for longer than the lease: nothing twice."""
    draw = random.Random(f"restarts {seed}")
    lease = 2 * LEASE
    async with _cluster(seed, 2, lease=lease) as (stage, server, *_):
        for number in range(2 if short else 30):
            await asyncio.sleep(draw.uniform(0.3, 1.0))
            stage.sink.fault("database")
            if number % 3 == 2:
                await asyncio.to_thread(server.kill)
            else:
                how = (signal.SIGINT, signal.SIGQUIT)[number % 3]
                await asyncio.to_thread(server.halt, how)
            row.runs += 1
            await asyncio.sleep(lease + 1.0 if number % 4 == 1 else draw.uniform(0.0, 0.5))
            await asyncio.to_thread(server.start)
            for node in stage.nodes:
                await _back(row, stage, node)
        await stage.end(row)


@fault("kill -9 of the primary, and promotion")
async def promote(row: Row, seed: int, short: bool) -> None:
    """A synchronous standby takes its place, and has all that was answered with 250."""
    from tests.postgresqlserver import PostgresqlServer

    draw = random.Random(f"primary {seed}")
    waiting = "synchronous_standby_names=*"
    async with clustered(seed) as stage:
        with ExitStack() as held, _database(waiting) as first:
            # the one that serves comes first; each keeps its place in the nodes' configuration
            servers = [first, PostgresqlServer(waiting, behind=first, name="b")]

            def stop_all() -> None:
                for each in servers:
                    each.stop()

            held.callback(stop_all)
            places = [stage.folder / "a", stage.folder / "b"]
            for place, server in zip(places, servers, strict=True):
                place.symlink_to(server.folder)
            stage.where = (
                f"host={places[0]},{places[1]} user=relayd dbname=postgres"
                " target_session_attrs=read-write"
            )
            for number in (1, 2):
                stage.add(f"gw{number}.test", stage.where)
            await stage.create(USUAL)
            await stage.begin()
            stage.inject_all()
            for _ in range(1 if short else 30):
                await asyncio.sleep(draw.uniform(0.5, 1.5))
                stage.sink.fault("primary killed")
                await asyncio.to_thread(servers[0].kill)
                await asyncio.to_thread(servers[1].promote)
                row.runs += 1
                gone = servers.pop(0)
                fresh = await asyncio.to_thread(
                    lambda: PostgresqlServer(waiting, behind=servers[0], name="next")
                )
                places[0].unlink()
                places[0].symlink_to(fresh.folder)
                places.reverse()
                servers.append(fresh)
                await asyncio.to_thread(gone.stop)
                for node in stage.nodes:
                    await _back(row, stage, node)
            await stage.end(row)


@fault("clock jumps on one node of a cluster")
async def clock(row: Row, seed: int, short: bool) -> None:
    """Nobody's lease is told by a wall clock: no mail changes hands, nothing comes twice."""
    async with _cluster(seed, 2, lease=USUAL, shim=True) as (stage, _, _, faulty):
        assert faulty is not None
        epochs = [await stage.epoch(node) for node in stage.nodes]
        for ahead in (3600, -3600, 86400, -86400, 0)[: 2 if short else 5]:
            await asyncio.sleep(0.5)
            faulty.set(clock=ahead)
            row.runs += 1
            await asyncio.sleep(1.0)
            for node in stage.nodes:
                await _back(row, stage, node)
        faulty.clear()
        after = [await stage.epoch(node) for node in stage.nodes]
        row.demand(after == epochs, f"mail changed hands: epochs {epochs}, then {after}")
        await stage.end(row)


@fault("disk full at a cluster's database")
async def full(row: Row, seed: int, short: bool) -> None:
    """Clients are asked to come again; once there is room, all goes on; no node is restarted."""
    async with clustered(seed) as stage:
        with disk(stage.folder, 128) as small, ExitStack() as held:
            stage.folder.chmod(0o755)
            small.mounted_at.chmod(0o755)
            inside = small.mounted_at / "pg"
            inside.mkdir()
            settings = ("max_wal_size=8MB", "min_wal_size=2MB", "checkpoint_timeout=30s")
            server = held.enter_context(_database(*settings, inside=inside))
            stage.where = server.where
            for number in (1, 2):
                stage.add(f"gw{number}.test", server.where)
            await stage.create(USUAL)
            await stage.begin()
            stage.inject_all()
            for _ in range(1 if short else 5):
                await asyncio.sleep(1.5)
                stage.sink.fault("disk full")
                ballast = small.fill()
                row.runs += 1
                await stage.until(
                    lambda: all(
                        each.tally.last_acknowledged < time.monotonic() - 1.5
                        for each in stage.injectors
                    ),
                    "nothing is taken",
                )
                ballast.unlink()
                if server.process.poll() is not None:  # it gives up where its log has no room
                    await asyncio.to_thread(server.start)
                for node in stage.nodes:
                    await _back(row, stage, node)
            await stage.end(row)


@fault("answers to COMMIT that are lost")
async def unanswered(row: Row, seed: int, short: bool) -> None:
    """Done, and nobody was told: it is asked, not guessed."""
    draw = random.Random(f"unanswered {seed}")
    async with _cluster(seed, 2, lease=USUAL, wired=True) as (stage, _, wires, _):
        for _ in range(4 if short else 100):
            await asyncio.sleep(draw.uniform(0.0, 0.2))
            wire = draw.choice([*wires.values()])
            wire.cut = "answer"
            await stage.until(lambda wire=wire: not wire.cut, "a COMMIT is cut off")  # type: ignore[misc]
            row.runs += 1
        for node in stage.nodes:
            await _back(row, stage, node)
        await stage.end(row)
