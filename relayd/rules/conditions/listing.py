"""`listed`: the client's address stands on a list in the DNS (RFC 5782)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from relayd.rules.conditions.condition import Condition, Operand, Test
from relayd.rules.fact import Fact, Known
from relayd.rules.language.pattern import Text
from relayd.rules.language.words import Words
from relayd.rules.tables.table import Table


def listing(name: str) -> Fact:
    """Whether the list of this name has the client: yes or no, never unknown.

    A list that does not answer, or says that it will not, has nobody.
    """
    return Fact(
        "the listing in",
        Known.CLIENT,
        asked=True,
        of=name,
        spelled="listed",
        unanswered=False,
        values=(False, True),
    )


class ByListing(Condition):
    """`listed zen`, `listed zen, strict`: on any of these."""

    __slots__ = ()
    word = "listed"

    @classmethod
    def operand(cls, words: Words) -> Operand:
        """One operand."""
        return Text(words.name("the name of a dnsbl or dnswl"))

    @property
    def needs(self) -> frozenset[Fact]:
        """What it looks at."""
        return frozenset(listing(name) for _, name in self.named)

    def test(self, operand: Operand, tables: Mapping[str, Table]) -> Test:
        """Whether one operand fits, as a function of a view."""
        assert isinstance(operand, Text)
        fact = listing(operand.text)
        return lambda view: bool(view.told(fact))

    def stated(self) -> tuple[Fact, object]:
        """What a test says of a client with this: that one list has him, or has not."""
        if len(self.operands) != 1:
            raise ValueError('expected one list: "listed NAME"')
        _, name = next(self.named)
        return listing(name), not self.negated

    @property
    def named(self) -> Iterator[tuple[str, str]]:
        """The definitions that it names: lists in the DNS."""
        return (("dnsbl", each.text) for each in self.operands if isinstance(each, Text))
