"""Rules that can never be reached, because an earlier one always takes what they would fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from relayd.rules.conditions.condition import Condition
from relayd.rules.conditions.mailbox import FromSender, ToRecipient
from relayd.rules.language.model import AdmissionRule, Copy, Forward, Rewrite, Route, Rule
from relayd.rules.language.pattern import InTable
from relayd.rules.language.source import Problem
from relayd.rules.ruleset import Ruleset
from relayd.rules.senderroute import names_route
from relayd.rules.stage import R, Stage
from relayd.rules.tables.table import Table

AnyStage = (
    Stage[Rule]
    | Stage[AdmissionRule]
    | Stage[Rewrite]
    | Stage[Forward]
    | Stage[Route]
    | Stage[Copy]
)


def shadowed(ruleset: Ruleset) -> list[Problem]:
    """A problem for each rule that leaves nothing to others behind it."""
    return [_told(rival, hidden) for rival, hidden in hidden_rules(ruleset)]


def hidden_rules(ruleset: Ruleset) -> list[tuple[Rule, list[Rule]]]:
    """Rules that an earlier one of their stage leaves nothing to, by that one."""
    tables = ruleset.tables
    return [
        *_in_stage(ruleset.admission, tables, _tests),
        *(_in_stage(ruleset.content, tables, _tests) if ruleset.content is not None else ()),
        *_in_stage(ruleset.recipients, tables, _patterned),
        *_in_stage(ruleset.senders, tables, _patterned),
        *_in_stage(ruleset.forward, tables, _patterned),
        *_in_stage(ruleset.route, tables, _routed),
        *(_in_stage(ruleset.bcc, tables, _tests) if ruleset.bcc is not None else ()),
    ]


def never_held(ruleset: Ruleset) -> list[Problem]:
    """A warning for each rule two of whose conditions exclude each other."""
    tables = ruleset.tables
    return [
        *_excluded(ruleset.admission, tables, _tests),
        *_excluded(ruleset.recipients, tables, _patterned),
        *_excluded(ruleset.senders, tables, _patterned),
        *_excluded(ruleset.headers, tables, _tests),
        *_excluded(ruleset.forward, tables, _patterned),
        *_excluded(ruleset.route, tables, _routed),
        *(_excluded(ruleset.bcc, tables, _tests) if ruleset.bcc is not None else ()),
    ]


def _excluded(
    stage: Stage[R], tables: Mapping[str, Table], conditions: Callable[[Rule], Sequence[Condition]]
) -> Iterator[Problem]:
    for entry in stage.entries:
        tests = conditions(entry.rule)
        for one, other in itertools.permutations(tests, 2) if len(tests) > 1 else ():
            if one.never_with(other, tables):
                what = f'this rule never holds: it asks for "{other}" and "{one}"'
                yield Problem(entry.rule.place, what, "expected one of the two")
                break


def _tests(rule: Rule) -> tuple[Condition, ...]:
    return rule.tests


def _patterned(rule: Rule) -> tuple[Condition, ...]:
    if isinstance(rule, Rewrite) and rule.what == "sender":
        return (FromSender(rule.patterns), *rule.when)
    patterns = rule.patterns if isinstance(rule, Forward | Rewrite) else ()
    return (ToRecipient(patterns), *rule.when)


def _routed(rule: Rule) -> tuple[Condition, ...]:
    if isinstance(rule, Route) and rule.table:
        return (ToRecipient((InTable(rule.table),)), *rule.when)
    return rule.tests


def _in_stage(
    stage: AnyStage,
    tables: Mapping[str, Table],
    conditions: Callable[[Rule], tuple[Condition, ...]],
) -> Iterator[tuple[Rule, list[Rule]]]:
    hidden: dict[int, list[Rule]] = {}  # by the number of the rule that takes all of theirs
    for entry in stage.entries:
        mine = conditions(entry.rule)
        for number in sorted(_rivals(stage, mine)):
            if number >= entry.number:
                break
            rival = stage.entry(number).rule
            if not _decides(rival, entry.rule):
                continue
            at = rival.folded_at if isinstance(rival, Forward | Rewrite) else ()
            if _covers(conditions(rival), mine, tables, at):
                hidden.setdefault(number, []).append(entry.rule)
                break
    for number, rules in hidden.items():
        yield stage.entry(number).rule, rules


def _told(rival: Rule, hidden: list[Rule]) -> Problem:
    """One complaint for one cause, at the rule that is hidden, or where many are at their cause."""
    first = hidden[0]
    if len(hidden) == 1:
        same = str(rival) == str(first)
        return Problem(
            first.place,
            "this rule was given before" if same else "this rule is never reached",
            f"{rival.place} takes all of it" + ("" if same else f": {rival}"),
            idle=(first.place,),
        )
    return Problem(
        rival.place,
        f"this rule takes all that {len(hidden)} rules behind it are for; the first is at "
        f"{first.place}: {first}",
        "expected it behind them, or to take less",
        idle=tuple(each.place for each in hidden),
    )


def _decides(rival: Rule, rule: Rule) -> bool:
    """A `hold` leaves the decision to the rules behind it; an `accept` may, on a route.

    Whoever is let in at RCPT comes to the rules about the content, wherever those stand. All `copy`
    rules that hold are followed, and each place is one.
    """
    if isinstance(rival, Copy) and isinstance(rule, Copy):
        return (rival.target, rival.hops) == (rule.target, rule.hops)
    if isinstance(rival, AdmissionRule) and isinstance(rule, AdmissionRule):
        if rule.examines and not rival.examines and rival.verb == "accept":
            return False
        if rival.verb == "hold":
            return rule.verb == "hold"
        return rival.verb != "accept" or not names_route(rule)
    return True


def _rivals(
    stage: AnyStage,
    mine: Sequence[Condition],
) -> set[int]:
    """The rules of the stage that could cover one with these conditions, by the index."""
    found = set(stage.always)
    for condition in mine:
        if condition.operands and not condition.negated:
            for key in condition.above:
                found.update(stage.filed(type(condition), key))
    return found


def _covers(
    theirs: Sequence[Condition],
    mine: Sequence[Condition],
    tables: Mapping[str, Table],
    at: tuple[str, ...],
) -> bool:
    """Whether their conditions hold wherever mine do."""
    return all(
        each.everything or any(each.covers(one, tables, at) for one in mine) for each in theirs
    )
