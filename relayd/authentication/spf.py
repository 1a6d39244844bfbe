"""Sender Policy Framework (RFC 7208): may this client use this domain?

`check_host` is pure: it asks for records by yielding questions, and keeps all limits of section
4.6.4, so that no record of a stranger's makes us ask for more than a few dozen names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

from relayd.authentication.asking import Asking, RecordType, Unanswered, ask
from relayd.authentication.spfmacro import MacroString, macro_string
from relayd.authentication.spfrecord import Mechanism, SpfRecord, is_spf, spf_record
from relayd.mail.value import dataclass

MOST_LOOKUPS = 10  # terms of one check that ask the DNS
MOST_VOID = 2  # look-ups of one check that find nothing
MOST_NAMES = 10  # exchangers of an mx, names of a ptr
_MOST_OCTETS = 253  # of a domain name

RESULTS = ("none", "neutral", "pass", "fail", "softfail", "temperror", "permerror")


@dataclass(frozen=True, slots=True)
class SpfResult:
    """What came of a check."""

    result: str  # one of RESULTS
    why: str = ""  # for the operator: the term that decided, or what is wrong
    explanation: str = ""  # of the domain's own, where it fails: for the client


@dataclass(frozen=True, slots=True)
class SpfClient:
    """Who asks to be believed. All but the address is as the client says."""

    address: IPv4Address | IPv6Address
    local_part: str
    sender_domain: str
    helo: str
    receiver: str = "unknown"  # our name
    time: int = 0  # seconds since the epoch

    @property
    def rdtype(self) -> RecordType:
        """Of his family's addresses."""
        return "A" if self.address.version == 4 else "AAAA"


class _Over(Exception):  # noqa: N818  # it ends the check
    """The check ends here, whatever stands around it."""

    def __init__(self, result: str, why: str) -> None:
        super().__init__(why)
        self.result = SpfResult(result, why)


def spf_client(
    address: str, sender: str, helo: str, receiver: str = "unknown", time: int = 0
) -> SpfClient:
    """A client by what he says. An empty `sender` is the null reverse-path: HELO stands for it."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    local, at, domain = sender.rpartition("@")
    if not at:
        local, domain = "", domain or helo
    return SpfClient(ip, local or "postmaster", domain.rstrip("."), helo, receiver, time)


def check_host(client: SpfClient, domain: str | None = None) -> Asking[SpfResult]:
    """The function of section 4, for the sender's domain, or for another."""
    check = _Check(client)
    domain = client.sender_domain if domain is None else domain
    try:
        return (yield from check.host(domain, top=True))
    except _Over as over:
        return over.result


