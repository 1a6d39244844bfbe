"""What TLS a next hop must have: from the settings, from signed TLSA records, from MTA-STS."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from typing import Protocol

from relayd.dns.answer import DnsTrouble, NoData, NxDomain
from relayd.dns.resolver import Resolver
from relayd.mail.delivery import Delivery
from relayd.mail.nexthop import NextHop
from relayd.mail.outcome import Blame, Outcome, failed
from relayd.mail.reply import Reply
from relayd.mail.security import Level
from relayd.relay.courier import Hop
from relayd.relay.hosts import ip_address
from relayd.relay.security import UNPROVEN, HopSecurity, unmet
from relayd.relay.survey import Endpoint
from relayd.relay.trouble import SessionError
from relayd.tls.client import ClientContexts
from relayd.tls.dane import usable
from relayd.tls.demand import Demand

_NO_REQUIRETLS = "Message requires TLS on its whole way, which {host} cannot prove (REQUIRETLS)"


class Advice(Protocol):
    """What MTA-STS says of one domain (RFC 8461)."""

    @property
    def enforced(self) -> bool:
        """Mode `enforce`; else `testing`."""

    def allows(self, host: str) -> bool:
        """Whether the mail exchanger is among those of the policy."""


Ask = Callable[[str], Awaitable[Advice | None]]


async def _nobody(_: str) -> None:
    return None


@dataclass(frozen=True)
class TlsSettings:
    """What the administrator said, in one piece, so that a reload swaps all of it."""

    contexts: ClientContexts
    level_for: Callable[[str], Level]  # of a domain that is delivered to by MX


class Protection:
    """Finds what each connection must prove. `settings` may be replaced at any time."""

    def __init__(self, resolver: Resolver, settings: TlsSettings, sts: Ask = _nobody) -> None:
        self.settings = settings
        self._resolver = resolver
        self._sts = sts

    def level(self, target: NextHop | str) -> Level:
        """What is said of a next hop, or of a domain that is delivered to by MX."""
        if isinstance(target, str):
            return self.settings.level_for(target)
        if target.unix:
            return Level.NONE
        return target.tls or Level.OPTIONAL

    def key(self, hop: Hop, delivery: Delivery) -> Hashable:
        """Connections with the same key may carry each other's mail."""
        levels = tuple(map(self.level, hop.next_hops or (hop.domain,)))
        return hop, delivery.message.envelope.require_tls, levels, self.settings.contexts

    async def secure(
        self, target: NextHop | str, endpoint: Endpoint, delivery: Delivery
    ) -> HopSecurity:
        """What this host must prove; raises SessionError when it is not to be asked at all."""
        demand = await self._demand(target, endpoint)
        if delivery.message.envelope.require_tls and not endpoint.unix:
            demand = _required(demand, endpoint)
        implicit = isinstance(target, NextHop) and target.implicit_tls
        return HopSecurity(self.settings.contexts, endpoint, demand, implicit=implicit)

    def without(
        self, security: HopSecurity, endpoint: Endpoint, delivery: Delivery
    ) -> HopSecurity | None:
        """After a failure for want of TLS: what to try next with this host, or None.

        In the clear where TLS was optional anyway; or with what the sender thinks is good enough
        (`TLS-Required: No`, RFC 8689 section 4.2.2: only against what the recipient publishes).
        """
        demand = security.demand
        if not security.failed or security.implicit or delivery.message.envelope.require_tls:
            return None
        if demand.level is Level.OPTIONAL:
            waived = security.waived
            fresh = replace(demand, level=Level.NONE)
        elif demand.published and _waived(delivery):
            waived = True
            fresh = replace(demand, level=Level.OPTIONAL, published=False)
        else:
            return None
        return HopSecurity(self.settings.contexts, endpoint, fresh, waived=waived)

    async def _demand(self, target: NextHop | str, endpoint: Endpoint) -> Demand:
        level = self.level(target)
        name = "" if ip_address(endpoint.host) else endpoint.host
        said = f"next hop {target.name}" if isinstance(target, NextHop) else f"tls to {target}"
        demand = Demand(level, name, (endpoint.host,), source=said)
        if level not in (Level.DANE, Level.AUTO):
            return demand
        domain = target if isinstance(target, str) else ""
        if isinstance(target, NextHop) and target.mx and len(target.hosts) == 1:
            domain = target.hosts[0].host
        found = await self._dane(demand, endpoint, domain)
        if found is not None:
            return replace(found, published=level is Level.AUTO)
        if level is Level.DANE:
            why = "there are no signed TLSA records to go by"
            raise _unreachable(unmet(demand, endpoint.host, why, UNPROVEN), endpoint)
        optional = replace(demand, level=Level.OPTIONAL, source="")
        return await self._by_sts(target, endpoint, optional)

    async def _dane(self, demand: Demand, endpoint: Endpoint, domain: str) -> Demand | None:
        """RFC 7672 section 2.2; None: the host has no (signed) TLSA records."""
        if not endpoint.secure or not demand.server_name:
            return None
        for base in dict.fromkeys((endpoint.canonical or endpoint.host, endpoint.host)):
            question = f"_{endpoint.port}._tcp.{base}"
            try:
                answer = await self._resolver.query(question, "TLSA")
            except (NoData, NxDomain):
                continue
            except DnsTrouble as error:
                # section 2.1.2: neither with nor without, that could be an attacker's doing
                tried = replace(demand, level=Level.DANE, source="")
                reply = unmet(tried, endpoint.host, "lookup of its TLSA records failed")
                raise _unreachable(reply, endpoint, why=str(error)) from None
            if not answer.secure:
                continue
            source = f"the TLSA records of {question}"
            records = usable(answer.values)
            if not records:  # section 2.2: TLS at least, there is nothing to prove
                return replace(demand, level=Level.REQUIRED, server_name=base, source=source)
            # section 3.2.3: the base domain, or the domain whose mail exchanger it is
            names = tuple(dict.fromkeys(filter(None, (base, endpoint.host, domain))))
            return Demand(Level.DANE, base, names, records, source)
        return None

    async def _by_sts(self, target: NextHop | str, endpoint: Endpoint, demand: Demand) -> Demand:
        if not isinstance(target, str) or not demand.server_name:
            return demand
        advice = await self._sts(target)
        if advice is None or not advice.enforced:
            return demand
        source = f"the MTA-STS policy of {target}"
        verify = replace(demand, level=Level.VERIFY, source=source, published=True)
        if not advice.allows(endpoint.host):
            # a HopSecurity that fails at once, so that TLS-Required has its say
            verify = replace(verify, denied="the policy does not name this host")
        return verify


