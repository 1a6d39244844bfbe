"""What `ssh -L` would be: a port of 127.0.0.1 that leads to the console's socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet import reactor as the_reactor
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ServerFactory
from twisted.protocols.portforward import ProxyClientFactory, ProxyServer

reactor: Any = the_reactor


class _Visitor(ProxyServer):
    """One connection of a browser; nothing is read before the other side is there."""

    factory: Any

    def connectionMade(self) -> None:
        """Somebody is there."""
        self.transport.pauseProducing()
        client: Any = ProxyClientFactory()
        client.noisy = False
        client.setServer(self)
        reactor.connectUNIX(str(self.factory.socket), client)


class Doorway(ServerFactory):
    """Leads to one socket."""

    noisy = False

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    def buildProtocol(self, addr: IAddress | None) -> Any:  # noqa: ANN401 - as Twisted has it
        """A connection."""
        visitor = _Visitor()
        visitor.factory = self
        return visitor
