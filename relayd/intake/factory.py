"""Who is at the door: a session for those let in, a reason for the others."""

from __future__ import annotations

from functools import partial

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol

from relayd.dns.hostname import LOCALHOST, is_loopback
from relayd.intake.balancer import BehindBalancer
from relayd.intake.policy import ListenerPolicy
from relayd.intake.session import Session
from relayd.intake.smtpservice import SmtpService
from relayd.intake.transport import Transport
from relayd.mail.client import Client
from relayd.mail.reply import Reply
from relayd.rules.tables.table import Unknown


class TurnedAway(Protocol):
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

    def __init__(self, service: SmtpService, listener: str) -> None:
        self._service = service
        self._listener = listener

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """A session, or a refusal before the greeting; None where it could not be understood."""
        address = getattr(addr, "host", "").partition("%")[0]  # fe80::1%eth0
        peer = Client(
            address=address,
            port=getattr(addr, "port", 0),
            listener=self._listener,
            rdns=LOCALHOST if is_loopback(address) else None,
        )
        policy = self._service.policies[self._listener]
        if policy.balancer is not None:
            try:
                balancer = policy.balancer(peer.address)
            except Unknown as why:
                self._service.intake.log.refused(peer, "connection", "closed", str(why))
                return None
            if balancer:
                return BehindBalancer(self._service, peer, partial(self._welcome, policy))
        return self._welcome(policy, peer)

    def _welcome(
        self, policy: ListenerPolicy, client: Client, early: bytes = b""
    ) -> Protocol | None:
        service = self._service
        if policy.shut:
            service.intake.log.refused(client, "connection", "closed", "no certificate to serve")
            return None
        stressed = service.admission.stressed
        reply = service.admission.admit(client.address)
        if reply is not None:
            service.intake.log.refused(client, "connection", str(reply))
            return None if policy.implicit else TurnedAway(reply)
        if service.admission.stressed and not stressed:
            service.intake.log.notice("stress mode", sessions=service.admission.in_all)
            service.tighten()
        try:
            return Session(service, policy, client, early)
        except BaseException:
            service.admission.leave(client.address)  # it never began
            raise
