"""The master's care for its workers, with a reactor that spawns nothing."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from relayd.service.supervisor import (
    BACK_SOON,
    DRAIN,
    FIRST_DELAY,
    MOST_DELAY,
    READY,
    STOP_TIME,
    Orders,
    Supervisor,
)
from relayd.shared.counters import SharedCounters
from relayd.shared.sessioncounts import SessionCounts
from tests.support import TestCase


class Process:
    """A worker as the master sees it, and the worker's end of the channel."""

    def __init__(
        self, protocol: ProcessProtocol, arguments: list[str], descriptors: dict[int, int]
    ) -> None:
        self.protocol: Any = protocol
        self.orders = Orders.parse(arguments[-1])
        self.descriptors = descriptors
        self.channel = socket.socket(fileno=os.dup(descriptors[3]))
        self.channel.setblocking(False)
        self.pid = 4711
        self.killed = ""

    def signalProcess(self, name: str) -> None:
        self.killed = name

    def die(self) -> None:
        self.channel.close()
        self.protocol.processEnded(Failure(ProcessTerminated(1)))

    def words(self) -> bytes:
        """What the master said; empty: it hung up."""
        return self.channel.recv(100)


class Reactor(Clock):
    """Time, readers, and processes that are only written down."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Process] = []
        self.readers: list[IReadDescriptor] = []
        self.refuse = False

    def addReader(self, reader: IReadDescriptor) -> None:
        self.readers.append(reader)

    def spawnProcess(
        self,
        protocol: ProcessProtocol,
        executable: str,
        args: list[str],
        env: dict[str, str],
        childFDs: dict[int, int],  # noqa: N803 - Twisted's own spelling
    ) -> Process:
        if self.refuse:
            raise OSError(12, "Cannot allocate memory")
        assert not any(name.startswith("LISTEN_") for name in env)
        self.processes.append(Process(protocol, args, childFDs))
        return self.processes[-1]


class Log:
    def __init__(self) -> None:
        self.events: list[str] = []

    def notice(self, event: str, **facts: object) -> None:
        self.events.append(event)

    trouble = notice


def orders(number: int, workers: int) -> Orders:
    return Orders("", number, workers, (number,), (("127.0.0.1", 0),), f"/spool/{number}", "")


class Opened:
    """Sockets that are there already."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets

    def open(self) -> list[socket.socket]:
        return self._sockets

    def close(self) -> None:
        pass


