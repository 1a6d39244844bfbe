"""What `ssh -L` would be: a port of 127.0.0.1 that leads to the console's socket."""

from __future__ import annotations

from pathlib import Path

from twisted.internet import reactor
from twisted.internet.protocol import Factory
from twisted.protocols.portforward import ProxyClientFactory, ProxyServer


class _Visitor(ProxyServer):  # type: ignore[misc]  # twisted has no types for it
    """One connection of a browser; nothing is read before the other side is there."""

    factory: Doorway

    def connectionMade(self) -> None:
        """Somebody is there."""
        self.transport.pauseProducing()
        client = ProxyClientFactory()
        client.noisy = False
        client.setServer(self)
        reactor.connectUNIX(str(self.factory.socket), client)


class Doorway(Factory):
    """Leads to one socket."""

    protocol = _Visitor
    noisy = False

    def __init__(self, socket: Path) -> None:
        self.socket = socket
