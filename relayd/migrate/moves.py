"""What a restriction says, as moves; and how a list's moves become rules that refuse.

A reader of Postfix's words returns moves. One that returns none has not understood its word, and
its list is then closed for all that reach the word: understanding is what is added, word by word.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from relayd.migrate.draft import LATER

Scope = tuple[str, ...]
"""Conditions that all have to hold, as a rule has them; empty: always."""
MOST_WAYS = 32  # rules for one refusal, where exceptions have several conditions


@dataclass(frozen=True, slots=True)
class Move:
    """One thing that a list says about those in `scope`, if it has let none of them pass before.

    `unless`: whom a more exact entry of the same map has spoken of.
    """

    scope: Scope
    why: str
    unless: tuple[Scope, ...] = ()


@dataclass(frozen=True, slots=True)
class Refuse(Move):
    """They are refused."""

    reply: str = ""


@dataclass(frozen=True, slots=True)
class Permit(Move):
    """They have passed this list."""


@dataclass(frozen=True, slots=True)
class Doubt(Move):
    """They may have passed this list: nobody here can tell."""


@dataclass(frozen=True, slots=True)
class Closed(Move):
    """Nobody here can tell whether they are refused: asked to come later."""


@dataclass(frozen=True, slots=True)
class Passed(Move):
    """Understood, and it changes nothing."""


@dataclass(frozen=True, slots=True)
class AskedOf(Move):
    """Somebody else is asked about them, such as a policy service."""

    name: str = ""


@dataclass(frozen=True, slots=True)
class Marked(Move):
    """What is taken from them in the end is held or thrown away; or nobody here can do it."""

    verb: str = ""  # hold, discard; "later": its mail would go somewhere else
    reason: str = ""


@dataclass
class Gate:
    """The rules of one or more listeners with the same restrictions, as they are written."""

    base: Scope = ()  # `listener ...`; empty: all listeners that have no rules of their own
    soft: bool = False  # soft_bounce: whatever is refused for good is asked to come later
    rules: list[tuple[str, str]] = field(default_factory=list)
    marked: list[Marked] = field(default_factory=list)
    relaying: list[Scope] = field(default_factory=list)  # who may send to foreign destinations
    doubted: list[Doubt] = field(default_factory=list)  # who perhaps may
    asks: list[tuple[str, str]] = field(default_factory=list)  # `ask` rules
    apart: Scope = ()  # for `ask`, where the first rule does not decide: no listener with its own

    def write(
        self, verb: str, scope: Scope, tail: str, comment: str, unless: Sequence[Scope] = ()
    ) -> None:
        """The rules for one thing to say: one for each way in which no exception holds."""
        ways = negated(unless)
        if ways is None:  # stricter, and not for good
            if verb == "accept":
                return
            ways, verb, tail = [()], "reject", LATER
            comment = f"closed: {comment.removeprefix('closed: ')}: too many exceptions for rules"
        for tests in ways:
            text = rule(verb, (*self.base, *scope, *tests), self.softened(tail))
            if text and all(text != known for known, _ in self.rules):
                self.rules.append((text, comment))

    def softened(self, tail: str) -> str:
        """A reply's class, as soft_bounce would have it."""
        if self.soft and tail.startswith("5"):
            code, status, text = tail.split(" ", 2)
            return f"4{code[1:]} 4{status[1:]} {text}"
        return tail

    def close(self, scope: Scope, why: str, unless: Sequence[Scope] = ()) -> None:
        """Ask all of these to come later; `why` stands above the rule."""
        self.write("reject", scope, LATER, f"closed: {why}", unless)

    def ask(self, move: AskedOf, comment: str, before: Sequence[Scope]) -> None:
        """Who is asked about those that have not passed."""
        ways = negated(before)
        if ways is None:
            self.close(move.scope, f"{comment}: too many exceptions for rules")
            return
        for tests in ways:
            text = rule(f"ask {move.name}", (*self.base, *self.apart, *move.scope, *tests))
            self.asks += [(text, comment)] if text else []


@dataclass
class ListState:
    """One restriction list while it is read: who has left it, and who perhaps has."""

    gate: Gate
    setting: str
    permits: list[Scope] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Nobody is left to read on for."""
        return () in self.permits

    def take(self, move: Move) -> None:
        """Write down one move."""
        before = (*self.permits, *move.unless)
        comment = f"{self.setting}: {move.why}"
        if isinstance(move, Refuse):
            self._refuse(move, before, comment)
        elif isinstance(move, Closed):
            self.gate.close(move.scope, comment, before)
        elif isinstance(move, Permit):
            ways = negated(move.unless)
            if ways is None:
                self.doubts.append(Doubt(move.scope, move.why))
            else:
                self.permits += [(*move.scope, *tests) for tests in ways]
        elif isinstance(move, Doubt):
            self.doubts.append(move)
        elif isinstance(move, AskedOf):
            self.gate.ask(move, comment, before)
        elif isinstance(move, Marked):
            doubts = tuple(each.scope for each in self.doubts)
            verb = "later" if doubts else move.verb
            self.gate.marked.append(Marked(move.scope, comment, before, verb, move.reason))

    def _refuse(self, move: Refuse, before: Sequence[Scope], comment: str) -> None:
        if move.reply.startswith("5"):
            for doubt in self.doubts:
                scope = (*move.scope, *doubt.scope)
                self.gate.close(scope, f"{self.setting}: {doubt.why}", before)
                if not doubt.scope:
                    return
        self.gate.write("reject", move.scope, move.reply, comment, before)


def rule(verb: str, scope: Scope, tail: str = "") -> str:
    """One rule; empty: its conditions can never hold together."""
    tests = [each for each in dict.fromkeys(scope) if each != "any"]
    if "not any" in tests or any(opposite(each) in tests for each in tests):
        return ""
    first = next((each for each in tests if not each.startswith(("not ", "tls"))), "any")
    rest = [each for each in tests if each != first]
    end = f" when {' and '.join(rest)}" if rest else ""
    whom = "" if first == "any" and verb.startswith("ask ") else f" {first}"
    return f"{verb}{whom}{f' {tail}' if tail else ''}{end}"


def opposite(condition: str) -> str:
    """`not X` for `X`, and back."""
    return condition[4:] if condition.startswith("not ") else f"not {condition}"


def negated(scopes: Sequence[Scope]) -> list[Scope] | None:
    """All ways in which none of the scopes holds; None: too many to write down."""
    count = 1
    for scope in scopes:
        count *= len(scope)
    if count > MOST_WAYS:
        return None
    return [
        tuple(dict.fromkeys(tests))
        for tests in itertools.product(*(map(opposite, scope) for scope in dict.fromkeys(scopes)))
    ]
