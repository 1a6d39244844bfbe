"""Postfix's regular expressions (POSIX or Perl) as relayd's, or why one cannot be carried over."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from relayd.migrate.tables import Expression
from relayd.rules.language.regex import template_trouble, trouble

from re import _constants as op  # type: ignore[attr-defined]  # isort: skip
from re import _parser  # type: ignore[attr-defined]  # isort: skip

_POSIX = {
    "alnum": "a-z0-9",
    "alpha": "a-z",
    "digit": "0-9",
    "lower": "a-z",
    "upper": "a-z",
    "space": r"\s",
    "blank": r" \t",
    "xdigit": "0-9a-f",
    "punct": r"!-/:-@\[-`{-~",
    "word": r"\w",
    "print": " -~",
    "graph": "!-~",
    "cntrl": r"\x00-\x1f",
}
_CLASS = re.compile(r"\[:(\w+):\]")
_REFERENCE = re.compile(r"\$(?:(\d)|\{(\d+)\}|\((\d+)\)|(\$))")
_REPEATED_DOT = re.compile(r"(?<!\\)((?:\\\\)*)\.([*+]\??)")


@dataclass(frozen=True, slots=True)
class Carried:
    """An expression of relayd, or why there is none."""

    text: str = ""
    why: str = ""


def carried(expression: Expression, kind: str) -> Carried:
    """The expression as relayd matches it: against an address in lower case."""
    flags = set(expression.flags)
    if kind == "regexp" and flags - {"i", "m", "x"}:
        return Carried(why=f"flags {expression.flags}")
    if flags & {"x", "A", "E", "U", "X"} and not (kind == "regexp" and flags <= {"i", "m", "x"}):
        return Carried(why=f"flags {expression.flags}")
    text = _posix(expression.text) if kind == "regexp" else expression.text
    if "i" in flags and re.search(r"(?<!\\)[A-Z]", text):
        return Carried(why="it asks for capital letters; addresses are matched in lower case")
    text = _lowered(text)
    for candidate in (text, _tightened(text)):
        wrong = trouble(candidate)
        if wrong is None:
            return Carried(candidate)
    assert wrong is not None
    return Carried(why=f"{wrong[0]} ({wrong[1]})")


def addresses_only(expression: Expression, kind: str) -> bool:
    """Whether nothing without an @ can match: no bare domain, as a list of domains has them."""
    found = carried(expression, kind)
    if expression.negated or not found.text:
        return False
    return _requires(list(_parser.parse(found.text)), "@")


def never_an_address(expression: Expression, kind: str) -> bool:
    """Whether no client's address can match: a letter that none has is in every text that does."""
    found = carried(expression, kind)
    if expression.negated or not found.text:
        return False
    return _requires(list(_parser.parse(found.text)), "ghijklmnopqrstuvwxyz-_")


def _requires(parsed: Sequence[Any], letters: str) -> bool:
    """Whether one of the letters is in every text that these match."""
    for code, value in parsed:
        if code is op.LITERAL and chr(value) in letters:
            return True
        if code is op.SUBPATTERN and _requires(list(value[-1]), letters):
            return True
        repeated = list(value[2]) if code in (op.MAX_REPEAT, op.MIN_REPEAT) and value[0] else []
        if _requires(repeated, letters):
            return True
        if code is op.BRANCH and all(_requires(list(each), letters) for each in value[1]):
            return True
    return False


def template(text: str, expression: str) -> tuple[str, str]:
    """A result with `$1` in it as a template, and what is wrong with it."""

    def reference(match: re.Match[str]) -> str:
        if match.group(4):
            return "$"
        number = match.group(1) or match.group(2) or match.group(3)
        following = match.string[match.end() : match.end() + 1]
        return rf"\g<{number}>" if following.isdigit() or len(number) > 1 else rf"\{number}"

    made = _REFERENCE.sub(reference, text.replace("\\", "\\\\"))
    return made, template_trouble(expression, made)


def braced(text: str) -> str:
    """The same with `${1}` for `$(1)`, which in an address would be a comment."""
    return _REFERENCE.sub(lambda found: f"${{{found[3]}}}" if found[3] else found[0], text)


def apart_from_references(text: str) -> list[str]:
    """What stands before, between and behind the references, in lower case."""
    ends = [0, *(at for found in _REFERENCE.finditer(text) for at in found.span()), len(text)]
    return [text[a:b].lower() for a, b in zip(ends[::2], ends[1::2], strict=True)]


def refers(text: str) -> bool:
    """Whether a result uses what the expression found."""
    return _REFERENCE.search(text) is not None


def _posix(text: str) -> str:
    r"""POSIX extended to Python: bracket expressions, and GNU's `\<` and `\>`."""
    out, at = [], 0
    while at < len(text):
        if text[at] == "\\" and at + 1 < len(text):
            pair = text[at : at + 2]
            out.append({r"\<": r"\b", r"\>": r"\b", "\\`": "^", r"\'": r"\Z"}.get(pair, pair))
            at += 2
        elif text[at] == "[":
            end = _bracket_end(text, at)
            out.append(_bracket(text[at + 1 : end]))
            at = end + 1
        else:
            out.append(text[at])
            at += 1
    return "".join(out)


def _bracket_end(text: str, at: int) -> int:
    """Where a POSIX bracket expression ends: a first `]` is a member, `[:x:]` is whole."""
    n = at + 1
    n += text[n : n + 1] == "^"
    n += text[n : n + 1] == "]"
    while n < len(text) and text[n] != "]":
        match = _CLASS.match(text, n)
        n = match.end() if match else n + 1
    return n


def _bracket(inner: str) -> str:
    negated = inner.startswith("^")
    inner = inner[1:] if negated else inner
    # a backslash is itself between POSIX brackets
    pieces = _CLASS.split(inner)
    out = ""
    for number, piece in enumerate(pieces):
        if number % 2:
            out += _POSIX.get(piece.lower(), "")
        else:
            out += re.sub(r"([\[\]\\&~|])", r"\\\1", piece)
    return f"[{'^' if negated else ''}{out}]"


def _lowered(text: str) -> str:
    r"""Literals in lower case; `\S` and the like keep their meaning."""
    return re.sub(
        r"\\.|\(\?P?<[^>]*>|[A-Z]",
        lambda match: match.group() if len(match.group()) > 1 else match.group().lower(),
        text,
    )


def _tightened(text: str) -> str:
    """The same for addresses with one @, but such that matching cannot run away."""
    tight = _REPEATED_DOT.sub(r"\1[^@]\2", text) if "@" in text else text
    return (
        tight if tight.startswith("^") or not tight.startswith(("([^@]", "[^@]")) else "^" + tight
    )
