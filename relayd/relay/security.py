"""TLS on one connection to a next hop: what it must prove, and what follows when it does not."""

from __future__ import annotations

from relayd.mail.reply import Reply
from relayd.mail.security import Level
from relayd.relay.survey import Endpoint
from relayd.tls.client import ClientContexts, ClientTls
from relayd.tls.demand import Demand, UnmetError
from relayd.tls.flaw import Failure, Flaw, PolicyKind

NO_TLS = "4.7.4"  # security features not supported (RFC 3463 section 3.8)
UNPROVEN = "4.7.5"  # cryptographic failure


class HopSecurity:
    """See relayd.relay.connection.Security."""

    def __init__(
        self,
        contexts: ClientContexts,
        endpoint: Endpoint,
        demand: Demand,
        *,
        implicit: bool = False,
        waived: bool = False,
    ) -> None:
        self.implicit = implicit
        self.waived = waived  # by the sender of one message: not for others
        self.demand = demand
        self.failed = False  # for want of TLS, not for want of an answer
        self.proved = False  # TLS stands, and is what was demanded
        self.in_vain = False  # it failed when a session was to be resumed: try it without
        self.endpoint = endpoint
        self._flaw: tuple[Flaw, str] | None = None
        self._contexts = contexts
        self._tls: ClientTls | None = None

    @property
    def wanted(self) -> bool:
        """Say STARTTLS where it is offered."""
        return self.demand.level is not Level.NONE

    @property
    def creator(self) -> ClientTls:
        """Makes the TLS connection, with the server's name in it."""
        self._tls = ClientTls(self._contexts, self.demand, self.endpoint)
        return self._tls

    def keep(self, handle: object) -> None:
        """The server speaks under TLS: the session may be resumed by the next connection."""
        if self._tls is not None:
            self._tls.keep(handle)  # type: ignore[arg-type]  # an SSL.Connection

    def missing(self, why: str) -> Reply | None:
        """There will be no TLS: go on in the clear only where that is enough."""
        self._flaw = Flaw.NO_STARTTLS, why
        return None if self.demand.clear else self.unmet(why, NO_TLS)

    def broken(self, why: str) -> Reply:
        """The handshake failed, or what followed. In the clear is another connection's business."""
        self._flaw = Flaw.VALIDATION, why
        if self._tls is not None and self._tls.offered:
            self.in_vain = True
            self._tls.refuse()
        what = "session under TLS" if self.proved else "TLS handshake"
        return self.unmet(f"{what} failed: {why}", UNPROVEN)

    def proven(self, handle: object) -> str | Reply:
        """What the log says of the session, or the reply to fail with."""
        tls, policy = self._tls, self.demand.policy
        assert tls is not None
        try:
            proof = tls.proof(handle)  # type: ignore[arg-type]  # an SSL.Connection
        except UnmetError as error:
            self._flaw = error.flaw, str(error)
            return self.unmet(str(error), UNPROVEN)
        self.proved = True
        if policy is None or policy.kind is PolicyKind.NONE:
            return proof
        if policy.kind is PolicyKind.TLSA and self.demand.level is not Level.DANE:
            self._flaw = Flaw.TLSA, "no usable TLSA record"
        elif policy.kind is PolicyKind.STS and tls.flaw is not None:  # of a policy in mode testing
            self._flaw = tls.flaw, tls.why
        return proof

    def failure(self, sender: str) -> Failure | None:
        """What is to be reported to the domain; None: nothing was wrong, or was not tried."""
        if self._flaw is None or self.in_vain:
            return None
        host, address = self.endpoint.host, self.endpoint.address
        return Failure(*self._flaw, host, address, sender)

    def unmet(self, why: str, status: str) -> Reply:
        """The reply that says who demands what, and what is missing."""
        self.failed = True
        return unmet(self.demand, self.endpoint.host, why, status)


def unmet(demand: Demand, host: str, why: str, status: str = UNPROVEN) -> Reply:
    """A demand is not met: the mail waits, and is not sent in the clear."""
    source = f" by {demand.source}" if demand.source else ""
    text = f"TLS ({demand.level}{source}) is not met by {host}: {why}"
    return Reply.of(451, status, text.encode("ascii", "replace").decode())
