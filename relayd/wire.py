"""Octets to a peer: sent at once while the socket takes them, by Twisted's buffer when it does not.

Twisted's transports keep what is written for the reactor's next turn, at the price of two calls
to epoll and that turn. A reply is small and its socket nearly always has room, so it is sent now;
or at the end of this turn, where the reactor says that all shall go together (relayd.turns).
"""

from __future__ import annotations

from typing import Any

from twisted.internet.tcp import Connection

_LARGE = 32768  # octets that wait for nobody


class Wire:
    """Writes to one transport, in order. Nobody else may write to it."""

    __slots__ = ("_at_once", "_held", "_leaving", "_transport")

    def __init__(self, transport: object) -> None:
        self._transport: Any = transport  # ITransport; Twisted says less of it than we use
        # by its class: a wrapper, as of TLS, passes on every name of the socket it wraps
        self._at_once = isinstance(transport, Connection)
        self._held = b""  # until the turn's end
        self._leaving = getattr(getattr(transport, "reactor", None), "leaving", None)

    def write(self, data: bytes) -> None:
        """Send, in this turn or by and by; silence on a connection that is lost."""
        leaving = self._leaving
        if leaving is None or not self.at_once or len(data) >= _LARGE:
            self.flush()
            self._send(data)
        else:
            if not self._held:
                leaving.append(self)
            self._held += data

    def flush(self) -> None:
        """Send what is held back; before anything else is done to the transport but closing it."""
        if self._held:
            held, self._held = self._held, b""
            self._send(held)

    def _send(self, data: bytes) -> None:
        transport = self._transport
        if self._at_once and transport.connected and not transport.TLS:
            try:
                sent = transport.socket.send(data)
            except OSError:
                sent = 0
            if sent == len(data):
                return
            # The rest waits its turn, and what follows must not overtake it. So does all of it
            # after an error, which the reactor will meet and report as the connection's end.
            self._at_once = False
            data = data[sent:]
        transport.write(data)

    @property
    def at_once(self) -> bool:
        """What is written next is sent right away, for nothing waits before it."""
        return self._at_once and not self._transport.TLS

    def through_buffer(self) -> None:
        """What is written next waits for the reactor, and so for others that have their turn."""
        self.flush()
        self._at_once = False

    def drained(self) -> None:
        """Nothing waits any more: the peer has answered, or the transport asks for more."""
        self._at_once = isinstance(self._transport, Connection)
