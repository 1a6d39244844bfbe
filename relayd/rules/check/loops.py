"""Forward rules and alias tables that go in circles, found before any mail comes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Container, Iterable, Iterator
from typing import TypeVar

from relayd.mail.address import AddressError, Mailbox
from relayd.mail.client import Client
from relayd.rules.check.kinds import MAX_NAMED, Kinds
from relayd.rules.conditions.mailbox import ToRecipient
from relayd.rules.forward import MAX_EXPANDED, Endless, ForwardWalk, Loop, onward
from relayd.rules.language.model import Forward
from relayd.rules.language.pattern import (
    Anything,
    Domain,
    Exact,
    InTable,
    LocalPart,
    MailboxPattern,
    Regex,
    SubDomains,
)
from relayd.rules.language.regex import search
from relayd.rules.language.source import Place, Problem
from relayd.rules.ruleset import Ruleset
from relayd.rules.subject import Subject, split_tag
from relayd.rules.tables.table import ListTable, MapTable, Table, Unknown, tagged
from relayd.rules.view import View

MAX_PROBLEMS = 20
MAX_CROSSED = 20_000  # local parts with domains; mailboxes with tags
MAX_TAGS = 50
_NOBODY = Client("192.0.2.1")
_SOMEBODY, _SUB, _SOMEWHERE = "somebody", "sub", "somewhere"
S = TypeVar("S")


def loops(ruleset: Ruleset, within: Ruleset | None = None) -> list[Problem]:
    """A problem for each circle. Conditions are answered for an unknown outside client.

    `within`: the set that the rules are part of; only what begins at them is looked at.
    """
    starts = ruleset.at_rcpt or ruleset
    ruleset = starts if within is None else within.at_rcpt or within
    problems: list[Problem] = []
    told: set[Place] = set()
    view = View(_NOBODY, None, Subject(Mailbox("nobody", "invalid")))
    walk = ForwardWalk(ruleset, view)
    for mailbox, place in _Starts(starts):
        subject = Subject(mailbox, ruleset.subaddress)
        try:
            if walk.begin(subject).reach > MAX_EXPANDED:  # some may be counted twice
                ForwardWalk(ruleset, view).begin(subject)
        except Loop as loop:
            matched = onward(ruleset, view, subject)
            assert matched is not None
            where = place or matched[0].rule.place
            if place is None and where in told:  # by a like mailbox
                continue
            told.add(where)
            problems.append(Problem(where, _described(loop), "it would be refused with 554 5.4.6"))
        except (Unknown, AddressError):  # what cannot be told now is told when mail comes
            continue
        if len(problems) >= MAX_PROBLEMS:
            break
    return problems


def _described(loop: Loop) -> str:
    if isinstance(loop, Endless):
        start = " -> ".join(loop.addresses[:2])
        return f"mail goes through more than {loop.limit} forwards: {start} -> ..."
    return f"mail goes in circles: {loop}"


def _each_with_each(some: Iterable[S], others: Iterable[str]) -> Iterator[tuple[S, str]]:
    """All pairs, those of the first ones first, for there may be more than there is time for."""
    rows, columns = list(some), list(others)
    for rank in range(len(rows) + len(columns) - 1):
        for row in range(max(0, rank - len(columns) + 1), min(rank + 1, len(rows))):
            yield rows[row], columns[rank - row]


class _Starts:
    """Where a circle may begin: few of many aliases, for most of their targets lie elsewhere.

    A circle that has a fixed target on it is found from there. So an alias is of interest only if
    a target of it is an address known to forward, or fits a rule that keeps the local part. On the
    others every step keeps a part, and what they have of their own is named by some rule, or told
    apart by a regex: they are found from the local parts and domains of such rules, each with
    each. Only where templates make ever new local parts, one of each kind may not stand for all.

    A sub-address tag goes along to some targets, and to others not; and names with a tag may be
    named. So each of them is looked at with a tag, too.
    """

    def __init__(self, ruleset: Ruleset) -> None:
        self._ruleset = ruleset
        self._keeping: set[str] = set()  # domains all of whose mailboxes may go on
        self._regexes: list[str] = []
        self._wild = False  # any mailbox may
        for entry in ruleset.forward.entries:
            for pattern in entry.rule.patterns:
                self._note(entry.rule, pattern)
        self._names = _Names(_named(ruleset), ruleset.subaddress)

    def _note(self, rule: Forward, pattern: MailboxPattern) -> None:
        if isinstance(pattern, InTable):
            table = self._ruleset.tables[pattern.name]
            entries = table.entries if isinstance(table, MapTable) else {}
            self._keeping |= {key[1:] for key in entries if key[:1] == "@"}
            self._wild |= bool(rule.targets)
        elif isinstance(pattern, Regex):
            self._regexes.append(pattern.text)
        elif isinstance(pattern, Exact) or all(isinstance(each, Exact) for each in rule.targets):
            return
        elif isinstance(pattern, Domain):
            self._keeping.add(pattern.probe[1:])
        else:
            self._wild = True

    def __iter__(self) -> Iterator[tuple[Mailbox, Place | None]]:
        separators = self._ruleset.subaddress
        stems: dict[Mailbox, None] = {}
        for mailbox, place in self._untagged():
            yield mailbox, place
            if separators and len(stems) < MAX_CROSSED:
                stem = split_tag(mailbox.local, separators)[0] or mailbox.local
                stems[Mailbox(stem, mailbox.domain)] = None
        behind = _each_with_each(stems, self._names.tags)
        for mailbox, tag in itertools.islice(behind, MAX_CROSSED):
            yield tagged(mailbox, tag), None

    def _untagged(self) -> Iterator[tuple[Mailbox, Place | None]]:
        yield from self._fitting()
        for entry in self._ruleset.forward.entries:
            for target in entry.rule.targets:
                if isinstance(target, Exact):
                    yield target.mailbox, None
        crossed = _each_with_each(*self._parts())
        for local, domain in itertools.islice(crossed, MAX_CROSSED):
            yield Mailbox(local, domain), None

    def _parts(self) -> tuple[Iterable[str], Iterable[str]]:
        """Local parts and domains that rules name which keep the other part."""
        named: list[object] = [Anything()]
        exact: list[object] = []  # of interest only for what regexes tell apart from them
        for entry in self._ruleset.forward.entries:
            rule = entry.rule
            named += [one for each in rule.when for one in each.recipients]
            if all(isinstance(each, Exact) for each in rule.patterns):
                exact += rule.patterns
            else:
                named += [*rule.patterns, *rule.targets]
        tables = dict.fromkeys(each.name for each in named if isinstance(each, InTable))
        for name in tables:
            named += itertools.islice(_keys(self._ruleset.tables[name]), MAX_NAMED)
        expressions = dict.fromkeys(each.text for each in named if isinstance(each, Regex))
        if expressions:
            named += exact
        found = [mailbox for each in named if (mailbox := self._names.sample(each)) is not None]
        locals_ = dict.fromkeys(each.local for each in found)
        domains = dict.fromkeys(each.domain for each in found)
        if expressions:
            parents = dict.fromkeys(each.domain for each in named if isinstance(each, SubDomains))
            kinds = Kinds(expressions, list(locals_), self._ruleset.subaddress)
            more_locals, more_domains = kinds.mailboxes(list(parents))
            locals_ |= dict.fromkeys(more_locals)
            domains |= dict.fromkeys(more_domains)
        return locals_, domains

    def _fitting(self) -> Iterator[tuple[Mailbox, Place]]:
        """Something that each rule fits."""
        for entry in self._ruleset.forward.entries:
            rule = entry.rule
            for pattern in rule.patterns:
                mailbox = self._names.sample(pattern)
                if mailbox is not None:
                    yield mailbox, rule.place
                elif isinstance(pattern, InTable):
                    table = self._ruleset.tables[pattern.name]
                    if isinstance(table, MapTable) and not rule.targets:
                        yield from self._aliases(rule, table)
                    elif not all(isinstance(each, Exact) for each in rule.targets):
                        for key in itertools.islice(_keys(table), MAX_CROSSED):
                            if (mailbox := self._names.sample(key)) is not None:
                                yield mailbox, rule.place

    def _aliases(self, rule: Forward, table: MapTable) -> Iterator[tuple[Mailbox, Place]]:
        at = rule.folded_at
        for key, entry in table.entries.items():
            local, _, domain = key.rpartition("@")
            here = [domain] if domain else at
            if any(self._leads_on(table, value, each) for value in entry.values for each in here):
                for each in here:
                    yield (
                        Mailbox(local or "somebody", each),
                        table.place_of(entry.line) or rule.place,
                    )

    def _leads_on(self, table: MapTable, value: str, here: str) -> bool:
        """Whether the target of an alias at a domain may be forwarded again."""
        if self._wild:
            return True
        key = value.lower()
        local, at, domain = key.rpartition("@")
        if not at:
            local, domain = key, here
            key = f"{local}@{here}"
        if not local or domain in self._keeping or not key.isascii() or local[0] in '"\\':
            return True
        names = [key, f"{local}@"]
        if self._ruleset.subaddress:
            stem, _ = split_tag(local, self._ruleset.subaddress)
            names += [f"{stem}@{domain}", f"{stem}@"] if stem else []
        return (
            any(each in table.entries for each in names)
            or any(self._ruleset.forward.filed(ToRecipient, each) for each in names)
            or any(search(text, key) for text in self._regexes)
            or any(other.owns(each) for other in self._others(table) for each in names)
        )

    def _others(self, table: MapTable) -> Iterator[MapTable]:
        for each in self._ruleset.tables.values():
            if each is not table and isinstance(each, MapTable):
                yield each


def _keys(table: Table) -> Iterator[MailboxPattern]:
    """What of mailboxes a table holds, those that stand for many first."""
    probes: Iterable[str] = ()
    if isinstance(table, ListTable):
        probes = table.probes
    elif isinstance(table, MapTable):
        probes = itertools.chain(table.entries, map("@{}".format, table.domains))
    one = []
    for probe in probes:
        local, _, domain = probe.rpartition("@")
        if not local:
            yield SubDomains(domain[1:]) if domain[:1] == "." else Domain(domain)
        elif not domain:
            yield LocalPart(local)
        else:
            one.append(Mailbox(local, domain))
    yield from map(Exact, one)


def _named(ruleset: Ruleset) -> Iterator[str]:
    """The mailboxes and the parts of them that forwards and their tables name."""
    tables: set[str] = set()
    for entry in ruleset.forward.entries:
        rule = entry.rule
        recipients = (one for each in rule.when for one in each.recipients)
        for one in (*rule.patterns, *rule.targets, *recipients):
            if isinstance(one, InTable):
                tables.add(one.name)
            elif isinstance(one, Exact | Domain | SubDomains | LocalPart):
                yield one.probe
    for table in (ruleset.tables[name] for name in tables):
        if isinstance(table, ListTable):
            yield from table.probes
        elif isinstance(table, MapTable):
            yield from table.entries
            for each in table.entries.values():
                yield from each.values


class _Names:
    """Names for what is named, and others for all that is not.

    `tags`: what may stand behind a name, a new one and the ends of names that have one.
    """

    def __init__(self, named: Iterable[str], separators: str) -> None:
        words = (_SOMEBODY, _SUB, _SOMEWHERE, *map(re.escape, separators))
        alike = re.compile("|".join(words), re.IGNORECASE)
        taken: set[str] = set()
        ends: dict[str, None] = {}
        for text in filter(alike.search, named):
            local, at, domain = text.lower().rpartition("@")
            local, domain = (local, domain) if at else (domain, "")
            taken |= {local, domain.lstrip(".").partition(".")[0]}
            if len(ends) < MAX_TAGS:
                tag = split_tag(local, separators)[1]
                ends |= {tag[n:]: None for n, each in enumerate(tag) if each in separators}
        self._somebody, self._sub = _new(_SOMEBODY, taken), _new(_SUB, taken)
        self._somewhere = f"{_new(_SOMEWHERE, taken)}.invalid"
        self.tags = [_new(f"{separators[0]}0", ends), *ends] if separators else []

    def sample(self, pattern: object) -> Mailbox | None:
        """Some mailbox that the pattern fits; None for a regex or a table."""
        if isinstance(pattern, Exact):
            return pattern.mailbox
        if isinstance(pattern, Domain):
            return Mailbox(self._somebody, pattern.domain)
        if isinstance(pattern, SubDomains):
            return Mailbox(self._somebody, f"{self._sub}.{pattern.domain}")
        if isinstance(pattern, LocalPart):
            return Mailbox(pattern.local, self._somewhere)
        if isinstance(pattern, Anything):
            return Mailbox(self._somebody, self._somewhere)
        return None


def _new(word: str, taken: Container[str]) -> str:
    """The word, or one like it that is not taken."""
    numbered = (f"{word}{number}" for number in itertools.count())
    return next(each for each in itertools.chain([word], numbered) if each not in taken)
