"""The master's care for its workers: owns the sockets, starts who is missing, tells all to stop."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from relayd.mail.log import MailLog
from relayd.reactor.coroutine import promise
from relayd.reactor.ownprocess import environment
from relayd.reactor.workerpipe import Reactor, WorkerPipe
from relayd.shared.counters import SharedCounters, shared_memory
from relayd.shared.sessioncounts import SessionCounts, shared_session_counts

PIPE_FD = 3  # the worker's descriptor of the channel to its master
# ... and of the listening sockets, then counters, guesses, session counts, configuration, meters
FIRST_SOCKET_FD = 4
STEADY = 10.0  # seconds a worker has to live for its death to be forgiven
FIRST_DELAY = 0.1  # seconds before a worker is started again; doubles while it keeps dying
MOST_DELAY = 1.0  # not longer: its mail moves on within two seconds, also after many deaths
BACK_SOON = 2.0  # seconds connections wait for a worker that has died and is started again
STOP_TIME = 30.0  # seconds for a worker to stop by itself
READY = b"ready\n"
DRAIN = b"drain\n"


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker is told at its start, as one JSON argument."""

    config: str  # path of the configuration; empty: the embedded default
    number: int
    workers: int
    shards: tuple[int, ...]  # the first one takes new mail, the others are only emptied
    listeners: tuple[tuple[str, int], ...]  # address and port, one for each socket
    control: str  # path of its control socket
    log: str = ""  # path of the log; empty: standard output
    fixed: str = ""  # statements that hold until a restart, whatever the file says by now
    counts: bool = False  # what happens, for `metrics`

    def argument(self) -> str:
        """As text for the command line."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def parse(cls, text: str) -> Orders:
        """The inverse of argument."""
        found = json.loads(text)
        found["shards"] = tuple(found["shards"])
        found["listeners"] = tuple((address, port) for address, port in found["listeners"])
        return cls(**found)


class _Worker(ProcessProtocol):
    """One place for a worker, and the process that fills it at the moment."""

    def __init__(self, supervisor: Supervisor, orders: Orders) -> None:
        self.orders = orders
        self.ready = False
        self._supervisor = supervisor
        self._started = 0.0
        self._delay = 0.0
        self._pipe: WorkerPipe | None = None
        self._process: IProcessTransport | None = None
        self._restart: IDelayedCall | None = None
        self._kill: IDelayedCall | None = None
        self._ready: list[Deferred[None]] = []
        self._gone: list[Deferred[None]] = []

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start the process, with its end of the channel and its sockets."""
        self._restart = None
        supervisor = self._supervisor
        self._started = supervisor.reactor.seconds()
        ours, theirs = socket.socketpair()
        inherited = [theirs.fileno(), *supervisor.descriptors()]
        descriptors: dict[int, int] = {0: supervisor.null, 1: 1, 2: 2}
        descriptors.update(enumerate(inherited, PIPE_FD))
        command = [sys.executable, "-m", "relayd.service.worker", self.orders.argument()]
        try:
            self._process = supervisor.reactor.spawnProcess(
                self, sys.executable, command, env=environment(), childFDs=descriptors
            )
        except OSError as error:  # Twisted 26 says it at once, 22.4 by processEnded
            supervisor.log.trouble("worker not started", worker=self.orders.number, why=str(error))
            self._again()
        finally:
            theirs.close()
        if self._process is not None:
            self._pipe = WorkerPipe(supervisor.reactor, ours, self._heard)

    def _heard(self, data: bytes) -> None:
        if READY in data:
            self.ready = True
            self._fire(self._ready)
            self._supervisor.log.notice(
                "worker ready",
                worker=self.orders.number,
                pid=self._process.pid if self._process else 0,
            )

    def when_ready(self) -> Deferred[None]:
        """Fires when it serves."""
        waiting: Deferred[None] = Deferred()
        if self.ready:
            waiting.callback(None)
        else:
            self._ready.append(waiting)
        return waiting

    def stop(self) -> Deferred[None]:
        """Hang up: the worker ends in good order; it is killed if it takes too long."""
        gone: Deferred[None] = Deferred()
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        if self._process is None:
            gone.callback(None)
            return gone
        self._gone.append(gone)
        self._hang_up()
        if self._kill is None:
            self._kill = self._supervisor.reactor.callLater(STOP_TIME, self._end_it)
        return gone

    def drain(self) -> Deferred[None]:
        """Let its sessions end by themselves, then let it stop; fires when it has."""
        gone: Deferred[None] = Deferred()
        if self._process is None or self._pipe is None:
            gone.callback(None)
            return gone
        self._gone.append(gone)
        self._pipe.send(DRAIN)
        return gone

    def _end_it(self) -> None:
        self._kill = None
        if self._process is not None:
            self._supervisor.log.trouble("worker killed", worker=self.orders.number)
            self._process.signalProcess("KILL")

    def _hang_up(self) -> None:
        if self._pipe is not None:
            self._pipe.hang_up()

    def processEnded(self, reason: Failure) -> None:
        """It is gone: by our wish, or by an accident that is to be mended at once."""
        supervisor = self._supervisor
        self._process = None
        self._pipe = None
        wanted = bool(self._gone)
        served = self.ready and supervisor.reactor.seconds() - self._started > BACK_SOON
        supervisor.counts_cleared(self.orders.number, back_soon=served and not supervisor.stopping)
        self.ready = False
        if self._kill is not None:
            self._kill.cancel()
            self._kill = None
        self._fire(self._gone)
        if supervisor.stopping:
            return
        if not wanted:
            supervisor.log.trouble(
                "worker died", worker=self.orders.number, why=reason.getErrorMessage()
            )
        self._again(at_once=wanted)

    def _again(self, *, at_once: bool = False) -> None:
        lived = self._supervisor.reactor.seconds() - self._started
        if at_once or lived >= STEADY:
            self._delay = 0.0
        else:
            self._delay = min(max(self._delay * 2, FIRST_DELAY), MOST_DELAY)
        self._restart = self._supervisor.reactor.callLater(self._delay, self.start)

    @staticmethod
    def _fire(waiting: list[Deferred[None]]) -> None:
        for each in [*waiting]:
            waiting.remove(each)
            each.callback(None)


