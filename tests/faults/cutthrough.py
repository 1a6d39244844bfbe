"""Clients that wait for the next hop's answer while relayd is killed, and come again unanswered.

A refusal that the client heard is reported to nobody, whatever happened to the tries before; what
it heard 250 for has arrived or is in one report. As at any door a message may be ours already when
its 250 is lost (RFC 1047): then it comes twice, and such letters are counted apart.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque

from tests.faults.injector import Injector, Peer, RefusedError, stuffed
from tests.faults.letters import KINDS, Letter, Writer
from tests.faults.oracle import Verdict
from tests.faults.run import Row, fault
from tests.faults.sink import Mood, Session
from tests.faults.stage import Stage, staged

RULES = """next-hop one smtp {host}:{port}
next-hop two smtp {host}:{port}
accept to @a.corp.test
accept to @b.corp.test
accept to @c.corp.test
route to @sender.test via one
route to @c.corp.test via one cut-through 1s
route to @b.corp.test via two cut-through 20s
route any via one cut-through 20s
"""
_LETTERS = (  # recipients: kind and domain
    ("no@a",), ("no@a",), ("no@a", "no@a"), ("no@a", "no@b"), ("no@b",),
    ("ok@a",), ("ok@a", "ok@b"), ("no@a", "ok@b"), ("ok@a", "no@a"), ("late@a", "no@b"), ("no@c",),
)  # fmt: skip
_GOES = 25  # one client in so many goes while it waits


class Slow(Mood):
    """Takes its time; at @c.corp.test more of it than anybody waits."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"slow {seed}")

    async def say(self, stage: str, session: Session) -> bytes | None:
        """Before the first recipient, and before the last word."""
        if stage in ("mail", "content") and not session.null:
            longer = 1.5 if self._random.randrange(40) == 0 else 0.0
            await asyncio.sleep(self._random.uniform(0.0, 0.15) + longer)
        return None


class Writing(Writer):
    """Letters to whom nobody, somebody or everybody is refused; first those of the second try."""

    def __init__(self, seed: int, *, kinds: tuple[str, ...], large: int, domains: int) -> None:
        super().__init__(seed, kinds=kinds, large=large, domains=domains)
        self.again: deque[Letter] = deque()
        self._draw = random.Random(f"cut-through {seed}")

    def letter(self) -> Letter:
        """The next one."""
        if self.again:
            return self.again.popleft()
        made = super().letter()
        recipients = [
            f"{each[:-2]}-{number}.{made.name}@{each[-1]}.corp.test"
            for number, each in enumerate(self._draw.choice(_LETTERS))
        ]
        return Letter(made.name, tuple(recipients), made.content)


class Patient(Injector):
    """Comes again with what was not answered, or with 4xx; now and then it goes, and does not."""

    _writer: Writing

    async def _transaction(self, peer: Peer, letter: Letter) -> int:
        if self._writer._draw.randrange(_GOES) == 0:
            await self._go(peer, letter)
        try:
            code = await super()._transaction(peer, letter)
        except BaseException:
            self._writer.again.append(letter)
            raise
        if code // 100 == 4:
            self._writer.again.append(letter)
        return code

    async def _go(self, peer: Peer, letter: Letter) -> None:
        """Say all of it, and be gone."""
        await peer.want(f"MAIL FROM:<{letter.sender}> BODY=8BITMIME", 250)
        for each in letter.recipients:
            await peer.want(f"RCPT TO:<{each}>", 250)
        await peer.want("DATA", 354)
        self._journal.write(
            "sent",
            name=letter.name,
            digest=letter.digest,
            accepted=list(letter.recipients),
            refused=[],
        )
        peer.writer.write(stuffed(letter.content))
        await peer.writer.drain()
        await asyncio.sleep(self._writer._draw.uniform(0.0, 0.2))
        raise RefusedError(0, "the client has gone")


def _excused(stage: Stage, verdict: Verdict) -> int:
    """Take out what is owed to a lost 250; how many letters the client was told and we reported."""
    tries = Counter(each["name"] for each in stage.journal.entries() if each["kind"] == "sent")
    again = {name for name, count in tries.items() if count > 1}

    def sent_again(mailbox: str) -> bool:
        return mailbox.partition(".")[2].partition("@")[0] in again

    verdict.duplicates += len(verdict.twice)
    verdict.twice = [each for each in verdict.twice if not sent_again(each)]
    verdict.duplicates -= len(verdict.twice)
    told = [each for each in verdict.unwanted if sent_again(each)]
    verdict.unwanted = [each for each in verdict.unwanted if not sent_again(each)]
    return len(told)


async def _watched(row: Row, seed: int, kills: int, workers: int) -> None:
    draw = random.Random(f"cut-through {seed}")
    async with staged(seed, workers=workers, mood=Slow(seed)) as stage:
        stage.build(rules=RULES)
        await stage.start()
        injector = stage.inject(kinds=KINDS, made=Writing, calling=Patient)
        for _ in range(kills):
            await asyncio.sleep(draw.uniform(0.05, 0.7))
            await stage.kill()
            row.runs += 1
            await stage.start()
        await asyncio.sleep(2.0)
        verdict = await stage.finish()
        told = _excused(stage, verdict)
        row.add(verdict, stage)
        codes = injector.tally.codes
        row.demand(codes.get(550, 0) > kills, f"clients heard {codes}: the run means nothing")
        row.demand(
            told <= max(kills // 50, 1), f"{told} recipients told, and reported of the try before"
        )
        row.remarks.append(
            f"{codes.get(550, 0)} refusals heard by clients, {told} of them reported as well, for"
            " an earlier 250 was lost"
        )


@fault("cut-through: kill -9")
async def kill_waiting(row: Row, seed: int, short: bool) -> None:
    """At 200 moments: nothing lost, nothing reported that the client was told."""
    await _watched(row, seed, 4 if short else 200, 1)


@fault("cut-through: kill -9, two workers")
async def kill_waiting_two(row: Row, seed: int, short: bool) -> None:
    """The same for the whole process group."""
    await _watched(row, seed, 2 if short else 40, 2)
