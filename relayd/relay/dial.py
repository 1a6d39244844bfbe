"""Opens the socket of a connection: TCP to an address, never to a name, or a unix socket."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IReactorTCP,
    IReactorTime,
    IReactorUNIX,
)
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.python.failure import Failure

from relayd.relay.connection import Connection


class IReactor(IReactorTCP, IReactorUNIX, IReactorTime):
    """What couriers need of a reactor."""


class _Dialer(ClientFactory):
    """One try to connect. No endpoint of Twisted's: its wrapper would see every octet."""

    noisy = False

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """The connection, which is there already."""
        return self._connection

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        """Refused, timed out, no route, no descriptor left, ..."""
        self._connection.failed(reason.value)


def dial(
    reactor: IReactor, connection: Connection, timeout: float, source: str = ""
) -> Deferred[None]:
    """Connect; fires when a transaction may be sent, fails with SessionError or is cancelled.

    `source`: the address of ours to come from, of the same family; empty: as the system has it.
    """
    endpoint = connection.endpoint
    dialer = _Dialer(connection)
    if endpoint.unix:
        connection.connector = reactor.connectUNIX(endpoint.unix, dialer, timeout)
    else:
        connection.connector = reactor.connectTCP(
            endpoint.address, endpoint.port, dialer, timeout, (source, 0) if source else None
        )
    return connection.opened
