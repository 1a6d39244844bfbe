"""What a session uses of Twisted's transports, as types: Twisted leaves most of it untyped."""

from __future__ import annotations

from fcntl import ioctl
from socket import IPPROTO_TCP, TCP_INFO, socket
from termios import FIONREAD
from typing import Protocol

_CLOSE_WAIT = 8  # tcp(7): the peer has shut its sending side
_NOTHING = bytes(4)  # an int


class AnyProtocol(Protocol):
    """Who hears what comes."""

    def dataReceived(self, data: bytes) -> None:
        """Octets from the peer."""


class Transport(Protocol):
    """What a session uses of Twisted's TCP and TLS transports."""

    protocol: AnyProtocol  # who hears what comes; TLS takes its place
    bufferSize: int  # octets of one read at most

    def write(self, data: bytes) -> None:
        """Send, by and by."""

    def loseConnection(self) -> None:
        """Close when all is sent."""

    def abortConnection(self) -> None:
        """Close now."""

    def pauseProducing(self) -> None:
        """Read no more for now."""

    def resumeProducing(self) -> None:
        """Read again."""

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Tell the producer when too much is unsent."""

    def unregisterProducer(self) -> None:
        """Tell it no more."""

    def getHandle(self) -> object:
        """The socket; under TLS, the connection of pyOpenSSL."""


def is_unread(connection: object) -> bool:
    """Whether octets wait in this TCP socket; to read in vain costs more, an exception."""
    assert isinstance(connection, socket)
    try:
        return ioctl(connection, FIONREAD, _NOTHING) != _NOTHING
    except OSError:
        return False


def has_ended(connection: object) -> bool:
    """Whether the peer of this TCP socket will send no more than it has by now."""
    assert isinstance(connection, socket)
    try:
        return connection.getsockopt(IPPROTO_TCP, TCP_INFO, 1)[0] == _CLOSE_WAIT
    except OSError:
        return False
