"""What can be known to be wrong with rules before any mail comes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

from relayd.mail.envelope import Direction
from relayd.mail.nexthop import NextHop
from relayd.mail.pacing import PROVIDER, VIA
from relayd.rules.conditions.condition import Condition
from relayd.rules.fact import Fact, Known
from relayd.rules.language.model import (
    AdmissionRule,
    Ask,
    Copy,
    DkimDef,
    DnsListDef,
    Expect,
    FilterDef,
    Forward,
    HeaderEdit,
    HeaderRewrite,
    HopDef,
    Item,
    LimitDef,
    PaceDef,
    ProviderDef,
    Rewrite,
    Route,
    Rule,
    Sign,
    SourceDef,
    TableDef,
)
from relayd.rules.language.pattern import InTable
from relayd.rules.language.source import Place, Problem, did_you_mean
from relayd.rules.sendas import SendAs
from relayd.rules.srsrule import SrsOurs
from relayd.rules.tables.table import ListTable, MapTable, Table, TransportTable
from relayd.rules.tables.userstable import DovecotTable, UsersTable

_CALLED = {"next-hop": "next hop", "milter": "filter"}
"""What a statement defines, where it is called otherwise; a filter may be of any kind."""
_EXAMINING = (AdmissionRule, Ask, Copy, Forward, HeaderEdit, HeaderRewrite, Rewrite, Route, Sign)
"""Rules that may look at the content."""


def name_problems(items: Sequence[Item], broken: Set[str] = frozenset()) -> list[Problem]:
    """Names given twice, and names used that nobody gave; `broken` statements may give some."""
    problems: list[Problem] = []
    tables = _names(
        problems, "table", [(i.name, i.place) for i in items if isinstance(i, TableDef)]
    )
    hops = _names(
        problems, "next hop", [(i.hop.name, i.place) for i in items if isinstance(i, HopDef)]
    )
    lists = _names(
        problems, "list", [(i.name, i.place) for i in items if isinstance(i, DnsListDef)]
    )
    sources = _names(
        problems, "source", [(i.source.name, i.place) for i in items if isinstance(i, SourceDef)]
    )
    providers = _providers(problems, items)
    filters = _names(
        problems, "filter", [(i.name, i.place) for i in items if isinstance(i, FilterDef)]
    )
    limits = _names(
        problems, "limit", [(i.name, i.place) for i in items if isinstance(i, LimitDef)]
    )
    defined = {
        "table": tables,
        "next-hop": hops,
        "dnsbl": lists,
        "milter": filters,
        "limit": limits,
        "dkim": _signers(problems, items),
        "source": sources,
        "provider": providers,
    }
    missing: dict[tuple[str, str], list[Place]] = {}  # a word and a name: where it is used
    for item in items:
        if isinstance(item, PaceDef):
            word = {PROVIDER: "provider", VIA: "next-hop"}.get(item.pace.kind)
            known = providers if word == "provider" else hops
            if word is not None and item.pace.whom not in known and item.pace.whom not in broken:
                missing.setdefault((word, item.pace.whom), []).append(item.place)
        if not isinstance(item, Rule):
            continue
        for word, name in _named(item):
            if name not in defined[word] and name not in broken:
                missing.setdefault((word, name), []).append(word_at(item.place, name))
        for name in dict.fromkeys(used_tables(item)):
            if name not in tables and name not in broken:
                missing.setdefault(("table", name), []).append(word_at(item.place, name))
        source = item.source if isinstance(item, Route) else ""
        if source and source not in sources and source not in broken:
            at = word_at(item.place, f"from {source}")
            at = Place(at.source, at.line, at.column + len("from "), len(source))
            missing.setdefault(("source", source), []).append(at)
        for name in _used_hops(item):
            if name not in hops and name not in broken:
                missing.setdefault(("next-hop", name), []).append(word_at(item.place, name))
    for (word, name), places in missing.items():
        kinds = "rspamd, clamd, policy or milter" if word == "milter" else word
        hint = did_you_mean(name, defined[word]) or f'expected a statement "{kinds} {name} ..."'
        what = f"there is no {_CALLED.get(word, word)} {name}"
        if len(places) > 1:
            what += f", which {len(places):,} rules name"
        problems.append(Problem(places[0], what, hint, also=tuple(places[1:])))
    return problems


def _names(problems: list[Problem], what: str, given: list[tuple[str, Place]]) -> dict[str, Place]:
    places: dict[str, Place] = {}
    for name, place in given:
        first = places.setdefault(name, place)
        if first is not place:
            problems.append(
                Problem(
                    place, f"{what} {name} is defined already, at {first}", "expected another name"
                )
            )
    return places


def _providers(problems: list[Problem], items: Sequence[Item]) -> dict[str, Place]:
    """Where each is defined. Another file may define it anew, as the one that is shipped is for."""
    given: dict[str, list[tuple[str, Place]]] = {}
    for item in items:
        if isinstance(item, ProviderDef):
            each = item.provider.name, item.place
            given.setdefault(item.place.source.path, []).append(each)
    known: dict[str, Place] = {}
    for file in given.values():
        known |= _names(problems, "provider", file)
    return known


def _signers(problems: list[Problem], items: Sequence[Item]) -> dict[str, Place]:
    """Where each is defined. One selector has one key, whoever names it (RFC 6376 3.6.2.2)."""
    given = [item for item in items if isinstance(item, DkimDef)]
    taken: dict[tuple[str, str], DkimDef] = {}
    for item in given:
        for key in (*item.keys, *item.retired):
            first = taken.setdefault((item.domain, key.selector), item)
            if first is not item:
                what = (
                    f"selector {key.selector} of {item.domain} has a key already, at {first.place}"
                )
                problems.append(Problem(key.place, what, "expected another selector"))
    return _names(problems, "dkim", [(item.name, item.place) for item in given])


def word_at(place: Place, word: str) -> Place:
    """Where a word stands in a statement, whose lines after the first are indented; or itself."""
    number, start = place.line, place.column + place.width - 1
    line = place.source.line(number)
    while True:
        at = line.find(word, start)
        if at >= 0:
            return Place(place.source, number, at + 1, len(word))
        number, start = number + 1, 0
        line = place.source.line(number)
        if not line[:1].isspace():
            return place


def used_tables(rule: Rule) -> Iterator[str]:
    """The tables a rule names."""
    if isinstance(rule, Route) and rule.table:
        yield rule.table
    for condition in rule.tests:
        yield from condition.tables
    if isinstance(rule, Forward | Rewrite | HeaderRewrite | SrsOurs | SendAs):
        yield from (each.name for each in rule.patterns if isinstance(each, InTable))


def _used_hops(rule: Rule) -> Iterable[str]:
    if isinstance(rule, Copy | Route):
        return rule.hops
    if isinstance(rule, Expect):
        goals = (*rule.destinations, *rule.copies)
        ways = [Direction.parse(goal.next_hop) for goal in goals if goal.next_hop]
        # the name of a transport map's next hop is its text, with colons
        return [name for way in ways for name in way.names if ":" not in name]
    return ()


def _named(rule: Rule) -> Iterable[tuple[str, str]]:
    stated = rule.stated if isinstance(rule, Expect) else ()
    asked = [("milter", name) for name in rule.names] if isinstance(rule, Ask) else []
    signs = [("dkim", rule.name)] if isinstance(rule, Sign) else []
    looked_at = (name for each in (*rule.tests, *stated) for name in each.named)
    return dict.fromkeys([*asked, *signs, *looked_at])


def unanswered(items: Sequence[Item], not_asked: Set[Fact]) -> list[Problem]:
    """Conditions on facts that nobody is asked for: all mail would wait for them, for ever."""
    return [
        Problem(
            word_at(item.place, condition.word),
            f"{fact} is not looked up: this would never be known, and mail refused with 451 4.3.0",
            "expected another condition",
        )
        for item, condition, fact in looking_at(items, not_asked)
    ]


def looking_at(items: Iterable[Item], facts: Set[Fact]) -> Iterator[tuple[Rule, Condition, Fact]]:
    """Rules that look at one of these facts, and by which condition."""
    for item in items:
        if isinstance(item, Rule):
            for condition in item.tests:
                for fact in condition.needs & facts:
                    yield item, condition, fact


def content_problems(items: Sequence[Item]) -> list[Problem]:
    """Rules that look at the content where it is not known, or where it is too late for them."""
    problems = []
    for item in items:
        tests = item.tests if isinstance(item, Rule) else ()
        looks = next((each for each in tests if each.known is Known.CONTENT), None)
        if looks is None:
            continue
        if not isinstance(item, _EXAMINING):
            what = f'the content is not known here: "{looks.word}" cannot be asked for'
            place = word_at(item.place, looks.word)
            problems.append(Problem(place, what, "expected another condition"))
        elif isinstance(item, AdmissionRule) and item.for_all:
            problems += _about_recipients(item, looks)
    return problems


def _about_recipients(rule: AdmissionRule, looks: Condition) -> Iterator[Problem]:
    for condition in rule.tests:
        if any(fact.known is Known.RECIPIENT for fact in condition.needs):
            yield Problem(
                word_at(rule.place, condition.word),
                f'"{rule.verb}" with "{looks.word}" is decided when the content is there, for all '
                f'recipients at once: it cannot look at "{condition.word}"',
                'expected "hold" or "discard", which are for each, or a rule without '
                f'"{looks.word}"',
            )
            return


def table_problems(items: Sequence[Item], tables: Mapping[str, Table]) -> list[Problem]:
    """Tables asked for what they cannot hold."""
    problems = []
    for item in items:
        if not isinstance(item, Rule):
            continue
        for name, wrong, hint in _misused(item, tables):
            problems.append(Problem(word_at(item.place, name), wrong, hint))
    return problems


def _misused(rule: Rule, tables: Mapping[str, Table]) -> Iterator[tuple[str, str, str]]:
    for name in dict.fromkeys(used_tables(rule)):
        if isinstance(tables[name], DovecotTable):
            yield (
                name,
                f"table {name} can only be asked for passwords",
                'expected "login any", or a table that lists names',
            )
    for condition in rule.tests:
        yield from condition.misused(tables)
    if isinstance(rule, Route) and rule.table and tables[rule.table].kind != "transport":
        yield (
            rule.table,
            f"table {rule.table} says not where mail goes",
            f'expected "route to <{rule.table}> via ..." or a transport table',
        )
    if isinstance(rule, Forward | Rewrite | HeaderRewrite):
        targets = rule.targets if isinstance(rule, Forward) else (rule.replacement,)
        if any(targets):
            return
        for pattern in rule.patterns:
            if not isinstance(pattern, InTable):
                continue
            table = tables[pattern.name]
            if isinstance(table, ListTable | TransportTable | UsersTable):
                yield (
                    pattern.name,
                    f"table {pattern.name} says not what an address becomes",
                    'expected "-> TARGET", or a table of kind aliases, virtual or canonical',
                )
            elif isinstance(table, MapTable) and table.bare and not rule.at:
                yield (
                    pattern.name,
                    f"table {pattern.name} has names without a domain, which would never match",
                    f'expected "<{pattern.name}> at @example.com"',
                )


def hop_problems(
    hops: Mapping[str, NextHop],
    places: Mapping[str, Place],
    own: Sequence[tuple[str, int]],
    hostname: str,
) -> list[Problem]:
    """Next hops that are ourselves: `own` are the addresses and ports we listen on."""
    problems = []
    here = set(own) | {(hostname.lower(), port) for _, port in own}
    for address, port in own:
        if address in ("0.0.0.0", "::"):  # every address of ours
            here |= {(name, port) for name in ("127.0.0.1", "::1", "localhost")}
    for name, hop in hops.items():
        for host in hop.hosts:
            if (host.host.lower(), host.port) in here and name in places:
                problems.append(
                    Problem(
                        places[name],
                        f"next hop {name} is this relay itself ({host})",
                        "expected another host: mail would go in circles",
                    )
                )
    return problems
