"""`size`: how large the content is, as it came."""

from __future__ import annotations

from collections.abc import Mapping

from relayd.rules.conditions.condition import Condition, Operand, Test
from relayd.rules.fact import Fact, Known
from relayd.rules.language.pattern import SizeBound
from relayd.rules.language.words import Words
from relayd.rules.tables.table import Table
from relayd.rules.view import View

SIZE = Fact("the size", Known.CONTENT, spelled="size", values=(1,))
"""In octets: the header section and the body, as the client sent them."""


class BySize(Condition):
    """`size > 20MB`, `size < 4096`."""

    __slots__ = ()
    word = "size"
    facts = frozenset({SIZE})

    @classmethod
    def read(cls, words: Words, *, negated: bool = False) -> BySize:
        """What stands behind its name."""
        return cls((cls.operand(words),), negated)

    @classmethod
    def operand(cls, words: Words) -> Operand:
        """One operand."""
        return SizeBound(words.choice((">", "<"), "> or <"), words.size(1))

    def test(self, operand: Operand, tables: Mapping[str, Table]) -> Test:
        """Whether one operand fits, as a function of a view."""
        assert isinstance(operand, SizeBound)
        octets = operand.octets
        if operand.sign == ">":
            return lambda view: _size(view) > octets
        return lambda view: _size(view) < octets

    def stated(self) -> tuple[Fact, object]:
        """What a test says of a message with this: the size next to the bound."""
        (bound,) = self.operands
        assert isinstance(bound, SizeBound)
        if self.negated:
            return SIZE, bound.octets
        return SIZE, bound.octets + (1 if bound.sign == ">" else -1)

    def covers(
        self, other: Condition, tables: Mapping[str, Table], at: tuple[str, ...] = ()
    ) -> bool:
        """Whether it holds wherever the other one does."""
        if isinstance(other, BySize) and not self.negated and not other.negated:
            (mine,), (theirs,) = self.operands, other.operands
            assert isinstance(mine, SizeBound)
            assert isinstance(theirs, SizeBound)
            if mine.sign == theirs.sign == ">":
                return mine.octets <= theirs.octets
            return mine.sign == theirs.sign and mine.octets >= theirs.octets
        return Condition.covers(self, other, tables, at)


def _size(view: View) -> int:
    size = view.told(SIZE)
    assert isinstance(size, int)
    return size
