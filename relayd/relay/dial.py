"""Opens the socket of a connection: TCP to an address, never to a name, or a unix socket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IDelayedCall,
    IReactorTCP,
    IReactorTime,
    IReactorUNIX,
)
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.python.failure import Failure

from relayd.relay.connection import Connection
from relayd.relay.survey import Endpoint

HEAD_START = 0.25  # seconds: the Connection Attempt Delay of RFC 8305 section 5


class IReactor(IReactorTCP, IReactorUNIX, IReactorTime):
    """What couriers need of a reactor."""


@dataclass(slots=True, eq=False)
class Rival:
    """The same host in the other family: tried, too, if the first address is slow to answer."""

    endpoint: Endpoint
    source: str = ""  # as with `dial`
    knock: Callable[[], float] | None = None  # told when it is tried
    began: float | None = None  # what that said; None: it was not tried
    trouble: BaseException | None = None  # it failed; and so has the other one, if the dial has
    won: bool = False  # it is the one that the connection goes to


class _Dialer(ClientFactory):
    """One try to connect. No endpoint of Twisted's: its wrapper would see every octet."""

    noisy = False

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """The connection, which is there already."""
        return self._connection

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        """Refused, timed out, no route, no descriptor left, ..."""
        self._connection.failed(reason.value)


class _Runner(_Dialer):
    """One of two tries."""

    def __init__(self, race: _Race, connection: Connection, rival: Rival | None) -> None:
        super().__init__(connection)
        self._race = race
        self._rival = rival

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """None, to be closed at once, if the other one was there in the very same moment."""
        return self._connection if self._race.arrived(self, self._rival) else None

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self._race.dropped(self, self._rival, reason.value)


class _Race:
    """Two addresses of one host, the second a moment after the first; one socket stays open."""

    def __init__(
        self, reactor: IReactor, connection: Connection, timeout: float, source: str, rival: Rival
    ) -> None:
        self._reactor = reactor
        self._connection = connection
        self._timeout = timeout
        self._rival = rival
        self._running: dict[_Runner, IConnector] = {}
        self._over = False
        self._trouble: BaseException | None = None  # of the first one
        self._start: IDelayedCall = reactor.callLater(HEAD_START, self._follow)
        self._run(connection.endpoint, source, None)

    def disconnect(self) -> None:
        """Nobody needs it any more."""
        for connector in list(self._running.values()):
            connector.disconnect()

    def _run(self, endpoint: Endpoint, source: str, rival: Rival | None) -> None:
        runner = _Runner(self, self._connection, rival)
        self._running[runner] = _connector(self._reactor, endpoint, runner, self._timeout, source)

    def _follow(self) -> None:
        rival = self._rival
        rival.began = 0.0 if rival.knock is None else rival.knock()
        self._run(rival.endpoint, rival.source, rival)

    def arrived(self, runner: _Runner, rival: Rival | None) -> bool:
        """One has a connection; whether it is the first."""
        self._running.pop(runner, None)
        if self._over:
            return False
        self._end()
        if rival is not None:
            rival.won = True
            self._connection.goes_to(rival.endpoint)
        self.disconnect()
        return True

    def dropped(self, runner: _Runner, rival: Rival | None, error: BaseException | None) -> None:
        """One has none. Before the other one has begun it never will: the next host is tried."""
        self._running.pop(runner, None)
        if self._over:
            return
        if rival is None:
            self._trouble = error
        else:
            rival.trouble = error
        if not self._running:
            self._end()
            self._connection.failed(self._trouble)

    def _end(self) -> None:
        self._over = True
        if self._start.active():
            self._start.cancel()


def dial(
    reactor: IReactor,
    connection: Connection,
    timeout: float,
    source: str = "",
    rival: Rival | None = None,
) -> Deferred[None]:
    """Connect; fires when a transaction may be sent, fails with SessionError or is cancelled.

    `source`: the address of ours to come from, of the same family; empty: as the system has it.
    """
    if rival is not None:
        connection.connector = _Race(reactor, connection, timeout, source, rival)
    else:
        dialer = _Dialer(connection)
        connection.connector = _connector(reactor, connection.endpoint, dialer, timeout, source)
    return connection.opened


def _connector(
    reactor: IReactor, endpoint: Endpoint, dialer: _Dialer, timeout: float, source: str
) -> IConnector:
    if endpoint.unix:
        return reactor.connectUNIX(endpoint.unix, dialer, timeout)
    return reactor.connectTCP(
        endpoint.address, endpoint.port, dialer, timeout, (source, 0) if source else None
    )
