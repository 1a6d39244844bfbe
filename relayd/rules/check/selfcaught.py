"""Targets of a catch-all that it catches itself: their own mail goes to all the others, too."""

from __future__ import annotations

from collections.abc import Iterator

from relayd.mail.address import AddressError, Mailbox
from relayd.mail.client import Client
from relayd.rules.check.check import word_at
from relayd.rules.forward import onward
from relayd.rules.language.model import Forward
from relayd.rules.language.pattern import Exact, InTable
from relayd.rules.language.source import Place, Problem
from relayd.rules.ruleset import Ruleset
from relayd.rules.stage import ReadyRule
from relayd.rules.subject import Subject
from relayd.rules.tables.table import MapTable, Unknown
from relayd.rules.view import View

_NOBODY = Client("192.0.2.1")


def self_caught(ruleset: Ruleset) -> list[Problem]:
    """A warning for each, in rules and in tables."""
    ruleset = ruleset.at_rcpt or ruleset
    problems = []
    for entry in ruleset.forward.entries:
        for mailbox, place, catches in _targets(ruleset, entry):
            if _caught(ruleset, entry, mailbox, catches):
                problems.append(
                    Problem(
                        place,
                        f"{mailbox} is caught by this catch-all itself",
                        f"expected a line of its own for {mailbox} (to itself, if it exists), "
                        "or a target elsewhere",
                    )
                )
    return problems


def _targets(
    ruleset: Ruleset, entry: ReadyRule[Forward]
) -> Iterator[tuple[Mailbox, Place, tuple[int, str]]]:
    """Mailboxes that a catch-all leads to, where it says so, and its key in a table (or none)."""
    rule = entry.rule
    if all(isinstance(each, Exact) for each in rule.patterns):
        return
    for target in rule.targets:
        if isinstance(target, Exact):
            yield target.mailbox, word_at(rule.place, str(target)), (0, "")
    for pattern in rule.patterns if not rule.targets else ():
        table = ruleset.tables[pattern.name] if isinstance(pattern, InTable) else None
        if not isinstance(table, MapTable):
            continue
        for key, found in table.entries.items():
            if key[:1] != "@":
                continue
            for value in found.values:
                if value.lower().endswith(key) and value[:1] not in "@\\":
                    try:
                        mailbox = Mailbox.parse(value)
                    except AddressError:
                        continue
                    yield mailbox, table.place_of(found.line) or rule.place, (found.line, key)


def _caught(
    ruleset: Ruleset, entry: ReadyRule[Forward], mailbox: Mailbox, catches: tuple[int, str]
) -> bool:
    """Whether its mail is taken by the same rule, and where a table says so the same entry."""
    subject = Subject(mailbox, ruleset.subaddress)
    try:
        matched = onward(ruleset, View(_NOBODY, None, subject), subject)
    except (Unknown, AddressError):
        return False
    if matched is None or matched[0] is not entry:
        return False
    line, key = catches
    rule = entry.rule
    if not line:
        exact = (each.probe for each in rule.patterns if isinstance(each, Exact))
        return subject.key not in exact
    return matched[1].note.endswith(f":{line}") and key == "@" + subject.domain
