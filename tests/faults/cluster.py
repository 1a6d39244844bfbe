"""A stage for several gateways that share a PostgreSQL: each node has its door and its wire."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.faults.injector import Door, Injector
from tests.faults.letters import SENDERS
from tests.faults.oracle import Verdict
from tests.faults.run import Row
from tests.faults.sink import Mood, Session
from tests.faults.stage import RETRY, RULES, Broken, Stage
from tests.faults.tenure import Tenures, stale
from tests.scenarios.harness import free_port, missing_peers

LEASE = 4.0  # seconds where it is to pass, so that nobody waits for half a minute,
USUAL = 30.0  # ... and where it is not
GO_ON = 2 / 3  # of it: from then on a node that shows no sign of life sends nothing
MAILBOXES = 5  # of a letter at most, and in a report


def missing() -> str:
    """Why no cluster can be had here; empty if it can."""
    return missing_peers(("postgresql",)).removeprefix("needs ")


class Hesitant(Mood):
    """Takes a moment over each reply, so that a fault finds deliveries at every step."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"hesitant {seed}")

    async def say(self, stage: str, session: Session) -> bytes | None:
        await asyncio.sleep(self._random.uniform(0.0, 0.03))
        return None


class Node(Broken):
    """One gateway."""

    name: str  # also in its EHLO


class Cluster(Stage):
    """Some nodes, one sink, an injector for each node, one journal. Made by `clustered`."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed, 1, Hesitant(seed))
        self.nodes: list[Node] = []
        self.late = 0  # deliveries of what another node had taken over by then

    @property
    def relayd(self) -> Broken:
        """Any node speaks of all."""
        return self.nodes[0]

    def add(self, name: str, where: str, environment: dict[str, str] | None = None) -> Node:
        """Write a node's configuration; nothing is started."""
        folder = self.folder / name
        folder.mkdir()
        port = free_port()
        lines = (
            f"hostname {name}",
            f'spool postgresql "{where}" folder {folder / "spool"}',
            f"node {name}",
            f"control {folder / 'control'}",
            f"listen 127.0.0.1:{port}",
            "workers 1",
            "sessions-per-client 0",
            RETRY,
            "reports strangers any",
            RULES.format(host=self.sink.host, port=self.sink.port),
            "",
        )
        node = Node(folder, "\n".join(lines), port=port, address="127.0.0.1", host=None)
        node.name = name
        node.extra = environment or {}
        self.nodes.append(node)
        return node

    async def create(self, lease: float) -> None:
        """Make the spool, with a lease of so many seconds."""
        await asyncio.to_thread(self.relayd.ctl, "spool", "create")
        await self.ask("INSERT INTO relayd.meta VALUES ('lease', %s) RETURNING 1", str(lease))

    async def ask(self, text: str, *values: object, where: str = "") -> list[tuple[Any, ...]]:
        """The database, by the side of all nodes."""
        return await asyncio.to_thread(_ask, where or self.where, text, values)

    where = ""  # for `ask`

    async def begin(self, *nodes: Node) -> None:
        """Start these nodes, or all of them."""
        began = time.monotonic()
        await asyncio.gather(*(asyncio.to_thread(each.start) for each in nodes or self.nodes))
        self.recoveries.append(time.monotonic() - began)

    def inject_all(self, *, kinds: tuple[str, ...] = ("ok", "no"), sessions: int = 3) -> None:
        """Begin to send to each."""
        for node in self.nodes:
            door = Door(node.address, name=node.name)
            self.inject(kinds=kinds, door=door, sessions=sessions, pause=0.03)

    def open_sessions(self, node: Node) -> int:
        """How many sessions to the sink the node has."""
        return sum(each.client == node.name for each in self.sink.sessions.values())

    async def unrecorded(self) -> int:
        """How many arrivals the database cannot know of, at most: of those who wait in it."""
        found = await self.ask("SELECT mailbox FROM relayd.recipient WHERE state = 0")
        return sum(MAILBOXES if box.endswith(f"@{SENDERS}") else 1 for (box,) in found)

    async def epoch(self, node: Node) -> int:
        """The node's, as the database has it."""
        found = await self.ask("SELECT epoch FROM relayd.node WHERE name = %s", node.name)
        return int(found[0][0])

    async def ousted(self, node: Node, epoch: int, since: float) -> None:
        """Wait until others have taken over what this node had `since`, before this epoch."""
        until = time.monotonic() + 60
        while await self.epoch(node) == epoch:
            assert time.monotonic() < until, f"nobody takes over the mail of {node.name}"
            await asyncio.sleep(0.1)
        self.journal.write("ousted", node=node.name, since=since)

    async def takes_mail(self, injector: Injector, since: float) -> float:
        """Wait until mail is taken that was sent after `since`; how long after."""
        await self.until(lambda: injector.tally.last_acknowledged > since, "mail is taken")
        return injector.tally.last_acknowledged - since

    async def end(self, row: Row, *, grace: float = GO_ON * LEASE + 1.0, twice: int = 0) -> None:
        """Let all mail arrive, ask `audit --cluster`, stop all, judge; `twice`: so many at most."""
        for injector in self.injectors:
            await injector.stop()
        await self._drain(90)
        done = await asyncio.to_thread(self.relayd.ctl, "audit", "--cluster", check=False)
        said = (done.stdout + done.stderr).strip()
        late, _, self.audited = said.partition("\n")
        self.late = int(re.sub(r"\D", "", late.split(" ")[0]) or 0)
        await asyncio.gather(*(asyncio.to_thread(each.stop) for each in self.nodes))
        verdict: Verdict = Tenures(self.journal.entries(), grace=grace).judge()
        row.add(verdict, self)
        old = list(stale(self.journal.entries()))
        row.demand(not old, f"sent under an old epoch: {len(old)}, e.g. {old[:1]}")
        row.demand(verdict.duplicates <= twice, f"{verdict.duplicates} duplicates of {twice}")
        row.demand(self.late <= twice, f"{self.late} late deliveries of {twice}")
        wrong = {code for each in self.injectors for code in each.tally.codes if code >= 500}
        row.demand(not wrong, f"clients heard {sorted(wrong)}: local trouble is not their fault")
        row.remarks.append(f"audit: {self.late} of what another node had taken over")


def _ask(where: str, text: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    import psycopg

    with psycopg.connect(where, autocommit=True, connect_timeout=10) as connection:
        return connection.execute(text.encode(), values).fetchall()


def _folder() -> Path:
    folder = Path(mkdtemp(prefix="faults-"))
    folder.chmod(0o755)  # PostgreSQL is another user
    return folder


@asynccontextmanager
async def clustered(seed: int) -> AsyncIterator[Cluster]:
    """A stage in a folder of its own; everything on it ends with it."""
    folder = _folder()
    stage = Cluster(folder, seed)
    try:
        await stage.sink.start()
        yield stage
    finally:
        for injector in stage.injectors:
            injector.cancel()
        for node in stage.nodes:
            if node.process is not None:
                await asyncio.to_thread(node.kill)
        await stage.sink.stop()
        stage.journal.close()
        if not os.environ.get("RELAYD_KEEP"):
            shutil.rmtree(folder, ignore_errors=True)
