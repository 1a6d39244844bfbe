"""Finds regular expressions whose matching could take very long, before any mail comes.

A backtracking matcher tries every way to share a text out among the repeats of an expression. So
what is counted here is how many repeats can share the same text. It errs on the safe side: an
expression that passes takes at most about MAX_DEGREE nested scans of a 320-character address
(a millisecond); some that would be harmless are refused, and the hint says how to write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from re import _constants as op  # type: ignore[attr-defined]  # isort: skip
from re import _parser  # type: ignore[attr-defined]  # isort: skip

MAX_DEGREE = 2
MAX_OPTIONAL = 8  # "?" and the like: each doubles the ways at most
_ALL = frozenset(range(129))  # ASCII, and 128 for everything above
_WORD = frozenset(n for n in range(128) if chr(n).isalnum() or n == 95) | {128}
_DIGIT = frozenset(range(48, 58)) | {128}
_SPACE = frozenset(n for n in range(128) if chr(n).isspace()) | {128}
_CLASSES = {
    op.CATEGORY_DIGIT: _DIGIT,
    op.CATEGORY_NOT_DIGIT: _ALL - frozenset(range(48, 58)),
    op.CATEGORY_SPACE: _SPACE,
    op.CATEGORY_NOT_SPACE: _ALL - (_SPACE - {128}),
    op.CATEGORY_WORD: _WORD,
    op.CATEGORY_NOT_WORD: _ALL - (_WORD - {128}),
}
_REPEATS = (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT)
Letters = frozenset[int]
Parsed = Sequence[tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class _Item:
    """One step of an expression that has been laid out flat."""

    letters: Letters  # what it may consume; empty: nothing
    least: int
    most: int
    one: bool = True  # every round consumes exactly one letter
    end: bool = False  # a `$`
    sure: bool = True  # no way through the expression goes round it


class _Runaway(Exception):  # noqa: N818 - about the expression, not about us
    pass


def parsed_of(text: str) -> Parsed:
    """The (valid) expression as the steps that `re` makes of it."""
    return list(_parser.parse(text))


def runaway(text: str) -> str:
    """Why the (valid) expression could run away; empty: it cannot."""
    parsed = parsed_of(text)
    try:
        items = list(_flat(parsed))
        degree = 0 if _anchored(parsed) else 1
        degree += sum(_loose(items, at) for at in range(len(items)))
    except _Runaway as reason:
        return str(reason)
    if sum(1 for item in items if item.most != item.least and item.most <= 2) > MAX_OPTIONAL:
        return f"more than {MAX_OPTIONAL} optional parts"
    if degree > MAX_DEGREE:
        return "several repeats can share the same letters"
    return ""


def capital(text: str) -> str:
    """The first capital letter the expression insists on (addresses are matched in lower case)."""
    parsed = _parser.parse(text)
    if parsed.state.flags & re.IGNORECASE:
        return ""
    for code, value in _steps(list(parsed)):
        if code is op.LITERAL and 65 <= value <= 90:
            return chr(value)
    return ""


def _steps(parsed: Parsed) -> Iterator[tuple[Any, Any]]:
    for code, value in parsed:
        yield code, value
        if code is op.SUBPATTERN:
            yield from _steps(list(value[-1]))
        elif code in _REPEATS:
            yield from _steps(list(value[2]))


def _anchored(parsed: Parsed) -> bool:
    if not parsed:
        return False
    code, value = parsed[0]
    if code is op.SUBPATTERN:
        return _anchored(list(value[-1]))
    if code is op.BRANCH:
        return all(_anchored(list(branch)) for branch in value[1])
    return bool(code is op.AT and value in (op.AT_BEGINNING, op.AT_BEGINNING_STRING))


def _flat(parsed: Parsed) -> Iterator[_Item]:
    """The expression as one row of items; groups are opened, alternatives follow each other."""
    for code, value in parsed:
        if code in _REPEATS:
            yield from _repeat(value)
        elif code is op.SUBPATTERN:
            yield from _flat(list(value[-1]))
        elif code is op.ATOMIC_GROUP:
            yield from _flat(list(value))
        elif code is op.BRANCH:
            for branch in value[1]:
                yield from _unsure(_flat(list(branch)))
        elif code in (op.ASSERT, op.ASSERT_NOT):
            yield from _unsure(_flat(list(value[1])))
        elif code is op.AT:
            yield _Item(frozenset(), 0, 0, end=value in (op.AT_END, op.AT_END_STRING))
        elif code in (op.GROUPREF, op.GROUPREF_EXISTS):
            raise _Runaway("it refers back to one of its own groups")
        else:
            yield _Item(letters_of(code, value), 1, 1)


def _unsure(items: Iterator[_Item]) -> Iterator[_Item]:
    return (replace(item, sure=False) for item in items)


def _repeat(value: Any) -> Iterator[_Item]:  # noqa: ANN401 - the parser's own tuples
    least, most, body = int(value[0]), int(value[1]), list(value[2])
    items = list(_flat(body))
    letters = frozenset().union(*(item.letters for item in items))
    if _one_letter(body):
        yield _Item(letters, least, most)
    elif most <= 1:
        yield from items if least else _unsure(iter(items))
    else:
        _check_body(body, items)
        yield _Item(letters, least, most, one=False)


def _check_body(body: Parsed, items: list[_Item]) -> None:
    """What is repeated must have one way only to make a given text."""
    if any(code in _REPEATS and not _one_letter(list(value[2])) for code, value in _open(body)):
        raise _Runaway("a repeat inside a repeat")
    for branches in _branches(body):
        firsts = [_first(list(branch)) for branch in branches]
        for at, first in enumerate(firsts):
            if any(first & other for other in firsts[:at]):
                raise _Runaway("alternatives inside a repeat can begin with the same letter")
    variable = [item for item in items if item.least != item.most]
    fixed = [item for item in items if item.least == item.most == 1 and item.letters]
    if not variable and fixed:
        return
    if len(variable) > 1 or not variable:
        raise _Runaway("a repeat inside a repeat")
    inner = variable[0]
    if not inner.one or list(_branches(body)):
        raise _Runaway("a repeat inside a repeat")
    if not any(not (item.letters & inner.letters) for item in fixed):
        raise _Runaway("a repeat inside a repeat, with nothing to tell the rounds apart")


def _open(parsed: Parsed) -> Iterator[tuple[Any, Any]]:
    """The steps of an expression with its groups and alternatives opened, repeats left closed."""
    for code, value in parsed:
        if code is op.SUBPATTERN:
            yield from _open(list(value[-1]))
        elif code is op.BRANCH:
            yield code, value
            for branch in value[1]:
                yield from _open(list(branch))
        else:
            yield code, value


def _one_letter(parsed: Parsed) -> bool:
    steps = list(_open(parsed))
    return len(steps) == 1 and steps[0][0] in (op.LITERAL, op.NOT_LITERAL, op.IN, op.ANY)


def _branches(parsed: Parsed) -> Iterator[Sequence[Any]]:
    return (value[1] for code, value in _open(parsed) if code is op.BRANCH)


def _first(parsed: Parsed) -> Letters:
    """What a text made by the expression can begin with; everything, if it can be empty."""
    letters: Letters = frozenset()
    for code, value in parsed:
        if code is op.SUBPATTERN:
            begin = _first(list(value[-1]))
        elif code is op.BRANCH:
            begin = frozenset().union(*(_first(list(branch)) for branch in value[1]))
        elif code in _REPEATS:
            begin = _first(list(value[2]))
            if not value[0]:
                letters |= begin
                continue
        elif code in (op.AT, op.ASSERT, op.ASSERT_NOT):
            continue
        else:
            begin = letters_of(code, value)
        return letters | begin
    return _ALL


def _loose(items: list[_Item], at: int) -> int:
    """1 if the item is a repeat whose end the next item does not settle, else 0."""
    item = items[at]
    if item.most <= 2 or (item.one and item.least == item.most):
        return 0
    for following in items[at + 1 :]:
        if following.letters & item.letters:
            return 1
        if following.sure and (following.end or following.least > 0):
            return 0
    return 0


def letters_of(code: Any, value: Any) -> Letters:  # noqa: ANN401 - the parser's own tuples
    """At least every letter that a step can consume, in either case."""
    if code is op.LITERAL:
        return _cased({min(value, 128)})
    if code is op.NOT_LITERAL and value < 128:
        return _ALL - {value}
    if code is not op.IN:
        return _ALL
    letters: set[int] = set()
    negate = False
    for kind, what in value:
        if kind is op.NEGATE:
            negate = True
        elif kind is op.LITERAL:
            letters.add(min(what, 128))
        elif kind is op.RANGE:
            letters.update(min(n, 128) for n in range(what[0], min(what[1], 128) + 1))
            letters.update({128} if what[1] >= 128 else ())
        else:
            letters |= _CLASSES.get(what, _ALL)
    # of what lies above ASCII a class may hold a part only, so its opposite holds one too
    return (_ALL - letters) | {128} if negate else _cased(letters)


def _cased(letters: set[int]) -> Letters:
    return frozenset(
        ord(each) for n in letters if n < 128 for each in (chr(n).lower(), chr(n).upper())
    ) | (letters & {128})
