"""Forwarding: one recipient becomes others, again and again, until no rule matches."""

from __future__ import annotations

from dataclasses import dataclass

from relayd.mail.address import Mailbox
from relayd.mail.plan import Step
from relayd.rules.model import Forward
from relayd.rules.pattern import Final
from relayd.rules.replace import Became, mapped, replace
from relayd.rules.ruleset import Ruleset
from relayd.rules.stage import ReadyRule, View
from relayd.rules.subject import Subject

MAX_LEVELS = 50
MAX_EXPANDED = 2000  # addresses that forward further; patterns could breed without end


class Loop(Exception):  # noqa: N818 - a fact about the rules, not a bug
    """An address that forwards to itself by way of others, or a chain without end."""


@dataclass(frozen=True, slots=True)
class Fanned:
    """One final recipient."""

    subject: Subject
    owner: Mailbox | None = None  # the list owner, who is to get the reports


def fan_out(ruleset: Ruleset, view: View, trail: list[Step]) -> list[Fanned]:
    """All final recipients of the view's recipient, in order, each once. Raises Loop, Unknown."""
    if not ruleset.forward.entries:
        return [Fanned(view.recipient)]
    original = view.recipient
    fan = _Fan(ruleset, view, trail)
    fan.visit(original, None, ())
    view.recipient = original
    return list(fan.found.values())


def onward(
    ruleset: Ruleset, view: View, subject: Subject
) -> tuple[ReadyRule[Forward], Became] | None:
    """The first forward rule that fits the mailbox, and what it becomes. Raises Unknown."""
    view.recipient = subject
    for entry in ruleset.forward.candidates(view):
        rule = entry.rule
        asked = mapped(rule.patterns)
        if not asked and not entry.holds(view):
            continue
        became = replace(rule.patterns, rule.targets, subject, ruleset.tables, rule.folded_at)
        if became is None or (asked and not entry.holds(view)):
            continue
        return entry, became
    return None


class _Fan:
    def __init__(self, ruleset: Ruleset, view: View, trail: list[Step]) -> None:
        self._ruleset = ruleset
        self._view = view
        self._trail = trail
        self._expanded: set[str] = set()
        self.found: dict[str, Fanned] = {}

    def visit(self, subject: Subject, owner: Mailbox | None, chain: tuple[str, ...]) -> None:
        key = subject.key
        if key in self.found:
            return
        if key in chain:
            circle = chain[chain.index(key) :]
            if any(each in self.found for each in circle):  # one of them keeps a copy
                return
            raise Loop(" -> ".join([*circle, key]))
        if key in self._expanded:
            return
        if len(chain) > MAX_LEVELS:
            raise Loop(f"more than {MAX_LEVELS} levels: {chain[0]} -> ... -> {key}")
        matched = onward(self._ruleset, self._view, subject)
        if matched is None:
            self.found[key] = Fanned(subject, owner)
            return
        entry, became = matched
        self._trail.append(self._step(entry, became, subject))
        self._expanded.add(key)
        if len(self._expanded) > MAX_EXPANDED:
            raise Loop(f"more than {MAX_EXPANDED} addresses: {chain[:1]} -> ... -> {key}")
        owner = became.owner or owner
        chain = (*chain, key)
        further: list[Subject] = []
        for target in became.targets:
            if target is None:
                continue
            mailbox = target.mailbox if isinstance(target, Final) else target
            child = Subject(mailbox, self._ruleset.subaddress)
            if child.key == key or isinstance(target, Final):
                self.found.setdefault(child.key, Fanned(child, owner))  # it names itself: stop
            else:
                further.append(child)
        for child in further:
            self.visit(child, owner, chain)

    def _step(self, entry: ReadyRule[Forward], became: Became, subject: Subject) -> Step:
        rule = entry.rule
        if rule.targets and [str(target) for target in rule.targets] == [
            str(target) for target in became.targets
        ]:
            # the rule's text tells all, unless the pattern is more than the mailbox
            return (
                entry.step
                if str(rule.patterns[0]) == str(subject.mailbox)
                else entry.noted(str(subject.mailbox))
            )
        outcome = ", ".join(map(str, became.targets))
        return entry.noted(f"{subject.mailbox} -> {outcome}", became.note)
