"""A rule set: all statements, compiled into stages; immutable and swapped whole."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as but
from typing import Any, TypeVar

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.nexthop import NextHop
from relayd.mail.pacing import Pacing
from relayd.rules.askstage import AskStage
from relayd.rules.conditions.condition import Condition, Test
from relayd.rules.conditions.mailbox import FromSender, ToRecipient
from relayd.rules.conditions.reversename import REVERSE_NAME
from relayd.rules.conditions.senderpolicy import SENDER_POLICY
from relayd.rules.conditions.signatures import ARC, DKIM, DMARC
from relayd.rules.defaultdomain import home_of
from relayd.rules.fact import CERTIFICATE, Fact, Known
from relayd.rules.language.model import (
    AdmissionRule,
    ArcSeal,
    Ask,
    Copy,
    DkimDef,
    DnsListDef,
    Expect,
    FilterDef,
    Forward,
    HeaderEdit,
    HeaderRewrite,
    HopDef,
    Include,
    Item,
    LimitDef,
    PaceDef,
    ProviderDef,
    Rewrite,
    Route,
    Rule,
    Sign,
    SourceDef,
    Subaddress,
    TableDef,
)
from relayd.rules.language.pattern import InTable
from relayd.rules.leaving import BREAKS
from relayd.rules.replace import mapped
from relayd.rules.sendas import SendAs, SendAsStage
from relayd.rules.srsstage import Ours, SrsStage, ours_of, srs_stage
from relayd.rules.stage import GAP, R, Stage
from relayd.rules.subject import Subject
from relayd.rules.tables.live import LiveTable, live_fact
from relayd.rules.tables.table import Table, TransportTable, Unknown
from relayd.rules.view import View

T = TypeVar("T")
HeaderRule = HeaderRewrite | HeaderEdit
SIGNATURES = frozenset({SENDER_POLICY, DKIM, DMARC, ARC})
_NOBODY = Subject(Mailbox("", ""))


@dataclass(frozen=True, eq=False)
class Ruleset:
    """What evaluate() runs. Build it with build()."""

    hostname: str
    items: tuple[Item, ...]
    tables: Mapping[str, Table]
    next_hops: Mapping[str, NextHop]
    subaddress: str
    admission: Stage[AdmissionRule]
    recipients: Stage[Rewrite]
    senders: Stage[Rewrite]
    headers: Stage[HeaderRule]
    forward: Stage[Forward]
    route: Stage[Route]
    expects: tuple[Expect, ...]
    hash: str
    hash_anywhere: str  # the same on hosts of other names
    header_always: tuple[int, ...] | None = field(default=None)  # no header rule has a condition
    srs: SrsStage | None = field(default=None)  # None: senders are not rewritten
    send_as: SendAsStage = field(default=SendAsStage((), {}, "", ""))
    needs: frozenset[Fact] = field(default=frozenset())  # what its rules look at
    asked: frozenset[Fact] = field(default=frozenset())  # ... and that a session asks others for
    lists: Mapping[str, DnsListDef] = field(default_factory=dict)
    filters: Mapping[str, FilterDef] = field(default_factory=dict)
    asks: AskStage | None = field(default=None)  # None: no filter is asked
    limits: Mapping[str, LimitDef] = field(default_factory=dict)
    signing: Stage[Sign] | None = field(default=None)  # None: nothing is signed
    bcc: Stage[Copy] | None = field(default=None)  # None: nothing is copied
    dkim: Mapping[str, DkimDef] = field(default_factory=dict)
    home: str = field(default="")  # the first domain that is ours
    introductions: tuple[tuple[Test, ...], ...] = field(default=())  # see trusts()
    examined: frozenset[Fact] = field(default=frozenset())  # what its rules look at in the content
    content: Stage[AdmissionRule] | None = field(default=None)  # ... those that let mail in, or not
    authenticates: bool = field(default=False)  # they look at SPF, DKIM or DMARC
    plans_anew: bool = field(default=False)  # ... or may change what becomes of one recipient
    foretells: bool = field(default=False)  # what becomes of copies is foreseen, and told
    ours: Ours | None = field(default=None)  # ... but not of those that stay in our domains
    at_rcpt: Ruleset | None = field(default=None)  # it without such rules; None: it has none
    pacing: Pacing = field(default=Pacing())  # how fast mail goes out, and from where

    @property
    def wants_certificate(self) -> bool:
        """Whether a rule looks at the client's certificate."""
        return CERTIFICATE in self.needs

    @property
    def gathered(self) -> frozenset[Fact]:
        """What it looks at besides the envelope and the session, the client's name left out."""
        return self.asked | self.examined

    @property
    def usual(self) -> dict[Fact, object]:
        """What others would say of anybody: what is not stated is so."""
        return {fact: fact.usual for fact in self.needs if fact.gathered}

    def trusts(self, client: Client) -> bool:
        """Whether it has logged in, or a rule that accepts names it: it is no stranger.

        By address, login or certificate (`Condition.names_client`). To be one of all (`from any`,
        `from ::/0`), or not to be kept out (`when not from ...`), is no name.
        """
        if client.login:
            return True
        view = View(client, None, _NOBODY)
        for tests in self.introductions:
            try:
                if all(test(view) for test in tests):
                    return True
            except Unknown:
                continue
        return False


