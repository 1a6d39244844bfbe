"""The addresses that stand behind a name in aliases and maps, as people write them in mail.

`Ann Lee <ann@example.com> (sales), bob`: a phrase before angle brackets and a comment in
parentheses are for people only (RFC 5322 sections 3.2.2 and 3.4). Read as addresses, each of their
words would get the mail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PIECE = re.compile(rf'{_QUOTED}|<(?:{_QUOTED}|[^<>"])*>|[,(]|\s+|[^",<>()\s\\]+|\\?.')
_IN_COMMENT = re.compile(r"\\.|[()]")


def addresses(value: str, *, blanks: bool = False) -> list[str]:
    """What an address list names, in order; `blanks`: as in Postfix's maps they separate, too.

    What is no address is left as it stands, for whoever looks at it to complain about.
    """
    if not any(mark in value for mark in '"<('):
        words = value.replace(",", " ").split() if blanks else value.split(",")
        return [word for each in words if (word := each.strip())]
    read = _spread if blanks else _one
    return [address for item in _items(value) for address in read(item)]


def _items(value: str) -> Iterator[list[str]]:
    """The words of each item; items stand between commas."""
    words: list[str] = []
    apart = True
    at = 0
    while at < len(value):
        match = _PIECE.match(value, at)
        assert match is not None  # it takes any character
        piece, at = match.group(), match.end()
        if piece == "(":
            end = _after_comment(value, at)
            if end:
                at = end
                continue
        if piece == ",":
            yield words
            words, apart = [], True
        elif piece.isspace():
            apart = True
        elif apart or piece[0] == "<":
            words.append(piece)
            apart = _angle(piece)
        else:
            words[-1] += piece
    yield words


def _after_comment(value: str, at: int) -> int:
    """Behind the comment that has begun before `at`; they nest. 0: it never ends."""
    depth = 1
    for match in _IN_COMMENT.finditer(value, at):
        depth += {"(": 1, ")": -1}.get(match.group(), 0)
        if not depth:
            return match.end()
    return 0


def _one(words: list[str]) -> list[str]:
    """The address of an item."""
    if words and _angle(words[-1]) and not any(map(_angle, words[:-1])):
        return [words[-1][1:-1].strip()]
    return [" ".join(words)] if words else []


def _spread(words: list[str]) -> Iterator[str]:
    """The addresses of an item in which blanks separate: what precedes a `<` is its phrase."""
    waiting: list[str] = []
    for word in words:
        if not _angle(word):
            waiting.append(word)
            continue
        while waiting and ("@" not in waiting[-1] or re.fullmatch(_QUOTED, waiting[-1])):
            waiting.pop()
        yield from waiting
        yield word[1:-1].strip()
        waiting = []
    yield from waiting


def _angle(word: str) -> bool:
    return word[0] == "<" and word[-1] == ">" and len(word) > 1
