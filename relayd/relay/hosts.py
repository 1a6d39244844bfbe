"""The addresses of host names, both families and all names at once, in the order to try them."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import zip_longest
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.python.failure import Failure

from relayd.dns.answer import Answer, DnsError, DnsTrouble, NxDomain
from relayd.dns.localnames import LocalNames
from relayd.dns.resolver import Resolver
from relayd.mail.address import AddressError, check_domain, fold_domain
from relayd.reactor.coroutine import promise
from relayd.relay.internal import NOTE

MAX_PER_HOST = 10  # addresses of one host
LOCALHOST = ("127.0.0.1", "::1")  # RFC 6761 section 6.3: no question for the DNS

Shuffle = Callable[[list[Any]], None]
Leads = Callable[[str], bool] | None  # whether the DNS may lead us to an address; None: to any


class Found(NamedTuple):
    """What became of one host name; `note` is empty where there are addresses."""

    addresses: tuple[str, ...]
    note: str = ""
    trouble: DnsTrouble | None = None
    secure: bool = False  # the DNS vouches for all of them
    canonical: str = ""  # where the CNAMEs of the name end
    internal: bool = False  # there are only addresses that the DNS may not lead to


class Hosts:
    """Finds the addresses of hosts. `shuffle` is what spreads load over several of one host."""

    def __init__(
        self,
        resolver: Resolver,
        shuffle: Shuffle = random.shuffle,
        local: LocalNames | None = None,
    ) -> None:
        """`local`: names that this system knows, for hosts of next hops; None: the DNS alone."""
        self._local = local
        self._resolver = resolver
        self._shuffle = shuffle

    async def exchangers(self, names: Iterable[str], leads: Leads = None) -> dict[str, Found]:
        """The addresses of the hosts of MX records, which must be names."""
        found, queries = {}, {}
        for name in names:
            if is_host_name(name):
                queries[name] = name
            else:
                found[name] = Found((), "not a host name")
        return found | await self._query(queries, leads)

    async def named(self, hosts: Iterable[str]) -> dict[str, Found]:
        """The addresses of the hosts of a next hop: names in any spelling, or IP addresses."""
        found, queries = {}, {}
        for host in hosts:
            address = ip_address(host)
            if address:
                found[host] = Found((address,))
            elif host.lower() == "localhost":
                found[host] = Found(LOCALHOST)
            else:
                try:
                    name = fold_domain(host)
                except AddressError as error:
                    found[host] = Found((), str(error))
                    continue
                listed = self._listed(name)
                if listed:
                    found[host] = Found(listed[:MAX_PER_HOST])
                elif "." in name or self._local is None:
                    queries[host] = name
                else:
                    found[host] = await self._short(name, self._local)
        return found | await self._query(queries)

    def _listed(self, name: str) -> tuple[str, ...]:
        """Its addresses in /etc/hosts."""
        return () if self._local is None else tuple(filter(usable, self._local.addresses(name)))

    async def _short(self, name: str, local: LocalNames) -> Found:
        """A name without a dot: the first of our domains that has it."""
        candidates = local.candidates(name)
        answers = await self._query({each: each for each in candidates})
        for each in candidates:
            # in trouble is not the same as not there: the next one may be another host
            if answers[each].addresses or answers[each].trouble is not None:
                return answers[each]
        looked = ", ".join(candidates)
        return Found((), f"not in /etc/hosts, and no address of {looked}")

    async def _query(self, names: dict[str, str], leads: Leads = None) -> dict[str, Found]:
        """A and AAAA of every value, under its key; what the cache has costs no coroutine."""
        results: dict[str, list[Answer[str] | DnsError]] = {}
        awaited: list[Deferred[None]] = []
        for key, name in names.items():
            results[key] = []
            for rdtype in ("A", "AAAA"):
                known = self._resolver.known(name, rdtype)
                if known is not None:
                    results[key].append(known)
                    continue
                query = promise(self._resolver.query(name, rdtype))
                awaited.append(query.addCallbacks(*_keep_in(results[key])))
        if awaited:
            try:
                await gatherResults(awaited, consumeErrors=True)
            except FirstError as error:  # a cancel, or a bug
                error.subFailure.raiseException()
        return {key: self._merge(answers, leads) for key, answers in results.items()}

    def _merge(
        self,
        answers: Iterable[Answer[str] | DnsError],
        leads: Leads = None,
    ) -> Found:
        """Both families, alternating. IPv4 first: where one of the two fails, it is rarely that."""
        families: dict[bool, list[str]] = {False: [], True: []}
        errors: list[DnsError] = []
        secure, canonical, internal = True, "", ""
        for answer in answers:
            if isinstance(answer, DnsError):
                errors.append(answer)
                continue
            secure, canonical = secure and answer.secure, answer.canonical
            addresses = [address for address in answer.values if usable(address)]
            if leads is not None:
                internal = next((each for each in addresses if not leads(each)), internal)
                addresses = [each for each in addresses if leads(each)]
            self._shuffle(addresses)  # the cache has ended the server's own rotation
            for address in addresses:
                families[":" in address].append(address)
        turns = zip_longest(families[False], families[True])
        merged = tuple(address for turn in turns for address in turn if address is not None)
        if merged:
            return Found(merged[:MAX_PER_HOST], secure=secure, canonical=canonical)
        for error in errors:
            if isinstance(error, DnsTrouble):
                return Found((), f"DNS trouble: {error}", error)
        if internal:
            return Found((), f"{internal} is {NOTE}", internal=True)
        if errors and all(isinstance(error, NxDomain) for error in errors):
            return Found((), "does not exist")
        return Found((), "no address")


def _keep_in(
    results: list[Answer[str] | DnsError],
) -> tuple[Callable[[Answer[str]], None], Callable[[Failure], None]]:
    """A callback and an errback that keep the answer, or the error of the DNS, as a value."""

    def fail(failure: Failure) -> None:
        if not isinstance(failure.value, DnsError):
            failure.raiseException()
        results.append(failure.value)

    return results.append, fail


def is_host_name(name: str) -> bool:
    """Whether an MX record may name it: no address, which a resolver might take for a name."""
    try:
        check_domain(name)
    except AddressError:
        return False
    return not name.startswith("[") and not name.rpartition(".")[2].isdigit()


def ip_address(host: str) -> str:
    """The IP address that `host` is, in its usual spelling; empty if it is a name."""
    try:
        return str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        return ""


@lru_cache(maxsize=4096)
def usable(address: str) -> bool:
    """Whether mail can go there at all: not `0.0.0.0`, no multicast, no broadcast.

    Nor an IPv4 address in disguise, which would not be known for our own, nor a link-local one,
    which says nothing without its link.
    """
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and (parsed.ipv4_mapped or parsed.is_link_local):
        return False
    return not (parsed.is_unspecified or parsed.is_multicast or address == "255.255.255.255")
