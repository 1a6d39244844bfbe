"""What a matched mailbox becomes: a pattern replaced by a pattern keeps the part not named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import repeat

from relayd.mail.address import AddressError, Mailbox
from relayd.mail.value import dataclass
from relayd.rules.language.pattern import (
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
from relayd.rules.language.regex import search, template_parts
from relayd.rules.subject import Subject
from relayd.rules.tables.table import NoMailbox, Table, Unknown, tagged

_QUOTED_PAIR = re.compile(r"\\(.)")


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
                became = map(target_of, repeat(pattern), targets, repeat(subject))
                return Became(tuple(became), note)
        elif fits(pattern, subject):
            return Became(tuple(map(target_of, repeat(pattern), targets, repeat(subject))))
    return None


def fits(pattern: MailboxPattern, subject: Subject) -> bool:
    """Whether a pattern other than a table fits the mailbox."""
    if isinstance(pattern, Exact | Domain | SubDomains | LocalPart):
        return pattern.probe in subject.probes or pattern.probe in subject.wide
    if isinstance(pattern, Regex):
        return search(pattern.text, subject.key) is not None
    return isinstance(pattern, Anything)


def target_of(
    pattern: MailboxPattern, target: Replacement | Final, subject: Subject
) -> Mailbox | Final | None:
    """One target, the part that it does not name kept; raises NoMailbox if it cannot be one."""
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
        return _checked(Mailbox(here.local, f"{subject.domain[:keep]}{target.domain}"))
    if isinstance(target, Template):
        return _expanded(pattern, target, subject)
    return None if isinstance(target, Null) else target


def _by_stem(pattern: MailboxPattern, subject: Subject) -> bool:
    """Whether the pattern fits only without the sub-address tag."""
    return isinstance(pattern, Exact | LocalPart) and pattern.probe in subject.wide


def _expanded(pattern: MailboxPattern, template: Template, subject: Subject) -> Mailbox:
    """The template with the groups as they were written, quoted again where that is needed."""
    match = search(pattern.text, subject.key) if isinstance(pattern, Regex) else None
    if match is None:
        raise Unknown("a template without a match")
    written, between = _Written(subject), len(subject.local)
    parts = template_parts(match.re.pattern, template.text)
    texts = [each if isinstance(each, str) else written.part(*match.span(each)) for each in parts]
    # the template says where the domain begins, else the @ before the old one; never a local part
    at = [n for n, each in enumerate(parts) if isinstance(each, str) and "@" in each] or [
        n
        for n, each in enumerate(parts)
        if isinstance(each, int) and match.start(each) <= between < match.end(each)
    ]
    if not at:
        raise NoMailbox(f"{subject.mailbox}: {template!s} makes an address without @")
    before, _, after = texts[at[-1]].rpartition("@")
    local = _local([*texts[: at[-1]], before], parts)
    if not local and subject.local:
        raise NoMailbox(f"{subject.mailbox}: {template!s} makes an empty local part")
    return _checked(Mailbox(local, "".join([after, *texts[at[-1] + 1 :]])))


def _local(texts: list[str], parts: Sequence[str | int]) -> str:
    """The local part; a template may have put the quotes round it by itself."""
    own = isinstance(parts[0], str) and isinstance(parts[len(texts) - 1], str)
    if own and texts[0][:1] == '"' == texts[-1][-1:]:
        texts = [
            _QUOTED_PAIR.sub(r"\1", text) if isinstance(part, str) else text
            for text, part in zip(texts, parts, strict=False)
        ]
        return "".join(texts)[1:-1]
    return "".join(texts)


class _Written:
    """A mailbox as it was written, found by places in the normalised one that rules look at."""

    def __init__(self, subject: Subject) -> None:
        mailbox, key = subject.mailbox, subject.key
        domain = mailbox.domain if mailbox.domain.isascii() else subject.domain
        self._text = f"{mailbox.local}@{domain}"
        self._places: Sequence[int] = range(len(key) + 1)
        if len(self._text) != len(key):  # small letters may be more than the capital was
            local = [n for n, each in enumerate(mailbox.local) for _ in each.lower()]
            self._places = [*local, *range(len(mailbox.local), len(self._text) + 1)]

    def part(self, start: int, end: int) -> str:
        """What was written from one place to another; empty for a group that took no part."""
        return "" if start < 0 else self._text[self._places[start] : self._places[end]]


def _checked(mailbox: Mailbox) -> Mailbox:
    try:
        return Mailbox.parse(str(mailbox))
    except AddressError as error:
        raise NoMailbox(f"{str(mailbox)!r} is no mailbox: {error}") from None
