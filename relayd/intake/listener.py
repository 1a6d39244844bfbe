"""Listening sockets, and the service that opens them, serves them, and closes in good order."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IListeningPort,
    IReactorSocket,
    IReactorTime,
)

from relayd.intake.accepting import AcceptBalancer
from relayd.intake.factory import SessionFactory
from relayd.intake.smtpservice import SmtpService
from relayd.reactor.coroutine import promise

BACKLOG = 1024  # Twisted's 50 is filled in an instant by a busy peer; the kernel caps it


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen: an IP address without brackets, and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listening_socket(address: ListenAddress, *, backlog: int = BACKLOG) -> socket.socket:
    """A bound, listening, non-blocking TCP socket; raises OSError that says where."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # IPv4 clients come through a socket of their own: no ::ffff: addresses in rules
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((address.host, address.port))
        listening.listen(backlog)
    except OSError as error:
        listening.close()
        what = f"cannot listen on {address}: {error.strerror}"
        raise OSError(error.errno, what) from error
    return listening


class IntakeService(Service):
    """Serves the listeners of one process.

    The sockets are opened while the process may still have root's rights; or they come from
    outside (the master, systemd), already open, one for each address. `reactor` has both time
    and sockets. With a `accept_balancer` other processes serve the same sockets.
    """

    def __init__(
        self,
        reactor: IReactorSocket,
        service: SmtpService,
        addresses: Sequence[ListenAddress],
        sockets: Sequence[socket.socket] = (),
        *,
        accept_balancer: AcceptBalancer | None = None,
        grace: float = 5.0,
    ) -> None:
        self.service = service
        self._reactor = reactor
        self._addresses = tuple(addresses)
        self._sockets = list(sockets)
        self._accept_balancer = accept_balancer
        self._grace = grace  # seconds for sessions to end when relayd stops
        self._ports: list[IListeningPort] = []

    @property
    def bound(self) -> tuple[ListenAddress, ...]:
        """Where it listens by now, with the ports that were free."""
        hosts = [port.getHost() for port in self._ports]
        return tuple(
            ListenAddress(host.host, host.port)
            for host in hosts
            if isinstance(host, (IPv4Address, IPv6Address))
        )

    def privilegedStartService(self) -> None:
        """Open the sockets; called as root when there is root. Raises OSError."""
        if not self._sockets:
            for address in self._addresses:
                try:
                    self._sockets.append(listening_socket(address))
                except OSError:
                    self._close_sockets()
                    raise
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted's own

    def startService(self) -> None:
        """Accept connections."""
        if not self._sockets:
            self.privilegedStartService()
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's own
        for listening, address in zip(self._sockets, self._addresses, strict=True):
            # replies are small, and waited for; a connection has it from whom it comes by
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            factory = SessionFactory(self.service, str(address))
            self._ports.append(
                self._reactor.adoptStreamPort(
                    listening.fileno(),
                    listening.family,
                    factory,  # type: ignore[arg-type]  # generic in the protocol it makes
                )
            )
        self._close_sockets()  # the reactor has its own descriptors now
        if self._accept_balancer is not None:
            self.service.count = self._accept_balancer.count
            self._accept_balancer.open(self._ports)

    def drain(self, patience: float) -> Deferred[None]:
        """Accept no more, and let every transaction end; fires then, or after `patience` seconds.

        For a worker that hands its sockets on; stopService() is still to be called.
        """
        return promise(self._drain(patience))

    def stopService(self) -> Deferred[None]:
        """Accept no more, say 421, let commits under way finish; fires within the grace."""
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's own
        return promise(self._stop())

    async def _drain(self, patience: float) -> None:
        await self._close_ports()
        self.service.retire()
        await self._until_empty(patience)

    async def _stop(self) -> None:
        await self._close_ports()
        self.service.close()
        await self._until_empty(self._grace)
        for session in tuple(self.service.sessions):
            session.abort()

    async def _close_ports(self) -> None:
        if self._accept_balancer is not None:
            self._accept_balancer.close()
        ports, self._ports = self._ports, []
        for port in ports:
            stopped = port.stopListening()
            if isinstance(stopped, Deferred):
                await stopped

    async def _until_empty(self, patience: float) -> None:
        """Wait until the last session has ended, or patience has."""
        if not self.service.sessions:
            return
        done: Deferred[None] = Deferred()
        clock: IReactorTime = self.service.reactor
        limit: IDelayedCall = clock.callLater(patience, done.callback, None)

        def empty() -> None:
            if limit.active():
                limit.cancel()
                done.callback(None)

        self.service.on_empty = empty
        await done

    def _close_sockets(self) -> None:
        for listening in self._sockets:
            with contextlib.suppress(OSError):
                listening.close()
        self._sockets.clear()
