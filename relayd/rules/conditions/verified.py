"""`unknown at`: the recipient's mailbox does not exist at a next hop, as that says itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from relayd.rules.conditions.condition import Condition, Operand, Test
from relayd.rules.fact import RECIPIENT, Fact, Known
from relayd.rules.language.pattern import Text
from relayd.rules.language.words import Words
from relayd.rules.tables.table import Table
from relayd.rules.view import View


def unknown_at(next_hop: str) -> Fact:
    """Whether a mailbox is unknown there; None: it does not say."""
    return Fact(
        "the mailbox at",
        Known.RECIPIENT,
        asked=True,
        of=next_hop,
        spelled="unknown at",
        values=(False, True),
    )


class UnknownAt(Condition):
    """`unknown at exchange`."""

    __slots__ = ()
    word = "unknown"

    @classmethod
    def read(cls, words: Words, *, negated: bool = False) -> UnknownAt:
        """What stands behind its name."""
        if not words.skip_word("at"):
            raise words.missing('"at" and the name of a next hop')
        return cls((Text(words.name("the name of a next hop")),), negated)

    def __str__(self) -> str:
        return f"{'not ' if self.negated else ''}unknown at {', '.join(map(str, self.operands))}"

    @property
    def needs(self) -> frozenset[Fact]:
        """What it looks at."""
        return frozenset({RECIPIENT, *(unknown_at(name) for _, name in self.named)})

    @property
    def named(self) -> Iterator[tuple[str, str]]:
        """The definitions that it names."""
        return (("next-hop", each.text) for each in self.operands if isinstance(each, Text))

    def test(self, operand: Operand, tables: Mapping[str, Table]) -> Test:
        """Whether it fits, as a function of a view: of the recipient that rules have made."""
        assert isinstance(operand, Text)
        fact = unknown_at(operand.text)

        def test(view: View) -> bool:
            return bool(view.told(fact, replace(fact, about=str(view.recipient.mailbox))))

        return test

    def stated(self) -> tuple[Fact, object]:
        """What a test says of a recipient with this: that it is unknown, or is not."""
        ((_, name),) = self.named
        return unknown_at(name), not self.negated
