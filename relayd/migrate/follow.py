"""Follows canonical maps to their end: map after map, again and again, then masqueraded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from relayd.migrate.tables import MapText, PatternRow

MAX_ROUNDS = 10  # Postfix's own


@dataclass
class Keyed:
    """The looked-up part of one canonical parameter."""

    setting: str
    exact: dict[str, str] = field(default_factory=dict)
    domains: dict[str, str] = field(default_factory=dict)  # domain -> "@domain" or an address
    tables: list[tuple[MapText, list[str]]] = field(default_factory=list)  # keys first found there
    single: MapText | None = None  # its only table, if its text is as relayd reads it

    def __bool__(self) -> bool:
        return bool(self.exact or self.domains or self.patterns)

    @property
    def patterns(self) -> list[tuple[MapText, PatternRow]]:
        """The expressions of all its tables."""
        return [(table, row) for table, _ in self.tables for row in table.patterns]

    def once(self, address: str) -> str | None:
        """What one lookup makes of an address."""
        found = self.exact.get(address.lower())
        if found is None:
            local, _, domain = address.rpartition("@")
            found = self.domains.get(domain.lower())
            if found is not None and found.startswith("@"):
                return local + found
        return found

    def whole(self, address: str) -> str:
        """The address at its end."""
        for _ in range(MAX_ROUNDS):
            found = self.once(address)
            if found is None or found.lower() == address.lower():
                break
            address = found
        return address

    def whole_domain(self, domain: str) -> str:
        """Where `@domain` leads when no entry of its own applies: `@other`, or an address."""
        seen = set()
        while domain in self.domains and domain not in seen:
            seen.add(domain)
            target = self.domains[domain]
            if not target.startswith("@"):
                return self.whole(target)
            domain = target[1:].lower()
        return "@" + domain


@dataclass(frozen=True)
class Masquerade:
    """`masquerade_domains`: sub-domains are hidden behind their parent."""

    domains: tuple[str, ...] = ()  # in order; "!name" is left alone
    exceptions: tuple[str, ...] = ()

    def domain(self, domain: str) -> str:
        """The domain that is shown."""
        for each in self.domains:
            name = each.lstrip("!")
            if domain == name:
                return domain
            if domain.endswith("." + name):
                return domain if each.startswith("!") else name
        return domain

    def address(self, address: str) -> str:
        """The address that is shown; `@domain` stands for all of a domain."""
        local, _, domain = address.rpartition("@")
        if local.lower() in self.exceptions:
            return address
        return f"{local}@{self.domain(domain.lower())}"


def end(address: str, keyed: Keyed, then: Sequence[Keyed], hidden: Masquerade) -> str:
    """What an address becomes at last; `@domain` stands for whoever has no entry of his own."""
    for each in (keyed, *then):
        if address.startswith("@"):
            address = each.whole_domain(address[1:].lower())
        else:
            address = each.whole(address)
    return hidden.address(address)


def followed(keyed: Keyed, then: Sequence[Keyed], hidden: Masquerade) -> dict[str, str]:
    """Every key with what it becomes in the end."""
    lines = {key: end(key, keyed, then, hidden) for key in keyed.exact}
    for domain in keyed.domains:
        path = passed(domain, keyed, then)
        # an address of the domain may have an entry of its own further down
        for other in (keyed, *then):
            for key in other.exact:
                local, _, at = key.rpartition("@")
                mine = f"{local}@{domain}"
                if at in path and mine not in lines and mine not in keyed.exact:
                    lines[mine] = end(mine, keyed, then, hidden)
        lines["@" + domain] = end("@" + domain, keyed, then, hidden)
    return lines


def passed(domain: str, keyed: Keyed, then: Sequence[Keyed]) -> list[str]:
    """The domains that `@domain` passes through on its way to the end."""
    path = [domain]
    for each in (keyed, *then):
        here = each.whole_domain(path[-1])
        path += _path(each, path[-1])
        if not here.startswith("@"):
            break
    return path


def _path(keyed: Keyed, domain: str) -> list[str]:
    """The domains that `@domain` passes through, itself included."""
    path = [domain]
    while domain in keyed.domains and keyed.domains[domain].startswith("@"):
        domain = keyed.domains[domain][1:].lower()
        if domain in path:
            break
        path.append(domain)
    return path
