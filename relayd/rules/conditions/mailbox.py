"""`to` and `sender`: the mailboxes of the envelope, as rules have rewritten them so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import ClassVar, TypeVar

from relayd.rules.check.cover import above
from relayd.rules.conditions.condition import Condition, Operand, Test, always, noting
from relayd.rules.conditions.index import Index, Key
from relayd.rules.fact import RECIPIENT, SENDER
from relayd.rules.language.pattern import (
    Anything,
    Domain,
    Exact,
    InTable,
    LocalPart,
    MailboxPattern,
    Null,
    Regex,
    SubDomains,
)
from relayd.rules.language.patternreader import mailbox_pattern
from relayd.rules.language.regex import search
from relayd.rules.language.source import Complaint
from relayd.rules.language.words import Words
from relayd.rules.subject import Subject
from relayd.rules.tables.table import Table
from relayd.rules.view import View

NULL_PROBE = "<>"
M = TypeVar("M", bound="OfMailbox")


class RecipientIndex(Index):
    """By the recipient's probes, those without its tag too where the stage lets them count."""

    __slots__ = ()

    def collect(self, view: View, found: list[int]) -> None:
        """Add the rules whose condition may hold."""
        numbers, recipient = self.numbers, view.recipient
        for probe in recipient.probes:
            if probe in numbers:
                found += numbers[probe]
        for probe in recipient.wide:
            if probe in numbers:
                found += numbers[probe]


class SenderIndex(Index):
    """By the sender's probes, the null one's too."""

    __slots__ = ()

    def collect(self, view: View, found: list[int]) -> None:
        """Add the rules whose condition may hold."""
        numbers = self.numbers
        for probe in (NULL_PROBE,) if view.sender is None else view.sender.probes:
            if probe in numbers:
                found += numbers[probe]


class OfMailbox(Condition):
    """What the two have in common."""

    __slots__ = ()
    seen: ClassVar[attrgetter[Subject | None]]

    @classmethod
    def operand(cls, words: Words) -> MailboxPattern:
        """One operand."""
        return mailbox_pattern(words)

    def test(self, operand: Operand, tables: Mapping[str, Table]) -> Test:
        """Whether one operand fits, as a function of a view."""
        return mailbox_test(type(self).seen, operand, tables)

    @property
    def keys(self) -> tuple[Key, ...]:
        """What the index files it under."""
        probes = tuple(map(_probe_of, self.operands))
        return probes if all(probes) else ()

    @property
    def above(self) -> tuple[Key, ...]:
        """What another one is filed under that holds wherever this one does."""
        first = self.operands[0]  # what covers it covers its first operand
        if isinstance(first, Exact | Domain | SubDomains | LocalPart):
            return above(first)
        return (NULL_PROBE,) if isinstance(first, Null) else ()

    @property
    def everything(self) -> bool:
        """Whether it holds always."""
        return not self.negated and Anything() in self.operands


class ToRecipient(OfMailbox):
    """`to info@example.com, @example.org, <ours>`."""

    __slots__ = ()
    word = "to"
    facts = frozenset({RECIPIENT})
    index = RecipientIndex
    seen = attrgetter("recipient")

    @classmethod
    def read(cls: type[M], words: Words, *, negated: bool = False) -> M:
        """What stands behind its name."""
        start = words.place
        operands = words.commas(lambda: cls.operand(words))
        if Null() in operands:
            raise Complaint(start, "a recipient is never null", 'did you mean "sender null"?')
        return cls(operands, negated)

    @property
    def recipients(self) -> tuple[Operand, ...]:
        """The recipients that it names."""
        return self.operands

    @property
    def limits(self) -> bool:
        """Whether it keeps strangers' mail at home."""
        return not self.negated and Anything() not in self.operands


class FromSender(OfMailbox):
    """`sender @brand.example`, `sender null`."""

    __slots__ = ()
    word = "sender"
    facts = frozenset({SENDER})
    index = SenderIndex
    seen = attrgetter("sender")

    @property
    def names_null(self) -> bool:
        """Whether it says `null` of those that it is for."""
        return not self.negated and Null() in self.operands


def mailbox_test(
    seen: Callable[[View], Subject | None], operand: Operand, tables: Mapping[str, Table]
) -> Test:
    """A mailbox pattern as a function of a view; `seen`: at which mailbox of it."""
    if isinstance(operand, Anything):
        return always
    if isinstance(operand, Null):
        return lambda view: seen(view) is None
    if isinstance(operand, Regex):
        text = operand.text

        def matches(view: View) -> bool:
            subject = seen(view)
            return subject is not None and search(text, subject.key) is not None

        return matches
    if isinstance(operand, InTable):
        table = tables[operand.name]

        def place(view: View) -> str:
            subject = seen(view)
            return "" if subject is None else table.mailbox(subject)

        return noting(place)
    probe = _probe_of(operand)

    def fits(view: View) -> bool:
        subject = seen(view)
        return subject is not None and (probe in subject.probes or probe in subject.wide)

    return fits


def _probe_of(operand: Operand) -> str:
    if isinstance(operand, Exact | Domain | SubDomains | LocalPart):
        return operand.probe
    return NULL_PROBE if isinstance(operand, Null) else ""
