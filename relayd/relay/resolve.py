"""From a domain or a named next hop to the addresses to try, in order (RFC 5321 section 5.1)."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from relayd.dns.answer import DnsError, DnsTrouble, MailExchanger, NoData, NxDomain
from relayd.dns.localnames import LocalNames
from relayd.dns.resolver import Resolver
from relayd.mail.address import AddressError, check_domain, fold_domain, literal_address
from relayd.mail.nexthop import NextHop
from relayd.mail.outcome import Outcome, failed, postponed
from relayd.relay.hosts import Found, Hosts, Leads, Shuffle, usable
from relayd.relay.internal import NOTE, Network, may_lead_to
from relayd.relay.selfdetection import SelfDetection
from relayd.relay.survey import UNIX, Endpoint, Host, Survey, SurveyKind, UnresolvedError

SMTP_PORT = 25
MAX_HOSTS = 20  # mail exchangers looked up, the preferred ones
MAX_ENDPOINTS = 20  # addresses tried in one attempt
NO_CUT = 1 << 16  # above every preference, which has 16 bits
OURSELVES = "this host"

_NOT_ASKED = Found((), "too many hosts before it")


class Directory:
    """Knows where mail goes; see `resolve`. `port` is the one that mail exchangers listen at.

    `local`: names that this system knows without the DNS, for hosts of next hops alone.
    `internal`: the internal networks to which MX records and address literals may lead.
    """

    def __init__(
        self,
        resolver: Resolver,
        own: SelfDetection,
        *,
        port: int = SMTP_PORT,
        internal: Callable[[], Sequence[Network]] = tuple,
        shuffle: Shuffle = random.shuffle,
        local: LocalNames | None = None,
    ) -> None:
        self._internal = internal
        self._resolver = resolver
        self._hosts = Hosts(resolver, shuffle, local)
        self._own = own
        self._port = port
        self._shuffle = shuffle

    async def resolve(self, where: NextHop | str) -> list[Endpoint]:
        """The endpoints of a named next hop, or of a domain by MX; raises UnresolvedError."""
        survey = await self.survey(where)
        if survey.outcome is not None:
            raise UnresolvedError(survey.outcome)
        found = [
            Endpoint(host.name, address, host.port, host.secure, host.canonical)
            for host in survey.hosts
            if not host.note
            for address in host.addresses
        ]
        return found[:MAX_ENDPOINTS]

    async def survey(self, where: NextHop | str) -> Survey:
        """The same with all that was found on the way: what `relayctl explain` shows."""
        if isinstance(where, str):
            return await self._direct(where, self._port)
        if where.unix:
            path = UNIX + where.unix
            return Survey(where.name, SurveyKind.UNIX, (Host(path, 0, addresses=(path,)),))
        if where.mx:
            return await self._by_exchangers(where)
        return await self._named(where)

    def forget(self) -> None:
        """Ask the DNS anew: somebody may have mended it."""
        self._resolver.forget()

    # a domain

    async def _direct(self, domain: str, port: int, *, trusted: bool = False) -> Survey:
        """`trusted`: the administrator has named the domain, so it may lead anywhere."""
        leads = None if trusted else self._leads
        if domain.startswith("["):
            return self._literal(domain, port, leads)
        try:
            check_domain(domain)
            name = fold_domain(domain)
        except AddressError as error:
            return _nowhere(domain, failed("5.1.2", f"{domain}: {error}"))
        try:
            answer = await self._resolver.query(name, "MX")
        except NoData:
            itself = [MailExchanger(0, name)]
            return await self._among(name, SurveyKind.IMPLICIT, itself, port, leads, secure=True)
        except NxDomain:
            return _nowhere(name, failed("5.1.2", f"Domain {name} does not exist"))
        except DnsTrouble as error:
            return _nowhere(name, _trouble(name, error))
        exchangers = [each for each in answer.values if each.exchange != "."]
        if not exchangers:
            # RFC 7505 section 4.1
            return _nowhere(name, failed("5.1.10", f"{name} accepts no mail (null MX)", code=556))
        return await self._among(name, SurveyKind.MX, exchangers, port, leads, secure=answer.secure)

    def _leads(self, address: str) -> bool:
        """Whether the DNS may lead us there. To ourselves it may: that is seen to be a loop."""
        return may_lead_to(address, self._internal()) or (
            self._own.address(address) and not ipaddress.ip_address(address).is_loopback
        )

    def _literal(self, domain: str, port: int, leads: Leads) -> Survey:
        try:
            address = str(literal_address(domain))
        except AddressError as error:
            return _nowhere(domain, failed("5.1.3", f"{domain}: {error}"))
        host = Host(domain, port, addresses=(address,))
        if self._own.address(address):
            ours = Host(domain, port, addresses=(address,), note=OURSELVES)
            return Survey(domain, SurveyKind.LITERAL, (ours,), _loop(domain))
        if not usable(address):
            return _nowhere(domain, failed("5.4.4", f"{domain} is no address to send mail to"))
        if leads is not None and not leads(address):
            inside = Host(domain, port, addresses=(address,), note=NOTE)
            return Survey(domain, SurveyKind.LITERAL, (inside,), _internal(domain))
        return Survey(domain, SurveyKind.LITERAL, (host,))

    async def _among(
        self,
        domain: str,
        kind: SurveyKind,
        exchangers: Iterable[MailExchanger],
        port: int,
        leads: Leads,
        *,
        secure: bool,
    ) -> Survey:
        """Those with addresses, less ourselves and all that are no better than us."""
        order = list(exchangers)
        self._shuffle(order)  # equals in random order: the sort that follows is stable
        order.sort(key=_preference)
        cut = self._cut(order, {})
        found = await self._hosts.exchangers(
            (each.exchange for each in order[:MAX_HOSTS] if each.preference < cut), leads
        )
        cut = self._cut(order, found)
        hosts = []
        for each in order:
            known = found.get(each.exchange, _NOT_ASKED)
            addresses, note = known.addresses, known.note
            if self._mine(each.exchange, addresses):
                note = OURSELVES
            elif each.preference >= cut:
                note = "not preferred over this host"
            host = Host(each.exchange, port, each.preference, addresses, note)
            hosts.append(replace(host, secure=secure and known.secure, canonical=known.canonical))
        outcome = None
        if order[0].preference >= cut:
            outcome = _loop(domain)
        elif all(host.note for host in hosts):
            outcome = _no_address(domain, kind, found.values())
        return Survey(domain, kind, tuple(hosts), outcome)

    def _cut(self, order: Iterable[MailExchanger], found: Mapping[str, Found]) -> int:
        """Our own preference among the mail exchangers, or NO_CUT when we are none of them."""
        return min(
            (
                each.preference
                for each in order
                if self._mine(each.exchange, found.get(each.exchange, _NOT_ASKED).addresses)
            ),
            default=NO_CUT,
        )

    def _mine(self, name: str, addresses: Iterable[str]) -> bool:
        return self._own.host(name) or any(map(self._own.address, addresses))

    # a named next hop

    async def _named(self, hop: NextHop) -> Survey:
        """The hosts in order. What is wrong with them is for us to mend, so it is temporary."""
        found = await self._hosts.named(each.host for each in hop.hosts)
        hosts = []
        for each in hop.hosts:
            known = found[each.host]
            host = Host(each.host, each.port, addresses=known.addresses, note=known.note)
            hosts.append(replace(host, secure=known.secure, canonical=known.canonical))
        outcome = None
        if all(host.note for host in hosts):
            said = "; ".join(f"{host.name}: {host.note}" for host in hosts)
            outcome = _unknown_next_hop(hop, said)
        return Survey(hop.name, SurveyKind.HOSTS, tuple(hosts), outcome)

    async def _by_exchangers(self, hop: NextHop) -> Survey:
        """The mail exchangers of each host's name, in order; temporary likewise."""
        surveys = [await self._direct(each.host, each.port, trusted=True) for each in hop.hosts]
        hosts = tuple(host for survey in surveys if survey.outcome is None for host in survey.hosts)
        outcome = None
        if not hosts:
            said = "; ".join(str(survey.outcome.reply) for survey in surveys if survey.outcome)
            outcome = _unknown_next_hop(hop, said)
        return Survey(hop.name, SurveyKind.MX, hosts, outcome)


