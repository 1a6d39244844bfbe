"""Next hops that depend on the sender become `route sender` rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from relayd.migrate.draft import good_entry, pattern
from relayd.migrate.expressions import refers
from relayd.migrate.nexthops import to_hosts, where
from relayd.migrate.sending import direct_from, has_source
from relayd.migrate.tables import MapText, PatternRow
from relayd.migrate.work import Work, expression_of, when
from relayd.rules.language.regex import search

DEFAULT_BY_SENDER = "sender_dependent_default_transport_maps"
RELAYHOST_BY_SENDER = "sender_dependent_relayhost_maps"
NULL = "<>"  # the key of empty_address_relayhost_maps_lookup_key and its like


def own_nexthop(work: Work, setting: str) -> bool:
    """Whether a transport parameter names a next hop itself, which is stronger than others."""
    return bool(work.main[setting].partition(":")[2])


def by_sender(work: Work) -> str:
    """sender_dependent_relayhost_maps and sender_dependent_default_transport_maps.

    The one that is not understood whole; what is written comes before what is not.
    """
    for setting in (DEFAULT_BY_SENDER, RELAYHOST_BY_SENDER):
        tests: list[str] = []
        relay = work.relay.operand(work.draft) if work.relay else ""
        if setting == DEFAULT_BY_SENDER:  # it has no say about relay domains
            tests = [f"not to {relay}"] if relay else []
        elif own_nexthop(work, "default_transport"):  # which is stronger, but for relay domains
            if work.main[setting] and not relay:
                why = "default_transport names a next hop, which is stronger"
                work.report.unneeded(setting, why)
                continue
            tests = [f"to {relay}"]
        steps, understood = _steps(work, setting)
        for step in steps:
            if step.route:
                rule = f"route {step.whom} {step.route}{when([*step.tests, *tests])}"
                work.draft.rule("route", rule, setting)
            else:  # not for what is less exact
                tests += [f"not {step.whom}"]
        if steps:
            count = sum(step.count for step in steps)
            work.report.translated(setting, f"{count:,} senders with a route of their own")
        elif not work.main[setting]:
            work.report.same(setting, "none")
        if setting in work.incomplete or not understood:
            return setting
    return ""


@dataclass
class _Step:
    """Senders with the same route, or with none of their own: what is less exact does not count."""

    whom: str
    route: str
    tests: Sequence[str] = ()
    count: int = 1


def _steps(work: Work, setting: str) -> tuple[list[_Step], bool]:
    """In Postfix's order: whole addresses and expressions of all tables, then whole domains.

    And whether that is all of it.
    """
    steps: list[_Step] = []
    wide: dict[str, list[str]] = {}  # route -> @domain keys
    seen: set[str] = set()
    for table in work.tables(setting):
        exact: dict[str, list[str]] = {}
        for row in table.rows:
            bare = "@" not in row.key and row.key != NULL
            keys = [f"{row.key}@{at}" for at in work.bare_domains] if bare else [row.key]
            keys = [key for key in keys if key not in seen]
            seen.update(keys)
            route = _sender_route(work, setting, row.value, f"{table.where(row.line)}: {row.key}")
            if route is None:
                for key in keys:
                    scope = (f"sender {_operand(key)}",) if good_sender(key) else ()
                    work.close(scope, setting, f"{table.where(row.line)}: {row.key} {row.value}")
                continue
            (wide if row.key.startswith("@") else exact).setdefault(route, []).extend(keys)
        steps += [step for group in exact.items() for step in _grouped(work, setting, *group)]
        for each in table.patterns:
            step = _expression(work, setting, table, each)
            if step is None:
                return steps, False
            steps.append(step)
    return [
        *steps,
        *(step for each in wide.items() for step in _grouped(work, setting, *each)),
    ], True


def _grouped(work: Work, setting: str, route: str, keys: Sequence[str]) -> Iterator[_Step]:
    bad = [key for key in keys if not good_sender(key)]
    for key in bad:
        work.close((), setting, f"{key} is no address")
    good = [_operand(key) for key in keys if key not in bad]
    tagged = work.tagged_senders([each for each in good if each != "null"])
    if len(good) > 3 and "null" not in good:
        good = [work.draft.list_of("senders", good, setting)]
    if good:
        yield _Step(f"sender {', '.join([*good, *tagged])}", route, (), len(keys))


def _expression(work: Work, setting: str, table: MapText, row: PatternRow) -> _Step | None:
    """One expression; None: it is not understood, nor who is left behind it."""
    where = table.where(row.line)
    found = work.condition(row, table.spec, "sender")
    route = None if refers(row.value) else _sender_route(work, setting, row.value, where)
    if isinstance(found, str) or route is None:
        why = found if isinstance(found, str) else row.value
        work.report.lost(
            setting,
            f"{where}: {why}: not understood; what nothing before it routes is asked to come later",
        )
        return None
    operand, tests = found
    if not route and tests:
        work.report.lost(
            setting,
            f"{where}: `if` around DUNNO; what nothing before it routes is asked to come later",
        )
        return None
    null = operand != "any" and search(expression_of(operand), NULL) is not None
    return _Step(f"sender {operand}{', null' if null else ''}", route, tests)


def good_sender(key: str) -> bool:
    """Whether a rule can name it."""
    return key == NULL or good_entry(key)


def _operand(key: str) -> str:
    return "null" if key == NULL else pattern(key)


def _sender_route(work: Work, setting: str, value: str, spot: str) -> str | None:
    """The end of a route; empty: as if there were no entry; None: not understood."""
    if value.upper() == "DUNNO":
        return ""
    if setting == DEFAULT_BY_SENDER:
        found = where(work, value, title="")
        if found.direct and own_nexthop(work, "default_transport"):
            work.report.lost(setting, f"{spot}: {value}: relayhost would count, for these alone")
            return None
        name = value.partition(":")[0]
        if found.direct and has_source(work, name):
            if not work.main["relayhost"]:
                return direct_from(work, name)
            work.report.lost(
                setting, f"{spot}: {value}: relayhost is reached from any address of ours"
            )
        if found.direct:  # a transport without a next hop: any relayhost counts
            return ""
    else:
        found = to_hosts(work, value, "")
    if not found.route:
        work.report.lost(setting, f"{spot}: {found.why or f'{value} is no host'}")
        return None
    return found.route
