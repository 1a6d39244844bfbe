"""Forwarding: one recipient becomes others, again and again, until no rule matches.

Evaluation and the check for circles walk the same graph in the same way, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from relayd.mail import value
from relayd.mail.address import Mailbox
from relayd.mail.plan import Step
from relayd.rules.language.model import Forward, commas
from relayd.rules.language.pattern import Final
from relayd.rules.replace import Became, replace
from relayd.rules.ruleset import Ruleset
from relayd.rules.stage import ReadyRule
from relayd.rules.subject import Subject
from relayd.rules.view import View

MAX_LEVELS = 50
MAX_EXPANDED = 2000  # addresses that forward further; patterns could breed without end


class Loop(Exception):  # noqa: N818 - a fact about the rules, not a bug
    """Addresses that forward in a circle, none of which keeps a copy."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = tuple(addresses)
        super().__init__(" -> ".join(self.addresses))


class Endless(Loop):
    """A chain of forwards that is too long, or too many of them; `addresses` begin it."""

    def __init__(self, addresses: Sequence[str], limit: int, what: str) -> None:
        super().__init__(addresses)
        self.limit = limit
        self.what = what  # "levels"

    def __str__(self) -> str:
        first, last = self.addresses[0], self.addresses[-1]
        return f"more than {self.limit} {self.what}: {first} -> ... -> {last}"


@value.dataclass(frozen=True, slots=True)
class Fanned:
    """One final recipient."""

    subject: Subject
    owner: Mailbox | None = None  # the list owner, who is to get the reports


def fan_out(ruleset: Ruleset, view: View, trail: list[Step]) -> list[Fanned]:
    """All final recipients of the view's recipient, in order, each once. Raises Loop, Unknown."""
    original = view.recipient
    if ruleset.forward.empty:
        return [Fanned(original)]
    walk = ForwardWalk(ruleset, view)
    try:
        walk.visit(original)
    finally:
        view.recipient = original
        for entry, became, subject in walk.taken:
            trail.append(_step(entry, became, subject))
    return list(walk.found.values())


@dataclass(slots=True, eq=False)
class Node:
    """An address that the walk has met."""

    key: str
    number: int  # in the order of meeting
    low: int  # the number of the first node that it leads back to, as far as is known
    open: bool = False  # it may yet turn out to lie on a circle
    keeps: bool = False  # it names itself: there a circle ends
    below: list[Node] = field(default_factory=list)
    levels: int = 0  # how many forwards follow each other from here, at most
    reach: int = 0  # how many addresses forward, at most

    def close(self, circle: Sequence[Node]) -> None:
        """All that it leads to is known; `circle`: the nodes that lead to each other, it too."""
        for node in circle:
            for each in node.below:
                if not each.open:
                    self.levels = max(self.levels, each.levels)
                    self.reach += each.reach
        self.levels += len(circle)
        self.reach += len(circle)
        for node in circle:
            node.open, node.levels, node.reach = False, self.levels, self.reach


_END = Node("", 0, 0)  # no rule forwards it