class Opened(Protocol):
    """The sockets of all workers; relayd.intake.opening has the real ones."""

    def open(self) -> Sequence[socket.socket]:
        """One for each listener; those that do not listen yet may do so later. Raises OSError."""

    def close(self) -> None:
        """Open no more of them."""


class Supervisor(Service):
    """Keeps all workers running.

    `sockets` are those that all workers accept from. They stay open here, so that no connection
    is lost while workers are away: it waits in the kernel.
    """

    def __init__(
        self,
        reactor: Reactor,
        log: MailLog,
        orders: Sequence[Orders],
        sockets: Opened,
        meters: int | None = None,
    ) -> None:
        """`meters`: the descriptor of relayd.shared.meters, if there are some."""
        self._meters = () if meters is None else (meters,)
        self.reactor = reactor
        self.log = log
        self.stopping = False
        self.null = -1
        self._opened = sockets
        self._sockets: Sequence[socket.socket] = ()
        self._memory: tuple[int, ...] = ()
        self._configuration = b""  # until there is memory that workers see
        self._counts: tuple[tuple[SharedCounters, SessionCounts], ...] = ()
        self._workers = tuple(_Worker(self, order) for order in orders)
        self._restarting = False

    def privilegedStartService(self) -> None:
        """Open the sockets; as root when there is root. Raises OSError."""
        if not self._sockets:
            self._sockets = self._opened.open()
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted's own

    def startService(self) -> None:
        """Start the workers."""
        if not self._sockets:
            self.privilegedStartService()
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's own
        rows = len(self._workers)
        self.null = os.open(os.devnull, os.O_RDONLY)
        # of sessions by client (relayd.shared.counters), of guesses (relayd.login.guesses), of
        # sessions by worker
        counters, guesses = shared_memory(rows), os.memfd_create("relayd-guesses", 0)
        session_counts = shared_session_counts(rows)
        texts = os.memfd_create("relayd-configuration", 0)
        self._memory = (counters, guesses, *session_counts, texts)
        self.remember(self._configuration)
        self._counts = tuple(
            (SharedCounters(counters, rows, row), SessionCounts(session_counts, row))
            for row in range(rows)
        )
        for worker in self._workers:
            worker.start()

    def remember(self, configuration: bytes) -> None:
        """What was read last and is in force (relayd.config.texts), for workers to come."""
        if not self._memory:
            self._configuration = configuration
            return
        self._configuration, texts = b"", self._memory[-1]
        os.ftruncate(texts, 0)
        rest, at = memoryview(configuration), 0
        while rest:
            written = os.pwrite(texts, rest, at)
            rest, at = rest[written:], at + written

    async def _stop(self) -> None:
        self.stopping = True
        for gone in [worker.stop() for worker in self._workers]:
            await gone
        self._opened.close()
        for listening in self._sockets:
            listening.close()
        for memory in (*self._memory, *self._meters):
            os.close(memory)
        os.close(self.null)

    def stopService(self) -> Deferred[None]:
        """All workers end in good order; fires when the last one has."""
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's own
        return promise(self._stop())

    async def restart(self) -> None:
        """One worker after the other ends its sessions and is replaced; no connection is lost."""
        if self._restarting:
            return
        self._restarting = True
        try:
            for worker in self._workers:
                await worker.drain()
                await worker.when_ready()
        finally:
            self._restarting = False

    @property
    def guess_memory(self) -> int:
        """Where workers count guesses (relayd.login.guesses)."""
        return self._memory[1]

    def controls(self) -> Mapping[Path, Sequence[int]]:
        """The control sockets of all workers, and the shards each one holds."""
        return {Path(worker.orders.control): worker.orders.shards for worker in self._workers}

    def figures(self) -> Mapping[str, object]:
        """For `relayctl status`."""
        return {
            "workers": len(self._workers),
            "workers_ready": sum(worker.ready for worker in self._workers),
        }

    def descriptors(self) -> list[int]:
        """What a worker inherits, in the order of FIRST_SOCKET_FD."""
        return [*(each.fileno() for each in self._sockets), *self._memory, *self._meters]

    def counts_cleared(self, number: int, *, back_soon: bool) -> None:
        """The counts of a worker that is gone are no more.

        When it will be back soon, its share of the connections waits for it: the others would
        keep them as long as the sessions last.
        """
        counters, session_counts = self._counts[number]
        counters.clear()
        if back_soon:
            session_counts.expect()
            self.reactor.callLater(BACK_SOON, session_counts.expect_no_more)
        else:
            session_counts.clear()
