"""The connections that are open: who is idle for which hop, and who has taken too long."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.mail.nexthop import NextHop
from relayd.relay.connection import Connection, Tenure
from relayd.relay.limits import RelayLimits
from relayd.relay.survey import Endpoint, Terms

Place = tuple[NextHop | str, Endpoint]
"""A host as one next hop or domain leads to it: another one may log in there, or not."""

_TICK = 1.0  # seconds; one timer for all connections, a deadline is only a number
_MEMORY = 3600.0  # seconds for which it is known how much a host takes on one connection
_MOST_KNOWN = 1000  # hosts


class Shelf:
    """The connections of one hop, and of the same demands on TLS."""

    __slots__ = ("hop", "idle", "members")

    def __init__(self, hop: Hashable) -> None:
        self.hop = hop
        self.idle: list[Connection] = []  # the one last used is the last
        self.members = 0  # idle, or carrying mail


class Pool:
    """Keeps connections for the next message of the same hop, and of the same demands on TLS."""

    def __init__(self, clock: IReactorTime, limits: RelayLimits) -> None:
        self._clock = clock
        self.seconds = clock.seconds  # for the deadlines
        self.limits = limits
        self.tenure: Tenure | None = None
        self.connections: set[Connection] = set()
        self._idle: OrderedDict[Connection, None] = OrderedDict()  # the longest idle first
        self._shelves: dict[Hashable, Shelf] = {}
        self._shelf_of: dict[Connection, Shelf] = {}  # of those that were given back once
        self._enough: dict[Endpoint, tuple[int, float]] = {}  # transactions, and until when
        self._tick: IDelayedCall | None = None
        self._closing = False

    def take(self, hop: Hashable, asked: Collection[Place] = ()) -> Connection | None:
        """An idle connection for this hop: the one last used, so that the others may end.

        Not to a place that was `asked` already, and not one that has carried enough.
        """
        shelf = self._shelves.get(hop)
        if shelf is None or not shelf.idle:
            return None
        if not asked and not self._enough:
            connection = shelf.idle.pop()
            del self._idle[connection]
            return connection
        for connection in shelf.idle[::-1]:
            if self._spent(connection):
                connection.quit()
            elif (connection.target, connection.endpoint) not in asked:
                del self._idle[connection]
                shelf.idle.remove(connection)
                return connection
        return None

    def learn(self, endpoint: Endpoint, transactions: int) -> None:
        """So many are what the host takes on one connection; the next one may carry more."""
        if len(self._enough) >= _MOST_KNOWN:
            self._enough.clear()
        self._enough[endpoint] = transactions, self._clock.seconds() + _MEMORY

    def give_back(self, connection: Connection, hop: Hashable) -> None:
        """The transaction is over: keep it if it may be used again, else close it."""
        limits = self.limits
        if not connection.usable:
            return
        now = self._clock.seconds()
        if (
            self._closing
            or connection.transactions >= (connection.terms.messages or limits.connection_messages)
            or (self._enough and self._spent(connection))
            or now - connection.born >= limits.connection_seconds
        ):
            connection.quit()
            return
        connection.deadline = now + limits.idle_seconds
        shelf = self._shelf_of.get(connection)
        if shelf is None:
            shelf = self._shelf_of[connection] = self._shelves.setdefault(hop, Shelf(hop))
            shelf.members += 1
        shelf.idle.append(connection)
        self._idle[connection] = None
        if len(self._idle) > limits.idle_connections:
            next(iter(self._idle)).quit()

    def make_room(self, terms: Terms) -> None:
        """Of one group only so many may wait for mail, now that another connection is made."""
        waiting = [each for each in self._idle if each.terms.group == terms.group]
        for connection in waiting[: max(len(waiting) - terms.room, 0)]:
            connection.quit()

    def close(self) -> None:
        """Keep nothing any more."""
        self._closing = True
        for connection in list(self._idle):
            connection.quit()

    def abort(self) -> None:
        """Cut everything."""
        self.close()
        for connection in list(self.connections):
            connection.cut("stopped")

    # as the watch of connections

    def opened(self, connection: Connection) -> None:
        """A socket is open from here on."""
        self.connections.add(connection)
        if self._tick is None:
            self._tick = self._clock.callLater(_TICK, self._look)

    def ended(self, connection: Connection) -> None:
        """It is of no use any more."""
        shelf = self._shelf_of.pop(connection, None)
        if shelf is None:
            return
        if connection in self._idle:
            del self._idle[connection]
            shelf.idle.remove(connection)
        shelf.members -= 1
        if not shelf.members:
            del self._shelves[shelf.hop]

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

    def _spent(self, connection: Connection) -> bool:
        """It has carried what its host takes on one connection."""
        transactions, until = self._enough.get(connection.endpoint, (0, 0.0))
        if not transactions:
            return False
        if self._clock.seconds() >= until:
            del self._enough[connection.endpoint]
            return False
        return connection.transactions >= transactions
