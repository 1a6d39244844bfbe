"""`reject_unverified_recipient`: which next hop knows the mailboxes of which of our domains."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from relayd.migrate.domains import Names
from relayd.migrate.moves import Scope
from relayd.migrate.nexthops import Where, to_hosts, where
from relayd.migrate.work import Work

_CHANGES = (  # verify(8) asks for what they make of a recipient, and rules for what was named
    "canonical_maps",
    "recipient_canonical_maps",
    "virtual_alias_maps",
    "sender_dependent_default_transport_maps",
    "sender_dependent_relayhost_maps",
)


def known_at(work: Work) -> tuple[list[tuple[Scope, str]], str]:
    """Destinations of ours, each with the next hop to ask; and of which it cannot be told, or why.

    Only what is plain is told: domains that a list names, and where the mail of all of a domain
    goes to one next hop.
    """
    changed = [name for name in _CHANGES if work.main[name]]
    if changed:
        return [], f"{changed[0]} may make another address of a recipient"
    rows = _whole_domains(work)
    if rows is None:
        return [], "transport_maps say it of mailboxes or expressions, too, or cannot be read"
    found: dict[tuple[str, str], list[str]] = {}
    unclear: list[str] = []
    for names, onward in ((work.relay, _relay(work)), (work.mailbox, _mailbox(work))):
        excepted = names.exception(work.draft)
        for entry in names.entries:
            nexthop = rows.get(entry)
            place = onward if nexthop is None else where(work, nexthop, title="")
            if len(place.hops) == 1 and not _parted(entry, rows):
                found.setdefault((place.hops[0], excepted), []).append(f"@{entry}")
            else:
                unclear.append(entry)
        unclear += _untold(names)
    scopes = [
        ((f"to {', '.join(entries)}", *([f"not to {but}"] if but else [])), hop)
        for (hop, but), entries in found.items()
    ]
    return scopes, ", ".join(unclear)


def _untold(names: Names) -> Iterator[str]:
    if names.expressions or names.everything or names.doubt:
        yield f"some of {names.origin}"


def _whole_domains(work: Work) -> dict[str, str] | None:
    """transport_maps, where they speak of whole domains alone."""
    tables = work.tables("transport_maps")
    keys = [row.key for table in tables for row in table.rows]
    if "transport_maps" in work.incomplete or any(table.patterns for table in tables):
        return None
    if any("@" in key or key == "*" for key in keys):
        return None
    rows: dict[str, str] = {}
    below = "transport_maps" in work.main.words("parent_domain_matches_subdomains")
    for row in (row for table in tables for row in table.rows):
        for key in (row.key, f".{row.key}") if below else (row.key,):
            rows.setdefault(key.lower(), row.value)
    return rows


def _parted(entry: str, rows: Collection[str]) -> bool:
    """Whether a table may send some of what an entry stands for somewhere else."""
    if entry.startswith(".") and any(key.lstrip(".").endswith(entry) for key in rows):
        return True
    above = "" if entry in rows else entry.lstrip(".").partition(".")[2]
    while above and f".{above}" not in rows:
        above = above.partition(".")[2]
    return bool(above)


def _relay(work: Work) -> Where:
    found = where(work, work.main["relay_transport"], title="relay-transport")
    relayhost = work.main["relayhost"]
    return to_hosts(work, relayhost, "relayhost") if found.direct and relayhost else found


def _mailbox(work: Work) -> Where:
    return where(work, work.main["virtual_transport"], title="store")
