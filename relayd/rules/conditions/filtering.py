"""`score`, `says` and `symbol`: what those who looked at the content found."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Set

from relayd.rules.conditions.condition import Condition, Test, noting
from relayd.rules.fact import Fact, Known
from relayd.rules.language.pattern import Text
from relayd.rules.language.words import Words
from relayd.rules.tables.table import Table
from relayd.rules.view import View

WORDS = ("reject", "defer", "quarantine")
"""What a filter may say of a message, beside nothing."""
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
    "": operator.eq,  # what a test states
}
_NUMBER = re.compile(r"-?\d{1,6}(?:\.\d{1,6})?\Z")
_SYMBOL = re.compile(r"[A-Za-z0-9_.\-]{1,200}\Z")


def score_of(name: str) -> Fact:
    """The score that a filter gave, a float; empty: it was not asked, or has none."""
    return Fact("the score of", Known.CONTENT, asked=True, of=name, spelled="score", values=(0.0,))


def word_of(name: str) -> Fact:
    """One of WORDS; empty: it has nothing against the message, or was not asked."""
    return Fact(
        "the word of",
        Known.CONTENT,
        asked=True,
        of=name,
        spelled="says",
        unanswered="",
        values=("", *WORDS),
    )


def symbol_of(name: str, symbol: str) -> Fact:
    """Whether a filter found this."""
    return Fact(
        "the symbol of",
        Known.CONTENT,
        asked=True,
        of=f"{name} {symbol}",
        spelled="symbol",
        unanswered=False,
        values=(False, True),
    )


def said_of(
    needed: Set[Fact], name: str, word: str, score: float | None, symbols: Set[str]
) -> dict[Fact, object]:
    """What a filter said, as those facts that some rule looks at."""
    number = "" if score is None else score
    said: dict[Fact, object] = {score_of(name): number, word_of(name): word}
    found = {fact: said[fact] for fact in said if fact in needed}
    for fact in needed:
        of, _, symbol = fact.of.partition(" ")
        if fact.spelled == "symbol" and of == name:
            found[fact] = symbol in symbols
    return found


class _AboutFilter(Condition):
    """A condition whose first operand names a filter."""

    __slots__ = ()

    def __str__(self) -> str:
        words = " ".join(each.text for each in self._operands)
        return f"{'not ' if self.negated else ''}{self.word} {words}"

    @property
    def needs(self) -> frozenset[Fact]:
        """What it looks at."""
        return frozenset({self._fact} if self.operands else ())

    @property
    def known(self) -> Known:
        """From when on it can be asked."""
        return Known.CONTENT

    @property
    def named(self) -> Iterator[tuple[str, str]]:
        """The definition that it names: of the filter whose word it looks at."""
        return iter((("milter", self._name),))

    def compiled(self, tables: Mapping[str, Table]) -> Test:
        """It as a function of a view."""
        fact, fits = self._fact, self._fits

        def look(view: View) -> str:
            value = view.told(fact)
            return fact.said(value) if fits(value) else ""

        test = noting(look)
        return (lambda view: not test(view)) if self.negated else test

    def covers(
        self, other: Condition, tables: Mapping[str, Table], at: tuple[str, ...] = ()
    ) -> bool:
        """Whether it holds wherever the other one does."""
        return self == other

    @property
    def _operands(self) -> tuple[Text, ...]:
        return tuple(each for each in self.operands if isinstance(each, Text))

    @property
    def _name(self) -> str:
        return self._operands[0].text

    @property
    def _fact(self) -> Fact:
        raise NotImplementedError

    def _fits(self, value: object) -> bool:
        raise NotImplementedError


class ByScore(_AboutFilter):
    """`score scan >= 15`; in a test `score scan 20`."""

    __slots__ = ()
    word = "score"

    @classmethod
    def read(cls, words: Words, *, negated: bool = False) -> ByScore:
        """What stands behind its name."""
        name = words.name("the name of an rspamd")
        comparison = ""
        token = words.peek()
        if token is not None and token.text in _COMPARISONS:
            comparison = words.word("a comparison").text
        elif token is None or not _NUMBER.match(token.text):
            raise words.missing('">= NUMBER"')
        number = words.word("a number").text
        if not _NUMBER.match(number):
            raise words.complain(f'"{number}" is no number', "expected e.g. 6 or 7.5")
        operands = (name, *([comparison] if comparison else []), f"{float(number):g}")
        return cls(tuple(map(Text, operands)), negated)

    def stated(self) -> tuple[Fact, object]:
        """What a test says of a message: its score."""
        if self.negated or self.comparison:
            raise ValueError('expected the score itself: "score NAME 20"')
        return self._fact, self.number

    @property
    def comparison(self) -> str:
        """`>=` and the like; empty where the score itself is stated."""
        return self._operands[1].text if len(self.operands) > 2 else ""

    @property
    def number(self) -> float:
        """What the score is compared with."""
        return float(self._operands[-1].text)

    def covers(
        self, other: Condition, tables: Mapping[str, Table], at: tuple[str, ...] = ()
    ) -> bool:
        """Whether it holds wherever the other one does."""
        if self == other:
            return True
        if not isinstance(other, ByScore) or self.negated or other.negated:
            return False
        alike = self._name == other._name and self.comparison == other.comparison
        more = other.number >= self.number
        least, most = self.comparison in (">", ">="), self.comparison in ("<", "<=")
        return alike and ((least and more) or (most and other.number <= self.number))

    @property
    def _fact(self) -> Fact:
        return score_of(self._name)

    def _fits(self, value: object) -> bool:
        return isinstance(value, float) and _COMPARISONS[self.comparison](value, self.number)


class ByFilterWord(_AboutFilter):
    """`says virus reject`."""

    __slots__ = ()
    word = "says"

    @classmethod
    def read(cls, words: Words, *, negated: bool = False) -> ByFilterWord:
        """What stands behind its name."""
        name = words.name("the name of a milter, rspamd or clamd")
        said = words.choice(WORDS, "reject, defer or quarantine")
        return cls((Text(name), Text(said)), negated)

    def stated(self) -> tuple[Fact, object]:
        """What a test says of a message: the filter's word."""
        if self.negated:
            raise ValueError('expected what it says: "says NAME reject"')
        return self._fact, self._operands[1].text

    @property
    def _fact(self) -> Fact:
        return word_of(self._name)

    def _fits(self, value: object) -> bool:
        return value == self._operands[1].text


class BySymbol(_AboutFilter):
    """`symbol scan BAYES_SPAM`."""

    __slots__ = ()
    word = "symbol"

    @classmethod
    def read(cls, words: Words, *, negated: bool = False) -> BySymbol:
        """What stands behind its name."""
        name = words.name("the name of an rspamd")
        symbol = words.word("the symbol, e.g. BAYES_SPAM").text
        if not _SYMBOL.match(symbol):
            raise words.complain(f'"{symbol}" is no symbol', "expected e.g. BAYES_SPAM")
        return cls((Text(name), Text(symbol)), negated)

    def stated(self) -> tuple[Fact, object]:
        """What a test says of a message: that the filter found it, or did not."""
        return self._fact, not self.negated

    @property
    def _fact(self) -> Fact:
        return symbol_of(self._name, self._operands[1].text)

    def _fits(self, value: object) -> bool:
        return value is True
