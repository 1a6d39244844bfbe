"""The disk below the spool: its power is cut, it is full, it fails, it turns read-only."""

from __future__ import annotations

import asyncio
import errno
import random
import shutil
import time
from pathlib import Path

from tests.faults.disk import Disk, disk
from tests.faults.run import Row, fault
from tests.faults.shim import Shim
from tests.faults.stage import Stage, staged

BACK = 60.0  # seconds until mail is taken again after the trouble is over


async def power_cuts(
    row: Row,
    seed: int,
    cuts: int,
    *,
    kinds: tuple[str, ...] = ("ok", "no", "late"),
    environment: dict[str, str] | None = None,
    entry: str = "",
    patience: float = 90.0,
    workers: int = 1,
) -> None:
    """Cut the power of the spool's disk under load, so many times."""
    draw = random.Random(f"power {seed}")
    async with staged(seed, workers=workers) as stage:
        with disk(stage.folder, 128) as spool_disk:
            stage.build(spool=spool_disk.mounted_at / "spool", environment=environment, entry=entry)
            await stage.start()
            stage.inject(kinds=kinds)
            copying = 0
            for number in range(cuts):
                await asyncio.sleep(draw.uniform(0.2, 1.2))
                if number % 5 == 4:
                    copying += await _log_copied_back(spool_disk.mounted_at / "spool")
                # the machine goes with its disk: were relayd to live on, an fsync under way could
                # come back as done, though the journal that it waited for was thrown away
                stage.freeze()
                stage.sink.fault("power cut")
                spool_disk.cut_power()
                await stage.kill()
                await asyncio.to_thread(spool_disk.unmount)
                spool_disk.mount()
                row.runs += 1
                await stage.start()
            await asyncio.sleep(0.5)
            row.add(await stage.finish(patience), stage)
            if copying:
                row.remarks.append(f"{copying} of the cuts while the log was copied back")


async def _log_copied_back(spool: Path, seconds: float = 8.0) -> bool:
    """Wait until SQLite writes into a database itself, which it does for nothing else."""
    before = _written(spool)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if _written(spool) != before:
            return True
        await asyncio.sleep(0.002)
    return False


def _written(spool: Path) -> list[int]:
    return [path.stat().st_mtime_ns for path in sorted(spool.glob("shard-*/queue*.db"))]


@fault("power cut")
async def power(row: Row, seed: int, short: bool) -> None:
    """Nothing that was acknowledged is missing."""
    await power_cuts(row, seed, 3 if short else 50)


@fault("power cut, two workers")
async def power_for_two(row: Row, seed: int, short: bool) -> None:
    """The same."""
    await power_cuts(row, seed, 1 if short else 10, workers=2)


async def _recovered(row: Row, stage: Stage, since: float) -> None:
    """Mail is taken again, without a restart, soon after `since`."""
    injector = stage.injectors[0]
    await stage.until(lambda: injector.tally.last_acknowledged > since, "mail is taken", BACK)
    row.recover = max(row.recover, injector.tally.last_acknowledged - since)


async def _takes_nothing(stage: Stage) -> bool:
    """Once the replies that were under way have been read, two seconds pass without a 250."""
    tally = stage.injectors[0].tally
    await stage.until(lambda: tally.last_acknowledged < time.monotonic() - 1.0, "a rest", BACK)
    before = tally.acknowledged
    await asyncio.sleep(2.0)
    return tally.acknowledged == before


async def _takes_nothing_when_full(stage: Stage, spool_disk: Disk) -> bool:
    """The same on a full disk, which each worker may once have given back its reserve."""
    for _ in range(1 + stage.workers):
        spool_disk.fill()
        if await _takes_nothing(stage):
            return True
    return False


def _never_for_good(row: Row, stage: Stage) -> None:
    codes = stage.injectors[0].tally.codes
    wrong = {code: count for code, count in codes.items() if code >= 500}
    row.demand(not wrong, f"clients heard {wrong}: local trouble is never their fault")


@fault("disk full, then freed")
async def full(row: Row, seed: int, short: bool) -> None:
    """4xx, never 5xx; what is queued is delivered meanwhile; back within 60 s without a restart."""
    async with staged(seed, workers=1 + (not short)) as stage:
        with disk(stage.folder, 400) as spool_disk:
            stage.build(spool=spool_disk.mounted_at / "spool", settings="free-space 4MiB")
            await stage.start()
            stage.inject(kinds=("ok", "no", "late"))
            for _ in range(1 if short else 5):
                await asyncio.sleep(1.5)
                stage.sink.fault("disk full")
                spool_disk.fill()
                row.runs += 1
                await asyncio.sleep(3.0)
                row.demand(
                    await _takes_nothing_when_full(stage, spool_disk),
                    "no mail is taken with a full disk",
                )
                spool_disk.fill().unlink()
                await _recovered(row, stage, time.monotonic())
            await asyncio.sleep(0.5)
            row.add(await stage.finish(), stage)
            _never_for_good(row, stage)