def _preference(exchanger: MailExchanger) -> int:
    return exchanger.preference


def _nowhere(where: str, outcome: Outcome) -> Survey:
    return Survey(where, SurveyKind.NONE, (), outcome)


def _trouble(domain: str, error: DnsError) -> Outcome:
    """Why the servers gave no answer names servers of ours, so that is only for the log."""
    return postponed(
        "4.4.3", f"DNS lookup of {error.name} {error.rdtype} for {domain} failed", why=str(error)
    )


def _loop(domain: str) -> Outcome:
    return failed("5.4.6", f"Mail for {domain} would loop back to this host")


def _internal(what: str) -> Outcome:
    """As after a null MX: nobody can be reached there, and only its owner can mend it."""
    return failed("5.4.4", f"{what} is at an internal address, which mail is not sent to", why=NOTE)


def _no_address(domain: str, kind: SurveyKind, found: Collection[Found]) -> Outcome:
    for each in found:
        if each.trouble is not None:
            return _trouble(domain, each.trouble)
    if any(each.internal for each in found):
        return _internal(
            domain if kind is SurveyKind.IMPLICIT else f"The mail exchanger of {domain}"
        )
    if kind is SurveyKind.IMPLICIT:
        return failed("5.4.4", f"{domain} has neither a mail exchanger nor an address")
    return failed("5.4.4", f"No mail exchanger of {domain} has an address")


def _unknown_next_hop(hop: NextHop, said: str) -> Outcome:
    return postponed("4.4.4", f"Next hop {hop.name} has no address", why=said)
