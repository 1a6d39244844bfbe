"""Postfix's lists of domains and of networks: names, files, tables, and what is excepted."""

from __future__ import annotations

import ipaddress
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from relayd.mail.address import AddressError, check_domain
from relayd.migrate.draft import ConfigDraft
from relayd.migrate.expressions import addresses_only, carried
from relayd.migrate.maincf import MainCf, split
from relayd.migrate.report import ImportReport
from relayd.migrate.tables import (
    PATTERNS,
    Expression,
    MapSpec,
    PostfixTables,
    is_table,
    uncommented,
)
from relayd.rules.language.lexer import string

WHOLE_NAMES = ("mydestination", "virtual_alias_domains", "virtual_mailbox_domains")
"""Lists in which a domain stands for itself, and never for what is below it."""
MAX_NESTING = 10  # files in files
_INSIDE = re.compile(r"(\\.|\[\^?\]?[^\]]*\])|\^")  # a ^ that stands for the beginning
_GROUP = re.compile(r"[0-9a-fA-F]{1,4}\Z")  # of an IPv6 address
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass
class Names:
    """What a list holds, ready to be an operand."""

    name: str  # of the table
    entries: list[str] = field(default_factory=list)
    excepted: list[str] = field(default_factory=list)
    expressions: list[str] = field(default_factory=list)
    everything: bool = False
    origin: str = ""
    doubt: str = ""  # why it may hold more than stands here

    def __bool__(self) -> bool:
        return bool(self.entries or self.expressions or self.everything)

    def operand(self, draft: ConfigDraft) -> str:
        """`<local-domains>, regex "..."`."""
        if self.everything:
            return "any"
        table = draft.list_of(self.name, self.entries, self.origin)
        return ", ".join(
            [*([table] if table else []), *(f"regex {string(text)}" for text in self.expressions)]
        )

    def exception(self, draft: ConfigDraft) -> str:
        """The table of what is excepted; mostly empty."""
        return draft.list_of(f"{self.name}-except", self.excepted, f"! in {self.origin}")


