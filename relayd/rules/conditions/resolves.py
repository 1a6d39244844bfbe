"""`resolves`: mail could go to the sender's domain, or to the name in HELO, by what the DNS has."""

from __future__ import annotations

from collections.abc import Mapping

from relayd.rules.conditions.condition import Condition, Operand, Test
from relayd.rules.fact import Fact, Known
from relayd.rules.language.pattern import Text
from relayd.rules.language.words import Words
from relayd.rules.tables.table import Table

WHOSE = ("sender", "helo")


def resolving(whose: str) -> Fact:
    """Whether this one's domain has an MX record, or an address (RFC 5321 section 5.1).

    Unknown where no name server says. A null sender and an address literal need none.
    """
    return Fact(
        "the DNS records of", Known.SENDER, asked=True, of=whose, spelled="resolves",
        values=(True, False),
    )  # fmt: skip


class ByRecords(Condition):
    """`resolves sender`, `resolves helo`."""

    __slots__ = ()
    word = "resolves"

    @classmethod
    def operand(cls, words: Words) -> Operand:
        """One operand."""
        return Text(words.choice(WHOSE, "sender or helo"))

    @property
    def needs(self) -> frozenset[Fact]:
        """What it looks at."""
        return frozenset(resolving(each.text) for each in self.operands if isinstance(each, Text))

    def test(self, operand: Operand, tables: Mapping[str, Table]) -> Test:
        """Whether one operand fits, as a function of a view."""
        assert isinstance(operand, Text)
        fact = resolving(operand.text)
        return lambda view: bool(view.told(fact))

    def stated(self) -> tuple[Fact, object]:
        """What a test says of a message with this: that one has records, or has none."""
        (operand,) = self.operands if len(self.operands) == 1 else (None,)
        if not isinstance(operand, Text):
            raise ValueError('expected one of them: "resolves sender"')
        return resolving(operand.text), not self.negated
