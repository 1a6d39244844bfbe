"""Mail that is made to hurt: giant headers, endless nesting, fields without number."""

from __future__ import annotations

import asyncio
import re

from tests.faults.letters import Letter, Writer
from tests.faults.run import Row, fault
from tests.faults.stage import Stage, staged

# every header is looked at, changed and put into reports
RULES = """next-hop out smtp {host}:{port}
accept to @corp.test
rewrite header From, To, Reply-To @old.test -> @new.test
route any via out
"""
_BLOCKED = re.compile(r'event="reactor blocked" seconds=([0-9.]+)')


def _nested(depth: int) -> bytes:
    parts = [b"Content-Type: multipart/mixed; boundary=b0\r\n\r\n"]
    for number in range(depth):
        parts.append(b"--b%d\r\nContent-Type: multipart/mixed; " % number)
        parts.append(b"boundary=b%d\r\n\r\n" % (number + 1))
    return b"".join(parts)


HEADERS = (
    b"X: y\r\n" * 150_000,
    b"X-Folded: a\r\n" + b" b\r\n" * 200_000,
    b"X-Long: " + b"x" * 900_000 + b"\r\n",
    b"From: " + b"a@old.test, " * 60_000 + b"a@old.test\r\n",
    b"To: " + b"(" * 400_000 + b"\r\n",
    b"Reply-To: " + b'"' * 300_001 + b" <a@old.test>\r\n",
    b"Content-Type: multipart/mixed;" + b" a=b;" * 150_000 + b"\r\n",
    b"Subject: " + b"=?utf-8?q?=E2?= " * 50_000 + b"\r\n",
    b"Received: from a by b; now\r\n" * 45,
    b"X-\xff\xfe: \x80\x01\x1b[2J\r\n" * 10_000,
    b": no name\r\n" * 20_000,
)
BODIES = (_nested(20_000), b"\r\n" * 400_000, b"." * 900_000 + b"\r\n", b"--b0--\r\n" * 50_000)


class Cruel(Writer):
    """Writes nothing else."""

    def letter(self) -> Letter:
        """The next one."""
        plain = super().letter()
        draw = self._random
        above = draw.choice(HEADERS) if draw.random() < 0.7 else b"From: a@old.test\r\n"
        content = plain.content + (draw.choice(BODIES) if draw.random() < 0.5 else b"")
        return Letter(plain.name, plain.recipients, content, above)


def blocked(stage: Stage) -> float:
    """Seconds that the reactor stood still at most, as relayd's watchdog has it."""
    found = _BLOCKED.findall(stage.relayd.log(10**7))
    return max(map(float, found), default=0.0)


@fault("mail made to hurt")
async def hostile(row: Row, seed: int, short: bool) -> None:
    """It is taken, rewritten, delivered and reported like any other, and holds nobody up."""
    async with staged(seed) as stage:
        stage.build(rules=RULES)
        await stage.start()
        before = stage.relayd.memory()
        cruel = stage.inject(kinds=("ok", "no", "late"), sessions=3, pause=0.1, made=Cruel)
        good = stage.inject(sessions=3, pause=0.1)
        await asyncio.sleep(3.0 if short else 25.0)
        await cruel.stop()
        await good.stop()
        row.runs = cruel.tally.acknowledged
        grown = (stage.relayd.memory() - before) / 1e6
        row.add(await stage.finish(), stage)
        row.remarks.append(
            f"reactor blocked for {blocked(stage):.2f} s at most, memory +{grown:.0f} MB"
        )
        row.demand(grown < 200, f"memory grew by {grown:.0f} MB")
        wrong = (set(cruel.tally.codes) | set(good.tally.codes)) - {250}
        row.demand(not wrong, f"clients heard {sorted(wrong)}")