@fault("inodes gone, then freed")
async def inodes(row: Row, seed: int, short: bool) -> None:
    """The same."""
    async with staged(seed) as stage:
        with disk(stage.folder, 128, inodes=512) as spool_disk:
            stage.build(
                spool=spool_disk.mounted_at / "spool",
                settings="free-inodes 10\ncontent-in-memory 0",
            )
            await stage.start()
            stage.inject(kinds=("ok", "no", "late"), pause=0.05)
            for _ in range(1 if short else 5):
                await asyncio.sleep(1.5)
                stage.sink.fault("no inodes")
                many = spool_disk.use_up_inodes()
                row.runs += 1
                await asyncio.sleep(3.0)
                shutil.rmtree(many)
                await _recovered(row, stage, time.monotonic())
            await asyncio.sleep(0.5)
            row.add(await stage.finish(), stage)
            _never_for_good(row, stage)


async def _failing(
    row: Row,
    seed: int,
    times: int,
    *,
    one_in: int = 1,
    write: int = 0,
    open_: int = 0,
    sync: int = 0,
) -> None:
    async with staged(seed) as stage:
        faulty = Shim(stage.folder, stage.folder / "spool")
        stage.build(environment=faulty.environment)
        await stage.start()
        stage.inject(kinds=("ok", "no", "late"))
        for _ in range(times):
            await asyncio.sleep(1.5)
            stage.sink.fault("the disk fails")
            faulty.set(write=write, open_=open_, sync=sync, one_in=one_in)
            row.runs += 1
            if one_in > 1:
                await asyncio.sleep(2.0)
            else:
                row.demand(
                    await _takes_nothing(stage), "no mail is taken by a disk that takes nothing"
                )
            faulty.clear()
            await _recovered(row, stage, time.monotonic())
        await asyncio.sleep(0.5)
        row.add(await stage.finish(), stage)
        _never_for_good(row, stage)


@fault("EIO on fsync")
async def sync_fails(row: Row, seed: int, short: bool) -> None:
    """A failed fsync is never retried into a 250."""
    await _failing(row, seed, 1 if short else 5, sync=errno.EIO)


@fault("EIO on one fsync in three")
async def sync_fails_sometimes(row: Row, seed: int, short: bool) -> None:
    """The same, where the next one may do well."""
    await _failing(row, seed, 1 if short else 5, sync=errno.EIO, one_in=3)


@fault("EIO on write")
async def write_fails(row: Row, seed: int, short: bool) -> None:
    """The same."""
    await _failing(row, seed, 1 if short else 5, write=errno.EIO)


@fault("ENOSPC on one write in five")
async def no_space_sometimes(row: Row, seed: int, short: bool) -> None:
    """A disk that is full and then it is not."""
    await _failing(row, seed, 1 if short else 5, write=errno.ENOSPC, one_in=5)


@fault("everything EROFS")
async def read_only(row: Row, seed: int, short: bool) -> None:
    """As after the kernel has found an error in the file system and turned it read-only."""
    erofs = errno.EROFS
    await _failing(row, seed, 1 if short else 5, write=erofs, open_=erofs, sync=erofs)


@fault("clock jumps both ways")
async def clock(row: Row, seed: int, short: bool) -> None:
    """Neither a bounce nor a rest of an hour: mail flows whatever the wall clock says."""
    async with staged(seed) as stage:
        faulty = Shim(stage.folder, stage.folder / "spool")
        stage.build(environment=faulty.environment)
        await stage.start()
        injector = stage.inject(kinds=("ok", "no", "late"))
        for ahead in (3600, -3600, 86400, -86400)[: 2 if short else 4]:
            await asyncio.sleep(1.0)
            faulty.set(clock=ahead)
            row.runs += 1
            await asyncio.sleep(1.0)
            if ahead < 0:  # across a restart, too
                await stage.kill()
                await stage.start()
            await _recovered(row, stage, time.monotonic())
        await injector.stop()
        faulty.clear()
        verdict = await stage.finish()
        row.add(verdict, stage)