class Care(TestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.log = Log()
        self.sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        log: Any = self.log
        self.supervisor = Supervisor(
            self.reactor, log, [orders(number, 2) for number in range(2)], Opened(self.sockets)
        )
        self.supervisor.startService()
        self.addCleanup(self.end)

    def end(self) -> None:
        for each in self.sockets:
            each.close()
        for process in self.reactor.processes:
            process.channel.close()

    def ready(self, process: Process) -> None:
        process.channel.send(READY)
        reader = process.protocol._pipe
        reader.doRead()

    def test_each_gets_its_orders_all_sockets_and_the_shared_memory(self) -> None:
        first, second = self.reactor.processes
        self.assertEqual([each.orders.number for each in (first, second)], [0, 1])
        for process in (first, second):
            sockets = [process.descriptors[number] for number in (4, 5)]
            self.assertEqual(sockets, [each.fileno() for each in self.sockets])
            self.assertEqual((process.descriptors[1], process.descriptors[2]), (1, 2))
        memory = [first.descriptors[number] for number in (6, 7, 8, 9, 10)]
        self.assertEqual(memory, [second.descriptors[number] for number in (6, 7, 8, 9, 10)])
        SharedCounters(memory[0], 2, 0).add("192.0.2.1", 3)
        SessionCounts(memory[2:], 0).tell(3, listening=True)
        self.assertEqual(SharedCounters(memory[0], 2, 1).get("192.0.2.1"), 3)
        self.assertEqual(SessionCounts(memory[2:], 1).others(), [3])
        # the counts of one that dies are no more
        first.die()
        self.assertEqual(SharedCounters(memory[0], 2, 1).get("192.0.2.1"), 0)
        self.assertEqual(SessionCounts(memory[2:], 1).others(), [])

    def test_connections_wait_a_moment_for_one_that_has_served(self) -> None:
        process = self.reactor.processes[0]
        levels = SessionCounts([process.descriptors[number] for number in (8, 9, 10)], 1)
        self.ready(process)
        self.reactor.advance(BACK_SOON + 0.1)
        process.die()
        self.assertTrue(levels.someone_is_due())
        self.assertTrue(levels.someone_listens_below(1))
        self.reactor.advance(BACK_SOON - 0.1)
        self.assertTrue(levels.someone_is_due())
        self.reactor.advance(0.2)
        self.assertEqual((levels.someone_is_due(), levels.others()), (False, []))

    def test_one_that_is_back_is_not_taken_off(self) -> None:
        process = self.reactor.processes[0]
        shared = [process.descriptors[number] for number in (8, 9, 10)]
        self.ready(process)
        self.reactor.advance(BACK_SOON + 0.1)
        process.die()
        SessionCounts(shared, 0).tell(3, listening=False)
        self.reactor.advance(BACK_SOON)
        self.assertEqual(SessionCounts(shared, 1).others(), [3])

    def test_ready_workers_are_counted(self) -> None:
        self.assertEqual(self.supervisor.figures()["workers_ready"], 0)
        self.ready(self.reactor.processes[0])
        self.assertEqual(self.supervisor.figures()["workers_ready"], 1)
        self.assertIn("worker ready", self.log.events)

    def test_one_that_dies_is_started_again_soon(self) -> None:
        self.reactor.advance(100)
        self.reactor.processes[0].die()
        self.assertIn("worker died", self.log.events)
        self.reactor.advance(0)
        self.assertEqual(len(self.reactor.processes), 3)
        self.assertEqual(self.reactor.processes[2].orders.number, 0)

    def test_one_that_keeps_dying_is_started_less_and_less_often(self) -> None:
        delays = []
        for _ in range(12):
            self.reactor.processes[-1].die()
            began = self.reactor.seconds()
            count = len(self.reactor.processes)
            while len(self.reactor.processes) == count:
                self.reactor.advance(0.05)
            delays.append(round(self.reactor.seconds() - began, 1))
        self.assertAlmostEqual(delays[0], FIRST_DELAY, delta=0.11)
        self.assertAlmostEqual(delays[-1], MOST_DELAY, delta=0.11)
        self.assertEqual(delays[:8], sorted(delays[:8]))

    def test_one_that_cannot_be_started_is_tried_again(self) -> None:
        self.reactor.advance(100)
        self.reactor.refuse = True
        self.reactor.processes[0].die()
        self.reactor.advance(0)
        self.assertIn("worker not started", self.log.events)
        self.reactor.refuse = False
        self.reactor.advance(FIRST_DELAY + 0.01)
        self.assertEqual(len(self.reactor.processes), 3)

    def test_stopping_hangs_up_and_waits_for_all(self) -> None:
        processes = list(self.reactor.processes)
        stopped: Deferred[None] = self.supervisor.stopService()
        for process in processes:
            self.assertEqual(process.words(), b"")
        processes[0].die()
        self.assertFalse(stopped.called)
        processes[1].die()
        self.assertTrue(stopped.called)
        self.reactor.advance(100)
        self.assertEqual(len(self.reactor.processes), 2)  # none is started again

    def test_one_that_does_not_stop_is_killed(self) -> None:
        self.supervisor.stopService()
        self.reactor.advance(STOP_TIME + 1)
        self.assertEqual([each.killed for each in self.reactor.processes], ["KILL", "KILL"])
        for process in list(self.reactor.processes):
            process.die()

    async def test_a_restart_takes_one_after_the_other(self) -> None:
        first, second = self.reactor.processes
        restarted = Deferred.fromCoroutine(self.supervisor.restart())
        self.assertEqual(first.words(), DRAIN)
        with self.assertRaises(BlockingIOError):
            second.words()
        first.die()
        self.reactor.advance(0)
        with self.assertRaises(BlockingIOError):  # not before the first serves again
            second.words()
        self.ready(self.reactor.processes[2])
        self.assertEqual(second.words(), DRAIN)
        second.die()
        self.reactor.advance(0)
        self.ready(self.reactor.processes[3])
        await restarted
        self.assertNotIn("worker died", self.log.events)

    def test_whom_to_ask_for_which_shard(self) -> None:
        self.assertEqual(
            dict(self.supervisor.controls()), {Path("/spool/0"): (0,), Path("/spool/1"): (1,)}
        )


class OrderText(TestCase):
    @given(st.text(), st.lists(st.integers(0, 99), min_size=1), st.integers(0, 65535))
    def test_orders_survive_the_command_line(
        self, config: str, shards: list[int], port: int
    ) -> None:
        given = Orders(config, 0, 2, tuple(shards), (("::1", port),), "/c", "")
        self.assertEqual(Orders.parse(given.argument()), given)
