"""What postscreen(8) says of clients before smtpd(8) meets them: its list, and lists in the DNS."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from relayd.migrate.asking import combinations, dns_list
from relayd.migrate.domains import network_of
from relayd.migrate.maincf import MainCf
from relayd.migrate.moves import ListState, Move, Permit, Refuse, Scope
from relayd.migrate.tables import MapSpec, is_table
from relayd.migrate.work import Work

LIST = "postscreen_access_list"
SITES = "postscreen_dnsbl_sites"
MOST_SETS = 32  # of lists that together are enough
_SAID = (
    "postscreen_denylist_action",
    "postscreen_blacklist_action",
    "postscreen_dnsbl_action",
    "postscreen_dnsbl_threshold",
)
SCREEN_ACTS = ("enforce", "drop")
_LISTED = '550 5.3.2 "Service currently unavailable"'
_SITE = re.compile(r"(.+?)(?:\*(-?\d+))?\Z")


def postscreen(
    work: Work, state: ListState, main: MainCf, scope: Scope, trusted: Callable[[], Sequence[Move]]
) -> None:
    """Refusals for the clients of one listener; `trusted`: what permit_mynetworks says."""
    for word in main.words(LIST):
        moves: Iterable[Move] = (
            trusted() if word == "permit_mynetworks" else _table(work, main, word, scope)
        )
        for move in moves:
            state.take(move)
    for move in _sites(work, main, scope):
        state.take(move)
    for name in _SAID:
        if main.is_given(name):
            work.report.translated(name, "in the rules for what postscreen says")


def _table(work: Work, main: MainCf, word: str, scope: Scope) -> Iterator[Move]:
    table = work.shelf.read(MapSpec.parse(word)) if is_table(word) else None
    rows = [] if table is None else table.patterns
    simple = all(not (row.guards or row.expression.negated) for row in rows)
    if table is None or table.trouble or table.rows or table.spec.type != "cidr" or not simple:
        why = (
            table.trouble
            if table is not None and table.trouble
            else "a cidr table can be carried over"
        )
        work.report.lost(
            LIST, f"{word}: {why}; its clients are let through to smtpd's restrictions"
        )
        return
    acts = main["postscreen_denylist_action"].lower() in SCREEN_ACTS
    passed: list[Scope] = []
    for row in rows:
        network, value = network_of(row.expression.text), row.value.lower()
        if network is None:
            work.report.lost(LIST, f"{table.where(row.line)}: {row.expression.text} is no network")
            continue
        whom = (*scope, f"from {network}")
        if value == "permit":
            yield Permit(whom, str(table.spec), tuple(passed))
        elif value == "reject" and acts:
            yield Refuse(whom, str(table.spec), tuple(passed), _LISTED)
        passed.append((f"from {network}",))  # the first one that fits counts
    work.report.translated(LIST, f"{len(rows):,} networks of {table.spec}")


def _sites(work: Work, main: MainCf, scope: Scope) -> Iterator[Move]:
    """Each least set of lists whose weights reach the threshold."""
    if not main.words(SITES):
        return
    if main["postscreen_dnsbl_action"].lower() not in SCREEN_ACTS:
        work.report.unneeded(SITES, "postscreen_dnsbl_action: it was logged only")
        return
    sites: list[tuple[str, int]] = []
    for text in main.words(SITES):
        match = _SITE.match(text)
        weight = int(match[2] or 1) if match is not None else 0
        kind = "dnsbl" if weight > 0 else "dnswl"
        name = dns_list(work, match[1], kind) if match is not None else ""
        if not name:
            work.report.lost(
                SITES, f"{text}: its zone, or the answers that count, are not understood"
            )
            return
        sites.append((name, weight))
    threshold = main["postscreen_dnsbl_threshold"]
    wanted = int(threshold) if threshold.isdigit() else 1
    sets = list(islice(combinations(sites, wanted), MOST_SETS + 1))
    if len(sets) > MOST_SETS:
        work.report.lost(SITES, f"more than {MOST_SETS} sets of lists reach the threshold")
        return
    for some in sets:
        reply = '550 5.7.1 "Service unavailable; client host is on a block list"'
        yield Refuse((*scope, *some), f"{SITES}, {wanted} of all weights", (), reply)
    work.report.translated(SITES, f"{len(sets)} sets of lists whose weights come to {wanted}")
