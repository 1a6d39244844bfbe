"""`rdns`: the client's reverse name, confirmed: the name that its address leads to, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from relayd.mail.address import fold_domain
from relayd.rules.conditions.condition import Condition, Operand, Test, noting
from relayd.rules.fact import Fact, Known
from relayd.rules.language.pattern import Anything, InTable, Regex, Text
from relayd.rules.language.patternreader import name_pattern, regex_pattern
from relayd.rules.language.regex import search
from relayd.rules.language.words import Words, domain_of
from relayd.rules.tables.table import Table
from relayd.rules.view import View

REVERSE_NAME = Fact(
    "the client's reverse name",
    Known.CLIENT,
    asked=True,
    spelled="rdns",
    values=("outside.invalid", ""),
)
"""Folded, without a dot at its end; empty: there is none, or it does not lead back."""
_NONE = Text("none")
_OURSELVES = "localhost"  # mail of our own


class ByReverseName(Condition):
    """`rdns none`, `rdns mail.example.com, .example.net` (any name below it), `rdns any`."""

    __slots__ = ()
    word = "rdns"
    facts = frozenset({REVERSE_NAME})

    @classmethod
    def operand(cls, words: Words) -> Operand:
        """One operand."""
        if words.skip_word("regex"):
            return regex_pattern(words)
        name = name_pattern(words, "none, a host name, .domain, <table>, regex or any")
        if isinstance(name, Text) and name != _NONE:
            if "@" in name.text:
                hint = f'did you mean "{name.text.rpartition("@")[2]}"?'
                raise words.complain(f'"{name.text}" is no host name', hint)
            domain_of(name.text.removeprefix("."), words.last)
        return name

    def test(self, operand: Operand, tables: Mapping[str, Table]) -> Test:
        """Whether one operand fits, as a function of a view."""
        if isinstance(operand, InTable):
            table = tables[operand.name]
            return noting(lambda view: table.word(name) if (name := _name(view)) else "")
        if isinstance(operand, Regex):
            text = operand.text
            return _noting(lambda name: bool(name) and search(text, name) is not None)
        if not isinstance(operand, Text):
            return _noting(bool)
        if operand == _NONE:
            return lambda view: not _name(view)
        wanted = fold_domain(operand.text.removeprefix("."))
        if operand.text.startswith("."):
            return _noting(lambda name: name.endswith(f".{wanted}"))
        return lambda view: _name(view) == wanted

    def stated(self) -> tuple[Fact, object]:
        """What a test says of a client with this: one name, or none."""
        (operand,) = self.operands if len(self.operands) == 1 else (None,)
        if self.negated or not isinstance(operand, Text) or operand.text.startswith("."):
            raise ValueError('expected "rdns none" or "rdns NAME"')
        return REVERSE_NAME, "" if operand == _NONE else fold_domain(operand.text)

    def covers(
        self, other: Condition, tables: Mapping[str, Table], at: tuple[str, ...] = ()
    ) -> bool:
        """Whether it holds wherever the other one does; `any` name is not `none`."""
        if _NONE in other.operands and _NONE not in self.operands:
            return False
        return Condition.covers(self, other, tables, at)

    @property
    def limits(self) -> bool:
        """Whether it keeps strangers out: who has a name in a zone is let in by its owner."""
        return not self.negated and not {Anything(), _NONE} & {*self.operands}


def _name(view: View) -> str:
    client = view.client
    if client.rdns is not None:
        return client.rdns
    return str(view.told(REVERSE_NAME)) if client.address else _OURSELVES


def _noting(fits: Callable[[str], bool]) -> Test:
    """Which name it was is said in the trail, where the rule itself does not."""
    return noting(lambda view: f"rdns {name}" if fits(name := _name(view)) else "")
