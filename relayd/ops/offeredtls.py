"""TLS as our own listeners offer it: looked at from outside, as any client does."""

from __future__ import annotations

from dataclasses import dataclass

from relayd.config import Listener, Settings
from relayd.config.logins import SUBMISSION
from relayd.config.peers import PROXY
from relayd.mail.nexthop import HostPort, NextHop
from relayd.mail.reply import Reply
from relayd.mail.security import IMPLICIT, Level
from relayd.reactor.workerpipe import Reactor
from relayd.relay.connection import Connection
from relayd.relay.dial import dial
from relayd.relay.limits import NextHopDeadlines, RelayLimits
from relayd.relay.pool import Pool
from relayd.relay.survey import Endpoint
from relayd.relay.trouble import SessionError
from relayd.tls.client import ClientContexts, ClientTls
from relayd.tls.demand import Demand
from relayd.tls.presented import Presented, presented

PATIENCE = 10.0  # seconds for each step
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Offered:
    """What a listener has shown to a client that asked for a name."""

    listener: Listener
    name: str
    silent: str = ""  # there was no session: why
    missing: str = ""  # there was one, but no TLS: why
    tls: str = ""  # version and cipher
    flaw: str = ""  # what a client that looks has against the certificate
    certificate: Presented | None = None

    @property
    def submission(self) -> bool:
        """See `for_programs`."""
        return for_programs(self.listener)


def for_programs(listener: Listener) -> bool:
    """Whether it is for programs that submit mail, which look at the certificate.

    Servers of others hardly ever do.
    """
    return listener.option("tls") == IMPLICIT or SUBMISSION in dict(listener.options)


class _Looking:
    """See relayd.relay.connection.Security: takes any certificate, and remembers it."""

    wanted = True

    def __init__(self, contexts: ClientContexts, endpoint: Endpoint, *, implicit: bool) -> None:
        self.endpoint = endpoint
        self.implicit = implicit
        self.missed = ""
        self.flaw = ""
        self.certificate: Presented | None = None
        demand = Demand(Level.OPTIONAL, endpoint.host, (endpoint.host,))
        self.creator = ClientTls(contexts, demand)

    def missing(self, why: str) -> Reply | None:
        self.missed = why
        return None

    def broken(self, why: str) -> Reply:
        self.missed = why
        return Reply.of(451, "4.7.5", f"TLS handshake failed: {why}")

    def proven(self, handle: object) -> str | Reply:
        tls = self.creator.proof(handle)  # type: ignore[arg-type]  # an SSL.Connection
        self.flaw = self.creator.why
        self.certificate = presented(handle)  # type: ignore[arg-type]  # likewise
        return tls

    def keep(self, handle: object) -> None:
        pass


async def offered(
    reactor: Reactor, settings: Settings, contexts: ClientContexts, listener: Listener, name: str
) -> Offered:
    """What a client sees there that wants to speak with this name."""
    if listener.peers(PROXY).patterns:
        return Offered(listener, name, "only a balancer may speak first there (proxy)")
    address = _LOOPBACK.get(listener.address, listener.address)
    endpoint = Endpoint(name, address, listener.port)
    looking = _Looking(contexts, endpoint, implicit=listener.option("tls") == IMPLICIT)
    made = Connection(
        Pool(reactor, RelayLimits()),
        endpoint,
        settings.hostname,
        NextHopDeadlines(greeting=PATIENCE, hello=PATIENCE, handshake=PATIENCE, quit=1.0),
        target=NextHop("check", "smtp", (HostPort(name, listener.port),)),
        security=looking,
    )
    try:
        await dial(reactor, made, PATIENCE)
    except SessionError as error:
        if looking.missed:
            return Offered(listener, name, missing=looking.missed)
        return Offered(listener, name, error.outcome.reply.text)
    made.quit()
    if looking.missed:
        return Offered(listener, name, missing=looking.missed)
    tls = made.tls.removesuffix(" verified")
    return Offered(listener, name, "", "", tls, looking.flaw, looking.certificate)
