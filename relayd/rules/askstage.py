"""Who is asked about a client, a sender, a recipient and a content: the `ask` rules, compiled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from relayd.rules.conditions.condition import Test
from relayd.rules.conditions.mailbox import FromSender
from relayd.rules.fact import Known
from relayd.rules.language.model import Ask
from relayd.rules.tables.table import Table, Unknown
from relayd.rules.view import View


class AskStage:
    """Filters in the order in which they are asked."""

    def __init__(self, rules: Sequence[Ask], tables: Mapping[str, Table]) -> None:
        self.order = tuple(dict.fromkeys(name for rule in rules for name in rule.names))
        self._when: dict[str, list[tuple[Known, list[Test], Ask]]] = {
            name: [] for name in self.order
        }
        for rule in rules:
            known = max((each.known for each in rule.tests), default=Known.CLIENT)
            tests = [each.compiled(tables) for each in rule.tests]
            for name in rule.names:
                self._when[name].append((known, tests, rule))
        reports = [rule for rule in rules if _names_null(rule)]
        self.of_reports: AskStage | None = None  # who is asked about reports of our own, too
        if len(reports) == len(rules):
            self.of_reports = self
        elif reports:
            self.of_reports = AskStage(reports, tables)
        # asked whatever is known, and so at once
        self.always = frozenset(name for rule in rules if not rule.tests for name in rule.names)

    def known(self, name: str) -> Known:
        """From when on it can be said whether this one is asked."""
        return max(known for known, _, _ in self._when[name])

    def asks(self, name: str, view: View, so_far: Known) -> bool | None:
        """Whether it is asked, by what is known so far; None: that cannot be said."""
        unknown = False
        for known, tests, _ in self._when[name]:
            if known > so_far:
                unknown = True
                continue
            holds = _holds(tests, view)
            if holds:
                return True
            unknown |= holds is None
        return None if unknown else False

    def fitting(self, view: View) -> Iterator[tuple[str, Ask, bool]]:
        """Who is asked by all that is known, by which rule; False: by what is not known it may be.

        In order; who is not asked is left out.
        """
        for name in self.order:
            held = [(_holds(tests, view), rule) for _, tests, rule in self._when[name]]
            for wanted in (True, None):
                rule = next((rule for holds, rule in held if holds is wanted), None)
                if rule is not None:
                    yield name, rule, wanted is True
                    break


def _names_null(rule: Ask) -> bool:
    """It says `sender null`, and not only what a null sender happens to fit."""
    return any(isinstance(test, FromSender) and test.names_null for test in rule.tests)


def _holds(tests: Sequence[Test], view: View) -> bool | None:
    unknown = False
    for test in tests:
        try:
            if not test(view):
                return False
        except Unknown:
            unknown = True
    return None if unknown else True