@dataclass(frozen=True)
class DomainReader:
    """Reads lists for one configuration."""

    main: MainCf
    shelf: PostfixTables
    report: ImportReport

    def lost(self, names: Names, why: str, mark: str) -> None:
        """Say what of a list could not be read, which leaves the list in doubt."""
        self.report.lost(names.origin, why, mark)
        names.doubt = names.doubt or f"{names.origin}: {why}"

    def domains(self, setting: str, name: str) -> Names:
        """A list of domains such as `mydestination` or `relay_domains`."""
        names = Names(name, origin=setting)
        parents = None  # whole names only, with or without a dot before them
        if setting not in WHOLE_NAMES:
            parents = setting in split(self.main["parent_domain_matches_subdomains"])
        for word, negated in self._items(names):
            found: list[str] = []
            if is_table(word):
                if negated:  # whom it excepts of what follows cannot be told
                    self.lost(names, f"!{word}: a table that excepts", f"map:{word}")
                    break
                self._domain_table(MapSpec.parse(word), setting, names, found, parents)
            else:
                found = self._domain(word, names, parents)
            if negated:
                names.excepted += self._effective(setting, found, names, _domain_within)
            else:
                names.entries += found
        names.entries = list(dict.fromkeys(names.entries))
        return names

    def _effective(
        self, setting: str, found: Sequence[str], names: Names, within: Callable[[str, str], bool]
    ) -> list[str]:
        """What an exception takes away: nothing of what stands before it, for first match wins."""
        kept = []
        for each in found:
            if any(within(each, entry) for entry in names.entries):
                self.report.note(
                    f"{setting}: !{each} stands behind what it is to except from, so it"
                    " has no effect with Postfix, nor here"
                )
            else:
                kept.append(each)
        return kept

    def _domain(self, word: str, names: Names, parents: bool | None) -> list[str]:
        text = word.lower().rstrip(".")
        if text.startswith("["):
            return []  # an address literal: whoever writes one means this very host
        try:
            check_domain(text.removeprefix("."))
        except AddressError as error:
            self.lost(names, f'"{word}" is no domain: {error}', f"domain:{text}")
            return []
        if not text.startswith("."):
            return [text, f".{text}"] if parents else [text]
        if parents is False:
            return [text]
        why = (
            "it is a list of whole names"
            if parents is None
            else f"it is in parent_domain_matches_subdomains, and would have to read {text[1:]}"
        )
        self.report.note(f"{names.origin}: {text} fits nothing with Postfix, nor here: {why}")
        return []

    def _domain_table(
        self, spec: MapSpec, setting: str, names: Names, into: list[str], parents: bool | None
    ) -> None:
        table = self.shelf.read(spec)
        if table.trouble:
            self.lost(names, f"{spec}: {table.trouble}", f"map:{spec}")
            return
        own = not self.main.is_given(setting)  # the domains are the map's keys without an @
        for row in table.rows:
            if own and "@" not in row.key and "." not in row.key:
                self.report.note(
                    f"{spec}: a key without a dot, as {row.key}, is a name of the local"
                    " domains, and a domain as well, as Postfix has it"
                )
            if "@" not in row.key:
                into += self._domain(row.key, names, parents)
        for pattern in table.patterns:
            tests = (pattern.expression, *pattern.guards)
            if own and any(addresses_only(each, spec.type) for each in tests):
                continue  # it is about addresses, as most of such a map is
            if pattern.guards:
                self.lost(names, f"{spec}: `if` blocks are not carried over here", f"map:{spec}")
            elif spec.type not in PATTERNS and pattern.expression.text:
                self.lost(names, f"{spec}: domains are no networks", f"map:{spec}")
            elif not pattern.expression.text:
                names.everything = True
            else:
                self._domain_pattern(spec, pattern.expression, names)

    def _domain_pattern(self, spec: MapSpec, expression: Expression, names: Names) -> None:
        text = expression.text
        behind = text[1:] if text.startswith("^") else f"[^@]*{text}"
        # where a domain begins there is an @ before it
        behind = _INSIDE.sub(lambda match: match[1] or "(?<=@)", behind)
        found = carried(Expression(f"@{behind}", expression.flags, False), spec.type)
        if found.text and not expression.negated:
            names.expressions.append(found.text)
        else:
            why = found.why or "it is negated"
            self.lost(names, f"{spec}: /{text}/: {why}", f"map:{spec}")

    def networks(self, setting: str, name: str, words: Sequence[str] | None = None) -> Names:
        """A list of networks such as `mynetworks`; `words` in place of its value."""
        names = Names(name, origin=setting)
        items = self._items(names) if words is None else ((word, False) for word in words)
        for word, negated in items:
            if is_table(word) and not re.match(r"[0-9a-fA-F:]+(/\d+)?\Z", word):
                self._network_table(MapSpec.parse(word), names, negated=negated)
                if negated:
                    break
                continue
            network = network_of(word)
            if network is None:
                self.lost(
                    names,
                    f'"{word}" is no network: write it with its host bits at 0, or leave it'
                    " out; its hosts may not relay",
                    f"network:{word}",
                )
                if negated:
                    break
            elif is_mapped(network):
                self.report.note(
                    f"{setting}: {word} fits nobody with Postfix, nor here: IPv4 is written as IPv4"
                )
            elif negated:
                names.excepted += self._effective(setting, [network], names, _network_within)
            else:
                names.entries.append(network)
        names.entries = _widest(names.entries)
        return names

    def _network_table(self, spec: MapSpec, names: Names, *, negated: bool) -> None:
        """A table of clients; Postfix stops at the first row of a cidr table that fits."""
        table = self.shelf.read(spec)
        why = table.trouble
        if negated:
            why = "a table that excepts is not carried over"
        elif spec.type != "cidr" and table.patterns:
            why = "relayd's clients are networks, not expressions"
        elif any(row.expression.negated or row.guards for row in table.patterns):
            why = "`!` and `if` are not carried over here"
        if why:
            self.lost(names, f"{spec}: {why}; its hosts may not relay", f"map:{spec}")
            return
        for row in table.patterns:
            self._network(spec, row.expression.text, names)
        for each in table.rows:  # looked up by the whole address and nothing else
            if network_of(each.key) == each.key and "/" not in each.key:
                self._network(spec, each.key, names)
            else:
                self.report.lost(
                    names.origin,
                    f"{table.where(each.line)}: {each.key} is no client's whole address: with"
                    " Postfix it lets nobody in, or clients by name, who may not relay here",
                )

    def _network(self, spec: MapSpec, key: str, names: Names) -> None:
        network = network_of(key)
        if network is None:
            self.lost(names, f"{spec}: {key} is no network", f"entry:{spec} {key}")
        elif not is_mapped(network):
            names.entries.append(network)

    def _words(self, names: Names) -> list[str]:
        words = self.main.words(names.origin)
        kept = uncommented(words)
        if kept != words:
            self.report.note(
                f"{names.origin}: Postfix reads no further than {words[len(kept)]}: behind other"
                f" text it begins no comment, and {' '.join(words[len(kept) :])} is lost"
            )
        return kept

    def _items(
        self, names: Names, text: str | None = None, depth: int = 0
    ) -> Iterator[tuple[str, bool]]:
        """Each item and whether it is excepted; files are opened."""
        words = self.shelf.lines(text) or [] if text is not None else self._words(names)
        for word in words:
            negated = word.startswith("!")
            word = word.lstrip("!")
            if not word.startswith("/"):
                yield word, negated
            elif depth > MAX_NESTING or self.shelf.lines(word) is None:
                self.lost(names, f"cannot read {word}", f"file:{word}")
            else:
                inner = self._items(names, word, depth + 1)
                yield from ((each, negated != other) for each, other in inner)


