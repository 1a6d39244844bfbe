"""What a matched mailbox becomes: a pattern replaced by a pattern keeps the part not named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relayd.mail.address import AddressError, Mailbox
from relayd.rules.pattern import (
    Anything,
    Domain,
    Exact,
    Final,
    InTable,
    LocalPart,
    MailboxPattern,
    Null,
    Regex,
    Replacement,
    SubDomains,
    Template,
)
from relayd.rules.regex import search
from relayd.rules.subject import Subject
from relayd.rules.table import Table, Unknown, tagged


@dataclass(frozen=True, slots=True)
class Became:
    """What one mailbox became by one rule."""

    targets: tuple[Mailbox | Final | None, ...]  # None: the null reverse-path
    note: str = ""  # where a table said so
    owner: Mailbox | None = None


def mapped(patterns: Sequence[MailboxPattern]) -> bool:
    """Whether tables, not the rule's own text, must be asked for what fits."""
    return any(isinstance(pattern, InTable) for pattern in patterns)


def replace(
    patterns: Sequence[MailboxPattern],
    targets: Sequence[Replacement | Final],
    subject: Subject,
    tables: Mapping[str, Table],
    at: Sequence[str] = (),
) -> Became | None:
    """The mailbox after the first pattern that fits; None: none does. Raises Unknown."""
    for pattern in patterns:
        if isinstance(pattern, InTable):
            table = tables[pattern.name]
            if not targets:
                found = table.find(subject, at)
                if found is not None:
                    return Became(found.targets, found.note, found.owner)
                continue
            note = table.mailbox(subject)
            if note:
                return Became(_all(pattern, targets, subject), note)
        elif fits(pattern, subject):
            return Became(_all(pattern, targets, subject))
    return None


def fits(pattern: MailboxPattern, subject: Subject) -> bool:
    """Whether a pattern other than a table fits the mailbox."""
    if isinstance(pattern, Exact | Domain | SubDomains | LocalPart):
        return pattern.probe in subject.probes or pattern.probe in subject.wide
    if isinstance(pattern, Regex):
        return search(pattern.text, subject.key) is not None
    return isinstance(pattern, Anything)


def _all(
    pattern: MailboxPattern, targets: Sequence[Replacement | Final], subject: Subject
) -> tuple[Mailbox | Final | None, ...]:
    return tuple(target_of(pattern, target, subject) for target in targets)


def target_of(
    pattern: MailboxPattern, target: Replacement | Final, subject: Subject
) -> Mailbox | Final | None:
    """One target, the part that it does not name kept; raises Unknown if it is no mailbox."""
    here = subject.mailbox
    if isinstance(target, Exact):
        if subject.wide and _by_stem(pattern, subject):
            return tagged(target.mailbox, subject.tag)
        return target.mailbox
    if isinstance(target, Domain):
        return Mailbox(here.local, target.domain)
    if isinstance(target, LocalPart):
        local = Mailbox(target.local, here.domain)
        return tagged(local, subject.tag) if _by_stem(pattern, subject) else local
    if isinstance(target, SubDomains):
        keep = (
            len(subject.domain) - len(pattern.probe) + 2 if isinstance(pattern, SubDomains) else 0
        )
        return Mailbox(here.local, f"{subject.domain[:keep]}{target.domain}")
    if isinstance(target, Template):
        return _expanded(pattern, target, subject)
    return None if isinstance(target, Null) else target


def _by_stem(pattern: MailboxPattern, subject: Subject) -> bool:
    """Whether the pattern fits only without the sub-address tag."""
    return isinstance(pattern, Exact | LocalPart) and pattern.probe in subject.wide


def _expanded(pattern: MailboxPattern, template: Template, subject: Subject) -> Mailbox:
    match = search(pattern.text, subject.key) if isinstance(pattern, Regex) else None
    if match is None:
        raise Unknown("a template without a match")
    text = match.expand(template.text)
    try:
        return Mailbox.parse(text)
    except AddressError as error:
        raise Unknown(f"{text!r} is no mailbox: {error}") from None
