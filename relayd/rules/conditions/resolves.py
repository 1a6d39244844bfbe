"""`resolves`: mail could go to a domain, or a name is there at all, by what the DNS has."""

from __future__ import annotations

from collections.abc import Mapping

from relayd.rules.conditions.condition import Condition, Operand, Test
from relayd.rules.fact import RECIPIENT, Fact, Known
from relayd.rules.language.pattern import Text
from relayd.rules.language.source import one_of
from relayd.rules.language.words import Words
from relayd.rules.tables.table import Table

WHOSE = {
    "sender": Known.SENDER,
    "helo": Known.SENDER,
    "recipient": Known.RECIPIENT,  # as RCPT named it
    "client": Known.CLIENT,
}
"""What is looked up, and from when on it is known."""


def resolving(whose: str) -> Fact:
    """Whether this one's domain has an MX record, or an address (RFC 5321 section 5.1).

    Of a client: whether its address leads to a name at all, be it one that leads back or not.
    Unknown where no name server says. A null sender and an address literal need none.
    """
    return Fact(
        "the DNS records of", WHOSE[whose], asked=True, of=whose, spelled="resolves",
        values=(True, False),
    )  # fmt: skip


class ByRecords(Condition):
    """`resolves sender`, `resolves recipient`, `resolves helo`, `resolves client`."""

    __slots__ = ()
    word = "resolves"

    @classmethod
    def operand(cls, words: Words) -> Operand:
        """One operand."""
        return Text(words.choice(WHOSE, one_of(list(WHOSE))))

    @property
    def needs(self) -> frozenset[Fact]:
        """What it looks at."""
        facts = {resolving(each.text) for each in self.operands if isinstance(each, Text)}
        of_recipient = any(fact.known is Known.RECIPIENT for fact in facts)
        return frozenset({*facts, *([RECIPIENT] if of_recipient else [])})

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
