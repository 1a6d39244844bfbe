"""`over`: one more would be too many for a limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from relayd.rules.conditions.condition import Condition, Operand, Test
from relayd.rules.fact import RECIPIENT, Fact, Known
from relayd.rules.language.pattern import Text
from relayd.rules.language.words import Words
from relayd.rules.tables.table import Table


def count_of(name: str) -> Fact:
    """Whether this recipient (or its message) is one too many for the limit of this name."""
    return Fact(
        "the count of",
        Known.RECIPIENT,
        asked=True,
        of=name,
        spelled="over",
        values=(False, True),
    )


class ByCount(Condition):
    """`over hourly`, `over hourly, burst`: any of these."""

    __slots__ = ()
    word = "over"

    @classmethod
    def operand(cls, words: Words) -> Operand:
        """One operand."""
        return Text(words.name("the name of a limit"))

    @property
    def needs(self) -> frozenset[Fact]:
        """What it looks at."""
        return frozenset({RECIPIENT, *(count_of(name) for _, name in self.named)})

    @property
    def named(self) -> Iterator[tuple[str, str]]:
        """The definitions that it names."""
        return (("limit", each.text) for each in self.operands if isinstance(each, Text))

    def test(self, operand: Operand, tables: Mapping[str, Table]) -> Test:
        """Whether one operand fits, as a function of a view."""
        assert isinstance(operand, Text)
        fact = count_of(operand.text)
        return lambda view: bool(view.told(fact))

    def stated(self) -> tuple[Fact, object]:
        """What a test says of a recipient with this: that one limit is reached, or is not."""
        if len(self.operands) != 1:
            raise ValueError('expected one limit: "over NAME"')
        _, name = next(self.named)
        return count_of(name), not self.negated
