"""`any`: the condition that always holds."""

from __future__ import annotations

from collections.abc import Mapping

from relayd.rules.conditions.condition import Condition, Test, always
from relayd.rules.language.words import Words
from relayd.rules.tables.table import Table
from relayd.rules.view import View


class Always(Condition):
    """`any`."""

    __slots__ = ()
    word = "any"

    @classmethod
    def read(cls, words: Words, *, negated: bool = False) -> Always:
        """It stands alone."""
        return cls((), negated)

    def compiled(self, tables: Mapping[str, Table]) -> Test:
        """It as a function of a view."""
        return _never if self.negated else always

    @property
    def everything(self) -> bool:
        """Whether it holds always."""
        return not self.negated


def _never(_view: View) -> bool:
    return False
