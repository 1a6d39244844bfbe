"""Names of listeners in conditions: each must be one of those that `listen` gave."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from relayd.rules.check.check import word_at
from relayd.rules.conditions.name import AtListener
from relayd.rules.language.model import Item, Rule
from relayd.rules.language.pattern import Text
from relayd.rules.language.source import Problem, did_you_mean, one_of

_MOST_SHOWN = 5


def listener_name_problems(
    items: Iterable[Item], listeners: Sequence[str], broken: Iterable[str]
) -> list[Problem]:
    """`when listener` with what no `listen` says; a `broken` statement may have said it."""
    names = list(dict.fromkeys(listeners))
    known = {name.lower() for name in (*names, *broken)}
    problems = []
    for item in items:
        if not isinstance(item, Rule):
            continue
        for each in item.tests:
            for operand in each.operands if isinstance(each, AtListener) else ():
                if isinstance(operand, Text) and operand.text.lower() not in known:
                    shown = [f'"{name}"' for name in names[:_MOST_SHOWN]]
                    hint = did_you_mean(operand.text, names) or f"expected {one_of(shown)}"
                    what = f"there is no listener {operand.text}"
                    problems.append(Problem(word_at(item.place, operand.text), what, hint))
    return problems
