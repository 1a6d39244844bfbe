"""Memory that runs out: every process of relayd is held to what it has, and must live on."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import resource
import signal
import time
from pathlib import Path

from tests.faults.run import Row, fault
from tests.faults.stage import Stage, staged

_ENDLESS = resource.RLIM_INFINITY
_SIZE = re.compile(r"^VmSize:\s+(\d+) kB", re.MULTILINE)
_MORE = (0, 0, 1 << 20, 4 << 20)  # octets that it may still take


def _hold(stage: Stage, more: int | None) -> None:
    """No process of relayd gets more memory than this; None: as much as it likes."""
    pid = stage.relayd.pid
    started = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for each in (pid, *map(int, started)):
        most = _ENDLESS
        if more is not None:
            found = _SIZE.search(Path(f"/proc/{each}/status").read_text())
            assert found is not None
            most = (int(found.group(1)) << 10) + more
        resource.prlimit(each, resource.RLIMIT_AS, (most, _ENDLESS))


async def _scarce(stage: Stage, first: int, count: int) -> None:
    """Let so many allocations of it fail, from the first-th on (see tests.faults.scarce)."""
    with contextlib.suppress(OSError, TimeoutError):  # it crashed, or has no memory to listen
        reader, writer = await asyncio.open_unix_connection(str(stage.folder / "scarce"))
        writer.write(f"{first} {count}".encode())
        await asyncio.wait_for(reader.readline(), 1)
        writer.close()


async def _released(stage: Stage, last_words: float = 0.5) -> bool:
    """It has memory again; where Python itself crashed for want of it, it is started again.

    `last_words`: seconds that one which is crashing takes to write them.

    As `Restart=on-failure` of the unit does. CPython aborts where it finds no memory to make an
    exception of (SIGABRT), or runs into a null pointer (SIGSEGV): nothing else is let pass.
    """
    process = stage.relayd.process
    assert process is not None
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it is just ending
        if process.running:
            _hold(stage, None)
    await asyncio.sleep(last_words)
    if process.running:
        return True
    if process.status not in (-signal.SIGABRT, -signal.SIGSEGV):
        raise AssertionError(f"it ended with {process.status}\n{stage.relayd.log(12)}")
    await stage.start()
    return False


@fault("memory used up")
async def used_up(row: Row, seed: int, short: bool) -> None:
    """MemoryError at any place: sessions break, no message does, and all is well afterwards.

    Python may crash: what counts is that no message is lost, and that it never just hangs.
    """
    draw = random.Random(f"memory {seed}")
    async with staged(seed, workers=1 + (not short)) as stage:
        stage.build()
        await stage.start()
        injector = stage.inject(kinds=("ok", "no", "late"), large=3)
        crashes = 0
        for _ in range(1 if short else 6):
            await asyncio.sleep(1.0)
            stage.sink.fault("no memory")
            _hold(stage, draw.choice(_MORE))
            row.runs += 1
            crowd = stage.inject(sessions=30, large=2)
            await asyncio.sleep(3.0)
            since = time.monotonic()
            if not await _released(stage):
                crashes += 1
            row.recover = max(
                row.recover,
                await stage.until(
                    lambda since=since: injector.tally.last_acknowledged > since,  # type: ignore[misc]
                    "mail is taken again",
                ),
            )
            await crowd.stop()
        row.remarks.append(f"{injector.tally.broken} sessions broke for want of memory")
        if crashes:
            row.remarks.append(f"Python itself crashed {crashes} times, and was started again")
        row.add(await stage.finish(), stage)
        wrong = {code for each in stage.injectors for code in each.tally.codes if code >= 500}
        row.demand(not wrong, f"clients heard {sorted(wrong)}")


@fault("memory missing for a moment")
async def missing(row: Row, seed: int, short: bool) -> None:
    """No memory at any one step of a message's way, or at many: the next one goes all of it.

    One client alone, so that nobody else covers for a session that is left in silence.
    """
    draw = random.Random(f"missing {seed}")
    async with staged(seed) as stage:
        stage.build(
            entry="tests.faults.scarce", environment={"SCARCE": str(stage.folder / "scarce")}
        )
        await stage.start()
        injector = stage.inject(sessions=1, pause=0.0, large=20)
        crashes = 0
        deadline = time.monotonic() + (6 if short else 60)
        while time.monotonic() < deadline:
            await _scarce(stage, draw.randrange(1, 12_000), draw.choice((1, 2, 5, 20, 200, 3000)))
            stage.sink.fault("no memory")
            row.runs += 1
            await asyncio.sleep(0.1)
            if stage.relayd.process is not None and stage.relayd.process.running:
                await _scarce(stage, 0, 0)
            if not await _released(stage, 0.1):
                crashes += 1
            heard, taken = injector.tally.acknowledged, stage.sink.taken
            took = await stage.until(
                lambda heard=heard, taken=taken: (  # type: ignore[misc]
                    injector.tally.acknowledged > heard and stage.sink.taken > taken
                ),
                "the next message goes all the way",
                20,
            )
            row.recover = max(row.recover, took)
        if crashes:
            row.remarks.append(f"Python itself crashed {crashes} times, and was started again")
        row.add(await stage.finish(), stage)
        wrong = {code for code in injector.tally.codes if code >= 500}
        row.demand(not wrong, f"clients heard {sorted(wrong)}")
