"""Domains that strangers' mail is taken for whole, though nobody here knows their mailboxes.

What the next hop then refuses is reported to a sender who, for most such mail, never wrote it. An
`expect` line for a mailbox that no rule names says that this is meant.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.plan import Plan, Verdict
from relayd.rules.check.expect import OUTSIDER, SOMEBODY, facts_of
from relayd.rules.conditions.mailbox import ToRecipient
from relayd.rules.conditions.name import AtListener, ByHelo
from relayd.rules.conditions.security import OverTls
from relayd.rules.conditions.verified import unknown_at
from relayd.rules.evaluate import Facts, evaluate
from relayd.rules.language.model import AdmissionRule
from relayd.rules.language.pattern import Domain, InTable, Regex, SubDomains, Text
from relayd.rules.language.source import Place, Problem
from relayd.rules.ruleset import Ruleset
from relayd.rules.tables.table import ListTable, MapTable, Table, TransportTable

_NOBODY = "no-such-mailbox-7d3f"
_TRIED = 8  # domains of a table
_ENDS_WITH = re.compile(r"@\(?((?:[a-z0-9-]|\\\.)+)\)?\$?\Z")  # a regex for a domain


def backscatter(
    ruleset: Ruleset, told: Sequence[Place] = (), listeners: Sequence[str] = ()
) -> list[Problem]:
    """A warning for the first rule that opens a domain so, with the number of others.

    `told`: of these rules something worse has been said. `listeners`: those at which strangers may
    speak without a login.
    """
    found = {}
    whole = functools.cache(partial(_whole, ruleset.tables))
    for entry in ruleset.admission.entries:
        if entry.rule.place in told:
            continue
        domain = _open_domain(ruleset, entry.rule, whole, listeners)
        if domain:
            found[str(entry.rule.place)] = entry.rule, domain
    for expect in ruleset.expects if found else ():
        plan = evaluate(ruleset, facts_of(ruleset, expect))
        if _kept(plan, expect.recipient.local):
            found.pop(_by(plan), None)
    if not found:
        return []
    rule, domain = next(iter(found.values()))
    more = f" ({len(found):,} rules do so)" if len(found) > 1 else ""
    return [
        Problem(
            rule.place,
            f"this takes mail for any mailbox of {domain}, whether it exists or not: what is then "
            f"refused further on is reported to forged senders{more}",
            'expected a list of mailboxes ("accept to <people>"), a catch-all, or an "expect" for '
            "a mailbox without a rule of its own, if it is meant",
        )
    ]


def _open_domain(
    ruleset: Ruleset,
    rule: AdmissionRule,
    whole: Callable[[str], Sequence[str]],
    listeners: Sequence[str],
) -> str:
    """A domain of which the rule lets a made-up mailbox through; empty: there is none."""
    if rule.verb != "accept":
        return ""
    # a next hop that is asked for the mailbox would not know it
    gathered = ruleset.usual | {fact: True for fact in ruleset.asked if fact == unknown_at(fact.of)}
    operands = [
        one
        for each in rule.tests
        if isinstance(each, ToRecipient) and not each.negated
        for one in each.operands
    ]
    for operand in operands:
        domains = whole(operand.name) if isinstance(operand, InTable) else _domains(operand)
        for domain, client in itertools.product(domains, _strangers(rule, listeners)):
            facts = Facts(client, SOMEBODY, Mailbox(_NOBODY, domain), gathered=gathered)
            plan = evaluate(ruleset, facts)
            if _by(plan) == str(rule.place) and _kept(plan, _NOBODY):
                return domain
    return ""


def _strangers(rule: AdmissionRule, listeners: Sequence[str]) -> Iterator[Client]:
    """What the rule asks of a client, anybody has: a name, TLS, the right door."""
    stranger = Client(OUTSIDER, helo="outside.invalid", rdns="outside.invalid")
    kinds = {type(each) for each in rule.tests}
    for operand in (one for each in rule.tests if type(each) is ByHelo for one in each.operands):
        if isinstance(operand, Text):
            stranger = stranger.with_(helo=operand.text)
    doors = ("", *listeners) if AtListener in kinds else ("",)
    for door, tls in itertools.product(doors, ("", "TLSv1.3") if OverTls in kinds else ("",)):
        yield stranger.with_(listener=door, tls=tls)


def _kept(plan: Plan, local: str) -> bool:
    """Whether it goes on under its own name, which only the next hop knows."""
    return plan.verdict is Verdict.ACCEPT and any(
        each.mailbox.local.lower() == local.lower() for each in plan.destinations
    )


def _by(plan: Plan) -> str:
    """The rule that let it in."""
    return next((step.place for step in plan.trail if step.stage == "accept"), "")


def _domains(operand: object) -> Iterator[str]:
    """Domains that the pattern takes whole."""
    if isinstance(operand, Domain):
        yield operand.domain
    elif isinstance(operand, SubDomains):
        yield f"sub.{operand.domain}"
    elif isinstance(operand, Regex):
        match = _ENDS_WITH.search(operand.text)
        if match is not None:
            yield match.group(1).replace("\\", "")


def _whole(tables: Mapping[str, Table], name: str) -> Sequence[str]:
    """Some of the domains that a table takes whole."""
    table = tables[name]
    probes: Iterable[str] = ()
    if isinstance(table, ListTable):
        probes = table.probes
    elif isinstance(table, TransportTable):
        probes = table.entries
    elif isinstance(table, MapTable):
        probes = itertools.chain((f"@{each}" for each in table.domains), table.entries)
    domains = (probe[1:] for probe in probes if probe[:1] == "@")
    return [f"sub{each}" if each[:1] == "." else each for each in itertools.islice(domains, _TRIED)]
