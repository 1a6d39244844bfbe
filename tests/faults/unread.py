"""A reader of relayd's log that does not read: standard output is a pipe, and the pipe is full."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from pathlib import Path

from tests.faults.crowds import percentile
from tests.faults.injector import Injector
from tests.faults.run import Row, fault
from tests.faults.sink import Mood, Session
from tests.faults.stage import Stage, staged
from tests.faults.transit import slowest

PROMPT = 2.0  # seconds, at p99, that a transaction may need, and the way to the next hop
_ENOUGH = 1500  # messages whose lines find room nowhere
_DROPPED = re.compile(rb'event="log lines dropped" lines=([0-9]+)')


class Reader:
    """The other end of the pipe that is relayd's standard output and standard error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = -1
        self._reading = False
        self.text = b""
        os.mkfifo(path)
        self.come()

    def come(self) -> None:
        """Open it; nothing is read yet."""
        # for writing, too: so nobody waits for the other side, and its end is no end of file
        self._end = os.open(self._path, os.O_RDWR | os.O_NONBLOCK)

    def read(self) -> None:
        """All that comes, from now on."""
        self._reading = True
        asyncio.get_running_loop().add_reader(self._end, self._some)

    def rest(self) -> None:
        """Nothing any more."""
        if self._reading:
            asyncio.get_running_loop().remove_reader(self._end)
        self._reading = False

    def go(self) -> None:
        """Close it: who writes hears EPIPE."""
        self.rest()
        os.close(self._end)

    @property
    def dropped(self) -> int:
        """Lines that found no room, as the log says itself."""
        return sum(int(each) for each in _DROPPED.findall(self.text))

    def _some(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.text += os.read(self._end, 1 << 16)


class Wordy(Mood):
    """Has much to say, which the log repeats."""

    async def say(self, stage: str, session: Session) -> bytes | None:
        """When it takes a message."""
        return b"250 2.0.0 Taken" + b" gladly" * 65 + b"\r\n" if stage == "content" else None


async def _spell(stage: Stage, injector: Injector, seconds: float, count: int = 0) -> float:
    """The slowest of the mail that goes on, for so long and so many messages."""
    before, since, taken = len(injector.tally.seconds), time.monotonic(), stage.sink.taken
    await asyncio.sleep(seconds)
    with contextlib.suppress(AssertionError):
        await stage.until(lambda: stage.sink.taken > taken + count, "much is said", 15)
    now = time.monotonic()
    took = injector.tally.seconds[before:]
    took.append(now - max(injector.tally.last_acknowledged, since))
    return max(percentile(took, 0.99), slowest(stage.journal, "corp.test", since, now - 1.0))


@fault("standard output that nobody reads")
async def unread(row: Row, seed: int, short: bool) -> None:
    """Mail is taken and delivered as ever; what the log had no room for is counted, and told."""
    async with staged(seed, workers=1 + (not short), mood=Wordy()) as stage:
        stage.build()
        reader = Reader(stage.folder / "output")
        stage.relayd.prefix = ("sh", "-c", 'exec "$0" "$@" >>output 2>&1')
        reader.read()
        await stage.start()
        injector = stage.inject(kinds=("ok", "no", "late"), pause=0.04)
        usual = await _spell(stage, injector, 3.0)
        worst, dropped = 0.0, 0
        for number in range(1 if short else 4):
            reader.rest()
            gone = number % 2 == 1
            if gone:
                reader.go()
            worst = max(worst, await _spell(stage, injector, 4.0 if short else 10.0, _ENOUGH))
            row.runs += 1
            if gone:
                reader.come()
            reader.read()
            try:
                await stage.until(lambda: reader.dropped > dropped, "the count is told", 10)  # noqa: B023
            except AssertionError:
                row.demand(False, "nobody was told how many lines were dropped")
            dropped = reader.dropped
        reader.rest()
        await asyncio.sleep(3.0)  # full again
        began = time.monotonic()
        stopping = asyncio.create_task(stage.terminate())
        done, _ = await asyncio.wait([stopping], timeout=15)
        row.demand(bool(done), "SIGTERM waits for a reader")
        reader.read()
        status = await stopping
        row.demand(status == 0, f"SIGTERM ended with status {status}")
        row.remarks.append(
            f"p99 {worst:.2f} s while nobody reads, {usual:.2f} s else, {dropped:,} lines dropped"
            f" and told, SIGTERM took {time.monotonic() - began:.1f} s"
        )
        row.demand(worst < PROMPT + usual, f"p99 while nobody reads {worst:.2f} s")
        await stage.start()
        row.add(await stage.finish(), stage)
        reader.go()
