"""A mailbox as rules look at it: normalised, and taken apart into the probes that indexes hold.

Every definite pattern has one probe, a string that is unlike the probes of other kinds:
`info@example.com`, `@example.com`, `@.example.com` (its sub-domains), `postmaster@`. So "which of
a thousand patterns fit this mailbox" is half a dozen dictionary look-ups.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterator

from relayd.mail.address import Mailbox, fold_domain


class Subject:
    """One mailbox under a rule's eyes. A recipient's is built once per evaluation, never shared."""

    __slots__ = ("domain", "key", "local", "mailbox", "others", "probes", "tag", "wide")

    def __init__(self, mailbox: Mailbox, separators: str = "") -> None:
        self.mailbox = mailbox
        self.local, self.domain = mailbox.local.lower(), fold_domain(mailbox.domain)
        self.key = f"{self.local}@{self.domain}"  # as Mailbox.key
        # from the most to the least exact: mailbox, domain, sub-domains, local part
        self.probes = (self.key, *domain_probes(self.domain), f"{self.local}@")
        stem, self.tag = split_tag(self.mailbox.local, separators) if separators else ("", "")
        stem = stem.lower()
        # what a tagged mailbox is also known by, and whether a stage lets it (Stage.candidates)
        self.others = (f"{stem}@{self.domain}", f"{stem}@") if stem else ()
        self.wide = self.others


@functools.lru_cache(maxsize=1024)
def sender_subject(sender: Mailbox) -> Subject:
    """The sender's, which no stage changes: the same for all recipients of a message, and later."""
    return Subject(sender)


def split_tag(local: str, separators: str) -> tuple[str, str]:
    """`info+news` into `info` and `+news`; no tag: two empty strings."""
    for at in range(1, len(local)):
        if local[at] in separators:
            return local[:at], local[at:]
    return "", ""


@functools.lru_cache(maxsize=4096)
def domain_probes(domain: str) -> tuple[str, ...]:
    """A folded domain's own probe, then those of its parents' sub-domains."""
    if domain.startswith("["):
        return (f"@{domain}",)
    parents, rest = [], domain
    while "." in rest:
        rest = rest.partition(".")[2]
        parents.append("@." + rest)
    return (f"@{domain}", *parents)


@functools.lru_cache(maxsize=4096)
def client_number(address: str) -> tuple[int, int] | None:
    """(4 or 6, the address as a number); IPv4 mapped into IPv6 is IPv4; None: it is no address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed.version, int(parsed)


class NetIndex:
    """Networks, found by prefix length and bits; the value is whatever was stored with one."""

    __slots__ = ("_nets", "_shifts")

    def __init__(self) -> None:
        self._nets: dict[tuple[int, int, int], list[int]] = {}
        self._shifts: list[tuple[int, int]] = []  # (version, shift), the longest prefix first

    def __len__(self) -> int:
        return len(self._nets)

    def add(self, network: ipaddress.IPv4Network | ipaddress.IPv6Network, value: int) -> None:
        """Store a network."""
        version, shift = network.version, network.max_prefixlen - network.prefixlen
        if (version, shift) not in self._shifts:
            self._shifts = sorted([*self._shifts, (version, shift)], key=lambda pair: pair[1])
        bits = int(network.network_address) >> shift
        self._nets.setdefault((version, shift, bits), []).append(value)

    def stored(self) -> Iterator[tuple[int, int, int, int]]:
        """Each network as its version, how far its bits are shifted, and they; and its value."""
        for (version, shift, bits), values in self._nets.items():
            yield version, shift, bits, values[0]

    def find(self, number: tuple[int, int] | None) -> list[int]:
        """The values of every network that holds the address, the most exact first."""
        if number is None or not self._nets:
            return []
        version, bits = number
        found: list[int] = []
        for family, shift in self._shifts:
            if family == version:
                found += self._nets.get((family, shift, bits >> shift), ())
        return found
