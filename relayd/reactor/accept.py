"""Connections without what nobody here needs of Twisted's way to take, make and end them.

Twisted makes three loggers a turn, in case `accept` fails, has the kernel close at exec what Python
has had it close already, and at the end asks for reasons that are known, and epoll about a socket
that goes at once. To one that it makes to a unix socket belong two timers, three turns and sixty
calls, and each read is ready for file descriptors that nobody sends.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol, IReactorFDSet
from twisted.internet.tcp import Connection, Port, Server
from twisted.python import log
from twisted.python.failure import Failure

DONE = Failure(ConnectionDone())  # type: ignore[no-untyped-call]  # Twisted's own
"""Why a connection ends that was closed in good order."""


MOST_UNENDED = 1024  # connections that broke, and are to be ended in the next turn
_NUMERIC = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


class LeanConnection(Connection):
    """A connection that closes without asking epoll."""

    def vanish(self) -> None:
        """Close now: all was sent, and whoever knew of it was told (as `connectionLost` does)."""
        transport: Any = self
        if transport.disconnected:
            return
        reactor, fd = transport.reactor, transport.socket.fileno()
        if fd in reactor._writes or transport.producer is not None:
            transport.connectionLost(DONE)
            return
        if fd in reactor._reads:  # nobody shares the socket: epoll forgets it when it is closed
            reactor._reads.remove(fd)
            del reactor._selectables[fd]
        transport.connected, transport.disconnected = 0, 1
        protocol = transport.protocol
        transport.socket.close()
        del transport.protocol, transport.socket, transport.fileno
        protocol.connectionLost(DONE)

    def abortConnection(self) -> None:
        """Close in the next turn; at once where that cannot be asked for."""
        try:
            super().abortConnection()  # type: ignore[no-untyped-call]  # Twisted's own
        except Exception:
            tell()
            self.connectionLost(DONE)


class LeanServer(LeanConnection, Server):
    """One that came in."""


class LeanPort(Port):
    """A listening socket, blocking no one."""

    transport = LeanServer

    def doRead(self) -> None:
        """Take who waits; one more each time than last time found, as Twisted does."""
        port: Any = self
        listening, most = port.socket, port.numberAccepts
        family, kind, build = port.addressFamily, port.socketType, port.factory.buildProtocol
        reactor, taken = port.reactor, 0
        while taken < most:
            try:
                fd, address = listening._accept()  # what `accept` wraps in two enumerations
            except BlockingIOError:
                break
            except OSError:
                super().doRead()  # type: ignore[no-untyped-call]  # knows what to do, and says it
                return
            taken += 1
            try:
                accepted = socket.socket(family, kind, 0, fd)
            except MemoryError:
                os.close(fd)  # nobody else would
                raise
            protocol = transport = None
            try:
                if len(address) == 4 and address[3]:  # a scope is part of the address
                    address = (socket.getnameinfo(address, _NUMERIC)[0], *address[1:])
                protocol = build(port._buildAddr(address))
                if protocol is None:
                    accepted.close()
                    continue
                number = port.sessionno
                port.sessionno = number + 1
                transport = self.transport(accepted, protocol, address, port, number, reactor)
                protocol.makeConnection(transport)
            except Exception:
                # its peer shall not wait, nor be counted on. Nothing is called or made here
                count = reactor.unended
                if count < MOST_UNENDED and protocol is not None:
                    reactor.ending[count] = protocol if transport is None else transport
                    reactor.unended = count + 1
                tell()  # others still find the door open
                if transport is None:
                    accepted.close()
        port.numberAccepts = most + 20 if taken == most else max(1, taken)


def tell() -> None:
    """Log what just broke, if there is memory for that; whoever has it goes on in any case."""
    with suppress(Exception):
        log.err()  # type: ignore[no-untyped-call]  # Twisted's own


def connect_unix(reactor: IReactorFDSet, path: str, protocol: IProtocol) -> None:
    """A connection to a unix socket, at once. Raises OSError; BlockingIOError: it has a queue."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.connect(path)
    except BaseException:
        made.close()
        raise
    transport: Any = LeanConnection(made, protocol, reactor)
    transport.connected = 1
    transport.startReading()
    protocol.makeConnection(transport)
