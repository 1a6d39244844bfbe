"""What a condition is: all that the language, the stages and the checks ever ask of one.

To add one, write its class in a module here and name it in relayd.rules.conditions.registry. What
a class does not say has the cautious answer: it covers nothing, limits nobody, names nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import replace as but
from typing import ClassVar, TypeVar

from relayd.rules.check.cover import covers
from relayd.rules.conditions.index import Index, Key
from relayd.rules.fact import Fact, Known
from relayd.rules.language.pattern import (
    ClientPattern,
    ContentPattern,
    InTable,
    MailboxPattern,
    NamePattern,
)
from relayd.rules.language.words import Words
from relayd.rules.tables.table import Table, Unknown
from relayd.rules.view import View

Operand = MailboxPattern | ClientPattern | NamePattern | ContentPattern
Test = Callable[[View], bool]
"""Yes or no; the third answer is to raise Unknown."""
C = TypeVar("C", bound="Condition")


@dataclass(frozen=True, slots=True)
class Condition:
    """One test of the facts; it holds when any of its operands fits."""

    operands: tuple[Operand, ...] = ()
    negated: bool = False

    word: ClassVar[str] = ""
    """Its name in the language."""
    facts: ClassVar[frozenset[Fact]] = frozenset()
    welcome: ClassVar[frozenset[Fact]] = frozenset()
    """What it is better with, and does without."""
    index: ClassVar[type[Index] | None] = None
    """Where a stage files rules by it; None: they are looked at each time."""

    # it is read, and printed

    @classmethod
    def read(cls: type[C], words: Words, *, negated: bool = False) -> C:
        """What stands behind its name."""
        return cls(words.commas(lambda: cls.operand(words)), negated)

    @classmethod
    def operand(cls, words: Words) -> Operand:
        """One operand."""
        raise NotImplementedError

    def __str__(self) -> str:
        words = f"not {self.word}" if self.negated else self.word
        return f"{words} {', '.join(map(str, self.operands))}" if self.operands else words

    # it is asked

    @property
    def needs(self) -> frozenset[Fact]:
        """What it looks at."""
        return self.facts

    @property
    def known(self) -> Known:
        """From when on it can be asked."""
        return max((fact.known for fact in self.needs), default=Known.CLIENT)

    def compiled(self, tables: Mapping[str, Table]) -> Test:
        """It as a function of a view."""
        tests = [self.test(operand, tables) for operand in self.operands]
        test = tests[0] if len(tests) == 1 else _either(tests)
        return (lambda view: not test(view)) if self.negated else test

    def test(self, operand: Operand, tables: Mapping[str, Table]) -> Test:
        """Whether one operand fits, as a function of a view."""
        raise NotImplementedError

    def stated(self) -> tuple[Fact, object]:
        """The fact that a test or a question states with it, and its value.

        ValueError: it says nothing definite, or is about what is stated otherwise; in words, what
        would be expected.
        """
        raise ValueError('expected a fact that is asked for, such as "listed NAME"')

    # a stage files it

    @property
    def keys(self) -> tuple[Key, ...]:
        """What the index files it under: it holds only where one is found. None: it is no use."""
        return ()

    @property
    def above(self) -> tuple[Key, ...]:
        """What another one is filed under that holds wherever this one does."""
        return ()

    # it is checked

    @property
    def tables(self) -> Iterator[str]:
        """The names of the tables that it asks."""
        return (operand.name for operand in self.operands if isinstance(operand, InTable))

    @property
    def named(self) -> Iterator[tuple[str, str]]:
        """The definitions that it names, tables apart: how their statement begins, and the name."""
        return iter(())

    def misused(self, tables: Mapping[str, Table]) -> Iterator[tuple[str, str, str]]:
        """Tables that cannot hold what it asks for: name, what is wrong, what was expected."""
        return iter(())

    @property
    def everything(self) -> bool:
        """Whether it holds always."""
        return False

    def covers(
        self, other: Condition, tables: Mapping[str, Table], at: tuple[str, ...] = ()
    ) -> bool:
        """Whether it holds wherever the other one does; `at`: domains of a table's bare names."""
        if self.everything or self == other:
            return True
        if type(self) is not type(other) or self.negated or other.negated:
            return False
        return bool(other.operands) and all(
            any(covers(wide, narrow, tables, at) for wide in self.operands)
            for narrow in other.operands
        )

    def never_with(self, other: Condition, tables: Mapping[str, Table]) -> bool:
        """Whether the two can never hold together."""
        return self.negated and not other.negated and but(self, negated=False).covers(other, tables)

    @property
    def limits(self) -> bool:
        """Whether it keeps strangers out, or strangers' mail at home."""
        return False

    @property
    def names_client(self) -> bool:
        """Whether it holds only for clients that the rule knows, by address or by who they are."""
        return False

    @property
    def recipients(self) -> tuple[Operand, ...]:
        """The recipients that it names, if it is about them."""
        return ()


def _either(tests: list[Test]) -> Test:
    def test(view: View) -> bool:
        unknown: Unknown | None = None
        for one in tests:
            try:
                if one(view):
                    return True
            except Unknown as answer:
                unknown = answer
        if unknown is not None:
            raise unknown
        return False

    return test


def noting(look: Callable[[View], str]) -> Test:
    """What a table says of a view: where it holds something, the trail tells where."""

    def test(view: View) -> bool:
        note = look(view)
        if note:
            view.notes.append(note)
        return bool(note)

    return test


def always(_view: View) -> bool:
    """The test that everything passes."""
    return True
