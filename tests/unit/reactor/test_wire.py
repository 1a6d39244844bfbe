"""Octets leave at once, in order, and never round TLS."""

from __future__ import annotations

import unittest
from types import SimpleNamespace
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Connection
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory

from relayd.reactor.wire import Wire


class Socket(Connection):
    """A TCP transport whose socket takes so many octets, and one whose buffer is a list."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.socket: Any = self
        self.connected = True
        self.TLS = False
        self.sent = b""
        self.buffered: list[bytes] = []
        self.lost = False
        self.protocol: Any = None

    def send(self, data: bytes) -> int:
        if self.lost:
            raise ConnectionResetError
        if not self.room:
            raise BlockingIOError
        taken, self.room = data[: self.room], self.room - len(data[: self.room])
        self.sent += taken
        return len(taken)

    def write(self, data: bytes) -> None:
        if self.protocol is None:
            self.buffered.append(data)
        else:
            self.protocol.write(data)

    def startTLS(self, ctx: object, normal: object = True) -> None:
        self.protocol = Tls(SimpleNamespace(write=self.buffered.append, getPeer=lambda: "peer"))


class Tls:
    """What Twisted puts between a transport that speaks TLS and the socket."""

    def __init__(self, transport: object) -> None:
        self.transport: Any = transport

    def write(self, data: bytes) -> None:
        self.transport.write(b"<" + data + b">")


class AtOnce(unittest.TestCase):
    def test_what_the_socket_takes_is_never_buffered(self) -> None:
        transport = Socket(100)
        wire = Wire(transport)
        wire.write(b"220 hello\r\n")
        wire.write(b"250 ok\r\n")
        self.assertEqual(transport.sent, b"220 hello\r\n250 ok\r\n")
        self.assertEqual(transport.buffered, [])

    def test_what_it_does_not_take_is_buffered_and_nothing_overtakes_it(self) -> None:
        transport = Socket(5)
        wire = Wire(transport)
        wire.write(b"1234567")
        transport.room = 100
        wire.write(b"89")
        self.assertEqual((transport.sent, transport.buffered), (b"12345", [b"67", b"89"]))

    def test_when_all_was_answered_it_goes_at_once_again(self) -> None:
        transport = Socket(0)
        wire = Wire(transport)
        wire.write(b"a")
        transport.room = 100
        wire.drained()
        wire.write(b"b")
        self.assertEqual((transport.sent, transport.buffered), (b"b", [b"a"]))

    def test_an_error_is_left_to_the_reactor(self) -> None:
        transport = Socket(100)
        transport.lost = True
        Wire(transport).write(b"all")
        self.assertEqual(transport.buffered, [b"all"])

    def test_a_lost_connection_is_not_touched(self) -> None:
        transport = Socket(100)
        transport.connected = False
        Wire(transport).write(b"all")
        self.assertEqual(transport.sent, b"")

    def test_a_producer_is_asked_by_the_transport(self) -> None:
        transport = Socket(100)
        wire = Wire(transport)
        wire.through_buffer()
        wire.write(b"piece")
        self.assertEqual((transport.sent, transport.buffered), (b"", [b"piece"]))


class Closing(unittest.TestCase):
    def closed(self, wire: Wire, transport: Socket) -> list[str]:
        """What closing makes of it."""
        done: list[str] = []
        transport.disconnecting = False
        later = lambda delay, lost, reason: done.append(f"{lost.__name__} in {delay}")  # noqa: E731
        setattr(transport, "reactor", SimpleNamespace(callLater=later))  # noqa: B010 - no whole one
        transport.stopReading = lambda: done.append("stopReading")  # type: ignore[method-assign]
        transport.loseConnection = lambda: done.append("lose")  # type: ignore[method-assign]
        self.at_once = wire.close()
        return done

    def test_when_all_is_sent_it_closes_in_the_next_turn(self) -> None:
        transport = Socket(100)
        wire = Wire(transport)
        wire.write(b"221 bye\r\n")
        self.assertEqual(self.closed(wire, transport), ["stopReading", "connectionLost in 0"])
        self.assertTrue(self.at_once)
        self.assertTrue(transport.disconnecting)

    def test_what_is_not_sent_is_waited_for(self) -> None:
        transport = Socket(3)
        wire = Wire(transport)
        wire.write(b"221 bye\r\n")
        self.assertEqual(self.closed(wire, transport), ["lose"])
        self.assertFalse(self.at_once)

    def test_what_would_leave_at_the_turns_end_leaves_before(self) -> None:
        transport = Socket(100)
        setattr(transport, "reactor", SimpleNamespace(leaving=[]))  # noqa: B010 - no whole reactor
        wire = Wire(transport)
        wire.write(b"221 bye\r\n")
        self.assertEqual(transport.sent, b"")
        self.assertEqual(self.closed(wire, transport), ["stopReading", "connectionLost in 0"])
        self.assertEqual(transport.sent, b"221 bye\r\n")

    def test_tls_says_goodbye_first(self) -> None:
        transport = Socket(100)
        wire = Wire(transport)
        wire.start_tls(object())
        self.assertEqual(self.closed(wire, transport), ["lose"])

    def test_a_lost_connection_is_not_lost_again(self) -> None:
        transport = Socket(100)
        transport.connected = False
        self.assertEqual(self.closed(Wire(transport), transport), ["lose"])


class Together(unittest.TestCase):
    """Where the reactor sends at a turn's end."""

    def setUp(self) -> None:
        self.leaving: list[Wire] = []
        self.transport = Socket(1 << 20)
        reactor: Any = SimpleNamespace(leaving=self.leaving)
        self.transport.reactor = reactor
        self.wire = Wire(self.transport)

    def end_of_turn(self) -> None:
        for wire in self.leaving:
            wire.flush()
        self.leaving.clear()

    def test_what_is_said_in_a_turn_leaves_at_its_end_in_one_piece(self) -> None:
        self.wire.write(b"250 ok\r\n")
        self.wire.write(b"221 bye\r\n")
        self.assertEqual((self.transport.sent, self.leaving), (b"", [self.wire]))
        self.end_of_turn()
        self.assertEqual(self.transport.sent, b"250 ok\r\n221 bye\r\n")
        self.wire.write(b"more")
        self.assertEqual(self.leaving, [self.wire])

    def test_much_does_not_wait_and_overtakes_nothing(self) -> None:
        self.wire.write(b"BDAT 100000\r\n")
        self.wire.write(bytes(100_000))
        self.assertEqual(self.transport.sent, b"BDAT 100000\r\n" + bytes(100_000))
        self.assertEqual(self.transport.buffered, [])
        self.end_of_turn()
        self.assertEqual(len(self.transport.sent), 100_013)

    def test_what_goes_through_the_buffer_overtakes_nothing(self) -> None:
        self.wire.write(b"first")
        self.wire.through_buffer()
        self.wire.write(b"second")
        self.assertEqual((self.transport.sent, self.transport.buffered), (b"first", [b"second"]))

    def test_before_tls_it_goes_out_in_the_clear_and_after_it_never(self) -> None:
        self.wire.write(b"220 go ahead\r\n")
        self.wire.start_tls(None)
        self.assertEqual(self.transport.sent, b"220 go ahead\r\n")
        self.wire.write(b"secret")
        self.transport.protocol.write(b"goodbye")
        self.assertEqual(self.transport.sent, b"220 go ahead\r\n")
        self.end_of_turn()
        self.assertEqual(self.transport.sent, b"220 go ahead\r\n<secret><goodbye>")
        self.assertEqual(self.transport.buffered, [])

    def test_a_connection_lost_in_between_is_not_touched(self) -> None:
        self.wire.write(b"too late")
        self.transport.connected = False
        self.end_of_turn()
        self.assertEqual(self.transport.sent, b"")


