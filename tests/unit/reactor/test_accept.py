"""The lean port takes connections as Twisted's does, and stays open whatever happens."""

from __future__ import annotations

import errno
import socket
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from relayd.reactor.accept import LeanServer, connect_unix
from relayd.reactor.lean import LeanReactor
from relayd.reactor.wire import Wire


class Greeting(Protocol):
    """Says a word, goes, and remembers how it ended."""

    def connectionMade(self) -> None:
        if self.factory.scarce:
            self.factory.scarce = False
            raise MemoryError
        wire = Wire(self.transport)
        wire.write(b"220 x\r\n")
        wire.close()

    def connectionLost(self, reason: Failure | None = None) -> None:
        factory: Any = self.factory
        factory.ended += 1


class Greeters(Factory):
    noisy = False
    protocol = Greeting
    broken = False
    scarce = False  # memory, for the next
    ended = 0

    def __init__(self) -> None:
        self.seen: list[IAddress | None] = []

    def buildProtocol(self, addr: IAddress | None) -> Any:  # noqa: ANN401
        self.seen.append(addr)
        if self.broken:
            raise ArithmeticError
        return super().buildProtocol(addr)


class Fails:
    """A listening socket whose next `accept` fails so."""

    def __init__(self, listening: socket.socket, number: int) -> None:
        self.listening = listening
        self.number = number

    def _accept(self) -> object:
        raise OSError(self.number, "so")

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self.listening, name)


class Accepting(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor: Any = LeanReactor()
        self.addCleanup(self.reactor._poller.close)
        self.factory = Greeters()

    def listen(self, family: socket.AddressFamily, host: str) -> Any:  # noqa: ANN401
        with socket.create_server((host, 0), family=family) as listening:
            listening.setblocking(False)
            port = self.reactor.adoptStreamPort(listening.fileno(), family, self.factory)
        self.addCleanup(port.socket.close)
        return port

    def heard(self, port: Any, family: int = socket.AF_INET) -> bytes:  # noqa: ANN401
        with socket.socket(family) as client:
            client.settimeout(60)
            client.connect((port.getHost().host, port.getHost().port))
            before = self.factory.ended, len(self.factory.seen)
            while (self.factory.ended, len(self.factory.seen)) == before:
                self.turn()
            self.turn()
            return client.recv(100) + client.recv(100)

    def test_no_memory_to_greet_ends_the_connection_and_greets_the_next(self) -> None:
        port = self.listen(socket.AF_INET, "127.0.0.1")
        self.factory.scarce = True
        self.assertEqual(self.heard(port), b"")
        self.assertEqual((self.factory.ended, len(self.flushLoggedErrors(MemoryError))), (1, 1))
        self.assertEqual(self.heard(port), b"220 x\r\n")

    def test_no_memory_for_a_transport_tells_the_session_that_it_is_over(self) -> None:
        port = self.listen(socket.AF_INET, "127.0.0.1")

        def scarce(*_: object) -> None:
            del port.transport
            raise MemoryError

        port.transport = scarce
        self.assertEqual(self.heard(port), b"")
        self.assertEqual((self.factory.ended, len(self.flushLoggedErrors(MemoryError))), (1, 1))
        self.assertEqual(self.heard(port), b"220 x\r\n")

    def test_a_connection_to_a_unix_socket_is_made_read_and_closed_at_once(self) -> None:
        path = f"{self.mktemp()}"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen()
            heard: list[bytes] = []
            protocol: Any = Protocol()
            protocol.dataReceived = heard.append
            connect_unix(self.reactor, path, protocol)
            peer, _ = listening.accept()
            with peer:
                peer.sendall(b"hello")
                wire = Wire(protocol.transport)
                wire.write(b"good")
                while not heard:
                    self.turn()
                wire.write(b"bye")
                self.assertTrue(wire.close())
                self.turn()
                self.assertEqual(peer.recv(100) + peer.recv(100), b"goodbye")
        self.assertEqual(heard, [b"hello"])
        self.assertFalse(self.reactor._reads - {self.reactor.waker.fileno()})

    def test_a_unix_socket_that_nobody_serves_is_an_error_at_once(self) -> None:
        path = f"{self.mktemp()}"
        with self.assertRaises(FileNotFoundError):
            connect_unix(self.reactor, path, Protocol())
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path)
            with self.assertRaises(ConnectionRefusedError):
                connect_unix(self.reactor, path, Protocol())

    def turn(self) -> None:
        self.reactor.runUntilCurrent()
        self.reactor.doPoll(0.05)

    def test_both_families_with_their_addresses(self) -> None:
        four, six = (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")
        for (family, host), kind in ((four, IPv4Address), (six, IPv6Address)):
            with self.subTest(host):
                port = self.listen(family, host)
                self.assertEqual(self.heard(port, family), b"220 x\r\n")
                seen = self.factory.seen[-1]
                assert isinstance(seen, kind)
                self.assertEqual(seen.host, host)
                self.assertTrue(issubclass(port.transport, LeanServer))

    def test_what_is_closed_leaves_nothing_with_the_reactor(self) -> None:
        port = self.listen(socket.AF_INET, "127.0.0.1")
        there = len(self.reactor._selectables), len(self.reactor._reads)
        for _ in range(20):
            self.assertEqual(self.heard(port), b"220 x\r\n")
        self.turn()
        self.assertEqual(self.factory.ended, 20)
        self.assertEqual((len(self.reactor._selectables), len(self.reactor._reads)), there)

    def test_a_factory_that_breaks_leaves_the_door_open(self) -> None:
        port = self.listen(socket.AF_INET, "127.0.0.1")
        self.factory.broken = True
        with socket.create_connection(("127.0.0.1", port.getHost().port)):
            while not self.factory.seen:
                self.turn()
        self.assertEqual(len(self.flushLoggedErrors(ArithmeticError)), 1)
        self.factory.broken = False
        self.assertEqual(self.heard(port), b"220 x\r\n")

    def test_an_accept_that_fails_is_twisteds_to_report_and_the_door_stays_open(self) -> None:
        port = self.listen(socket.AF_INET, "127.0.0.1")
        listening = port.socket
        for number in (errno.EMFILE, errno.ECONNABORTED, errno.EPERM):
            with self.subTest(errno.errorcode[number]):
                port.socket = Fails(listening, number)
                self.assertEqual(self.heard(port), b"220 x\r\n")  # its own accept succeeds
        port.socket = listening
        self.assertEqual(self.heard(port), b"220 x\r\n")