def build(
    items: Sequence[Item],
    tables: Mapping[str, Table],
    hostname: str,
    keys: Sequence[bytes] = (),
    origin: str = "",
) -> Ruleset:
    """Compile statements that were found good (see relayd.rules.check.check).

    `keys` are for SRS, `origin` is the domain of logins without one (else the hostname).
    """
    rewrites = [item for item in items if isinstance(item, Rewrite)]
    headers = [item for item in items if isinstance(item, HeaderRule)]
    hops = {name: hop for table in tables.values() if isinstance(table, TransportTable)
            for name, hop in table.next_hops.items()}  # fmt: skip
    hops |= {item.hop.name: item.hop for item in items if isinstance(item, HopDef)}
    needs = needs_of(items)
    if any(isinstance(item, ArcSeal) for item in items):
        needs |= SIGNATURES  # what a seal hands on
    unconditional = all(not rule.when for rule in headers)
    separators = "".join(item.separators for item in items if isinstance(item, Subaddress))
    admissions = _of(items, AdmissionRule)
    header_stage = Stage(headers, _tests, tables, numbers=_numbers(items, HeaderRule))
    ruleset = Ruleset(
        hostname=hostname,
        items=tuple(items),
        tables=dict(tables),
        next_hops=hops,
        subaddress=separators,
        admission=Stage(
            admissions, _tests, tables, _examines, numbers=_numbers(items, AdmissionRule)
        ),
        recipients=Stage(
            [rule for rule in rewrites if rule.what == "recipient"], _recipient, tables
        ),
        senders=Stage([rule for rule in rewrites if rule.what == "sender"], _sender, tables),
        headers=header_stage,
        forward=Stage(_of(items, Forward), _recipient, tables, numbers=_numbers(items, Forward)),
        route=Stage(_of(items, Route), _routed, tables),
        expects=tuple(_of(items, Expect)),
        hash=_hash(items, tables, hostname, keys),
        hash_anywhere=_hash(items, tables, "", keys),
        header_always=tuple(each.number for each in header_stage.entries)
        if unconditional
        else None,
        srs=srs_stage(items, tables, hostname, keys),
        send_as=SendAsStage(_of(items, SendAs), tables, origin or hostname, separators),
        needs=needs,
        asked=frozenset(fact for fact in needs if fact.asked) - {REVERSE_NAME}
        | {live_fact(name) for name, table in tables.items() if isinstance(table, LiveTable)},
        authenticates=bool(needs & SIGNATURES),
        lists={item.name: item for item in items if isinstance(item, DnsListDef)},
        pacing=Pacing(
            {item.provider.name: item.provider for item in _of(items, ProviderDef)},
            tuple(item.pace for item in _of(items, PaceDef)),
            {item.source.name: item.source for item in _of(items, SourceDef)},
        ),
        filters={item.name: item for item in items if isinstance(item, FilterDef)},
        asks=AskStage(asks, tables) if (asks := _of(items, Ask)) else None,
        limits={item.name: item for item in items if isinstance(item, LimitDef)},
        signing=Stage(signs, _tests, tables) if (signs := _of(items, Sign)) else None,
        bcc=Stage(copies, _tests, tables) if (copies := _of(items, Copy)) else None,
        dkim={item.name: item for item in items if isinstance(item, DkimDef)},
        home=home_of(admissions, tables),
        introductions=tuple(_introductions(admissions, tables)),
    )
    return examining(ruleset) if any(map(_examines, _of(items, Rule))) else ruleset


def needs_of(items: Sequence[Item]) -> frozenset[Fact]:
    """What rules look at."""
    return frozenset(
        fact
        for rule in _of(items, Rule)
        for condition in rule.tests
        for fact in condition.needs | condition.welcome
    )


def _numbers(items: Sequence[Item], kind: Any) -> Sequence[int]:  # noqa: ANN401 - a type, or several
    """The numbers of a stage's rules, where files that are included have some; else none."""
    if not any(isinstance(item, Include) for item in items):
        return ()
    numbers = []
    number = 0
    for item in items:
        if isinstance(item, kind):
            numbers.append(number)
            number += 1
        elif isinstance(item, Include):
            number += GAP
    return numbers


