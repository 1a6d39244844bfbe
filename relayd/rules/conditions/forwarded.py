"""`forwarded`: the mail leaves for another mailbox than the one it came for."""

from __future__ import annotations

from collections.abc import Mapping

from relayd.rules.conditions.condition import Condition, Test
from relayd.rules.fact import FORWARDED
from relayd.rules.language.words import Words
from relayd.rules.tables.table import Table
from relayd.rules.view import View


class Forwarded(Condition):
    """`forwarded`: known behind `forward`, so only routes and signatures may depend on it."""

    __slots__ = ()
    word = "forwarded"
    facts = frozenset({FORWARDED})

    @classmethod
    def read(cls, words: Words, *, negated: bool = False) -> Forwarded:
        """It stands alone."""
        return cls((), negated)

    def compiled(self, tables: Mapping[str, Table]) -> Test:
        """It as a function of a view."""
        if self.negated:
            return lambda view: not _forwarded(view)
        return _forwarded


def _forwarded(view: View) -> bool:
    return view.recipient.key != view.named.key
