"""Where a fault happens: relayd between an injector and a sink, a journal, and an oracle's word."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.faults.injector import Door, Injector
from tests.faults.journal import Journal
from tests.faults.letters import Writer
from tests.faults.oracle import IN_FLIGHT, Oracle, Verdict
from tests.faults.sink import Mood, Sink
from tests.scenarios.harness import Process, Relayd, free_port
from tests.scenarios.network import Host

RULES = """next-hop out smtp {host}:{port}
accept to @corp.test
route any via out
"""
RETRY = "retry 1s*20 2s"


class Broken(Relayd):
    """A relayd that is started with an environment of its own, perhaps another entry."""

    extra: dict[str, str]
    prefix: tuple[str, ...] = ()  # a command that becomes relayd, as prlimit does
    entry: str = ""  # a module to run in place of twistd

    @property
    def environment(self) -> dict[str, str]:
        """With what preloads a library, say."""
        return {**super().environment, **self.extra}

    @property
    def command(self) -> list[str]:
        """twistd, or a test's own entry around it."""
        command = super().command
        if self.entry:
            at = command.index("-c")
            command[at : at + 2] = ["-m", self.entry]
        return [*self.prefix, *command]

    def launch(self) -> Process:
        """One more process like it, not waited for."""
        return Process(
            self.command, self.folder / "log", cwd=self.folder, environment=self.environment
        )

    def process_ended(self) -> None:
        """Wait until the process itself has ended, whatever it had started."""
        assert self.process is not None
        self.process.popen.wait(10)


class Stage:
    """One relayd, one sink, one injector, one journal. Made by `staged`."""

    def __init__(self, folder: Path, seed: int, workers: int, mood: Mood | None) -> None:
        self.folder = folder
        self.seed = seed
        self.workers = workers
        self.journal = Journal(folder / "journal")
        self.sink = Sink(self.journal, mood)
        self.recoveries: list[float] = []  # seconds from each start to the first greeting
        self.injectors: list[Injector] = []
        self.audited = ""
        self.left = 0  # messages that still waited at the end
        self._relayd: Broken | None = None

    @property
    def relayd(self) -> Broken:
        """The relayd on this stage."""
        assert self._relayd is not None
        return self._relayd

    def build(
        self,
        *,
        settings: str = "",
        rules: str = RULES,
        spool: Path | None = None,
        environment: dict[str, str] | None = None,
        entry: str = "",
        host: Host | None = None,
        address: str = "127.0.0.1",
        listener: str = "",
    ) -> None:
        """Write the configuration; nothing is started."""
        port = free_port()
        lines = (
            "hostname gw.test",
            f"spool {spool or self.folder / 'spool'}",
            f"control {self.folder / 'control'}",
            f"listen {address}:{port} {listener}",
            f"workers {self.workers}",
            "sessions-per-client 0",
            "" if "retry " in settings else RETRY,
            "" if "free-space" in settings else "free-space 1MiB",
            "reports strangers any",  # each failure is to be accounted for
            settings,
            rules.format(host=self.sink.host, port=self.sink.port),
            "",
        )
        self._relayd = Broken(self.folder, "\n".join(lines), port=port, address=address, host=host)
        self.relayd.extra = environment or {}
        self.relayd.entry = entry

    async def start(self) -> None:
        """Start relayd, and note how long it took to greet."""
        began = time.monotonic()
        await asyncio.to_thread(self.relayd.start)
        self.recoveries.append(time.monotonic() - began)

    def freeze(self) -> None:
        """SIGSTOP: from here on relayd says nothing more."""
        os.killpg(self.relayd.pid, signal.SIGSTOP)

    async def kill(self) -> None:
        """SIGKILL, for master and workers at once."""
        self.sink.fault("kill")
        await asyncio.to_thread(self.relayd.kill)

    async def terminate(self) -> int:
        """SIGTERM; the exit status."""
        return await asyncio.to_thread(self.relayd.stop)

    def inject(
        self,
        *,
        kinds: tuple[str, ...] = ("ok",),
        sessions: int = 8,
        pause: float = 0.02,
        large: int = 20,
        domains: int = 0,
        each: int = 0,
        door: Door | None = None,
        made: type[Writer] = Writer,
        calling: type[Injector] = Injector,
    ) -> Injector:
        """Begin to send."""
        seed = self.seed * 1000 + len(self.injectors)
        writer = made(seed, kinds=kinds, large=large, domains=domains)
        door = door or Door(self.relayd.address)
        injector = calling(door, writer, self.journal, sessions=sessions, pause=pause, each=each)
        self.injectors.append(injector)
        injector.start()
        return injector

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = 60) -> float:
        """Wait until it is so; how long that took."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > seconds:
                raise AssertionError(f"not within {seconds} s: {what}\n{self.relayd.log(12)}")
            await asyncio.sleep(0.05)
        return time.monotonic() - began

    async def flows(self) -> float:
        """Wait until the sink takes one more message; how long that took."""
        taken = self.sink.taken
        return await self.until(lambda: self.sink.taken > taken, "mail flows")

    async def finish(
        self, seconds: float = 90, *, exact: bool = True, in_flight: float = IN_FLIGHT
    ) -> Verdict:
        """Let all mail arrive, ask relayd's own audit, stop it, and judge.

        `exact`: the sink says 5xx only of recipients that it means, so only they are reported.
        `in_flight`: seconds between a fault and a session's end that it may have caused.
        """
        for injector in self.injectors:
            await injector.stop()
        await self._drain(seconds)
        done = await asyncio.to_thread(self.relayd.ctl, "audit", check=False)
        self.audited = (done.stdout + done.stderr).strip()
        await self.terminate()
        entries = self.journal.entries()
        return Oracle(entries, reports_are_exact=exact, in_flight=in_flight).judge()

    async def _drain(self, seconds: float) -> None:
        quiet_since, taken = time.monotonic(), self.sink.taken
        deadline = quiet_since + seconds
        while True:
            await asyncio.sleep(0.25)
            if self.sink.taken != taken:
                quiet_since, taken = time.monotonic(), self.sink.taken
            # relayctl is a process of its own: not to be asked while mail is still coming
            if time.monotonic() - quiet_since > 1 and not await self._waiting():
                return
            if time.monotonic() > deadline:
                self.left = await self._waiting()
                return

    async def _waiting(self) -> int:
        return len(await asyncio.to_thread(self.relayd.queue))


@asynccontextmanager
async def staged(
    seed: int,
    *,
    workers: int = 1,
    mood: Mood | None = None,
    host: str = "127.0.0.1",
    world: Host | None = None,
) -> AsyncIterator[Stage]:
    """A stage in a folder of its own; everything on it ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    stage = Stage(folder, seed, workers, mood)
    stage.sink.host, stage.sink.world = host, world
    try:
        await stage.sink.start()
        yield stage
    finally:
        for injector in stage.injectors:
            injector.cancel()
        if stage._relayd is not None and stage.relayd.process is not None:
            await asyncio.to_thread(stage.relayd.kill)
        await stage.sink.stop()
        stage.journal.close()
        if not os.environ.get("RELAYD_KEEP"):
            shutil.rmtree(folder, ignore_errors=True)