def without_examining(stage: Stage[R]) -> Stage[R]:
    """The stage without rules that look at the content."""
    rules = (entry.rule for entry in stage.entries)
    return stage.anew(_examines) if any(map(_examines, rules)) else stage


def examining(ruleset: Ruleset) -> Ruleset:
    """A set with rules that look at the content: what is asked when."""
    asked = {fact for fact in ruleset.asked if fact.known is not Known.CONTENT}
    foretells = bool(ruleset.needs & {DMARC, BREAKS})
    if foretells:
        asked.add(SENDER_POLICY)
    ruleset = but(
        ruleset,
        asked=frozenset(asked),
        foretells=foretells,
        ours=ours_of(ruleset.items, ruleset.tables, ruleset.hostname) if foretells else None,
    )
    return but(
        ruleset,
        examined=frozenset(fact for fact in ruleset.needs if fact.known is Known.CONTENT),
        content=_content(ruleset, lambda rule: not rule.examines),
        plans_anew=foretells
        or any(
            rule.examines
            and (rule.of_copies or not (isinstance(rule, AdmissionRule) and rule.for_all))
            for rule in _of(ruleset.items, Rule)
        ),
        at_rcpt=_without(ruleset, _examines),
    )


def without_unknown(ruleset: Ruleset, told: Collection[Fact]) -> Ruleset:
    """The set without rules that look at something of the content that is not told."""

    def asks_more(rule: Rule) -> bool:
        return any(
            fact.known is Known.CONTENT and fact not in told
            for condition in rule.tests
            for fact in condition.needs
        )

    content = _content(ruleset, lambda rule: not rule.examines or asks_more(rule))
    return but(_without(ruleset, asks_more), content=content)


def _content(
    ruleset: Ruleset, passed_over: Callable[[AdmissionRule], bool]
) -> Stage[AdmissionRule]:
    return ruleset.admission.anew(passed_over)


def _without(ruleset: Ruleset, passed_over: Callable[[Rule], bool]) -> Ruleset:
    """The set with some rules passed over behind admission; all keep their numbers."""

    def stage(all_: Stage[R]) -> Stage[R]:
        rules = (entry.rule for entry in all_.entries)
        return all_.anew(passed_over) if any(map(passed_over, rules)) else all_

    return but(
        ruleset,
        recipients=stage(ruleset.recipients),
        senders=stage(ruleset.senders),
        headers=stage(ruleset.headers),
        forward=stage(ruleset.forward),
        route=stage(ruleset.route),
        signing=None if ruleset.signing is None else stage(ruleset.signing),
        bcc=None if ruleset.bcc is None else stage(ruleset.bcc),
    )


def _examines(rule: Rule) -> bool:
    return rule.examines


def _tests(rule: Rule) -> tuple[Condition, ...]:
    return rule.tests


def _introductions(
    rules: Sequence[AdmissionRule], tables: Mapping[str, Table]
) -> Iterator[tuple[Test, ...]]:
    """What each rule that accepts clients by who they are wants to see of them."""
    for rule in rules:
        if rule.examines:  # it lets nobody in
            continue
        if rule.verb == "accept" and any(each.names_client for each in rule.tests):
            yield tuple(each.compiled(tables) for each in rule.tests if each.known is Known.CLIENT)


def _of(items: Sequence[Item], kind: type[T]) -> list[T]:
    return [item for item in items if isinstance(item, kind)]


def _recipient(rule: Forward | Rewrite) -> tuple[Condition, ...]:
    # a table that says what an address becomes is asked once, when the rule is applied
    return rule.when if mapped(rule.patterns) else (ToRecipient(rule.patterns), *rule.when)


def _sender(rule: Rewrite) -> tuple[Condition, ...]:
    return rule.when if mapped(rule.patterns) else (FromSender(rule.patterns), *rule.when)


def _routed(rule: Route) -> tuple[Condition, ...]:
    return (ToRecipient((InTable(rule.table),)), *rule.tests) if rule.table else rule.tests


def _hash(
    items: Sequence[Item], tables: Mapping[str, Table], hostname: str, keys: Sequence[bytes]
) -> str:
    digest = hashlib.sha256(hostname.encode())
    for key in keys:  # tells no more of them than an SRS address does
        digest.update(hmac.digest(key, b"relayd rule set", "sha256"))
    for item in items:
        digest.update(f"\n{item}".encode("utf-8", "surrogateescape"))
        if isinstance(item, TableDef) and item.name in tables:
            digest.update(tables[item.name].digest.encode())
    return digest.hexdigest()[:16]
