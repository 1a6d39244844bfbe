"""Under which names and from which addresses a configuration sends, and for which it takes mail.

As far as the rules name them: what only a regular expression or a login knows, nobody can ask for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from relayd.authentication.dkimsigning import SigningKey
from relayd.config import Settings
from relayd.config.dkim import read_key
from relayd.config.keys import keys_path
from relayd.mail.address import AddressError, fold_domain
from relayd.mail.envelope import Direction
from relayd.mail.pacing import SourceAddress
from relayd.rules.conditions.condition import Condition
from relayd.rules.conditions.mailbox import FromSender
from relayd.rules.defaultdomain import domains_of
from relayd.rules.language.model import AdmissionRule, Rewrite, Route, Sign
from relayd.rules.language.pattern import Anything, Domain, Exact, Null, SubDomains
from relayd.rules.language.source import Complaint
from relayd.rules.ruleset import Ruleset
from relayd.rules.sendas import SendAs
from relayd.rules.srsrule import SrsDomain
from relayd.rules.tables.table import Table

HERE = ""  # the source without a name: the address that the system takes


def sources(settings: Settings) -> dict[str, SourceAddress]:
    """All that mail may leave from, by name. HERE has no addresses: the system knows them."""
    found = dict(settings.ruleset.pacing.sources)
    if any(HERE in _ways(settings.ruleset, domain) for domain in (None, *sent_as(settings))):
        found[HERE] = SourceAddress(HERE, (), settings.hostname)
    return found


def sent_as(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Each domain that is a sender's, with the sources that its mail leaves from."""
    ruleset = settings.ruleset
    domains = dict.fromkeys(filter(None, map(_folded, _senders(settings))))
    return {domain: tuple(dict.fromkeys(_ways(ruleset, domain))) for domain in domains}


def signed(settings: Settings) -> tuple[str, ...]:
    """The domains in whose name mail is signed."""
    return tuple(dict.fromkeys(key.domain for keys in settings.signing.values() for key in keys))


def retired(settings: Settings) -> Iterator[SigningKey]:
    """Keys that sign no more and are published still; those whose files are gone left out."""
    folder = Path() if settings.path is None else settings.path.parent
    for statement in settings.ruleset.dkim.values():
        for named in statement.retired:
            path = keys_path(named.file, named.place, folder)
            with contextlib.suppress(Complaint):
                yield read_key(statement.domain, named, path)


def accepted(settings: Settings) -> tuple[str, ...]:
    """The domains that mail is taken for from everybody, and those of SRS addresses."""
    ruleset = settings.ruleset
    found: dict[str, None] = {}
    for rule in (entry.rule for entry in ruleset.admission.entries):
        if _from_anybody(rule):
            for each in rule.tests:
                for operand in each.recipients:
                    found.update(dict.fromkeys(domains_of(operand, ruleset.tables)))
    found.update(dict.fromkeys(_srs_domains(ruleset)))
    return tuple(dict.fromkeys(filter(None, map(_folded, found))))


def _from_anybody(rule: AdmissionRule) -> bool:
    return rule.verb == "accept" and all(
        each.everything or (each.recipients and not each.negated) for each in rule.tests
    )


def _folded(domain: str) -> str:
    try:
        return "" if domain.startswith("[") else fold_domain(domain)
    except AddressError:
        return ""


def _srs_domains(ruleset: Ruleset) -> Iterator[str]:
    return (item.domain for item in ruleset.items if isinstance(item, SrsDomain))


def _senders(settings: Settings) -> Iterator[str]:
    ruleset = settings.ruleset
    yield from _srs_domains(ruleset)
    yield from signed(settings)
    if settings.tls_reports is not None:
        yield settings.tls_reports.address.domain
    for rule in ruleset.items:
        if isinstance(rule, Route | Sign):
            for each in rule.tests:
                if isinstance(each, FromSender) and not each.negated:
                    for operand in each.operands:
                        yield from domains_of(operand, ruleset.tables)
        elif isinstance(rule, SendAs):
            for pattern in rule.patterns:
                yield from domains_of(pattern, ruleset.tables)
        elif isinstance(rule, Rewrite) and rule.what == "sender":
            made = rule.replacement
            yield from domains_of(made, ruleset.tables) if isinstance(made, Domain | Exact) else ()


# which way


def _ways(ruleset: Ruleset, domain: str | None) -> Iterator[str]:
    """The sources that mail of this domain may leave from; None: that of no sender that is named.

    By the rules in order, up to the first one that holds for all of it.
    """
    for rule in (item for item in ruleset.items if isinstance(item, Route)):
        if not all(_may_hold(each, domain, ruleset.tables) for each in rule.tests):
            continue
        direction = Direction.parse(rule.next_hop)
        if direction.direct and not (rule.table and not rule.hops and not rule.source):
            yield direction.source or HERE
        if not rule.table and all(_holds(each, domain) for each in rule.tests):
            return
    yield HERE


def _may_hold(condition: Condition, domain: str | None, tables: Mapping[str, Table]) -> bool:
    if not isinstance(condition, FromSender):
        return True
    if condition.negated:
        return not any(_is_all(each, domain) for each in condition.operands)
    return any(_may_be(each, domain, tables) for each in condition.operands)


def _may_be(operand: object, domain: str | None, tables: Mapping[str, Table]) -> bool:
    if isinstance(operand, Null):
        return domain is None
    if isinstance(operand, SubDomains):
        return domain is not None and domain.endswith("." + fold_domain(operand.domain))
    names = {_folded(each) for each in domains_of(operand, tables)}  # type: ignore[arg-type]
    if names or isinstance(operand, Domain | Exact):
        return domain in names
    return True  # a regular expression, a local part, an empty table: who knows


def _holds(condition: Condition, domain: str | None) -> bool:
    """Whether it holds for all mail of the domain."""
    if condition.everything:
        return True
    return (
        isinstance(condition, FromSender)
        and not condition.negated
        and any(_is_all(each, domain) for each in condition.operands)
    )


def _is_all(operand: object, domain: str | None) -> bool:
    if isinstance(operand, Domain):
        return domain == _folded(operand.domain)
    return isinstance(operand, Anything)


def mechanisms(addresses: Iterable[str]) -> str:
    """The mechanisms of SPF for them (RFC 7208 section 5.6)."""
    return " ".join(f"ip{6 if ':' in each else 4}:{each}" for each in addresses)
