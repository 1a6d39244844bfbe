"""Which patterns fit all that another one fits."""

from __future__ import annotations

from collections.abc import Mapping

from relayd.rules.language.pattern import (
    Anything,
    Domain,
    Exact,
    InTable,
    LocalPart,
    Net,
    Regex,
    SubDomains,
    Text,
)
from relayd.rules.language.regex import search
from relayd.rules.subject import Subject, domain_probes
from relayd.rules.tables.table import ListTable, MapTable, Table

Named = Exact | Domain | SubDomains | LocalPart


def covers(wide: object, narrow: object, tables: Mapping[str, Table], at: tuple[str, ...]) -> bool:
    """Whether one pattern fits all that the other one fits; `at`: as in Condition.covers."""
    if wide == narrow or isinstance(wide, Anything):
        return True
    if isinstance(wide, InTable):
        return _table_covers(tables[wide.name], narrow, at)
    if isinstance(wide, Regex):
        return isinstance(narrow, Exact) and search(wide.text, narrow.mailbox.key) is not None
    if isinstance(wide, Net) and isinstance(narrow, Net):
        return wide.network.version == narrow.network.version and (
            narrow.network.subnet_of(wide.network)  # type: ignore[arg-type]  # of one version
        )
    if isinstance(wide, Text) and isinstance(narrow, Text):
        return wide.text.lower() == narrow.text.lower()
    if isinstance(wide, Named) and isinstance(narrow, Named):
        return wide.probe in above(narrow)
    return False


def _table_covers(table: Table, narrow: object, at: tuple[str, ...]) -> bool:
    if isinstance(narrow, Exact):
        subject = Subject(narrow.mailbox)
        if isinstance(table, MapTable):
            return table.find(subject, at) is not None
        return bool(table.mailbox(subject))
    if isinstance(narrow, Domain | SubDomains) and isinstance(table, ListTable):
        return any(probe in table.probes for probe in above(narrow))
    return False


def above(pattern: Named) -> tuple[str, ...]:
    """The probes of all patterns that cover this one."""
    if isinstance(pattern, Exact):
        return Subject(pattern.mailbox).probes
    if isinstance(pattern, LocalPart):
        return (pattern.probe,)
    domain, *parents = domain_probes(pattern.probe.lstrip("@."))
    return (domain, *parents) if isinstance(pattern, Domain) else (pattern.probe, *parents)
