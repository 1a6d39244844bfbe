"""Rules of many people: each file is compiled by itself, and found by the domain it is about.

A set with ten thousand such files is put together anew when one of them has changed, and only that
one is compiled. Which rules may hold for a recipient is found in the files of his domain and of
those above it, and in those of the sender's: no rule of a file is ever asked about anybody else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as but

from relayd.rules.conditions.reversename import REVERSE_NAME
from relayd.rules.defaultdomain import home_of
from relayd.rules.fact import Fact
from relayd.rules.language.model import AdmissionRule, Expect, Forward, HeaderEdit, Item, Rule
from relayd.rules.ruleset import (
    SIGNATURES,
    HeaderRule,
    Ruleset,
    examining,
    needs_of,
    without_examining,
)
from relayd.rules.srsstage import Ours
from relayd.rules.stage import GAP, SPAN, R, ReadyRule, Stage
from relayd.rules.tables.table import Table
from relayd.rules.view import View

MOST_LABELS = 127  # of a domain (RFC 1035 section 2.3.4)
MOST_OCTETS = 255
MOST_RULES = SPAN  # in one file


@dataclass(frozen=True, slots=True)
class CustomerRules:
    """The rules of one file."""

    domain: str  # folded
    items: tuple[Item, ...]
    tables: Mapping[str, Table]  # its own
    admission: Stage[AdmissionRule]
    headers: Stage[HeaderRule]
    forward: Stage[Forward]
    content: Stage[AdmissionRule] | None  # as those of Ruleset
    headers_at_rcpt: Stage[HeaderRule]
    forward_at_rcpt: Stage[Forward]
    expects: tuple[Expect, ...]
    needs: frozenset[Fact]
    examines: bool  # a rule of it looks at the content
    ours: Ours  # whose mail it takes
    digest: bytes


def part_of(
    domain: str, items: Sequence[Item], tables: Mapping[str, Table], main: Ruleset, place: int
) -> CustomerRules:
    """Compile one file. `place`: see place_of."""
    known = {**main.tables, **tables} if tables else main.tables
    admissions = [item for item in items if isinstance(item, AdmissionRule)]
    headers: list[HeaderRule] = [item for item in items if isinstance(item, HeaderEdit)]
    forwards = [item for item in items if isinstance(item, Forward)]
    admission = Stage(admissions, main.admission.conditions, known, _examines, first=place)
    header_stage = Stage(headers, main.headers.conditions, known, first=place)
    forward = Stage(forwards, main.forward.conditions, known, first=place)
    digest = hashlib.sha256(domain.encode())
    for item in items:
        digest.update(f"\n{item}".encode("utf-8", "surrogateescape"))
    return CustomerRules(
        domain=domain,
        items=tuple(items),
        tables=tables,
        admission=admission,
        headers=header_stage,
        forward=forward,
        content=None if not any(map(_examines, admissions)) else admission.anew(_of_envelope),
        headers_at_rcpt=without_examining(header_stage),
        forward_at_rcpt=without_examining(forward),
        expects=tuple(item for item in items if isinstance(item, Expect)),
        needs=needs_of(items),
        examines=any(map(_examines, (*admissions, *headers, *forwards))),
        ours=Ours(admissions, known, ()),
        digest=digest.digest(),
    )


def place_of(include: int, before: int, domain: str) -> int:
    """The number of a file's first rule: behind those `before` the `include` in its stage.

    Of two files the one about a domain below the other's comes first, else that whose name does:
    whenever each was read.
    """
    depth = MOST_LABELS - min(domain.count("."), MOST_LABELS)
    name = int.from_bytes(domain.encode().ljust(MOST_OCTETS, b"\0"), "big")
    above = -(-before // SPAN)
    return include * GAP + (above + (depth << 8 * MOST_OCTETS) + name) * SPAN


class ScopedStage(Stage[R]):
    """A stage in which the rules of files stand as well."""

    def __init__(self, main: Stage[R], parts: Mapping[str, Stage[R]]) -> None:
        self.__dict__.update(main.__dict__)  # of the main files as well
        self.__dict__.pop("entries")
        self._main, self._parts = main, parts
        self._ranked: Mapping[int, Stage[R]] | None = None
        self.empty = False

    @property
    def entries(self) -> Sequence[ReadyRule[R]]:  # type: ignore[override]
        """Those of all files, for whoever looks through them."""
        theirs = (one for each in self._parts.values() for one in each.entries)
        return [*self._main.entries, *theirs]

    def entry(self, number: int) -> ReadyRule[R]:
        """See Stage."""
        if self._ranked is None:
            self._ranked = {each.entries[0].number // SPAN: each for each in self._parts.values()}
        stage = self._ranked.get(number // SPAN)
        return self._main.entry(number) if stage is None else stage.entry(number)

    def anew(self, passed_over: Callable[[R], bool]) -> Stage[R]:
        """See Stage."""
        parts = {domain: stage.anew(passed_over) for domain, stage in self._parts.items()}
        return ScopedStage(self._main.anew(passed_over), parts)

    def candidates(self, view: View) -> Sequence[ReadyRule[R]]:
        """See Stage."""
        recipient, parts = view.recipient, self._about(view)
        if not parts:
            return super().candidates(view)
        others, recipient.others = recipient.others, ()  # one answer for all of them
        if others:
            key = recipient.key
            theirs = _above(self._parts, recipient.domain)  # a sender's file knows no tag of his
            own = self.owns(key) or any(each.owns(key) for each in theirs)
            recipient.wide = () if own else others
        try:
            found = [*super().candidates(view)]
            for each in parts:
                found += each.candidates(view)
        finally:
            recipient.others = others
        found.sort(key=lambda entry: entry.number)
        return found

    def _about(self, view: View) -> list[Stage[R]]:
        """The files of the recipient's domain and above, and of the sender's."""
        found = _above(self._parts, view.recipient.domain)
        if view.sender is not None:
            found += [each for each in _above(self._parts, view.sender.domain) if each not in found]
        return found


def _above(parts: Mapping[str, Stage[R]], domain: str) -> list[Stage[R]]:
    found = []
    while domain:
        stage = parts.get(domain)
        if stage is not None:
            found.append(stage)
        domain = domain.partition(".")[2]
    return found


def with_parts(main: Ruleset, parts: Sequence[CustomerRules]) -> Ruleset:
    """The set of the main files' rules and these."""
    if not parts:
        return main
    tables = dict(main.tables)
    items, expects = [*main.items], [*main.expects]
    for part in parts:
        tables.update(part.tables)
        items += part.items
        expects += part.expects
    theirs = b"".join([part.digest for part in parts])
    needs = main.needs.union(*{part.needs for part in parts})
    whole = but(
        main,
        items=tuple(items),
        tables=tables,
        expects=tuple(expects),
        hash=_hash(main.hash, theirs),
        hash_anywhere=_hash(main.hash_anywhere, theirs),
        needs=needs,
        asked=main.asked | frozenset(fact for fact in needs if fact.asked) - {REVERSE_NAME},
        authenticates=bool(needs & SIGNATURES),
        home=main.home or _home(parts, tables),
    )
    ours = [part.ours for part in parts]
    if whole.srs is not None:
        whole = but(whole, srs=whole.srs.with_ours(ours))
    at_rcpt = main
    if main.at_rcpt is not None or any(part.examines for part in parts):
        whole = examining(whole)
        assert whole.content is not None
        assert whole.at_rcpt is not None
        at_rcpt = whole.at_rcpt
        content = {part.domain: part.content for part in parts if part.content is not None}
        whole = but(
            whole,
            content=ScopedStage(whole.content, content),
            ours=whole.ours and whole.ours.with_(ours),
        )
    admission = _scoped(main.admission, {part.domain: part.admission for part in parts})
    header_always = main.header_always
    if not all(part.headers.empty for part in parts):
        header_always = None
    whole = but(
        whole,
        admission=admission,
        headers=_scoped(main.headers, {part.domain: part.headers for part in parts}),
        forward=_scoped(main.forward, {part.domain: part.forward for part in parts}),
        header_always=header_always,
    )
    if whole.at_rcpt is None:
        return whole
    early = but(
        at_rcpt,
        admission=admission,
        header_always=header_always,
        headers=_scoped(at_rcpt.headers, {each.domain: each.headers_at_rcpt for each in parts}),
        forward=_scoped(at_rcpt.forward, {each.domain: each.forward_at_rcpt for each in parts}),
    )
    return but(whole, at_rcpt=early)


