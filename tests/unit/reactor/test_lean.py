"""The lean reactor does what Twisted's does: reads, writes, ends, and survives what breaks."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python import log
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from relayd.reactor.lean import LeanReactor, soon


class Echo(Protocol):
    """Says what it hears; breaks at the word, or at the end if it heard the other."""

    def dataReceived(self, data: bytes) -> None:
        factory: Any = self.factory
        if data == b"break":
            raise ArithmeticError(data)
        factory.heard += data
        self.transport.write(data)  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure | None = None) -> None:
        factory: Any = self.factory
        factory.ended += 1
        if factory.heard.endswith(b"break later"):
            raise LookupError


class Turns(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor: Any = LeanReactor()
        self.addCleanup(self.reactor._poller.close)
        factory: Any = Factory()
        factory.protocol = Echo
        factory.noisy = False
        factory.heard = b""
        factory.ended = 0
        self.factory = factory
        self.port = self.reactor.listenTCP(0, self.factory, interface="127.0.0.1")

    def client(self, data: bytes) -> socket.socket:
        """A connection that has sent this."""
        made = socket.create_connection(("127.0.0.1", self.port.getHost().port), 60)
        self.addCleanup(made.close)
        made.sendall(data)
        return made

    def run_until(self, condition: Callable[[], object]) -> None:
        """Turn until it holds; a minute at most."""

        def look() -> None:
            if condition():
                self.reactor.stop()
            else:
                self.reactor.callLater(0.01, look)

        self.reactor.callLater(0, look)
        overdue = self.reactor.callLater(60, self.reactor.stop)
        self.reactor.run(installSignalHandlers=False)
        self.assertTrue(overdue.active(), "it took too long")

    def test_reads_writes_and_hears_of_the_end(self) -> None:
        client = self.client(b"hello")
        client.setblocking(False)
        received = b""

        def heard_and_gone() -> bool:
            nonlocal received
            with contextlib.suppress(OSError):
                received += client.recv(100)
            if received:
                client.close()
            return bool(self.factory.ended)

        self.run_until(heard_and_gone)
        self.assertEqual(received, b"hello")

    def test_more_than_the_socket_takes_is_written_by_and_by(self) -> None:
        sent = bytes(1 << 22)
        client = self.client(b"")
        client.setblocking(False)
        received = bytearray()
        left = memoryview(sent)

        def feed() -> None:
            nonlocal left
            for _ in range(100):
                try:
                    if left:
                        left = left[client.send(left) :]
                    received.extend(client.recv(1 << 16))
                except BlockingIOError:
                    break

        def fed() -> bool:
            feed()
            return len(received) == len(sent)

        self.run_until(fed)
        self.assertEqual(bytes(received), sent)

    def test_what_shall_leave_together_leaves_at_the_end_of_the_turn(self) -> None:
        self.reactor.send_together()
        order: list[str] = []
        leaving = self.reactor.leaving

        class Reply:
            def flush(self) -> None:
                order.append("sent")

        def say() -> None:
            leaving.extend([Reply(), Reply()])
            order.append("said")
            self.reactor.callLater(0, order.append, "next turn")

        self.reactor.callLater(0, say)
        self.run_until(lambda: "next turn" in order)
        self.assertEqual(order, ["said", "sent", "sent", "next turn"])
        self.assertIs(self.reactor.leaving, leaving)

    def test_what_is_to_be_done_soon_is_done_in_order_before_the_reactor_waits(self) -> None:
        done: list[str] = []

        def first() -> None:
            self.reactor.call_soon(done.append, "asked for meanwhile")
            done.append("first")

        def breaks() -> None:
            raise ArithmeticError

        self.reactor.call_soon(first)
        self.reactor.call_soon(breaks)
        self.reactor.call_soon(done.append, "second")
        self.reactor.callLater(0, done.append, "timer")
        self.run_until(lambda: len(done) == 4)
        self.assertEqual(done, ["timer", "first", "second", "asked for meanwhile"])
        self.assertEqual(len(self.flushLoggedErrors(ArithmeticError)), 1)

    def test_no_memory_to_say_what_broke_makes_nothing_be_done_twice(self) -> None:
        done: list[str] = []

        def breaks() -> None:
            done.append("breaks")
            raise MemoryError

        def silent() -> None:
            raise MemoryError

        self.patch(log, "err", silent)
        self.reactor.call_soon(breaks)
        self.reactor.call_soon(done.append, "next")
        for _ in range(2):
            self.reactor.runUntilCurrent()
        self.assertEqual(done, ["breaks", "next"])

    def test_no_memory_to_read_closes_a_connection_but_no_door_and_wakes_us_again(self) -> None:
        breaking = [self.reactor.waker, self.port]
        for each in breaking:

            def breaks(each: Any = each, read: Any = each.doRead) -> None:  # noqa: ANN401
                each.doRead = read
                raise MemoryError

            each.doRead = breaks
        there: list[bool] = []

        def look() -> bool:
            there[:] = [each in self.reactor.getReaders() for each in breaking]
            return True

        self.reactor.wakeUp()
        self.client(b"well")
        self.run_until(lambda: self.factory.heard == b"well" and look())
        self.assertEqual(there, [True, True])
        self.assertEqual(len(self.flushLoggedErrors(MemoryError)), 2)

    def test_no_memory_in_a_turn_does_not_end_the_loop(self) -> None:
        turns: list[str] = []

        def turn(reactor: Any) -> None:  # noqa: ANN401
            turns.append("turn")
            if len(turns) < 3:
                raise (MemoryError, SystemError)[len(turns) - 1]
            reactor._started = False

        self.patch(EPollReactor, "mainLoop", turn)
        self.reactor._started = True
        self.reactor.mainLoop()
        self.assertEqual(len(turns), 3)

    def test_no_memory_said_as_a_system_error_closes_no_door(self) -> None:
        read = self.port.doRead

        def breaks() -> None:
            self.port.doRead = read
            raise SystemError("error return without exception set")

        self.port.doRead = breaks
        self.client(b"well")
        self.run_until(lambda: self.factory.heard == b"well")
        self.assertEqual(len(self.flushLoggedErrors(SystemError)), 1)

    def test_no_memory_to_say_what_broke_has_no_call_of_a_thread_be_made_twice(self) -> None:
        done: list[str] = []

        def breaks() -> None:
            done.append("breaks")
            raise MemoryError

        self.patch(log, "err", breaks)
        self.reactor.callFromThread(breaks)
        self.reactor.callFromThread(done.append, "next")
        for _ in range(2):
            self.reactor.runUntilCurrent()
        self.assertEqual(done, ["breaks", "breaks", "next"])  # the second: to say so

    def test_no_memory_to_watch_a_descriptor_leaves_no_trace_of_its_number(self) -> None:
        class Scarce(dict[int, object]):
            def __setitem__(self, fd: int, selectable: object) -> None:
                raise MemoryError

        there = self.reactor._selectables
        self.reactor._selectables = Scarce()
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        with self.assertRaises(MemoryError):
            self.reactor.addReader(ours)
        self.reactor._selectables = there
        self.reactor.addReader(ours)
        self.assertIn(ours, self.reactor.getReaders())

    def test_no_memory_to_end_a_connection_that_broke_ends_it_in_the_next_turn(self) -> None:
        end, scarce = self.reactor._disconnectSelectable, [MemoryError()] * 3

        def ending(*arguments: object) -> None:
            if scarce:
                raise scarce.pop()
            end(*arguments)

        self.reactor._disconnectSelectable = ending
        client = self.client(b"break")
        self.run_until(lambda: self.factory.ended == 1)
        self.assertEqual((scarce, client.recv(100)), ([], b""))
        self.assertEqual(len(self.flushLoggedErrors(MemoryError, ArithmeticError)), 4)

    def test_no_memory_for_one_of_those_that_leave_together_keeps_no_other(self) -> None:
        self.reactor.send_together()
        sent: list[str] = []

        class Reply:
            def __init__(self, breaks: bool) -> None:
                self.breaks = breaks

            def flush(self) -> None:
                sent.append("tried")
                if self.breaks:
                    raise MemoryError

        self.reactor.leaving += [Reply(True), Reply(False)]
        self.reactor.doPoll(0)
        self.reactor.doPoll(0)
        self.assertEqual((len(sent), self.reactor.leaving), (2, []))
        self.assertEqual(len(self.flushLoggedErrors(MemoryError)), 1)

    def test_what_is_to_be_done_soon_is_a_timer_of_another_reactor(self) -> None:
        done: list[str] = []
        clock = Clock()
        soon(self.reactor)(done.append, "ours")
        soon(clock)(done.append, "another's")
        self.assertEqual(done, [])
        clock.advance(0)
        self.assertEqual(done, ["another's"])
        self.reactor.runUntilCurrent()
        self.assertEqual(done, ["another's", "ours"])

    def test_what_breaks_is_logged_and_ends_only_itself(self) -> None:
        self.client(b"break")
        self.client(b"well")
        self.run_until(lambda: self.factory.heard == b"well" and self.factory.ended == 1)
        self.assertEqual(len(self.flushLoggedErrors(ArithmeticError)), 1)

    def test_what_breaks_at_the_end_is_logged_and_the_turn_goes_on(self) -> None:
        self.client(b"break later").close()
        self.run_until(lambda: self.factory.ended == 1)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)


class Choice(SynchronousTestCase):
    def named(self, before: str) -> str:
        """The class of the reactor that a process has, which did `before` first."""
        ours = "from relayd.reactor.lean import own_reactor; print(type(own_reactor()).__name__)"
        done = subprocess.run(
            [sys.executable, "-c", f"{before}\n{ours}"], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def test_ours_unless_another_was_chosen(self) -> None:
        self.assertEqual(self.named(""), "LeanReactor")
        chosen = "from twisted.internet import pollreactor; pollreactor.install()"
        self.assertEqual(self.named(chosen), "PollReactor")