class _Check:
    """One check: what is counted over all of its records."""

    def __init__(self, client: SpfClient) -> None:
        self._client = client
        self._lookups = 0
        self._void = 0

    def host(self, domain: str, *, top: bool = False) -> Asking[SpfResult]:
        """The result for one domain's record."""
        if not _is_name(domain) or "." not in domain:
            return SpfResult("none", f"{domain!r} is no domain name")
        try:
            records = yield from ask(domain, "TXT")
        except Unanswered:
            raise _Over("temperror", f"{domain} TXT: no answer") from None
        texts = [text for text in records if is_spf(text)]
        if not texts:
            return SpfResult("none", f"{domain} has no SPF record")
        if len(texts) > 1:
            raise _Over("permerror", f"{domain} has {len(texts)} SPF records")
        try:
            record = spf_record(texts[0])
        except ValueError as error:
            raise _Over("permerror", f"{domain}: {error}") from None
        for mechanism in record.mechanisms:
            if (yield from self._matches(mechanism, domain)):
                result = SpfResult(mechanism.result, f"{domain}: {mechanism.name}")
                if mechanism.result == "fail" and top:
                    return (yield from self._explained(result, record, domain))
                return result
        if record.redirect is None:
            return SpfResult("neutral", f"{domain}: nothing fits")
        self._count()
        target = yield from self._target(record.redirect, domain)
        result = yield from self.host(target, top=top)
        if result.result == "none":
            raise _Over("permerror", f"{domain}: redirect to {target}: {result.why}")
        return result

    def _count(self) -> None:
        self._lookups += 1
        if self._lookups > MOST_LOOKUPS:
            raise _Over("permerror", f"more than {MOST_LOOKUPS} terms that ask the DNS")

    def _ask(self, name: str, rdtype: RecordType) -> Asking[tuple]:  # type: ignore[type-arg]
        """Records of a name that a record has us look up; what finds nothing is counted."""
        records: tuple = ()  # type: ignore[type-arg]
        if _is_name(name):
            try:
                records = yield from ask(name, rdtype)
            except Unanswered:
                raise _Over("temperror", f"{name} {rdtype}: no answer") from None
        if not records:
            self._void += 1
            if self._void > MOST_VOID:
                raise _Over("permerror", f"more than {MOST_VOID} look-ups that find nothing")
        return records

    def _matches(self, mechanism: Mechanism, domain: str) -> Asking[bool]:
        name, client = mechanism.name, self._client
        if name == "all":
            return True
        if name in ("ip4", "ip6"):
            return name == f"ip{client.address.version}" and self._near(
                mechanism.network, mechanism
            )
        self._count()
        if mechanism.domain is None:
            target = domain
        else:
            if client.local_part.isascii() or not mechanism.domain.letters & {"s", "l"}:
                target = yield from self._target(mechanism.domain, domain)
            else:  # RFC 8616 section 4: no name can be made of it
                return False
        if name == "include":
            return (yield from self._includes(target, domain))
        if name == "exists":
            return bool((yield from self._ask(target, "A")))
        if name == "ptr":
            return (yield from self._validated(target)) is not None
        if name == "a":
            return self._among((yield from self._ask(target, client.rdtype)), mechanism)
        exchangers = yield from self._ask(target, "MX")
        if len(exchangers) > MOST_NAMES:
            raise _Over("permerror", f"{target} has more than {MOST_NAMES} exchangers")
        for _, exchanger in exchangers:
            if self._among((yield from self._ask(exchanger, client.rdtype)), mechanism):
                return True
        return False

    def _includes(self, target: str, domain: str) -> Asking[bool]:
        """Section 5.2: what its result makes of ours."""
        result = yield from self.host(target)
        if result.result == "none":
            raise _Over("permerror", f"{domain}: include of {target}: {result.why}")
        return result.result == "pass"

    def _among(self, addresses: tuple[str, ...], mechanism: Mechanism) -> bool:
        return any(self._near(int(ip_address(each)), mechanism) for each in addresses)

    def _near(self, address: int, mechanism: Mechanism) -> bool:
        """An address of the client's family that is in one network with him."""
        mine = self._client.address
        free = 32 - mechanism.prefix4 if mine.version == 4 else 128 - mechanism.prefix6
        return int(mine) >> free == address >> free

    def _validated(self, domain: str) -> Asking[str | None]:
        """The client's name that leads back to his address and is in `domain` (section 5.5)."""
        client = self._client
        try:
            names = yield from ask(client.address.reverse_pointer, "PTR")
        except Unanswered:
            return None
        if not names:
            self._void += 1
            if self._void > MOST_VOID:
                raise _Over("permerror", f"more than {MOST_VOID} look-ups that find nothing")
        for name in names[:MOST_NAMES]:
            if not _within(name, domain) or not _is_name(name):
                continue
            if (yield from self._leads_back(name)):
                return str(name)
        return None

    def _leads_back(self, name: str) -> Asking[bool]:
        """The name has the client's address; one whose server does not answer is passed over."""
        try:
            addresses = yield from ask(name, self._client.rdtype)
        except Unanswered:
            return False
        return any(ip_address(each) == self._client.address for each in addresses)

    def _target(self, spec: MacroString, domain: str) -> Asking[str]:
        """The name that a domain-spec expands to; too long, it loses labels at its left."""
        name = yield from self._expanded(spec, domain)
        name = name.removesuffix(".")
        if len(name) > _MOST_OCTETS:
            name = name[-_MOST_OCTETS - 1 :].partition(".")[2]
        return name

    def _expanded(self, spec: MacroString, domain: str) -> Asking[str]:
        letters = spec.letters
        if not letters:
            return spec.expand({})
        client = self._client
        values = {
            "s": f"{client.local_part}@{client.sender_domain}",
            "l": client.local_part,
            "o": client.sender_domain,
            "d": domain,
            "i": _dotted(client),
            "v": "in-addr" if client.address.version == 4 else "ip6",
            "h": client.helo,
            "c": str(client.address),
            "r": client.receiver,
            "t": str(client.time),
        }
        if "p" in letters:
            values["p"] = yield from self._validated_name(domain)
        return spec.expand(values)

    def _validated_name(self, domain: str) -> Asking[str]:
        """%{p}: the domain itself if the client's names have it, else one in it, else any."""
        client = self._client
        try:
            names = yield from ask(client.address.reverse_pointer, "PTR")
        except Unanswered:
            return "unknown"
        ranked = sorted(
            names[:MOST_NAMES],
            key=lambda name: (name.lower() != domain.lower(), not _within(name, domain)),
        )
        for name in ranked:
            if (yield from self._leads_back(name)):
                return str(name)
        return "unknown"

    def _explained(self, result: SpfResult, record: SpfRecord, domain: str) -> Asking[SpfResult]:
        """Section 6.2: its own words for a failure; whatever is wrong with them, there are none."""
        if record.explanation is None:
            return result
        try:
            target = yield from self._target(record.explanation, domain)
            if not _is_name(target):
                return result
            texts = yield from ask(target, "TXT")
            if len(texts) != 1 or not texts[0].isascii():
                return result
            text = yield from self._expanded(macro_string(texts[0]), domain)
        except (Unanswered, _Over, ValueError):
            return result
        return replace(result, explanation=text if text.isprintable() else "")


def _within(name: str, domain: str) -> bool:
    name, domain = name.lower(), domain.lower()
    return name == domain or name.endswith("." + domain)


def _dotted(client: SpfClient) -> str:
    if client.address.version == 4:
        return str(client.address)
    return ".".join(f"{int(client.address):032X}")


def _is_name(name: str) -> bool:
    """Something that the DNS can be asked for (section 4.3)."""
    return (
        0 < len(name) <= _MOST_OCTETS
        and name.isascii()
        and all(0 < len(label) <= 63 for label in _labels(name))
    )


def _labels(name: str) -> Iterator[str]:
    return iter(name.split("."))
