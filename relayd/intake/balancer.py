"""A connection from a balancer: first the PROXY header, then the session of whom it names.

The header comes in the clear and before everything else, TLS included; so it is read here, and
only then is there a session that can start TLS.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from relayd.intake.smtpservice import SmtpService
from relayd.intake.transport import Transport
from relayd.mail.client import Client
from relayd.smtp.proxyheader import Header, ProxyError, read_header

HEADER_TIME = 10.0  # seconds; a balancer sends it together with the SYN's acknowledgement


class BehindBalancer(Protocol):
    """Waits for the header, then makes way for what `welcome` says of the client in it."""

    transport: Transport  # type: ignore[assignment]  # narrower than Twisted's

    def __init__(
        self,
        service: SmtpService,
        balancer: Client,
        welcome: Callable[[Client, bytes], Protocol | None],
    ) -> None:
        self._service = service
        self._balancer = balancer
        self._welcome = welcome
        self._received = b""
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """The header is due now."""
        self._service.sessions.add(self)
        self._timer = self._service.reactor.callLater(
            HEADER_TIME, self._refuse, f"no PROXY header within {HEADER_TIME:g} s"
        )

    def dataReceived(self, data: bytes) -> None:
        """Octets of the header, and perhaps the client's first ones behind them."""
        self._received += data
        try:
            header = read_header(self._received)
        except ProxyError as error:
            self._refuse(str(error))
            return
        if header is not None:
            self._make_way(header)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Gone before its header was whole."""
        if self._timer is not None:
            self._refuse("lost before its PROXY header")

    # -- as an open session, which has not begun ------------------------------------------------

    def tighten(self) -> None:
        """There is no shorter deadline."""

    def shut_down(self) -> None:
        """Nothing was promised yet."""
        self._refuse("shutdown")

    def retire(self) -> None:
        """A client that is just arriving shall not notice: its session ends in its own time."""

    def abort(self) -> None:
        """Close."""
        self.transport.abortConnection()

    # ------------------------------------------------------------------------------------------

    def _make_way(self, header: Header) -> None:
        self._settle()
        rest, self._received = self._received[header.size :], b""
        client = self._balancer
        if header.source is not None:
            client = client.with_(address=header.source.address, port=header.source.port, rdns=None)
        follower = self._welcome(client, rest)
        if follower is None:
            self.transport.loseConnection()
        else:
            # the reactor asks the transport for its protocol each time, and so does TLS
            self.transport.protocol = follower
            follower.makeConnection(self.transport)  # type: ignore[no-untyped-call]  # Twisted's
        self._leave()

    def _refuse(self, why: str) -> None:
        self._settle()
        self._service.intake.log.refused(self._balancer, "PROXY", "closed", why)
        self.transport.abortConnection()
        self._leave()

    def _settle(self) -> None:
        """Nothing is awaited any more."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _leave(self) -> None:
        self._service.sessions.discard(self)
        if not self._service.sessions:
            self._service.on_empty()
