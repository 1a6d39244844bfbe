"""`field`: what a header field of the content says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from relayd.rules.conditions.condition import Condition, Operand, Test
from relayd.rules.fact import Fact, Known
from relayd.rules.language.lexer import TokenKind
from relayd.rules.language.pattern import FieldLike
from relayd.rules.language.patternreader import regex_pattern
from relayd.rules.language.regex import compiled
from relayd.rules.language.words import Words
from relayd.rules.tables.table import Table
from relayd.rules.view import View

FIELD = "field"
MOST_CHARACTERS = 1000  # of one field; what stands behind them is not looked at
MOST_IN_ALL = 2000  # of all fields of a name: an expression has its price for each


def header_field(name: str) -> Fact:
    """What the fields of this name say, in their order: text, unfolded and decoded.

    In lower case, as all that expressions are matched with. Empty: there is none.
    """
    return Fact("the header field", Known.CONTENT, of=name.lower(), spelled=FIELD, values=((),))


def bounded(texts: Iterable[str]) -> tuple[str, ...]:
    """Texts of fields as rules look at them: as much as expressions may have, in lower case."""
    left = MOST_IN_ALL
    kept = []
    for text in texts:
        kept.append(text[: min(MOST_CHARACTERS, left)].lower())
        left -= len(kept[-1])
        if left <= 0:
            break
    return tuple(kept)


class ByField(Condition):
    """`field Subject "invoice"`, `field List-Id "."`: one of the fields of this name fits."""

    __slots__ = ()
    word = FIELD

    @classmethod
    def read(cls, words: Words, *, negated: bool = False) -> ByField:
        """What stands behind its name."""
        return cls((cls.operand(words),), negated)

    @classmethod
    def operand(cls, words: Words) -> Operand:
        """One operand."""
        name = words.field_name()
        token = words.peek()
        if token is None or token.kind is not TokenKind.STRING:
            raise words.missing("the regular expression in quotes")
        return FieldLike(name, regex_pattern(words, "fields").text)

    @property
    def needs(self) -> frozenset[Fact]:
        """What it looks at."""
        return frozenset(header_field(each.name) for each in self._likes)

    @property
    def known(self) -> Known:
        """From when on it can be asked."""
        return Known.CONTENT

    @property
    def _likes(self) -> list[FieldLike]:
        return [each for each in self.operands if isinstance(each, FieldLike)]

    def test(self, operand: Operand, tables: Mapping[str, Table]) -> Test:
        """Whether one operand fits, as a function of a view."""
        assert isinstance(operand, FieldLike)
        fact, search = header_field(operand.name), compiled(operand.text).search
        return lambda view: any(search(text) for text in _texts(view, fact))

    def stated(self) -> tuple[Fact, object]:
        """What a test says of a message with this: a field with just this text, or none."""
        (like,) = self._likes
        fact = header_field(like.name)
        return (fact, ()) if self.negated else (fact, (like.text,))


def _texts(view: View, fact: Fact) -> tuple[str, ...]:
    texts = view.told(fact)
    assert isinstance(texts, tuple)
    return texts
