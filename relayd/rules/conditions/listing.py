"""`listed`: the client's address, or a name, stands on a list in the DNS (RFC 5782)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from relayd.rules.conditions.condition import Condition, Operand, Test
from relayd.rules.fact import RECIPIENT, Fact, Known
from relayd.rules.language.pattern import ListedBy, Text
from relayd.rules.language.source import one_of
from relayd.rules.language.words import Words
from relayd.rules.tables.table import Table

WHOSE = {
    "sender": Known.SENDER,  # its domain; a null one has none
    "recipient": Known.RECIPIENT,  # its domain, as RCPT named it
    "helo": Known.SENDER,
    "rdns": Known.CLIENT,  # the client's reverse name, confirmed
    "ptr": Known.CLIENT,  # ... as its address leads to it, whether it leads back or not
}
"""The names that a list may be asked about, and from when on they are known."""


def listing(name: str, whose: str = "") -> Fact:
    """Whether the list of this name has the client, or this name: yes or no, never unknown.

    A list that does not answer, or says that it will not, has nobody.
    """
    return Fact(
        "the listing in",
        WHOSE.get(whose, Known.CLIENT),
        asked=True,
        of=f"{name} by {whose}" if whose else name,
        spelled="listed",
        unanswered=False,
        values=(False, True),
    )


class ByListing(Condition):
    """`listed zen`, `listed zen, strict`: on any of these; `listed dbl by sender`: its domain."""

    __slots__ = ()
    word = "listed"

    @classmethod
    def operand(cls, words: Words) -> Operand:
        """One operand."""
        name = words.name("the name of a dnsbl or dnswl")
        if not words.skip_word("by"):
            return Text(name)
        return ListedBy(name, words.choice(WHOSE, one_of(list(WHOSE))))

    @property
    def needs(self) -> frozenset[Fact]:
        """What it looks at."""
        facts = {_fact(each) for each in self.operands}
        of_recipient = any(fact.known is Known.RECIPIENT for fact in facts)
        return frozenset({*facts, *([RECIPIENT] if of_recipient else [])})

    def test(self, operand: Operand, tables: Mapping[str, Table]) -> Test:
        """Whether one operand fits, as a function of a view."""
        fact = _fact(operand)
        return lambda view: bool(view.told(fact))

    def stated(self) -> tuple[Fact, object]:
        """What a test says of a client with this: that one list has him, or has not."""
        if len(self.operands) != 1:
            raise ValueError('expected one list: "listed NAME"')
        return _fact(self.operands[0]), not self.negated

    @property
    def named(self) -> Iterator[tuple[str, str]]:
        """The definitions that it names: lists in the DNS."""
        return (("dnsbl", _names(each)[0]) for each in self.operands)


def _fact(operand: Operand) -> Fact:
    return listing(*_names(operand))


def _names(operand: Operand) -> tuple[str, str]:
    """The list, and whose name it is asked about; empty: about the client's address."""
    if isinstance(operand, ListedBy):
        return operand.name, operand.whose
    assert isinstance(operand, Text)
    return operand.text, ""
