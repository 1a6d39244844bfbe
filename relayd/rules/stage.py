"""A stage: rules in order, and an index that finds the few which can fit without a scan.

Every rule is filed under one condition that must hold for it, where that condition names definite
things (mailboxes, domains, networks, names); the rest are looked at each time. The candidates are
then tried in the order of the file, so the first match wins as if all had been tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Generic, TypeVar

from relayd.mail.plan import Step
from relayd.rules.conditions.condition import Condition, Test, always
from relayd.rules.conditions.index import Index, Key
from relayd.rules.language.model import Rule, commas
from relayd.rules.language.pattern import Exact, InTable
from relayd.rules.replace import mapped
from relayd.rules.tables.table import Table, Unknown
from relayd.rules.view import View

R = TypeVar("R", bound=Rule)

# Where files of many people are included, their rules have numbers of their own, between those of
# the rules above and below: see relayd.rules.scoped.
SPAN = 1 << 16  # numbers of one file
GAP = 1 << 2100  # ... of one include, in which files are numbered by their names
LAST = GAP << 64  # behind all


class ReadyRule(Generic[R]):
    """One rule, ready to run."""

    __slots__ = (
        "at", "mapped", "needed", "number", "of_copies", "rule", "step", "targets", "tests"
    )  # fmt: skip

    def __init__(self, rule: R, number: int, tests: Sequence[Test]) -> None:
        self.rule = rule
        self.number = number
        self.tests = tests  # all conditions
        self.needed = tests  # those that neither the index has answered nor everybody passes
        # its tables, not its own text, must be asked for what fits
        self.mapped = mapped(getattr(rule, "patterns", ()))
        self.at: Sequence[str] = getattr(rule, "folded_at", ())
        self.targets = commas(getattr(rule, "targets", ()))  # as a trail tells them
        self.of_copies = rule.of_copies
        self.step = Step(rule.stage, str(rule.place), rule.text)

    def holds(self, view: View) -> bool:
        """Whether every condition holds. No wins over unknown; raises Unknown."""
        unknown: Unknown | None = None
        for test in self.needed:
            try:
                if not test(view):
                    return False
            except Unknown as answer:
                unknown = answer
        if unknown is not None:
            unknown.place = self.step.place
            raise unknown
        return True

    def noted(self, *notes: str) -> Step:
        """The trail's step with notes."""
        step = self.step
        return Step(step.stage, step.place, step.rule, "; ".join(filter(None, notes)))


class Stage(Generic[R]):
    """Rules of one stage; `conditions` says what must hold for a rule.

    Those that `passed_over` says yes of keep their number, and are no candidates.
    """

    def __init__(
        self,
        rules: Sequence[R],
        conditions: Callable[[R], Sequence[Condition]],
        tables: Mapping[str, Table],
        passed_over: Callable[[R], bool] = lambda rule: False,
        first: int = 0,
        numbers: Sequence[int] = (),
    ) -> None:
        """`first`: the number of the first rule; or `numbers`, of each."""
        self.conditions, self._tables = conditions, tables
        self._filed: dict[type[Condition], Index] = {}
        self._always: list[int] = []
        self._own: set[str] = set()  # mailboxes that a rule names
        self._owners: list[Table] = []  # tables that may hold a tagged mailbox of its own
        self.entries = [
            self._entry(rule, number, conditions(rule), tables, passed_over=passed_over(rule))
            for number, rule in zip(numbers or count(first), rules, strict=False)
        ]
        self.empty = not self.entries
        self._numbered: Mapping[int, ReadyRule[R]] | Sequence[ReadyRule[R]] = self.entries
        if numbers or first:
            self._numbered = {entry.number: entry for entry in self.entries}
        self._all_always = [self._numbered[number] for number in self._always]
        self._indexes = tuple(self._filed.values())

    def _entry(
        self,
        rule: R,
        number: int,
        conditions: Sequence[Condition],
        tables: Mapping[str, Table],
        *,
        passed_over: bool,
    ) -> ReadyRule[R]:
        entry = ReadyRule(rule, number, [each.compiled(tables) for each in conditions])
        operands = [one for each in conditions for one in each.recipients]
        self._own |= {one.probe for one in operands if isinstance(one, Exact)}
        operands += getattr(rule, "patterns", ())
        names = {one.name for one in operands if isinstance(one, InTable)}
        self._owners += [tables[name] for name in names]
        if passed_over:
            return entry
        filed = next((n for n, each in enumerate(conditions) if self._file(each, number)), None)
        if filed is None:
            self._always.append(number)
        entry.needed = [
            test for n, test in enumerate(entry.tests) if n != filed and test is not always
        ]
        return entry

    def _file(self, condition: Condition, number: int) -> bool:
        """File the rule under this condition, if it is definite."""
        if condition.negated or condition.index is None or not condition.keys:
            return False
        index = self._filed.get(type(condition))
        if index is None:
            index = self._filed[type(condition)] = condition.index()
        for key in condition.keys:
            index.add(key, number)
        return True

    @property
    def always(self) -> Sequence[int]:
        """Numbers of the rules that the index does not hold."""
        return self._always

    def filed(self, kind: type[Condition], key: Key) -> Sequence[int]:
        """Numbers of the rules filed under a key of such conditions."""
        index = self._filed.get(kind)
        return () if index is None else index.at(key)

    def entry(self, number: int) -> ReadyRule[R]:
        """The rule of this number."""
        return self._numbered[number]

    def anew(self, passed_over: Callable[[R], bool]) -> Stage[R]:
        """The same rules with their numbers, and others passed over."""
        rules = [entry.rule for entry in self.entries]
        numbers = [entry.number for entry in self.entries]
        return Stage(rules, self.conditions, self._tables, passed_over, numbers=numbers)

    def owns(self, key: str) -> bool:
        """Whether exactly this mailbox has a rule or a table's entry of its own."""
        return key in self._own or any(table.owns(key) for table in self._owners)

    def candidates(self, view: View) -> Sequence[ReadyRule[R]]:
        """The rules that may hold, in order."""
        recipient = view.recipient
        if recipient.others:
            recipient.wide = () if self.owns(recipient.key) else recipient.others
        found: list[int] = []
        for index in self._indexes:
            index.collect(view, found)
        if not found:
            return self._all_always
        if len(found) == 1 and not self._always:
            return [self._numbered[found[0]]]
        return [*map(self._numbered.__getitem__, sorted({*found, *self._always}))]

    def first(self, view: View) -> ReadyRule[R] | None:
        """The first rule that holds; raises Unknown."""
        for entry in self.candidates(view):
            view.notes.clear()
            if entry.holds(view):
                return entry
        return None
