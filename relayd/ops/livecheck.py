"""`relayctl check --live`: our own names as the world sees them.

All questions are asked side by side, of the DNS itself and of our own listeners, and none is waited
for beyond TIME. What nobody answers is not known: it is no fault of ours.
"""

from __future__ import annotations

import datetime
import ipaddress
import socket
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, gatherResults

from relayd.authentication.dkimsigning import SigningKey
from relayd.authentication.dmarc import evaluate
from relayd.authentication.spf import check_host, spf_client
from relayd.authentication.spfrecord import is_spf
from relayd.config import Listener, Settings
from relayd.config.listeners import reached_by_others
from relayd.dns.answer import DnsTrouble, NoData, NxDomain
from relayd.dns.lookup import Lookup
from relayd.dns.resolver import Resolver
from relayd.intake.lookups import answered
from relayd.mail.pacing import SourceAddress
from relayd.ops import ownnames
from relayd.ops.dkimdesk import MISSING, RIGHT, judged
from relayd.ops.observation import Grade, Observation, txt
from relayd.ops.offeredtls import Offered, for_programs, offered
from relayd.reactor.coroutine import promise
from relayd.reactor.workerpipe import Reactor
from relayd.relay.hosts import Hosts
from relayd.relay.lostaddresses import is_there
from relayd.relay.stsfetch import FetchError, StsFetch
from relayd.tls.client import ClientContexts
from relayd.tls.sts import StsPolicy, parse_policy, policy_id

TIME = 30.0  # seconds for all of it
SOON = datetime.timedelta(days=14)  # a certificate that is over by then wants to be renewed
MOST = 500  # domains, of each kind; a table may have a million
_ROUNDS = (3.0, 5.0)  # seconds that each DNS server gets
_LIFETIME = 10.0  # ... and all of them for one question
_FAR = {4: "198.41.0.4", 6: "2001:503:ba3e::2:30"}  # a.root-servers.net; nothing is sent there
_SPF = {"pass": Grade.OK, "neutral": Grade.WARNING, "softfail": Grade.WARNING}

T = TypeVar("T")
Observations = Sequence[Observation]


async def look(reactor: Reactor, settings: Settings) -> list[Observation]:
    """All that is found, in the order of the questions."""
    check = LiveCheck(reactor, settings)
    timers = reactor.callLater(TIME, check.give_up)
    try:
        return await check.run()
    finally:
        if timers.active():
            timers.cancel()