def alone(part: CustomerRules, main: Ruleset) -> Ruleset:
    """The file without all others, to be looked at by itself."""
    return but(
        main,
        items=part.items,
        tables={**main.tables, **part.tables},
        admission=part.admission,
        headers=part.headers,
        forward=part.forward,
        content=part.content,
        expects=part.expects,
        recipients=_none(main.recipients),
        senders=_none(main.senders),
        route=_none(main.route),
        bcc=None,
        at_rcpt=None,
    )


def _hash(main: str, theirs: bytes) -> str:
    return hashlib.sha256(main.encode() + theirs).hexdigest()[:16]


def _home(parts: Sequence[CustomerRules], tables: Mapping[str, Table]) -> str:
    rules = (entry.rule for part in parts for entry in part.admission.entries)
    return home_of(rules, tables)


def _none(stage: Stage[R]) -> Stage[R]:
    return Stage([], stage.conditions, {})


def _scoped(main: Stage[R], parts: Mapping[str, Stage[R]]) -> Stage[R]:
    having = {domain: stage for domain, stage in parts.items() if not stage.empty}
    return ScopedStage(main, having) if having else main


def _examines(rule: Rule) -> bool:
    return rule.examines


def _of_envelope(rule: Rule) -> bool:
    return not rule.examines