class ForwardWalk:
    """Depth first through what forwards to what, each address once.

    What is found does not hang on where the walk begins: addresses that lead to each other are
    closed together (R. Tarjan's strongly connected components), and what is wrong with them is
    looked for then, where it did not show on the way.
    """

    def __init__(self, ruleset: Ruleset, view: View) -> None:
        self._ruleset = ruleset
        self._view = view
        self._seen: dict[str, Node] = {}
        self._open: list[Node] = []
        self.taken: list[tuple[ReadyRule[Forward], Became, Subject]] = []  # rules, in order
        self.found: dict[str, Fanned] = {}  # where it ends, by key

    def begin(self, subject: Subject) -> Node:
        """Walk from one more address, what was walked before left out. Raises Loop, Unknown."""
        for node in self._open:  # something was raised there
            node.open = False
        self._open.clear()
        self.taken.clear()
        return self._seen.get(subject.key) or self.visit(subject)

    def visit(
        self, subject: Subject, owner: Mailbox | None = None, chain: tuple[str, ...] = ()
    ) -> Node:
        """Walk on from an address not yet seen, which `chain` has led to. Raises Loop, Unknown."""
        key = subject.key
        if len(chain) > MAX_LEVELS:
            raise Endless((*chain, key), MAX_LEVELS, "levels")
        matched = onward(self._ruleset, self._view, subject)
        if matched is None:
            self._seen[key] = _END
            self.found.setdefault(key, Fanned(subject, owner))
            return _END
        entry, became = matched
        self.taken.append((entry, became, subject))
        if len(self.taken) > MAX_EXPANDED:
            raise Endless((*chain, key), MAX_EXPANDED, "addresses")
        number = len(self._seen)
        node = self._seen[key] = Node(key, number, number, open=True)
        self._open.append(node)
        owner = became.owner or owner
        further: list[Subject] = []
        for target in became.targets:
            if target is None:
                continue
            mailbox = target.mailbox if isinstance(target, Final) else target
            child = Subject(mailbox, self._ruleset.subaddress)
            if mailbox is not target or child.key == key:
                node.keeps |= child.key == key
                self.found.setdefault(child.key, Fanned(child, owner))
            else:
                further.append(child)
        chain = (*chain, key)
        for child in further:
            below = self._seen.get(child.key)
            if below is None:
                below = self.visit(child, owner, chain)
            elif below.open and child.key in chain:
                self._round(chain[chain.index(child.key) :])
            if below is not _END:
                node.below.append(below)
                if below.open and below.low < node.low:
                    node.low = below.low
        if node.low == number:
            self._close(node, chain)
        return node

    def _round(self, circle: tuple[str, ...]) -> None:
        if not any(self._seen[key].keeps for key in circle):
            raise Loop((*circle, circle[0]))

    def _close(self, node: Node, chain: tuple[str, ...]) -> None:
        """All that leads to each other is known: is there a circle in it where mail never stops?"""
        at = self._open.index(node) if self._open[-1] is not node else -1
        together = self._open[at:]
        del self._open[at:]
        if len(together) > 1:
            _without_copies(together)
        node.close(together)
        if node.levels > MAX_LEVELS:
            node.levels = 0  # told once
            raise Endless((*chain, *(each.key for each in node.below)), MAX_LEVELS, "levels")


def _without_copies(nodes: Sequence[Node]) -> None:
    """Raise Loop if some of these nodes form a circle none of which keeps a copy."""
    left = {node.key: [each for each in node.below if not each.keeps]
            for node in nodes if not node.keeps}  # fmt: skip
    while ends := [key for key, below in left.items() if not any(n.key in left for n in below)]:
        for key in ends:
            del left[key]
    if left:  # each of these leads to another one
        key = next(iter(left))
        circle: list[str] = []
        while key not in circle:
            circle.append(key)
            key = next(node.key for node in left[key] if node.key in left)
        raise Loop((*circle[circle.index(key) :], key))


def onward(
    ruleset: Ruleset, view: View, subject: Subject
) -> tuple[ReadyRule[Forward], Became] | None:
    """The first forward rule that fits the mailbox, and what it becomes. Raises Unknown."""
    view.recipient = subject
    for entry in ruleset.forward.candidates(view):
        rule = entry.rule
        needed = entry.needed
        late = entry.mapped or entry.of_copies
        if needed and not late and not entry.holds(view):
            continue
        became = replace(rule.patterns, rule.targets, subject, ruleset.tables, entry.at)
        if became is None or (needed and late and not _holds(entry, view, became)):
            continue
        return entry, became
    return None


def _holds(entry: ReadyRule[Forward], view: View, became: Became) -> bool:
    """Whether every condition holds; what is asked of copies is asked of those that it makes."""
    if not entry.of_copies or view.copies is None:
        return entry.holds(view)
    view.copies.targets = [
        each.mailbox if isinstance(each, Final) else each
        for each in became.targets
        if each is not None
    ]
    try:
        return entry.holds(view)
    finally:
        view.copies.targets = ()


def _step(entry: ReadyRule[Forward], became: Became, subject: Subject) -> Step:
    here, outcome = str(subject.mailbox), commas(became.targets)
    if outcome != entry.targets or not entry.rule.targets:
        return entry.noted(f"{here} -> {outcome}", became.note)
    # the rule's text tells all, unless the pattern is more than the mailbox
    return entry.step if str(entry.rule.patterns[0]) == here else entry.noted(here)
