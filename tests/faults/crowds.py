"""Too many clients, slow and silent ones; too few descriptors; a spool with foreign files in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from pathlib import Path

from tests.faults.injector import Injector, Peer, ended
from tests.faults.letters import NAMED
from tests.faults.run import Row, fault
from tests.faults.stage import Stage, staged


class Crowd:
    """Clients that hold a session and do next to nothing with it."""

    def __init__(self, stage: Stage, count: int) -> None:
        self._stage = stage
        self._count = count
        self._tasks: list[asyncio.Task[None]] = []
        self.inside = 0

    async def come(self) -> None:
        """All of them, a hundred at a time."""
        for number in range(self._count):
            self._tasks.append(asyncio.create_task(self._linger(number)))
            if number % 100 == 99:
                await asyncio.sleep(0.05)

    async def leave(self) -> None:
        """All of them."""
        await ended(self._tasks)

    async def _linger(self, number: int) -> None:
        with contextlib.suppress(OSError, EOFError, asyncio.TimeoutError, ValueError):
            peer = await Peer.dial(self._stage.relayd.address)
            try:
                if await peer.reply() == 220:
                    self.inside += 1
                    await self._dawdle(peer, number)
            finally:
                peer.close()

    async def _dawdle(self, peer: Peer, number: int) -> None:
        drip = b""
        if number % 3 == 1:
            drip = b"EHLO " + b"x" * 400
        elif number % 3 == 2:
            await peer.want("EHLO slow.test", 250)
            await peer.want("MAIL FROM:<slow@sender.test>", 250)
            await peer.want(f"RCPT TO:<ok-0.{number}@corp.test>", 250)
            await peer.want("DATA", 354)
            drip = b"Subject: " + b"x" * 400
        for octet in drip:
            peer.writer.write(bytes((octet,)))
            await asyncio.sleep(1.0)
        await asyncio.sleep(3600)


def percentile(values: list[float], part: float) -> float:
    """The value that so many do not exceed."""
    return sorted(values)[min(int(len(values) * part), len(values) - 1)] if values else 0.0


@fault("slow clients beside good ones")
async def slow(row: Row, seed: int, short: bool) -> None:
    """Good senders' transactions stay under 2 s at p99, memory grows by less than 200 MB."""
    count, senders = (400, 20) if short else (2000, 50)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    async with staged(seed) as stage:
        stage.build()
        await stage.start()
        before = stage.relayd.memory()
        crowd = Crowd(stage, count)
        await crowd.come()
        await stage.until(lambda: crowd.inside >= count, f"{count} clients are inside")
        # paced: it is relayd's time that is measured, not this process's
        injector: Injector = stage.inject(kinds=("ok", "no"), sessions=senders, pause=0.5)
        await asyncio.sleep(6.0 if short else 45.0)
        grown = (stage.relayd.memory() - before) / 1e6
        row.runs = count
        await injector.stop()
        worst = percentile(injector.tally.seconds, 0.99)
        row.remarks.append(
            f"{crowd.inside} slow, {senders} good: p99 {worst:.2f} s, memory +{grown:.0f} MB"
        )
        row.demand(worst < 2.0, f"p99 of the good senders {worst:.2f} s")
        row.demand(grown < 200, f"memory grew by {grown:.0f} MB")
        wrong = set(injector.tally.codes) - {250}
        row.demand(not wrong, f"good senders heard {sorted(wrong)}")
        await crowd.leave()
        row.add(await stage.finish(), stage)


@fault("descriptors used up")
async def descriptors(row: Row, seed: int, short: bool) -> None:
    """421 before collapse: outbound sessions and content files still find theirs."""
    async with staged(seed) as stage:
        stage.build()
        stage.relayd.prefix = ("prlimit", "--nofile=128:128")
        await stage.start()
        injector = stage.inject(kinds=("ok", "no", "late"), sessions=4, large=3)
        for _ in range(1 if short else 5):
            crowd = Crowd(stage, 400)
            await asyncio.sleep(0.5)
            await crowd.come()
            row.runs += 1
            await asyncio.sleep(2.0)
            row.demand(crowd.inside < 120, f"{crowd.inside} sessions with 128 descriptors")
            await crowd.leave()
        acknowledged = injector.tally.acknowledged
        row.recover = await stage.until(
            lambda: injector.tally.acknowledged > acknowledged, "mail is taken again"
        )
        row.add(await stage.finish(), stage)
        wrong = {code for code in injector.tally.codes if code >= 500}
        row.demand(not wrong, f"clients heard {sorted(wrong)}")


def _spoil(spool: Path) -> list[str]:
    """Damage two messages and leave foreign things about; the names of the two letters."""
    content = spool / "shard-0" / "content"
    whole = sorted(path for path in content.glob("*/*") if path.is_file())
    names = []
    for path in whole[:2]:
        found = NAMED.search(path.read_bytes())
        assert found is not None
        names.append(found.group(1).decode())
    with whole[0].open("r+b") as file:
        file.seek(5000)
        octet = file.read(1)[0]
        file.seek(5000)
        file.write(bytes((octet ^ 4,)))
    os.truncate(whole[1], 4000)
    folder = whole[2].parent
    (folder / "..hidden").write_bytes(b"x")
    (folder / "0000000000000").symlink_to("/etc/passwd")
    (content / "zz").symlink_to("/etc")
    os.mkfifo(folder / "ZZZZZZZZZZZZ")
    (folder / "$(reboot);'\n").write_bytes(b"x")
    (content / "ff.pickle").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    (spool / "shard-0" / "queue.db-journal").write_bytes(os.urandom(4096))
    (spool / "shard-99").write_bytes(b"not a directory")
    return names


@fault("a spoiled spool")
async def spoiled(row: Row, seed: int, short: bool) -> None:
    """What is damaged is set aside and named by the audit; everything else flows."""
    async with staged(seed) as stage:
        stage.build()
        await stage.sink.stop()
        await stage.start()
        injector = stage.inject(large=1, pause=0.02)
        await stage.until(lambda: injector.tally.acknowledged > 40, "forty messages")
        await injector.stop()
        await stage.terminate()
        names = _spoil(stage.folder / "spool")
        row.runs = 1
        await stage.sink.start()
        await stage.start()
        verdict = await stage.finish()
        damaged = [each for each in verdict.lost if any(name in each for name in names)]
        verdict.lost = [each for each in verdict.lost if each not in damaged]
        row.remarks.append(f"{len(damaged)} recipients of damaged messages set aside")
        row.demand(stage.audited.count("set aside") == len(damaged) > 0, f"audit: {stage.audited}")
        stage.audited = "clean but for those"
        row.add(verdict, stage)
        aside = list((stage.folder / "spool" / "shard-0" / "damaged").iterdir())
        row.demand(len(aside) >= 2, f"kept for inspection: {aside}")
