"""Next hops that depend on the sender become `route sender` rules."""

from __future__ import annotations

from collections.abc import Sequence

from relayd.mail.address import AddressError
from relayd.migrate.draft import good_entry, pattern
from relayd.migrate.nexthops import to_hosts, where
from relayd.migrate.tables import MapText, PostfixRow
from relayd.migrate.work import Work, when

_DEFAULT_BY_SENDER = "sender_dependent_default_transport_maps"


def own_nexthop(work: Work, setting: str) -> bool:
    """Whether a transport parameter names a next hop itself, which is stronger than others."""
    return bool(work.main[setting].partition(":")[2])


def by_sender(work: Work) -> bool:
    """sender_dependent_relayhost_maps and sender_dependent_default_transport_maps.

    Whether all of them is understood; what is written comes before what is not.
    """
    understood = True
    for setting in (_DEFAULT_BY_SENDER, "sender_dependent_relayhost_maps"):
        if work.main[setting] and own_nexthop(work, "default_transport"):
            work.report.unneeded(setting, "default_transport names a next hop, which is stronger")
            continue
        groups: dict[tuple[bool, str], list[str]] = {}
        for table in work.tables(setting):
            for row in table.rows:
                route = _sender_route(work, setting, table, row)
                if route:
                    keys = (
                        [row.key]
                        if "@" in row.key
                        else [f"{row.key}@{at}" for at in work.bare_domains]
                    )
                    groups.setdefault((row.key.startswith("@"), route), []).extend(keys)
            for pattern_row in table.patterns:
                work.report.lost(
                    setting,
                    f"{table.where(pattern_row.line)}: expressions are not carried over here; what"
                    " nothing before it routes is asked to come later",
                )
                understood = False
        # the first has no say about relay domains
        spared = setting == _DEFAULT_BY_SENDER and bool(work.relay)
        tests = [f"not to {work.relay.operand(work.draft)}"] if spared else []
        for (_, route), keys in sorted(groups.items(), key=lambda item: item[0][0]):
            operand = _senders(work, setting, keys)
            if operand:
                rule = f"route sender {operand} {route}{when(tests)}"
                work.draft.rule("route", rule, setting)
        if groups:
            count = sum(map(len, groups.values()))
            work.report.translated(setting, f"{count:,} senders with a route of their own")
        elif not work.main[setting]:
            work.report.same(setting, "none")
        if setting in work.incomplete or not understood:
            return False
    return True


def _senders(work: Work, setting: str, keys: Sequence[str]) -> str:
    good = []
    for key in keys:
        try:
            good.append(pattern(key))
        except AddressError as error:
            work.close((), setting, f"{key}: {error}")
    tagged = work.tagged_senders(good)
    if len(good) > 3:
        good = [work.draft.list_of("senders", good, setting)]
    return ", ".join([*good, *tagged])


def _sender_route(work: Work, setting: str, table: MapText, row: PostfixRow) -> str:
    if row.value.upper() == "DUNNO":
        return ""
    if setting == _DEFAULT_BY_SENDER:
        found = where(work, row.value, title="")
    else:
        found = to_hosts(work, row.value, "")
    if not found.route:
        why = found.why or f"{row.value} is no host"
        scope = () if not good_entry(row.key) else (f"sender {row.key}",)
        work.close(scope, setting, f"{table.where(row.line)}: {row.key}: {why}")
    return found.route
