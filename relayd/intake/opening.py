"""Where we listen: a socket for each address, also where it cannot be had yet.

An address that is not there yet, or a port that another has, keeps the others from nothing: it is
tried again every few seconds, said once in the log, and in `relayctl status` for as long. The
socket itself is there from the start and is shared with all workers, so that it listens for them,
too, as soon as it listens here: they only have to look.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.mail.log import MailLog

BACKLOG = 1024  # Twisted's 50 is filled in an instant by a busy peer; the kernel caps it
RETRY = 5.0  # seconds between two tries to listen where we could not


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen: an IP address without brackets, and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Ready = Callable[[ListenAddress], "socket.socket | None"]
"""A socket that somebody else has opened for an address, to be closed by who is given it."""


def nothing_ready(address: ListenAddress) -> None:
    """Nobody has."""


def listens(listening: socket.socket) -> bool:
    """Whether connections can come by this socket by now."""
    return listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


def listening_socket(address: ListenAddress, *, backlog: int = BACKLOG) -> socket.socket:
    """A bound, listening, non-blocking TCP socket; raises OSError that says where."""
    listening = _unbound(address)
    try:
        _listen(listening, address, backlog)
    except OSError:
        listening.close()
        raise
    return listening


class ListeningSockets:
    """One for each address, in order."""

    def __init__(
        self,
        reactor: IReactorTime,
        log: MailLog,
        addresses: Sequence[ListenAddress],
        ready: Ready = nothing_ready,
    ) -> None:
        self._reactor = reactor
        self._log = log
        self._addresses = tuple(addresses)
        self._ready = ready
        self._missing: dict[int, str] = {}  # by the number of the address: why
        self._again: IDelayedCall | None = None
        self.sockets: list[socket.socket] = []

    @property
    def missing(self) -> Mapping[ListenAddress, str]:
        """Where we do not listen, and why."""
        return {self._addresses[number]: why for number, why in self._missing.items()}

    def open(self) -> list[socket.socket]:
        """Listen wherever it is possible, and try the others again.

        Raises OSError where it is possible nowhere, and time alone does not mend that: an address
        may come by itself, but a port that is taken or denied wants somebody's hand.
        """
        errors: list[OSError] = []
        for number, address in enumerate(self._addresses):
            opened = self._ready(address)
            if opened is None:
                try:
                    opened = _unbound(address)
                    _listen(opened, address)
                except OSError as error:
                    errors.append(error)
                    self._missing[number] = _words(error)
                    opened = opened or socket.socket()  # in its place, and never of use
            self.sockets.append(opened)
        hard = [each for each in errors if each.errno != errno.EADDRNOTAVAIL]
        if hard and len(errors) == len(self._addresses):
            self.close()
            raise hard[0]
        for address, why in self.missing.items():
            self._log.trouble("cannot listen", address=str(address), why=why)
        self._later()
        return self.sockets

    def close(self) -> None:
        """Try no more; what listens is for those who serve it to close."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        for number in self._missing:
            self.sockets[number].close()
        if len(self._missing) == len(self.sockets):
            self.sockets = []
        self._missing.clear()

    def _later(self) -> None:
        self._again = self._reactor.callLater(RETRY, self._retry) if self._missing else None

    def _retry(self) -> None:
        for number, why in [*self._missing.items()]:
            address, opened = self._addresses[number], self.sockets[number]
            try:
                if opened.family is not _family(address):  # IPv6 that this system did not know
                    continue
                _listen(opened, address)
            except OSError as error:
                now = _words(error)
                if now != why:
                    self._missing[number] = now
                    self._log.trouble("cannot listen", address=str(address), why=now)
            else:
                del self._missing[number]
                self._log.notice("listening", address=str(address))
        self._later()


def _family(address: ListenAddress) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET


def _unbound(address: ListenAddress) -> socket.socket:
    try:
        opened = socket.socket(_family(address), socket.SOCK_STREAM)
    except OSError as error:
        raise _placed(error, address) from error
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if opened.family == socket.AF_INET6:
        # IPv4 clients come through a socket of their own: no ::ffff: addresses in rules
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return opened


def _listen(opened: socket.socket, address: ListenAddress, backlog: int = BACKLOG) -> None:
    try:
        if opened.getsockname()[1] == 0:  # else it is bound since the last try
            opened.bind((address.host, address.port))
        opened.listen(backlog)
    except OSError as error:
        raise _placed(error, address) from error


def _placed(error: OSError, address: ListenAddress) -> OSError:
    return OSError(error.errno, f"cannot listen on {address}: {error.strerror}")


def _words(error: OSError) -> str:
    words = str(error.strerror).rpartition(": ")[2]
    if error.errno in (errno.EACCES, errno.EPERM):
        words += " (ports below 1024 want CAP_NET_BIND_SERVICE)"
    return words