class LiveCheck:
    """One look. Its resolver is new: what it knows is what this look has asked for."""

    def __init__(
        self, reactor: Reactor, settings: Settings, resolver: Resolver | None = None
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._resolver = resolver or Resolver(
            reactor,
            ask=Lookup(reactor, settings.dns_servers, rounds=_ROUNDS, lifetime=_LIFETIME).ask,
        )
        self._contexts = ClientContexts("1.0", settings.tls_authorities)
        self._asked: list[Deferred[Observations]] = []
        self._over = False
        self._sources: dict[str, SourceAddress] = {}
        self._exchangers: dict[str, tuple[str, ...]] = {}  # of a domain: those that are this host

    def give_up(self) -> None:
        """The time is over."""
        self._over = True
        for each in self._asked:
            each.cancel()

    async def run(self) -> list[Observation]:
        """See `look`."""
        self._sources = await self._known_sources()
        accepted = ownnames.accepted(self._settings)
        found = [*await self._together(self._first(accepted))]
        seen: list[Offered] = []
        found += await self._together(self._of_listeners(seen))
        found += await self._together(self._second(accepted, seen))
        return found

    def _first(self, accepted: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
        settings = self._settings
        for source in self._sources.values():
            for address in source.addresses:
                about = _leaving(address, source)
                yield "source", about, self._source(about, source, address)
                yield "ptr", about, self._reverse(about, address, source.helo)
                yield "helo", about, self._helo(about, address, source.helo)
        ways = ownnames.sent_as(settings)
        for domain, names in _some(ways.items()):
            yield "spf", domain, self._spf(domain, names, Grade.ERROR)
        for name, source in self._sources.items():
            if name not in ways.get(source.helo.lower(), ()):  # of reports, whose sender is null
                yield "spf", source.helo, self._spf(source.helo, (name,), Grade.WARNING)
        for key in (key for keys in settings.signing.values() for key in keys):
            yield "dkim", key.key_name, self._dkim(key, "the key that signs", Grade.ERROR)
        for key in ownnames.retired(settings):
            wanted = "the retired key, for mail that is on its way"
            yield "dkim", key.key_name, self._dkim(key, wanted, Grade.WARNING)
        for domain in _some(ownnames.signed(settings)):
            yield "dmarc", domain, self._dmarc(domain)
        for domain in _some(accepted):
            yield "mx", domain, self._mx(domain)
        for kind, domains in (("spf", ways), ("mx", accepted)):
            if len(domains) > MOST:
                more = f"{len(domains) - MOST} more domains are not looked at"
                yield (
                    kind,
                    "the others",
                    _told(Observation(Grade.UNKNOWN, kind, "the others", more)),
                )

    def _of_listeners(self, seen: list[Offered]) -> Iterator[tuple[str, str, Any]]:
        """Each that others reach, by the names that lead them there."""
        hostname = self._settings.hostname
        for listener in self._settings.listeners:
            if not reached_by_others([listener]):
                continue
            for name in [hostname] if for_programs(listener) else self._names or [hostname]:
                yield "tls", f"{listener} as {name}", self._tls(listener, name, seen)

    def _second(
        self, accepted: Sequence[str], seen: Sequence[Offered]
    ) -> Iterator[tuple[str, str, Any]]:
        for domain in _some(accepted):
            yield "mta-sts", domain, self._sts(domain)
        for name in self._names:
            yield "tlsa", name, self._tlsa(name, seen)

    @property
    def _names(self) -> list[str]:
        """The exchangers that are this host."""
        return _some(dict.fromkeys(each for some in self._exchangers.values() for each in some))

    async def _together(self, questions: Iterable[tuple[str, str, Any]]) -> list[Observation]:
        """All of them at once; one that is given up says that much."""
        self._asked = [promise(_bounded(*each)) for each in questions]
        if self._over:
            self.give_up()
        return [each for some in await gatherResults(self._asked) for each in some]

    async def _records(self, name: str, rdtype: Any) -> tuple[Any, ...]:  # noqa: ANN401
        """Empty: there are none; raises DnsTrouble."""
        try:
            values: tuple[Any, ...] = (await self._resolver.query(name, rdtype)).values
            return values
        except (NxDomain, NoData):
            return ()

    async def _addresses(self, name: str) -> tuple[str, ...]:
        return (*await self._records(name, "A"), *await self._records(name, "AAAA"))

    # the addresses that we come from

    async def _known_sources(self) -> dict[str, SourceAddress]:
        found = ownnames.sources(self._settings)
        if ownnames.HERE in found:
            hostname = self._settings.hostname
            found[ownnames.HERE] = SourceAddress(
                ownnames.HERE, await self._of_this_host(hostname), hostname
            )
        return found

    async def _of_this_host(self, hostname: str) -> tuple[str, ...]:
        """What the world sees: the address towards it; behind NAT, what our name resolves to."""
        found = [_towards(version) for version in (4, 6)]
        public = tuple(each for each in found if each and ipaddress.ip_address(each).is_global)
        if public:
            return public
        try:
            return await self._addresses(hostname)
        except DnsTrouble:
            return ()

    async def _source(self, about: str, source: SourceAddress, address: str) -> Observations:
        if not source.name or is_there(address):
            return []
        wanted = "an address of an interface here; until then its mail waits"
        return [Observation(Grade.ERROR, "source", about, "no address of this host", wanted)]

    async def _helo(self, about: str, address: str, helo: str) -> Observations:
        forward = await self._addresses(helo)
        if _among(address, forward):
            return [Observation(Grade.OK, "helo", about, f"{helo} resolves to it")]
        seen = f"{helo} resolves to {', '.join(forward) or 'nothing'}"
        record = _address_record(helo, address)
        return [Observation(Grade.ERROR, "helo", about, seen, "that address, too", record)]

    async def _reverse(self, about: str, address: str, helo: str) -> Observations:
        pointer = ipaddress.ip_address(address).reverse_pointer
        record = f"{pointer}. IN PTR {helo}."
        names = await self._records(pointer, "PTR")
        if not names:
            return [Observation(Grade.ERROR, "ptr", about, "no reverse name", helo, record)]
        good = [name for name in names if _among(address, await self._addresses(name))]
        if not good:
            wanted = "a name that resolves to this address"
            record = _address_record(names[0], address)
            return [Observation(Grade.ERROR, "ptr", about, names[0], wanted, record)]
        if helo.lower() not in map(str.lower, good):
            seen = f"{good[0]}, and back"
            return [Observation(Grade.WARNING, "ptr", about, seen, f"{helo}, as in EHLO", record)]
        return [Observation(Grade.OK, "ptr", about, f"{helo}, and back")]

    # the domains that we send as

    async def _spf(self, domain: str, names: Sequence[str], without: Grade) -> Observations:
        """For each address that its mail may leave from; what is to be published has them all.

        `without`: how bad it is to have no record.
        """
        found: list[tuple[Observation, str]] = []
        for source in (self._sources[name] for name in names if name in self._sources):
            for address in source.addresses:
                about = f"{domain} from {_leaving(address, source)}"
                client = spf_client(address, f"postmaster@{domain}", source.helo)
                result = await answered(check_host(client), self._resolver)
                if result.result == "temperror":
                    grade = Grade.UNKNOWN
                elif result.result == "none":
                    grade = without
                else:
                    grade = _SPF.get(result.result, Grade.ERROR)
                why = f" ({result.why})" if result.why else ""
                wanted = "pass" if grade in (Grade.WARNING, Grade.ERROR) else ""
                seen = f"{result.result}{why}"
                missing = address if wanted and result.result != "permerror" else ""
                found.append((Observation(grade, "spf", about, seen, wanted), missing))
        lacking = [address for _, address in found if address]
        if not lacking:
            return [finding for finding, _ in found]
        texts = [text for text in await self._records(domain, "TXT") if is_spf(text)]
        record = txt(domain, _with(texts[0] if texts else "", lacking))
        return [_publishing(finding, record if address else "") for finding, address in found]

    async def _dkim(self, key: SigningKey, wanted: str, without: Grade) -> Observations:
        texts = await self._records(key.key_name, "TXT")
        state, why = judged(key, texts) if texts else (MISSING, "there is no record")
        if state == RIGHT:
            grade = Grade.WARNING if why else Grade.OK
            return [Observation(grade, "dkim", key.key_name, why or f"the key ({key.algorithm})")]
        record = txt(key.key_name, key.record)
        return [Observation(without, "dkim", key.key_name, why, wanted, record)]

    async def _dmarc(self, domain: str) -> Observations:
        result = await answered(evaluate(domain, (), None), self._resolver)
        if result.result == "temperror":
            return [Observation(Grade.UNKNOWN, "dmarc", domain, result.why)]
        if result.result == "none":
            record = txt(f"_dmarc.{domain}", f"v=DMARC1; p=none; rua=mailto:postmaster@{domain}")
            return [Observation(Grade.WARNING, "dmarc", domain, "no record", "a policy", record)]
        return [Observation(Grade.OK, "dmarc", domain, f"p={result.policy}, of {result.published}")]

    # the domains that we take mail for

    async def _mx(self, domain: str) -> Observations:
        hostname = self._settings.hostname
        record = f"{domain}. IN MX 10 {hostname}."
        exchangers = sorted(await self._records(domain, "MX"))
        if not exchangers:
            addresses = await self._addresses(domain)
            if any(map(self._is_ours, addresses)):
                self._exchangers[domain] = (domain,)
                seen = "no MX; its own address leads here"
                return [Observation(Grade.WARNING, "mx", domain, seen, hostname, record)]
            seen = f"no MX, {f'and {addresses[0]} is not here' if addresses else 'no address'}"
            return [Observation(Grade.ERROR, "mx", domain, seen, hostname, record)]
        if exchangers[0].exchange == ".":
            seen = "null MX: it takes no mail"
            return [Observation(Grade.ERROR, "mx", domain, seen, hostname, record)]
        ours, lost = [], []
        for each in exchangers:
            addresses = await self._addresses(each.exchange)
            if any(map(self._is_ours, addresses)) or each.exchange.lower() == hostname.lower():
                ours.append(each.exchange)
            if not addresses:
                lost.append(each.exchange)
        self._exchangers[domain] = tuple(map(str.lower, ours))
        found = [
            Observation(Grade.ERROR, "mx", domain, f"{name} has no address", "an address")
            for name in lost
        ]
        seen = ", ".join(each.exchange for each in exchangers)
        if ours:
            return [*found, Observation(Grade.OK, "mx", domain, seen)]
        return [
            *found,
            Observation(Grade.WARNING, "mx", domain, seen, f"{hostname} among them", record),
        ]

    def _is_ours(self, address: str) -> bool:
        return any(_among(address, each.addresses) for each in self._sources.values()) or is_there(
            address
        )

    async def _sts(self, domain: str) -> Observations:
        """Only where there is one."""
        if not policy_id(await self._records(f"_mta-sts.{domain}", "TXT")):
            return []
        fetch = StsFetch(
            self._reactor, Hosts(self._resolver), authorities=self._settings.tls_authorities
        )
        try:
            policy = parse_policy(await fetch(domain))
        except (FetchError, ValueError) as error:
            wanted = "the policy that _mta-sts announces"
            return [Observation(Grade.ERROR, "mta-sts", domain, str(error), wanted)]
        return [self._by_policy(domain, policy)]

    def _by_policy(self, domain: str, policy: StsPolicy) -> Observation:
        strangers = [name for name in self._exchangers.get(domain, ()) if not policy.allows(name)]
        if strangers and policy.mode != "none":
            grade = Grade.ERROR if policy.enforced else Grade.WARNING
            seen = f"mode {policy.mode}, without {', '.join(strangers)}"
            return Observation(grade, "mta-sts", domain, seen, f"mx: {strangers[0]}")
        return Observation(Grade.OK, "mta-sts", domain, f"mode {policy.mode}")

    async def _tlsa(self, name: str, seen: Sequence[Offered]) -> Observations:
        """Likewise."""
        try:
            answer = await self._resolver.query(f"_25._tcp.{name}", "TLSA")
        except (NxDomain, NoData):
            return []
        if not answer.secure:
            why = "not signed, or the resolver does not say so: nobody goes by them"
            return [Observation(Grade.WARNING, "tlsa", name, why, "DNSSEC")]
        shown = [
            each.certificate
            for each in seen
            if each.name == name and each.certificate is not None and not each.submission
        ]
        if not shown:
            return [Observation(Grade.UNKNOWN, "tlsa", name, "no certificate was seen")]
        if all(each.meets(answer.values, name) for each in shown):
            return [Observation(Grade.OK, "tlsa", name, "they name the certificate that is shown")]
        seen_ = "they name another certificate than the one that is shown"
        return [Observation(Grade.ERROR, "tlsa", name, seen_, "one of its key (3 1 1)")]

    # our own listeners

    async def _tls(self, listener: Listener, name: str, seen: list[Offered]) -> Observations:
        shown = await offered(self._reactor, self._settings, self._contexts, listener, name)
        seen.append(shown)
        return [judged_tls(shown, datetime.datetime.now(datetime.UTC))]


def judged_tls(shown: Offered, now: datetime.datetime) -> Observation:
    """What clients make of it. Servers take any certificate; programs that submit mail do not."""
    about = f"{shown.listener} as {shown.name}"
    poor = Grade.ERROR if shown.submission else Grade.WARNING
    if shown.silent:
        return Observation(Grade.UNKNOWN, "tls", about, shown.silent)
    certificate = shown.certificate
    if certificate is None:
        why = shown.missing or "no certificate that can be read"
        return Observation(poor, "tls", about, why, 'a "certificate" for it')
    until = f"until {certificate.expires:%Y-%m-%d}"
    if certificate.expires <= now:
        return Observation(
            Grade.ERROR, "tls", about, f"the certificate is over ({until})", "a new one"
        )
    if not certificate.certifies(shown.name):
        names = ", ".join(certificate.names) or "nobody"
        return Observation(poor, "tls", about, f"the certificate is for {names}", shown.name)
    if shown.flaw:
        return Observation(poor, "tls", about, shown.flaw, "a chain up to a known authority")
    if certificate.expires - now <= SOON:
        return Observation(
            Grade.WARNING, "tls", about, f"the certificate is good {until}", "a new one"
        )
    return Observation(Grade.OK, "tls", about, f"{shown.tls}, {until}")


async def _bounded(
    what: str, about: str, question: Coroutine[Any, Any, Observations]
) -> Observations:
    try:
        return await question
    except DnsTrouble as error:
        return [Observation(Grade.UNKNOWN, what, about, str(error))]
    except CancelledError:
        return [Observation(Grade.UNKNOWN, what, about, f"no answer within {TIME:g} seconds")]


async def _told(finding: Observation) -> Observations:
    return [finding]


def _some(of: Iterable[T]) -> list[T]:
    return list(of)[:MOST]


def _leaving(address: str, source: SourceAddress) -> str:
    return f"{address} ({f'source {source.name}' if source.name else source.helo})"


def _among(address: str, addresses: Iterable[str]) -> bool:
    wanted = ipaddress.ip_address(address)
    return any(ipaddress.ip_address(each) == wanted for each in addresses)


def _address_record(name: str, address: str) -> str:
    return f"{name}. IN {'AAAA' if ':' in address else 'A'} {address}"


def _towards(version: int) -> str:
    """The address of ours that leads to the world; empty: none does."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_FAR[version], 53))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def _with(record: str, addresses: Sequence[str]) -> str:
    """An SPF record that these pass, as near as can be to the one that is there."""
    added = ownnames.mechanisms(addresses)
    if not record:
        return f"v=spf1 {added} -all"
    version, *terms = record.split()
    return " ".join([version, added, *terms])


def _publishing(finding: Observation, record: str) -> Observation:
    return Observation(
        *(finding.grade, finding.what, finding.about, finding.seen, finding.wanted), record
    )
