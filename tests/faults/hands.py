"""What people and accidents do to a relayd at work: half of it killed, its tables edited."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3

from relayd.mail.ident import ident_text
from tests.faults.kills import READY
from tests.faults.run import Row, fault
from tests.faults.stage import staged


@fault("kill -9 of the master alone")
async def master(row: Row, seed: int, short: bool) -> None:
    """The workers end by themselves, and the next relayd takes their shards."""
    draw = random.Random(f"master {seed}")
    async with staged(seed, workers=2) as stage:
        stage.build()
        await stage.start()
        stage.inject(kinds=("ok", "no"))
        for _ in range(1 if short else 15):
            await asyncio.sleep(draw.uniform(0.3, 1.2))
            stage.sink.fault("master killed")
            os.kill(stage.relayd.pid, signal.SIGKILL)
            await asyncio.to_thread(stage.relayd.process_ended)
            row.runs += 1
            await stage.start()
        row.add(await stage.finish(), stage)
        row.demand(short or row.recover <= READY, f"ready again only after {row.recover:.1f} s")


@fault("kill -9 in a reload or a restart")
async def restarting(row: Row, seed: int, short: bool) -> None:
    """Whichever worker was being replaced."""
    draw = random.Random(f"restart {seed}")
    async with staged(seed, workers=2) as stage:
        stage.build()
        await stage.start()
        stage.inject(kinds=("ok", "no"))
        for number in range(1 if short else 15):
            await asyncio.sleep(0.5)
            verb = "reload" if number % 3 == 1 else "restart"
            asked = asyncio.create_task(asyncio.to_thread(stage.relayd.ctl, verb, check=False))
            await asyncio.sleep(draw.uniform(0.05, 2.0))
            await stage.kill()
            await asked
            row.runs += 1
            await stage.start()
        row.add(await stage.finish(), stage)
        row.demand(short or row.recover <= READY, f"ready again only after {row.recover:.1f} s")


STATEMENTS = (
    ("DELETE FROM message WHERE ident = ?",),
    ("DELETE FROM recipient WHERE message = ?",),
    ("DELETE FROM message WHERE ident = ?", "DELETE FROM recipient WHERE message = ?"),
    ("DELETE FROM content WHERE message = ?",),
    ("DELETE FROM ledger WHERE message = ? AND NOT ended",),
)
"""What is done by hand, each to a message of its own. Every one of them is to be named."""


@fault("rows deleted by hand")
async def rows(row: Row, seed: int, short: bool) -> None:
    """The audit names each message that somebody took out of the tables, and no other."""
    async with staged(seed) as stage:
        stage.build()
        await stage.sink.stop()
        await stage.start()
        injector = stage.inject(large=0)
        await stage.until(lambda: injector.tally.acknowledged > 30, "thirty messages")
        await injector.stop()
        await stage.terminate()
        database = sqlite3.connect(stage.folder / "spool" / "shard-0" / "queue.db")
        found = database.execute("SELECT ident FROM message ORDER BY ident").fetchall()
        idents = [ident for (ident,) in found[: len(STATEMENTS)]]
        for ident, statements in zip(idents, STATEMENTS, strict=True):
            for statement in statements:
                database.execute(statement, (ident,))
        database.commit()
        database.close()
        row.runs = len(STATEMENTS)
        await stage.start()
        await stage.sink.start()
        verdict = await stage.finish()
        named = {line.split()[0] for line in stage.audited.splitlines()[:-1]}
        wanted = {ident_text(ident) for ident in idents}
        row.demand(named == wanted, f"audit names {sorted(named)}, not {sorted(wanted)}")
        row.remarks.append(f"{len(wanted)} messages spoiled by hand, the audit names all of them")
        # four of the five cannot arrive any more; nobody can be told, and the audit says so
        row.demand(0 < len(verdict.lost) <= 5 * len(STATEMENTS), f"lost {len(verdict.lost)}")
        verdict.lost = []
        stage.audited = "clean but for those"
        row.add(verdict, stage)
