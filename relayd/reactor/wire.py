"""Octets to a peer: sent at once while the socket takes them, by Twisted's buffer when it does not.

Twisted's transports keep what is written for the reactor's next turn, at the price of two calls
to epoll and that turn. A reply is small and its socket nearly always has room, so it is sent now;
or at the end of this turn, where the reactor says that all shall go together (relayd.reactor.lean).
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.tcp import Connection
from zope.interface import alsoProvides

from relayd.reactor.accept import DONE, LeanConnection
from relayd.reactor.lean import soon

_LARGE = 32768  # octets that wait for nobody


class Wire:
    """Writes to one transport, in order. Nobody else may write to it."""

    __slots__ = ("_below", "_held", "_leaving", "_transport", "at_once", "secure")

    def __init__(self, transport: object) -> None:
        # what is written next is sent right away, for nothing waits before it; by its class, for a
        # wrapper, as of TLS, passes on every name of the socket it wraps
        self.at_once = isinstance(transport, Connection)
        self.secure = False  # TLS is between `write` and what leaves
        self._transport: Any = transport  # ITransport; Twisted says less of it than we use
        self._below: Any = transport  # ... and as TLS sees it, if there is TLS
        self._held = b""  # until the turn's end
        self._leaving = getattr(getattr(transport, "reactor", None), "leaving", None)

    def write(self, data: bytes, *, last: bool = False) -> None:
        """Send, in this turn or by and by; silence on a connection that is lost.

        `last`: it was held back long enough, and is what TLS has made of it.
        """
        if not last:
            if self.secure:
                self._transport.write(data)
                return
            if self._leaving is not None:
                self.leave(data)
                return
        if self.at_once and self._transport.connected:
            try:
                sent = self._transport.socket.send(data)
            except OSError:
                sent = 0
            if sent == len(data):
                return
            # The rest waits its turn, and what follows must not overtake it. So does all of it
            # after an error, which the reactor will meet and report as the connection's end.
            self.at_once = False
            data = data[sent:]
        self._below.write(data)

    def start_tls(self, creator: object) -> None:
        """Encrypt what is written from now on, with a connection that `creator` makes."""
        self.flush()
        transport = self._transport
        protocol = getattr(transport, "protocol", None)
        transport.startTLS(creator)
        self.secure = True
        if isinstance(transport, Connection):
            tls: Any = transport.protocol
            if IHalfCloseableProtocol.providedBy(protocol):
                alsoProvides(tls, IHalfCloseableProtocol)
                tls.readConnectionLost = protocol.readConnectionLost
            self._below = tls.transport
            tls.transport = _BelowTls(tls.transport, self)

    def leave(self, data: bytes) -> None:
        """Send it as it is: what is written, or what TLS has made of that."""
        leaving, held = self._leaving, self._held + data
        if leaving is None or not self.at_once or len(held) >= _LARGE:
            self._held = b""
            self.write(held, last=True)
        else:
            if not self._held:
                leaving.append(self)
            self._held = held

    def flush(self) -> None:
        """Send what is held back; before anything else is done to the transport but closing it."""
        if self._held:
            held, self._held = self._held, b""
            self.write(held, last=True)

    def close(self) -> bool:
        """Close when all is sent; whether it is, and so nobody need be waited for.

        Twisted would watch the socket until it takes more, though there is no more.
        """
        transport = self._transport
        if self._held:
            self.flush()
        waits = self.secure or not self.at_once
        if waits or transport.disconnecting or not transport.connected:
            transport.loseConnection()
            return False
        transport.disconnecting = True
        if isinstance(transport, LeanConnection):
            soon(transport.reactor)(transport.vanish)
            return True
        transport.stopReading()
        # nobody shares the socket: closing shuts it, and is no error where the peer was faster
        transport._shouldShutdown = False
        soon(transport.reactor)(transport.connectionLost, DONE)
        return True

    def close_below(self) -> None:
        """Close what is below TLS, too: a peer that sends no more says no goodbye to wait for."""
        if self.secure:
            self._below.loseConnection()

    def through_buffer(self) -> None:
        """What is written next waits for the reactor, and so for others that have their turn."""
        self.flush()
        self.at_once = False

    def drained(self) -> None:
        """Nothing waits any more: the peer has answered, or the transport asks for more."""
        self.at_once = isinstance(self._transport, Connection)


class _BelowTls:
    """What TLS has for a transport: the wire for its octets, Twisted's own for all else."""

    def __init__(self, transport: Any, wire: Wire) -> None:  # noqa: ANN401  as above
        self._transport = transport
        self.write = wire.leave

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._transport, name)
