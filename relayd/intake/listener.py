"""Listening sockets, and the service that opens them, serves them, and closes in good order."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

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
from relayd.intake.opening import (
    ListenAddress,
    ListeningSockets,
    Ready,
    listens,
    nothing_ready,
)
from relayd.intake.smtpservice import SmtpService
from relayd.reactor.coroutine import promise

LOOK = 1.0  # seconds between two looks whether a socket listens by now


class IntakeService(Service):
    """Serves the listeners of one process.

    The sockets are opened while the process may still have root's rights; or they come from
    outside (the master), one for each address. Those that do not listen yet are served as soon as
    they do; `ready` are systemd's. `reactor` has both time and sockets. With a `accept_balancer`
    other processes serve the same sockets.
    """

    def __init__(
        self,
        reactor: IReactorSocket,
        service: SmtpService,
        addresses: Sequence[ListenAddress],
        sockets: Sequence[socket.socket] = (),
        *,
        ready: Ready = nothing_ready,
        accept_balancer: AcceptBalancer | None = None,
        grace: float = 5.0,
    ) -> None:
        self.service = service
        self._reactor = reactor
        self._addresses = tuple(addresses)
        self._sockets = list(sockets)
        self._ready = ready
        self._accept_balancer = accept_balancer
        self._grace = grace  # seconds for sessions to end when relayd stops
        self._ports: list[IListeningPort] = []
        self._opening: ListeningSockets | None = None  # ours, where none came from outside
        self._late: list[tuple[socket.socket, ListenAddress]] = []
        self._look_again: IDelayedCall | None = None

    @property
    def bound(self) -> tuple[ListenAddress, ...]:
        """Where it listens by now, with the ports that were free."""
        hosts = [port.getHost() for port in self._ports]
        return tuple(
            ListenAddress(host.host, host.port)
            for host in hosts
            if isinstance(host, (IPv4Address, IPv6Address))
        )

    @property
    def missing(self) -> Mapping[ListenAddress, str]:
        """Where it does not listen, and why; as far as that is for this process to know."""
        return {} if self._opening is None else self._opening.missing

    def privilegedStartService(self) -> None:
        """Open the sockets; called as root when there is root. Raises OSError."""
        if not self._sockets:
            log = self.service.intake.log
            self._opening = ListeningSockets(
                self.service.reactor, log, self._addresses, self._ready
            )
            self._sockets = list(self._opening.open())
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted's own

    def startService(self) -> None:
        """Accept connections."""
        if not self._sockets:
            self.privilegedStartService()
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's own
        self._late = list(zip(self._sockets, self._addresses, strict=True))
        self._sockets = []
        if self._accept_balancer is not None:
            self.service.count = self._accept_balancer.count
        self._look()

    def _look(self) -> None:
        """Serve what listens by now."""
        opened = []
        for listening, address in [*self._late]:
            if not listens(listening):
                continue
            self._late.remove((listening, address))
            # replies are small, and waited for; a connection has it from whom it comes by
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            factory = SessionFactory(self.service, str(address))
            opened.append(
                self._reactor.adoptStreamPort(
                    listening.fileno(),
                    listening.family,
                    factory,  # type: ignore[arg-type]  # generic in the protocol it makes
                )
            )
            listening.close()  # the reactor has its own descriptor now
        self._ports += opened
        if self._accept_balancer is not None and opened:
            self._accept_balancer.open(opened)
        clock: IReactorTime = self.service.reactor
        self._look_again = clock.callLater(LOOK, self._look) if self._late else None

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
        if self._look_again is not None:
            self._look_again.cancel()
            self._look_again = None
        if self._opening is not None:
            self._opening.close()
        for listening, _ in self._late:
            listening.close()
        self._late.clear()
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
