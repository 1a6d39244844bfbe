"""Who is at the door: a session for those let in, a reason for the others."""

from __future__ import annotations

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol

from relayd.intake.balancer import BehindBalancer
from relayd.intake.house import House
from relayd.intake.session import Session
from relayd.intake.transport import Transport
from relayd.mail.client import Client
from relayd.mail.reply import Reply
from relayd.rules.table import Unknown


class Unwelcome(Protocol):
    """A connection that is told why it cannot become a session."""

    transport: Transport  # type: ignore[assignment]  # narrower than Twisted's

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def connectionMade(self) -> None:
        """Say so, and go."""
        self.transport.write(self._reply.wire())
        self.transport.loseConnection()


class SessionFactory(Factory):
    """Makes the sessions of one listener."""

    noisy = False

    def __init__(self, house: House, listener: str) -> None:
        self._house = house
        self._listener = listener

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """A session, or a refusal before the greeting; None where it could not be understood."""
        peer = Client(
            address=getattr(addr, "host", "").partition("%")[0],  # fe80::1%eth0
            port=getattr(addr, "port", 0),
            listener=self._listener,
        )
        try:
            balancer = self._house.door(self._listener).balancer(peer.address)
        except Unknown as why:
            self._house.premises.log.refused(peer, "connection", "closed", str(why))
            return None
        if balancer:
            return BehindBalancer(self._house, peer, self._welcome)
        return self._welcome(peer)

    def _welcome(self, client: Client, early: bytes = b"") -> Protocol | None:
        house = self._house
        if house.door(self._listener).shut:
            house.premises.log.refused(client, "connection", "closed", "no certificate to serve")
            return None
        stressed = house.admission.stressed
        reply = house.admission.admit(client.address)
        if reply is not None:
            house.premises.log.refused(client, "connection", str(reply))
            return None if house.door(self._listener).implicit else Unwelcome(reply)
        if house.admission.stressed and not stressed:
            house.premises.log.notice("stress mode", sessions=house.admission.in_all)
            house.tighten()
        return Session(house, client, early)
