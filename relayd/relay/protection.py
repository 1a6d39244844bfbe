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
from relayd.tls.dane import shown, usable
from relayd.tls.demand import Demand
from relayd.tls.flaw import Failure, Flaw, Policy, PolicyKind

_NO_REQUIRETLS = "Message requires TLS on its whole way, which {host} cannot prove (REQUIRETLS)"


class Advice(Protocol):
    """What MTA-STS says of one domain (RFC 8461)."""

    @property
    def enforced(self) -> bool:
        """Mode `enforce`; else `testing`."""

    @property
    def mx(self) -> tuple[str, ...]:
        """The patterns of its mail exchangers."""

    def allows(self, host: str) -> bool:
        """Whether the mail exchanger is among those of the policy."""


class Results(Protocol):
    """Who counts sessions for the reports to domains (RFC 8460)."""

    def ours(self, delivery: Delivery) -> bool:
        """Whether this is such a report itself, which is not to be reported on."""

    def note(self, policy: Policy, failure: Failure | None) -> None:
        """A session came to TLS as the policy wants it, or failed."""


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

    def __init__(
        self,
        resolver: Resolver,
        settings: TlsSettings,
        sts: Ask = _nobody,
        results: Results | None = None,
    ) -> None:
        self.settings = settings
        self._resolver = resolver
        self._sts = sts
        self._results = results

    def level(self, target: NextHop | str) -> Level:
        """What is said of a next hop, or of a domain that is delivered to by MX."""
        if isinstance(target, str):
            return self.settings.level_for(target)
        if target.unix:
            return Level.NONE
        return target.tls or Level.OPTIONAL

    def key(self, hop: Hop, delivery: Delivery) -> Hashable:
        """Connections with the same key may carry each other's mail."""
        settings = self.settings
        # next hops have their own
        level = settings.level_for(hop.domain) if hop.domain else None
        return hop, delivery.message.envelope.require_tls, level, settings.contexts

    async def secure(
        self, target: NextHop | str, endpoint: Endpoint, delivery: Delivery
    ) -> HopSecurity:
        """What this host must prove; raises SessionError when it is not to be asked at all."""
        demand = await self.demand(target, endpoint)
        if self._results is None or self._results.ours(delivery):
            demand = replace(demand, policy=None)
        if delivery.message.envelope.require_tls and not endpoint.unix:
            demand = _required(demand, endpoint)
        implicit = isinstance(target, NextHop) and target.implicit_tls
        return HopSecurity(self.settings.contexts, endpoint, demand, implicit=implicit)

    def without(
        self, security: HopSecurity, endpoint: Endpoint, delivery: Delivery
    ) -> HopSecurity | None:
        """After a failure for want of TLS: what to try next with this host, or None.

        The same without a session to resume, if there was one: it must never be in the way.
        In the clear where TLS was optional anyway; or with what the sender thinks is good enough
        (`TLS-Required: No`, RFC 8689 section 4.2.2: only against what the recipient publishes).
        """
        demand = security.demand
        if security.in_vain:
            implicit, waived = security.implicit, security.waived
            return HopSecurity(
                self.settings.contexts, endpoint, demand, implicit=implicit, waived=waived
            )
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
        fresh = replace(fresh, policy=None)  # one failure is told once
        return HopSecurity(self.settings.contexts, endpoint, fresh, waived=waived)

    def told(self, security: HopSecurity, sender: str) -> None:
        """A session has got past TLS, or has failed on the way; `sender` is our own address."""
        policy = security.demand.policy
        if self._results is not None and policy is not None and not security.in_vain:
            failure = security.failure(sender)
            if failure is not None or security.proved:
                self._results.note(policy, failure)

    async def demand(self, target: NextHop | str, endpoint: Endpoint) -> Demand:
        """What this host must prove for mail without wishes of its own; raises SessionError."""
        level = self.level(target)
        name = "" if ip_address(endpoint.host) else endpoint.host
        named = isinstance(target, NextHop)
        said = f"next hop {target.name}" if isinstance(target, NextHop) else f"tls to {target}"
        policy = Policy(target) if isinstance(target, str) else None
        demand = Demand(level, name, (endpoint.host,), source=said, trusted=named, policy=policy)
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
            self._lacking(demand, endpoint, Flaw.DANE_REQUIRED, why)
            raise _unreachable(unmet(demand, endpoint.host, why, UNPROVEN), endpoint)
        optional = replace(demand, level=Level.OPTIONAL, source="", trusted=False)
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
                self._lacking(demand, endpoint, Flaw.DNSSEC, str(error))
                raise _unreachable(reply, endpoint, why=str(error)) from None
            if not answer.secure:
                continue
            source = f"the TLSA records of {question}"
            records = usable(answer.values)
            policy = demand.policy and replace(
                demand.policy,
                kind=PolicyKind.TLSA,
                strings=tuple(f"{question}. IN TLSA {shown(each)}" for each in answer.values),
            )
            demand = replace(demand, server_name=base, source=source, trusted=True, policy=policy)
            if not records:  # section 2.2: TLS at least, there is nothing to prove
                return replace(demand, level=Level.REQUIRED)
            # section 3.2.3: the base domain, or the domain whose mail exchanger it is
            names = tuple(dict.fromkeys(filter(None, (base, endpoint.host, domain))))
            return replace(demand, level=Level.DANE, names=names, records=records)
        return None

    def _lacking(self, demand: Demand, endpoint: Endpoint, flaw: Flaw, why: str) -> None:
        if self._results is not None and demand.policy is not None:
            policy = replace(demand.policy, kind=PolicyKind.TLSA)
            self._results.note(policy, Failure(flaw, why, endpoint.host, endpoint.address))

    async def _by_sts(self, target: NextHop | str, endpoint: Endpoint, demand: Demand) -> Demand:
        if not isinstance(target, str) or not demand.server_name:
            return demand
        advice = await self._sts(target)
        if advice is None:
            return demand
        policy = Policy(target, PolicyKind.STS, tuple(str(advice).splitlines()), advice.mx)
        demand = replace(demand, policy=policy)
        if not advice.allows(endpoint.host):
            # a HopSecurity that fails at once, so that TLS-Required has its say
            demand = replace(demand, denied="the policy does not name this host")
        if not advice.enforced:
            return demand
        source = f"the MTA-STS policy of {target}"
        return replace(demand, level=Level.VERIFY, source=source, trusted=True, published=True)


def _required(demand: Demand, endpoint: Endpoint) -> Demand:
    """RFC 8689 section 4.2.1: a host whose name and certificate can both be trusted, or none."""
    if demand.level is Level.DANE or (demand.level is Level.VERIFY and demand.trusted):
        return demand
    if demand.trusted or endpoint.secure:
        return replace(demand, level=Level.VERIFY, source="REQUIRETLS", published=False, denied="")
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
