"""One mailbox of each kind that regular expressions can tell apart.

An expression is laid out as an automaton, all of a rule set side by side. Two local parts that
lead it to the same states are told apart by no expression, whatever domain follows; so one of
them stands for all. The same goes for domains. Only the choice is made here: what matches is
always asked of `re` itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from relayd.mail.address import MAX_DOMAIN, MAX_LOCAL, AddressError, check_domain
from relayd.rules.language.redos import Letters, Parsed, letters_of, parsed_of

from re import _constants as op  # type: ignore[attr-defined]  # isort: skip

MAX_KINDS = 2000  # states that are looked at for local parts, and for domains
MAX_NAMED = 200  # local parts told apart from others of their kind
MAX_ENTRIES = 64  # states behind the @ from which domains are told apart
_MAX_NODES = 5000
_LOCAL = "soebdyacfghijklmnpqrtuvwxz0123456789-_.+!#$%&'*/=?^`{|}~\u00e9"
_DOMAIN = "soebdyacfghijklmnpqrtuvwxz0123456789-."
_WORD = frozenset("_").union("abcdefghijklmnopqrstuvwxyz0123456789\u00e9")
_BEGINNING = (op.AT_BEGINNING, op.AT_BEGINNING_STRING)
_AGAIN = (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT)

States = frozenset[int]


class Kinds:
    """Of the expressions and of the local parts that are named besides."""

    def __init__(self, expressions: Iterable[str], named: Sequence[str], separators: str) -> None:
        self._letters: list[Letters] = []  # that a node consumes; empty: nothing
        self._asks: list[Any] = []  # what a node wants of the place instead
        self._next: list[tuple[int, ...]] = []
        self._ends: set[int] = set()  # nodes at which an expression has matched
        self._steps: dict[tuple[States, str, str], States] = {}
        self._named = named[:MAX_NAMED]
        self._separators = separators
        rows = [self._row(parsed_of(text), self._end()) for text in expressions]
        begun = {row for row in rows if self._asks[row] in _BEGINNING}
        self._searches = frozenset(rows) - begun  # begun at every letter
        self._whole = begun.union(map(self._chain, self._named))  # begun at the first
        self._locals = self._apart(_LOCAL)
        self._domains = self._apart(_DOMAIN)

    def mailboxes(self, parents: Sequence[str]) -> tuple[list[str], list[str]]:
        """Local parts and domains, each with each; `parents`: whose sub-domains are told apart."""
        begin = self._searches | self._whole
        sources: list[tuple[str, States, str]] = [("", begin, "")]
        for name in self._named if self._separators else ():
            for mark in self._separators:
                sources.append((name + mark, *self._read(begin, "", name.lower() + mark)))
        found: dict[tuple[int, States], str] = {}
        for number, text, every, prev in self._walk(
            [(text, (states,), prev) for text, states, prev in sources], self._locals, MAX_LOCAL
        ):
            if text:
                found.setdefault((number, self._step(every[0], prev, "@")), text)
        entries = tuple(dict.fromkeys(after for _, after in found))[:MAX_ENTRIES]
        return list(found.values()), list(self._domains_behind(entries, parents))

    def _domains_behind(self, entries: tuple[States, ...], parents: Sequence[str]) -> Iterator[str]:
        told: set[object] = set()
        for _, text, every, prev in self._walk([("", entries, "@")], self._domains, MAX_DOMAIN):
            for parent in ("", *parents):
                domain = f"{text}.{parent}" if parent else text
                try:
                    check_domain(domain)
                except AddressError:
                    continue
                ends = [self._read(each, prev, domain[len(text) :]) for each in every]
                kind = (parent, *(self._step(*end, "") & self._ends for end in ends))
                if kind not in told:
                    told.add(kind)
                    yield domain

    # the automaton

    def _node(self, letters: Letters, following: tuple[int, ...], asks: object = None) -> int:
        self._letters.append(letters)
        self._asks.append(asks)
        self._next.append(following)
        return len(self._next) - 1

    def _end(self) -> int:
        end = self._node(frozenset(), ())
        self._ends.add(end)
        return end

    def _row(self, parsed: Parsed, after: int) -> int:
        """The node where a row of steps begins that leads to `after`."""
        for code, value in reversed(list(parsed)):
            after = self._laid(code, value, after)
        return after

    def _laid(self, code: Any, value: Any, after: int) -> int:  # noqa: ANN401 - the parser's own
        if code is op.SUBPATTERN:
            return self._row(value[-1], after)
        if code is op.ATOMIC_GROUP:
            return self._row(value, after)
        if code is op.BRANCH:
            ways = tuple(self._row(branch, after) for branch in value[1])
            return self._node(frozenset(), ways)
        if code in _AGAIN:
            return self._repeat(int(value[0]), int(value[1]), value[2], after)
        if code in (op.ASSERT, op.ASSERT_NOT):
            # followed beside the rest: what it looks at makes a difference
            beside = self._row(value[1], self._node(frozenset(), ()))
            return self._node(frozenset(), (after, beside))
        if code is op.AT:
            return self._node(frozenset(), (after,), value)
        return self._node(letters_of(code, value), (after,))

    def _repeat(self, least: int, most: int, body: Parsed, after: int) -> int:
        if most > MAX_LOCAL or len(self._next) + most > _MAX_NODES:
            loop = self._node(frozenset(), ())
            self._next[loop] = (self._row(body, loop), after)
            begin = loop
        else:
            begin = after
            for _ in range(most - least):
                begin = self._node(frozenset(), (self._row(body, begin), after))
        for _ in range(min(least, MAX_LOCAL)):
            begin = self._row(body, begin)
        return begin

    def _chain(self, name: str) -> int:
        """A local part, letter by letter, and the @ behind it."""
        after = self._node(frozenset({ord("@")}), (self._node(frozenset(), ()),))
        for letter in reversed(name.lower()):
            after = self._node(frozenset({min(ord(letter), 128)}), (after,))
        return after

    def _apart(self, alphabet: str) -> str:
        """One letter of those that no node tells apart."""
        kinds: dict[object, str] = {}
        different = {each for each in self._letters if each}
        for letter in alphabet:
            code = min(ord(letter), 128)
            kind = (
                frozenset(each for each in different if code in each),
                letter in _WORD,
                letter in self._separators,
                letter == ".",
            )
            kinds.setdefault(kind, letter)
        return "".join(kinds.values())

    def _read(self, states: States, prev: str, text: str) -> tuple[States, str]:
        for letter in text:
            states, prev = self._step(states, prev, letter), letter
        return states, prev

    def _step(self, states: States, prev: str, letter: str) -> States:
        place = prev if not prev or prev == "@" else "a" if prev in _WORD else "-"
        key = (states, place, letter)
        known = self._steps.get(key)
        if known is not None:
            return known
        code = min(ord(letter), 128) if letter else -1
        after = set(self._searches)
        seen: set[int] = set()
        waiting = list(states)
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            if node in self._ends:
                after.add(node)  # found is found
            elif self._letters[node]:
                if code in self._letters[node]:
                    after.update(self._next[node])
            elif _holds(self._asks[node], prev, letter):
                waiting += self._next[node]
        self._steps[key] = found = frozenset(after)
        return found

    def _walk(
        self, sources: Sequence[tuple[str, tuple[States, ...], str]], alphabet: str, longest: int
    ) -> Iterator[tuple[int, str, tuple[States, ...], str]]:
        """The shortest text to each different states, from each source; at most MAX_KINDS."""
        waiting: deque[tuple[int, str, tuple[States, ...], str]] = deque(
            (number, *source) for number, source in enumerate(sources)
        )
        known: set[object] = set()
        while waiting and len(known) < MAX_KINDS:
            number, text, states, prev = waiting.popleft()
            kind = (number, states, prev in _WORD, prev in "@.-")
            if kind in known:
                continue
            known.add(kind)
            yield number, text, states, prev
            if len(text) < longest:
                for letter in alphabet:
                    after = tuple(self._step(each, prev, letter) for each in states)
                    waiting.append((number, text + letter, after, letter))


def _holds(asked: object, prev: str, letter: str) -> bool:
    """Whether the place between two letters is what an expression wants; "": there is none."""
    if asked in _BEGINNING:
        return not prev
    if asked in (op.AT_END, op.AT_END_STRING):
        return not letter
    if asked in (op.AT_BOUNDARY, op.AT_NON_BOUNDARY):
        return ((prev in _WORD) != (letter in _WORD)) == (asked is op.AT_BOUNDARY)
    return True
