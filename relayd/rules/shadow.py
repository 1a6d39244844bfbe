"""Rules that can never be reached, because an earlier one always takes what they would fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from relayd.mail.address import Mailbox
from relayd.rules.check import conditions_of
from relayd.rules.model import AdmissionRule, Condition, Forward, Rewrite, Route, Rule
from relayd.rules.pattern import (
    Anything,
    Domain,
    Exact,
    InTable,
    LocalPart,
    Net,
    Null,
    Regex,
    SubDomains,
    Text,
)
from relayd.rules.regex import search
from relayd.rules.ruleset import Ruleset
from relayd.rules.senderroute import names_route
from relayd.rules.source import Problem
from relayd.rules.stage import NULL_PROBE, Stage
from relayd.rules.subject import Subject, client_number, domain_probes
from relayd.rules.table import ListTable, MapTable, Table

Named = Exact | Domain | SubDomains | LocalPart


def shadowed(ruleset: Ruleset) -> list[Problem]:
    """A problem for each rule that an earlier one of its stage leaves nothing to."""
    tables = ruleset.tables
    return [
        *_in_stage(ruleset.admission, tables, conditions_of),
        *_in_stage(ruleset.recipients, tables, _patterned),
        *_in_stage(ruleset.senders, tables, _patterned),
        *_in_stage(ruleset.forward, tables, _patterned),
        *_in_stage(ruleset.route, tables, _routed),
    ]


def _patterned(rule: Rule) -> tuple[Condition, ...]:
    if isinstance(rule, Rewrite) and rule.what == "sender":
        return (Condition("sender", rule.patterns), *rule.when)
    patterns = rule.patterns if isinstance(rule, Forward | Rewrite) else ()
    return (Condition("to", patterns), *rule.when)


def _routed(rule: Rule) -> tuple[Condition, ...]:
    if isinstance(rule, Route) and rule.table:
        return (Condition("to", (InTable(rule.table),)), *rule.when)
    return conditions_of(rule)


def _in_stage(
    stage: Stage[Rule] | Stage[AdmissionRule] | Stage[Rewrite] | Stage[Forward] | Stage[Route],
    tables: Mapping[str, Table],
    conditions: Callable[[Rule], tuple[Condition, ...]],
) -> Iterator[Problem]:
    for entry in stage.entries:
        mine = conditions(entry.rule)
        for number in sorted(_rivals(stage, mine)):
            if number >= entry.number:
                break
            rival = stage.entries[number].rule
            if not _decides(rival, entry.rule):
                continue
            at = rival.folded_at if isinstance(rival, Forward | Rewrite) else ()
            if _covers(conditions(rival), mine, tables, at):
                same = str(rival) == str(entry.rule)
                yield Problem(
                    entry.rule.place,
                    "this rule was given before" if same else "this rule is never reached",
                    f"{rival.place} takes all of it" + ("" if same else f": {rival}"),
                )
                break


def _decides(rival: Rule, rule: Rule) -> bool:
    """A `hold` leaves the decision to the rules behind it; an `accept` may, on a route."""
    if isinstance(rival, AdmissionRule) and isinstance(rule, AdmissionRule):
        if rival.verb == "hold":
            return rule.verb == "hold"
        return rival.verb != "accept" or not names_route(rule)
    return True


def _rivals(
    stage: Stage[Rule] | Stage[AdmissionRule] | Stage[Rewrite] | Stage[Forward] | Stage[Route],
    mine: Sequence[Condition],
) -> set[int]:
    """The rules of the stage that could cover one with these conditions, by the index."""
    found = set(stage.always)
    for condition in mine:
        if condition.negated or not condition.operands:
            continue
        operand = condition.operands[0]  # what covers the rule covers its first operand
        if isinstance(operand, Net):
            network = operand.network
            found.update(stage.filed("from", client_number(str(network.network_address))))
        elif isinstance(operand, Text):
            found.update(stage.filed(condition.kind, operand.text.lower()))
        elif isinstance(operand, Exact | Domain | SubDomains | LocalPart):
            for probe in _above(operand):
                found.update(stage.filed(condition.kind, probe))
        elif isinstance(operand, Null):
            found.update(stage.filed(condition.kind, NULL_PROBE))
    return found


def _above(pattern: Named) -> tuple[str, ...]:
    """The probes of all patterns that cover this one."""
    if isinstance(pattern, Exact):
        return Subject(pattern.mailbox).probes
    if isinstance(pattern, LocalPart):
        return (pattern.probe,)
    domain, *parents = domain_probes(pattern.probe.lstrip("@."))
    return (domain, *parents) if isinstance(pattern, Domain) else (pattern.probe, *parents)


def _covers(
    theirs: Sequence[Condition],
    mine: Sequence[Condition],
    tables: Mapping[str, Table],
    at: tuple[str, ...],
) -> bool:
    """Whether their conditions hold wherever mine do."""
    return all(
        each.kind == "any"
        or each in mine
        or any(_condition_covers(each, one, tables, at) for one in mine)
        for each in theirs
    )


def _condition_covers(
    theirs: Condition, mine: Condition, tables: Mapping[str, Table], at: tuple[str, ...]
) -> bool:
    if any(isinstance(each, Anything) for each in theirs.operands) and theirs.kind in (
        "to",
        "sender",
        "from",
    ):
        return not theirs.negated
    if theirs.kind != mine.kind or theirs.negated or mine.negated:
        return False
    return bool(mine.operands) and all(
        any(_pattern_covers(wide, narrow, tables, at) for wide in theirs.operands)
        for narrow in mine.operands
    )


def _pattern_covers(
    wide: object, narrow: object, tables: Mapping[str, Table], at: tuple[str, ...]
) -> bool:
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
        return wide.probe in _above(narrow)
    return False


def _table_covers(table: Table, narrow: object, at: tuple[str, ...]) -> bool:
    if isinstance(narrow, Exact):
        subject = Subject(narrow.mailbox)
        if isinstance(table, MapTable):
            return table.find(subject, at) is not None
        return bool(table.mailbox(subject))
    if isinstance(narrow, Domain | SubDomains) and isinstance(table, ListTable):
        return any(probe in table.probes for probe in _above(narrow))
    return False


def sample(pattern: object) -> Mailbox | None:
    """Some mailbox that the pattern fits; None for a regex or a table."""
    if isinstance(pattern, Exact):
        return pattern.mailbox
    if isinstance(pattern, Domain):
        return Mailbox("somebody", pattern.domain)
    if isinstance(pattern, SubDomains):
        return Mailbox("somebody", "sub." + pattern.domain)
    if isinstance(pattern, LocalPart):
        return Mailbox(pattern.local, "somewhere.invalid")
    if isinstance(pattern, Anything):
        return Mailbox("somebody", "somewhere.invalid")
    return None
