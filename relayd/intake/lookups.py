"""What is looked up in the DNS about a client and a sender before rules are asked.

Nobody raises here: what is not answered is what RFC 5782 and RFC 7208 make of that.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from ipaddress import ip_address
from typing import Any, Protocol, TypeVar

from relayd.authentication.asking import Asking, RecordQuery, Unanswered
from relayd.authentication.spf import SpfResult, check_host, spf_client
from relayd.dns.answer import Answer, DnsError, NoData, NxDomain
from relayd.mail.address import AddressError, ReversePath, fold_domain, path_text
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope
from relayd.rules.dnslist import meaning
from relayd.rules.language.model import DnsListDef

T = TypeVar("T")
Trouble = Callable[[str, str], None]
"""Told who does not answer, and why: for the log and the counters, not for the client."""


class Records(Protocol):
    """What is needed of relayd.dns.resolver.Resolver."""

    def known(self, name: str, rdtype: Any) -> Answer[Any] | DnsError | None:  # noqa: ANN401
        """What needs no question."""

    def query(self, name: str, rdtype: Any) -> Coroutine[Any, Any, Answer[Any]]:  # noqa: ANN401
        """The records of a name."""


def at_once(asking: Asking[T], records: Records) -> T | RecordQuery:
    """The result of an evaluation where all it asks for is known; else the question to wait for."""
    return _driven(asking, partial(next, asking), records)


async def answered(asking: Asking[T], records: Records, query: RecordQuery | None = None) -> T:
    """The result of an evaluation that asks for records; what is known is not waited for.

    `query`: the question that it has begun to wait for.
    """
    found = at_once(asking, records) if query is None else query
    while isinstance(found, RecordQuery):
        told: Answer[Any] | DnsError
        try:
            told = await records.query(found.name, found.rdtype)
        except DnsError as error:
            told = error
        found = _driven(asking, partial(_go_on, asking, told), records)
    return found


def _driven(
    asking: Asking[T], step: Callable[[], RecordQuery], records: Records
) -> T | RecordQuery:
    try:
        query = step()
        while True:
            known = records.known(query.name, query.rdtype)
            if known is None:
                return query
            query = _go_on(asking, known)
    except StopIteration as end:
        result: T = end.value
        return result


def _go_on(asking: Asking[Any], told: Answer[Any] | DnsError) -> RecordQuery:
    if isinstance(told, Answer):
        return asking.send(told.values)
    if isinstance(told, NxDomain | NoData):
        return asking.send(())
    return asking.throw(Unanswered())


class DnsList:
    """One list in the DNS (RFC 5782), asked about addresses and names."""

    def __init__(self, definition: DnsListDef, records: Records, trouble: Trouble) -> None:
        self._name = definition.name
        self._zone = definition.zone
        self._means = meaning(definition.kind, definition.answers)
        self._records = records
        self._trouble = trouble

    async def has(self, address: str) -> bool:
        """Whether it lists the address: no, where it does not say."""
        reverse = ip_address(address).reverse_pointer.removesuffix(".arpa")
        return await self._has(reverse.rpartition(".")[0])

    async def has_name(self, domain: str) -> bool:
        """Whether it lists a name; of what is an address nobody asks such a list."""
        try:
            name = fold_domain(domain.rstrip("."))
        except AddressError:
            return False
        if not name or name.startswith("[") or name.rpartition(".")[2].isdigit():
            return False
        return await self._has(name)

    async def _has(self, key: str) -> bool:
        name = f"{key}.{self._zone}"
        try:
            answer = await self._records.query(name, "A")
        except (NxDomain, NoData):
            return False
        except DnsError as error:
            self._trouble(self._name, error.text)  # its name may hold a key, and is not told
            return False
        listed = self._means(answer.values)
        if listed is None:
            self._trouble(self._name, f"it says {', '.join(answer.values)}, which is no listing")
        return bool(listed)


async def resolves(domain: str, records: Records, *, host: bool = False) -> bool | None:
    """Whether mail could go to a domain; None: not known. `host`: whether a host's name is there.

    A null MX (RFC 7505) takes none. What is no domain has no records, but for address literals.
    """
    if not domain or domain.startswith("["):
        return True
    try:
        name = fold_domain(domain.rstrip("."))
    except AddressError:
        return False
    unknown = False
    for rdtype in ("MX", "A", "AAAA"):
        try:
            answer = await records.query(name, rdtype)
        except (NxDomain, NoData):
            continue
        except DnsError:
            unknown = True
            continue
        if rdtype != "MX" or host:
            return True
        return any(each.exchange != "." for each in answer.values)
    return None if unknown else False


def spf_domain(client: Client, envelope: Envelope) -> str:
    """The domain that SPF is about, folded: the sender's, or HELO where the path is null.

    Empty: it is none.
    """
    sender = envelope.reverse_path
    try:
        return fold_domain(client.helo) if sender is None else sender.domain_key
    except AddressError:
        return ""


def sender_policy(
    client: Client, sender: ReversePath, receiver: str, now: float, records: Records
) -> SpfResult | Coroutine[Any, Any, SpfResult]:
    """SPF for one sender, or for HELO where the path is null; where it is known, at once."""
    who = spf_client(client.address, path_text(sender), client.helo, receiver, int(now))
    asking = check_host(who)
    found = at_once(asking, records)
    return answered(asking, records, found) if isinstance(found, RecordQuery) else found
