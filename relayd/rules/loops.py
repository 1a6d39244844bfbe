"""Forward rules and alias tables that go in circles, found before any mail comes."""

from __future__ import annotations

from collections.abc import Iterator

from relayd.mail.address import AddressError, Mailbox
from relayd.mail.client import Client
from relayd.rules.forward import MAX_LEVELS, onward
from relayd.rules.model import Forward
from relayd.rules.pattern import Final, InTable
from relayd.rules.ruleset import Ruleset
from relayd.rules.shadow import sample
from relayd.rules.source import Place, Problem
from relayd.rules.stage import View
from relayd.rules.subject import Subject
from relayd.rules.table import MapTable, Unknown, target_mailbox

MAX_PROBLEMS = 20
_NOBODY = Client("192.0.2.1")


def loops(ruleset: Ruleset) -> list[Problem]:
    """A problem for each circle. Conditions are answered for an unknown outside client."""
    walk = _Walk(ruleset)
    for mailbox, place in _starts(ruleset):
        walk.begin(mailbox, place)
        if len(walk.problems) >= MAX_PROBLEMS:
            break
    return walk.problems


class _Walk:
    """Depth first through what forwards to what; each address is looked at once."""

    def __init__(self, ruleset: Ruleset) -> None:
        self._ruleset = ruleset
        self._view = View(_NOBODY, None, Subject(Mailbox("nobody", "invalid")))
        self._done: set[str] = set()
        self._kept: set[str] = set()
        self.problems: list[Problem] = []

    def begin(self, mailbox: Mailbox, place: Place) -> None:
        try:
            circle = self._visit(Subject(mailbox, self._ruleset.subaddress), [])
        except (Unknown, AddressError):  # what cannot be told now is told when mail comes
            return
        if circle is None:
            return
        if len(circle) > MAX_LEVELS:
            start = " -> ".join(circle[:2])
            what = f"mail goes through more than {MAX_LEVELS} forwards: {start} -> ..."
        else:
            what = f"mail goes in circles: {' -> '.join(circle)}"
        self.problems.append(Problem(place, what, "it would be refused with 554 5.4.6"))

    def _visit(self, subject: Subject, chain: list[str]) -> list[str] | None:
        key = subject.key
        if key in self._done:
            return None
        if key in chain:
            circle = chain[chain.index(key) :]
            if any(each in self._kept for each in circle):
                return None
            self._done.update(chain)
            return [*circle, key]
        if len(chain) > MAX_LEVELS:
            self._done.update(chain)
            return chain
        matched = onward(self._ruleset, self._view, subject)
        if matched is not None:
            targets = [each for each in matched[1].targets if isinstance(each, Mailbox)]
            chain = [*chain, key]
            if any(each.key == key for each in targets):  # it keeps a copy: it stops there
                self._kept.add(key)
            for each in targets:
                if each.key != key:
                    found = self._visit(Subject(each, self._ruleset.subaddress), chain)
                    if found is not None:
                        return found
        self._done.add(key)
        return None


def _starts(ruleset: Ruleset) -> Iterator[tuple[Mailbox, Place]]:
    """Every address that is known to forward, and that could lead on to another."""
    for entry in ruleset.forward.entries:
        rule = entry.rule
        for pattern in rule.patterns:
            mailbox = sample(pattern)
            if mailbox is not None:
                yield mailbox, rule.place
            elif isinstance(pattern, InTable):
                table = ruleset.tables[pattern.name]
                if isinstance(table, MapTable) and not rule.targets:
                    yield from _entries(ruleset, rule, table)


def _entries(ruleset: Ruleset, rule: Forward, table: MapTable) -> Iterator[tuple[Mailbox, Place]]:
    for key, entry in table.entries.items():
        local, _, domain = key.rpartition("@")
        if not local:
            here = [Mailbox("somebody", domain)]
        else:
            here = [Mailbox(local, each) for each in ([domain] if domain else rule.at)]
        for mailbox in here:
            if any(_leads_on(ruleset, rule, table, value, mailbox) for value in entry.values):
                yield mailbox, table.place_of(entry.line) or rule.place


def _leads_on(ruleset: Ruleset, rule: Forward, table: MapTable, value: str, here: Mailbox) -> bool:
    """Whether something forwards the target; cheap, for most targets lie elsewhere."""
    target = target_mailbox(value, here)
    if isinstance(target, Final):
        return False
    if "@" in value and target.key in table.entries:
        return True
    subject = Subject(target, ruleset.subaddress)
    if table.find(subject, rule.folded_at) is not None:
        return True
    if len(ruleset.forward.entries) == 1:
        return False
    view = View(_NOBODY, None, subject)
    return onward(ruleset, view, subject) is not None
