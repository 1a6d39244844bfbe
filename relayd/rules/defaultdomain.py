"""The first domain that is ours, for mail that names none: `RCPT TO:<Postmaster>`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from relayd.rules.conditions.condition import Operand
from relayd.rules.language.model import AdmissionRule
from relayd.rules.language.pattern import Domain, Exact, InTable
from relayd.rules.tables.table import ListTable, MapTable, Table


def home_of(rules: Iterable[AdmissionRule], tables: Mapping[str, Table]) -> str:
    """The first domain that an `accept to` takes mail for from everybody; empty: there is none."""
    for rule in rules:
        tests = rule.tests
        if rule.verb == "accept" and all(each.recipients and not each.negated for each in tests):
            for operand in (one for each in tests for one in each.recipients):
                for domain in domains_of(operand, tables):
                    return domain
    return ""


def domains_of(operand: Operand, tables: Mapping[str, Table]) -> Iterator[str]:
    """The domains that a pattern names, as far as it does."""
    if isinstance(operand, Domain):
        yield operand.domain
    elif isinstance(operand, Exact):
        yield operand.mailbox.domain
    elif isinstance(operand, InTable):
        table = tables.get(operand.name)
        probes: Iterable[str] = ()
        if isinstance(table, ListTable):
            probes = table.probes
        elif isinstance(table, MapTable):
            probes = (*(f"@{domain}" for domain in table.domains), *table.entries)
        for probe in probes:
            domain = probe.rpartition("@")[2]
            if domain and not domain.startswith("."):
                yield domain
