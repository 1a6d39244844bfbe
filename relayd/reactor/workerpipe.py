"""A socket between master and worker, as something the reactor reads from."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from zope.interface import implementer

Reactor = Any
"""Time, sockets, threads, processes: no one interface of Twisted's has them all."""

_READ = 4096  # octets; a message is a word


def in_thread(reactor: Reactor) -> Callable[..., Deferred[Any]]:
    """Calls a function in a thread of the reactor's pool, and fires with what it returns."""
    return partial(deferToThreadPool, reactor, reactor.getThreadPool())


@implementer(IReadDescriptor)
class WorkerPipe:
    """One end of a socketpair. `heard` gets what arrives; `closed` is called once at the end."""

    def __init__(
        self,
        reactor: IReactorFDSet,
        connection: socket.socket,
        heard: Callable[[bytes], None],
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._heard = heard
        self._closed = closed
        reactor.addReader(self)

    def send(self, words: bytes) -> None:
        """Say something; silence when nobody listens any more."""
        try:
            self._connection.send(words)
        except OSError:
            return  # the other side's end is noticed by reading

    def hang_up(self) -> None:
        """Say nothing more: for the other side an order to stop."""
        try:
            self._connection.shutdown(socket.SHUT_WR)
        except OSError:
            return  # it is gone already

    # IReadDescriptor

    def fileno(self) -> int:
        """The descriptor, for the reactor."""
        return self._connection.fileno()

    def logPrefix(self) -> str:
        """For Twisted's log."""
        return "channel"

    def doRead(self) -> Failure | None:
        """Something has arrived, or the other side has hung up."""
        try:
            data = self._connection.recv(_READ)
        except BlockingIOError:
            return None
        except OSError as error:
            return Failure(error)  # type: ignore[no-untyped-call]
        if not data:
            return Failure(ConnectionError("hung up"))  # type: ignore[no-untyped-call]
        self._heard(data)
        return None

    def connectionLost(self, reason: Failure) -> None:
        """The reactor reads no more."""
        self._connection.close()
        self._closed()