def _required(demand: Demand, endpoint: Endpoint) -> Demand:
    """RFC 8689 section 4.2.1: a host whose name and certificate can both be trusted, or none."""
    trusted = demand.source and not demand.source.startswith("tls to ")
    if demand.level is Level.DANE or (demand.level is Level.VERIFY and trusted):
        return demand
    if trusted or endpoint.secure:  # its name is what we or a signed zone say
        return replace(demand, level=Level.VERIFY, source="REQUIRETLS", published=False)
    text = _NO_REQUIRETLS.format(host=endpoint.host)
    raise SessionError(failed("5.7.30", text).but(remote_address=str(endpoint)))


def _waived(delivery: Delivery) -> bool:
    """Whether the message says `TLS-Required: No` (RFC 8689 section 5)."""
    section = b""
    try:
        for chunk in delivery.content.chunks():
            section += chunk
            if b"\r\n\r\n" in chunk or len(section) > delivery.message.header_size:
                break
    except OSError:
        return False
    header = section.partition(b"\r\n\r\n")[0].lower()
    for line in header.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip() == b"tls-required" and value.strip() == b"no":
            return True
    return False


def _unreachable(reply: Reply, endpoint: Endpoint, why: str = "") -> SessionError:
    outcome = Outcome(reply, remote_address=str(endpoint), blame=Blame.DESTINATION, why=why)
    return SessionError(outcome)
