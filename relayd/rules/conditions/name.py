"""`login`, `listener` and `helo`: names that a client has, or gives itself."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import ClassVar

from relayd.rules.conditions.condition import Condition, Operand, Test, noting
from relayd.rules.conditions.index import Index, Key
from relayd.rules.fact import HELO, LISTENER, LOGIN
from relayd.rules.language.pattern import InTable, Regex, Text
from relayd.rules.language.patternreader import name_pattern, regex_pattern
from relayd.rules.language.regex import search
from relayd.rules.language.words import Words
from relayd.rules.tables.table import Table
from relayd.rules.view import View


class NameIndex(Index):
    """By name."""

    __slots__ = ()
    seen: ClassVar[attrgetter[str]]

    def collect(self, view: View, found: list[int]) -> None:
        """Add the rules whose condition holds."""
        found += self.numbers.get(self.seen(view).lower(), ())


class LoginIndex(NameIndex):
    """By login."""

    __slots__ = ()
    seen = attrgetter("client.login")


class ListenerIndex(NameIndex):
    """By listener."""

    __slots__ = ()
    seen = attrgetter("client.listener")


class OfName(Condition):
    """What the three have in common: case does not matter; `any` is any but none."""

    __slots__ = ()
    seen: ClassVar[attrgetter[str]]

    @classmethod
    def operand(cls, words: Words) -> Operand:
        """One operand."""
        return name_pattern(words)

    def test(self, operand: Operand, tables: Mapping[str, Table]) -> Test:
        """Whether one operand fits, as a function of a view."""
        seen = type(self).seen
        if isinstance(operand, InTable):
            table = tables[operand.name]
            return noting(lambda view: table.word(seen(view)))
        if not isinstance(operand, Text):
            return lambda view: bool(seen(view))
        wanted = operand.text.lower()
        return lambda view: seen(view).lower() == wanted

    @property
    def keys(self) -> tuple[Key, ...]:
        """What the index files it under."""
        texts = tuple(each.text.lower() for each in self.operands if isinstance(each, Text))
        return texts if len(texts) == len(self.operands) else ()

    @property
    def above(self) -> tuple[Key, ...]:
        """What another one is filed under that holds wherever this one does."""
        return self.keys[:1]


class ByLogin(OfName):
    """`login bob`, `login any`."""

    __slots__ = ()
    word = "login"
    facts = frozenset({LOGIN})
    index = LoginIndex
    seen = LoginIndex.seen

    @property
    def names_client(self) -> bool:
        """Whether it holds only for clients that the rule knows: all who have logged in."""
        return not self.negated

    limits = names_client


class AtListener(OfName):
    """`listener 127.0.0.1:2525`."""

    __slots__ = ()
    word = "listener"
    facts = frozenset({LISTENER})
    index = ListenerIndex
    seen = ListenerIndex.seen

    @property
    def limits(self) -> bool:
        """Whether it keeps strangers out: the administrator says who reaches a listener."""
        return not self.negated


class ByHelo(OfName):
    """`helo mx.example.com, .example.net` (any name below it), `helo regex "^dynamic-"`."""

    __slots__ = ()
    word = "helo"
    facts = frozenset({HELO})
    seen = attrgetter("client.helo")

    @classmethod
    def operand(cls, words: Words) -> Operand:
        """One operand."""
        return regex_pattern(words) if words.skip_word("regex") else name_pattern(words)

    def test(self, operand: Operand, tables: Mapping[str, Table]) -> Test:
        """Whether one operand fits, as a function of a view."""
        if isinstance(operand, Regex):
            text = operand.text
            return lambda view: search(text, view.client.helo.lower()) is not None
        if isinstance(operand, Text) and operand.text.startswith("."):
            below = operand.text.lower()
            return lambda view: view.client.helo.lower().endswith(below)
        return OfName.test(self, operand, tables)