def network_of(text: str) -> str | None:
    """`[::1]/128`, `192.0.2.0/24`, and access(5)'s `192.0.2`, as relayd writes it."""
    bare = text.replace("[", "").replace("]", "")
    octets = bare.split(".")
    if ":" not in bare and "/" not in bare and len(octets) < 4 and all(map(str.isdigit, octets)):
        bare = ".".join(octets + ["0"] * (4 - len(octets))) + f"/{8 * len(octets)}"
    groups = bare.split(":")
    if "/" not in bare and 1 < len(groups) < 8 and all(map(_GROUP.match, groups)):
        # access(5)'s `2001:db8:1`: the first groups; neighbours of 0, and what may come behind a
        # 0 at the end, are written as ::
        zero = [int(group, 16) == 0 for group in groups]
        if zero[-1] or any(map(operator.and_, zero, zero[1:])):
            return None
        bare = f"{bare}::/{16 * len(groups)}"
    try:
        network = ipaddress.ip_network(bare)
    except ValueError:
        return None
    whole = network.prefixlen == network.max_prefixlen
    return str(network.network_address if whole else network)


def is_mapped(text: str) -> bool:
    """Whether it is a network of IPv4 within IPv6, in which nobody is: IPv4 is written as IPv4."""
    try:
        network = ipaddress.ip_network(network_of(text) or "::")
    except ValueError:
        return False
    return network.version == 6 and network.subnet_of(_MAPPED)


def _domain_within(inner: str, outer: str) -> bool:
    return inner == outer or (outer.startswith(".") and inner.endswith(outer))


def _network_within(inner: str, outer: str) -> bool:
    small, large = ipaddress.ip_network(inner), ipaddress.ip_network(outer)
    if small.version != large.version:
        return False
    return small.subnet_of(large)  # type: ignore[arg-type]  # of one version


def _widest(networks: Sequence[str]) -> list[str]:
    """Without those that lie inside another, in order."""
    unique = list(dict.fromkeys(networks))
    return [
        each
        for each in unique
        if not any(each != other and _network_within(each, other) for other in unique)
    ]