class NotInTheClear(unittest.TestCase):
    def test_after_starttls_everything_goes_through_tls(self) -> None:
        transport = Socket(100)
        wire = Wire(transport)
        wire.start_tls(None)
        wire.drained()
        wire.write(b"secret")
        self.assertEqual((transport.sent, transport.buffered), (b"<secret>", []))

    def test_what_tls_says_overtakes_nothing_that_waits(self) -> None:
        transport = Socket(5)
        wire = Wire(transport)
        wire.start_tls(None)
        wire.write(b"secret")
        transport.room = 100
        transport.protocol.write(b"goodbye")
        self.assertEqual((transport.sent, transport.buffered), (b"<secr", [b"et>", b"<goodbye>"]))

    def test_tls_finds_the_rest_of_its_transport(self) -> None:
        transport = Socket(100)
        Wire(transport).start_tls(None)
        self.assertEqual(transport.protocol.transport.getPeer(), "peer")

    def test_a_wrapper_is_not_gone_round(self) -> None:
        inner = Socket(100)
        wrapper: Any = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
        wrapper.transport = inner
        wrapper.write = inner.buffered.append
        self.assertTrue(hasattr(wrapper, "writeSomeData"))  # the trap
        Wire(wrapper).write(b"secret")
        self.assertEqual((inner.sent, inner.buffered), (b"", [b"secret"]))

    def test_transports_of_tests_are_written_to(self) -> None:
        transport = StringTransport()
        Wire(transport).write(b"text")
        self.assertEqual(transport.value(), b"text")
