"""The connections that are open: who is idle for which hop, and who has taken too long."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.relay.connection import Connection
from relayd.relay.limits import Limits

_TICK = 1.0  # seconds; one timer for all connections, a deadline is only a number


class Pool:
    """Keeps connections for the next message of the same hop, and of the same demands on TLS."""

    def __init__(self, clock: IReactorTime, limits: Limits) -> None:
        self._clock = clock
        self.limits = limits
        self.connections: set[Connection] = set()
        self._idle: OrderedDict[Connection, Hashable] = OrderedDict()  # the longest idle first
        self._of_hop: dict[Hashable, list[Connection]] = {}
        self._tick: IDelayedCall | None = None
        self._closing = False

    def take(self, hop: Hashable) -> Connection | None:
        """An idle connection for this hop: the one last used, so that the others may end."""
        kept = self._of_hop.get(hop)
        if not kept:
            return None
        connection = kept[-1]
        self._forget(connection)
        return connection

    def give_back(self, connection: Connection, hop: Hashable) -> None:
        """The transaction is over: keep it if it may be used again, else close it."""
        limits = self.limits
        if not connection.usable:
            return
        now = self._clock.seconds()
        if (
            self._closing
            or connection.transactions >= limits.connection_messages
            or now - connection.born >= limits.connection_seconds
        ):
            connection.quit()
            return
        connection.deadline = now + limits.idle_seconds
        self._idle[connection] = hop
        self._of_hop.setdefault(hop, []).append(connection)
        if len(self._idle) > limits.idle_connections:
            oldest = next(iter(self._idle))
            self._forget(oldest)
            oldest.quit()

    def close(self) -> None:
        """Keep nothing any more."""
        self._closing = True
        for connection in list(self._idle):
            self._forget(connection)
            connection.quit()

    def abort(self) -> None:
        """Cut everything."""
        self.close()
        for connection in list(self.connections):
            connection.cut("stopped")

    # as the watch of connections

    def seconds(self) -> float:
        """Now."""
        return self._clock.seconds()

    def opened(self, connection: Connection) -> None:
        """A socket is open from here on."""
        self.connections.add(connection)
        if self._tick is None:
            self._tick = self._clock.callLater(_TICK, self._look)

    def ended(self, connection: Connection) -> None:
        """It is of no use any more."""
        if connection in self._idle:
            self._forget(connection)

    def lost(self, connection: Connection) -> None:
        """Its socket is closed."""
        self.ended(connection)
        self.connections.discard(connection)
        if not self.connections and self._tick is not None:
            self._tick.cancel()
            self._tick = None

    def _look(self) -> None:
        self._tick = self._clock.callLater(_TICK, self._look)
        now = self._clock.seconds()
        for connection in [each for each in self.connections if each.deadline <= now]:
            connection.expire()

    def _forget(self, connection: Connection) -> None:
        hop = self._idle.pop(connection)
        kept = self._of_hop[hop]
        kept.remove(connection)
        if not kept:
            del self._of_hop[hop]
