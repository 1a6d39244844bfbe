"""relayd is killed, stopped, told to reload, over and over, with mail coming in and going out."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

from tests.faults.run import Row, fault
from tests.faults.stage import staged
from tests.scenarios.harness import workers_of

READY = 5.0  # seconds to be ready again after a kill


async def _killed(row: Row, seed: int, kills: int, workers: int, kinds: tuple[str, ...]) -> None:
    draw = random.Random(f"kills {seed}")
    async with staged(seed, workers=workers) as stage:
        stage.build()
        await stage.start()
        stage.inject(kinds=kinds)
        open_sessions = 0
        for _ in range(kills):
            await asyncio.sleep(draw.uniform(0.05, 1.0))
            open_sessions += len(stage.sink.sessions)
            await stage.kill()
            row.runs += 1
            await stage.start()
        await asyncio.sleep(0.5)
        verdict = await stage.finish()
        row.add(verdict, stage)
        row.demand(
            verdict.duplicates <= max(open_sessions, 10),
            f"{verdict.duplicates} duplicates, but {open_sessions} sessions open at the kills",
        )
        # the short form runs beside other tests: what it measures is not relayd alone
        ready = READY if kills >= 50 else 4 * READY
        row.demand(row.recover <= ready, f"ready again only after {row.recover:.1f} s")
        row.remarks.append(f"{open_sessions} outbound sessions open at the kills")


@fault("kill -9, one process")
async def kill_one(row: Row, seed: int, short: bool) -> None:
    """Nothing lost, ready again within 5 s."""
    await _killed(row, seed, 5 if short else 100, 1, ("ok",))


@fault("kill -9, two workers")
async def kill_two(row: Row, seed: int, short: bool) -> None:
    """The same for the whole process group."""
    await _killed(row, seed, 3 if short else 50, 2, ("ok",))


@fault("kill -9, some recipients refused")
async def kill_reports(row: Row, seed: int, short: bool) -> None:
    """Reports are mail, too."""
    await _killed(row, seed, 5 if short else 50, 1, ("ok", "no", "late", "foreign"))


@fault("kill -9 of one worker of two")
async def kill_worker(row: Row, seed: int, short: bool) -> None:
    """The master starts it again, the other goes on."""
    draw = random.Random(f"worker {seed}")
    async with staged(seed, workers=2) as stage:
        stage.build()
        await stage.start()
        stage.inject(kinds=("ok", "no"))
        for _ in range(2 if short else 20):
            await asyncio.sleep(draw.uniform(0.3, 1.5))
            victim = draw.choice(workers_of(stage.relayd))
            stage.sink.fault("worker killed")
            os.kill(victim, signal.SIGKILL)
            row.runs += 1
            row.recover = max(
                row.recover,
                await stage.until(lambda: len(workers_of(stage.relayd)) == 2, "two workers"),
            )
        await asyncio.sleep(1.0)
        row.add(await stage.finish(), stage)


@fault("SIGTERM in every phase")
async def terminate(row: Row, seed: int, short: bool) -> None:
    """Ends well within 10 s, loses nothing, repeats nothing."""
    draw = random.Random(f"term {seed}")
    async with staged(seed, workers=1 + seed % 2) as stage:
        stage.build()
        await stage.start()
        stage.inject(kinds=("ok", "no", "late"))
        for _ in range(3 if short else 25):
            await asyncio.sleep(draw.uniform(0.0, 0.8))
            status = await stage.terminate()
            row.demand(status == 0, f"SIGTERM ended with status {status}")
            row.runs += 1
            await stage.start()
        await asyncio.sleep(0.5)
        verdict = await stage.finish()
        row.add(verdict, stage)
        row.demand(verdict.duplicates == 0, f"{verdict.duplicates} repeated by a clean stop")


@fault("SIGTERM while it starts")
async def terminate_early(row: Row, seed: int, short: bool) -> None:
    """Whatever it was doing, it ends, and the next one starts."""
    draw = random.Random(f"early {seed}")
    async with staged(seed) as stage:
        stage.build()
        await stage.start()
        injector = stage.inject(kinds=("ok", "no"))
        await asyncio.sleep(1.0)
        await injector.stop()
        await stage.kill()
        for _ in range(3 if short else 15):
            process = stage.relayd.launch()
            await asyncio.sleep(draw.uniform(0.0, 1.2))
            stage.sink.fault("SIGTERM while it starts")
            await asyncio.to_thread(process.stop)
            row.runs += 1
        await stage.start()
        row.add(await stage.finish(), stage)


def _rewrite(path: Path, text: str) -> None:
    """At once: the reload before this one may be reading it, and an empty file is in order, too."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


@fault("SIGHUP in every phase")
async def hang_up(row: Row, seed: int, short: bool) -> None:
    """Nothing is lost, repeated or refused for good by a reload."""
    draw = random.Random(f"hup {seed}")
    async with staged(seed, workers=1 + seed % 2) as stage:
        stage.build()
        await stage.start()
        injector = stage.inject(kinds=("ok", "no", "late"))
        good = stage.relayd.config.read_text()
        for number in range(10 if short else 100):
            await asyncio.sleep(draw.uniform(0.0, 0.4))
            _rewrite(stage.relayd.config, good if number % 2 else f"{good}nonsense\n")
            stage.relayd.signal(signal.SIGHUP)
            row.runs += 1
        _rewrite(stage.relayd.config, good)
        stage.relayd.signal(signal.SIGHUP)
        verdict = await stage.finish()
        row.add(verdict, stage)
        row.demand(verdict.duplicates == 0, f"{verdict.duplicates} repeated by a reload")
        row.demand(injector.tally.broken == 0, f"{injector.tally.broken} sessions broke")
        wrong = set(injector.tally.codes) - {250}
        row.demand(not wrong, f"clients heard {sorted(wrong)}")


@fault("two instances at once")
async def twins(row: Row, seed: int, short: bool) -> None:
    """The second one refuses to start, and says who holds the spool."""
    async with staged(seed) as stage:
        stage.build()
        await stage.start()
        stage.inject(kinds=("ok", "no"))
        for _ in range(1 if short else 10):
            process = stage.relayd.launch()
            status = await asyncio.to_thread(process.popen.wait, 30)
            row.runs += 1
            row.demand(status != 0, "the second instance started")
            row.demand(str(stage.relayd.pid) in stage.relayd.log(10**6), "nobody says who holds it")
        verdict = await stage.finish()
        row.add(verdict, stage)
        row.demand(verdict.duplicates == 0, f"{verdict.duplicates} duplicates")
