"""`first-seen`: this client has first tried this sender and recipient only so lately."""

from __future__ import annotations

from collections.abc import Mapping

from relayd.rules.conditions.condition import Condition, Operand, Test
from relayd.rules.conditions.reversename import REVERSE_NAME
from relayd.rules.conditions.senderpolicy import SENDER_POLICY
from relayd.rules.fact import RECIPIENT, Fact, Known
from relayd.rules.language.pattern import Text
from relayd.rules.language.words import Words
from relayd.rules.tables.table import Table

LONGEST = 86400.0  # seconds that a first sight may count as such: few try for longer than a day


def first_seen(time: str) -> Fact:
    """Whether it is less than so long ago, and nobody knows the client by now."""
    return Fact(
        "the first sight within",
        Known.RECIPIENT,
        asked=True,
        of=time,
        spelled="first-seen",
        values=(False, True),
    )


class ByFirstSight(Condition):
    """`first-seen 5m`."""

    __slots__ = ()
    word = "first-seen"
    welcome = frozenset({REVERSE_NAME})

    @classmethod
    def read(cls, words: Words, *, negated: bool = False) -> ByFirstSight:
        """What stands behind its name."""
        time = words.duration(least=1)
        text = words.text
        if time > LONGEST:
            raise words.complain(f"{text} is out of range", "expected 1 second to 1 day")
        return cls((Text(text),), negated)

    @property
    def _sights(self) -> tuple[Fact, ...]:
        return tuple(first_seen(each.text) for each in self.operands if isinstance(each, Text))

    @property
    def needs(self) -> frozenset[Fact]:
        """What it looks at, and what vouches for a client's domain."""
        return frozenset({RECIPIENT, SENDER_POLICY, *self._sights})

    def test(self, operand: Operand, tables: Mapping[str, Table]) -> Test:
        """Whether one operand fits, as a function of a view."""
        (fact,) = self._sights
        return lambda view: bool(view.told(fact))

    def stated(self) -> tuple[Fact, object]:
        """What a test says of a client with this: that it is new, or is not."""
        (fact,) = self._sights
        return fact, not self.negated
