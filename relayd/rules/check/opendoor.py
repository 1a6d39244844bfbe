"""Open doors: rules that take mail for everywhere from strangers, however they are written.

They are not looked for in the words. Strangers from all parts of the Internet ask for mailboxes in
domains that nobody has named; who gets in tells where the door is.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace as but
from functools import partial

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.rules.conditions.client import FromClient
from relayd.rules.conditions.condition import Condition, Test
from relayd.rules.conditions.mailbox import FromSender, ToRecipient
from relayd.rules.conditions.name import ByHelo
from relayd.rules.conditions.reversename import REVERSE_NAME, ByReverseName
from relayd.rules.fact import CERTIFICATE, TLS, Fact
from relayd.rules.language.model import AdmissionRule
from relayd.rules.language.pattern import InTable, LocalPart, Regex, SubDomains, Text
from relayd.rules.language.source import Problem
from relayd.rules.ruleset import Ruleset
from relayd.rules.stage import ReadyRule
from relayd.rules.subject import Subject
from relayd.rules.tables.table import ListTable, MapTable, Table, TransportTable, Unknown
from relayd.rules.view import View

# one address in each 64th part of IPv4, but for what is nobody's or one's own, and in each 16th of
# what is given out of IPv6; no single owner has three, or two, of them
_IPV4 = tuple(
    str(ipaddress.IPv4Address(number << 26 | 0x1D3A9C7)) for number in range(56)
)  # fmt: skip
_IPV6 = tuple(
    str(ipaddress.IPv6Address((0x2000 + number * 0x200 + 0x53) << 112 | 0xA9C7))
    for number in range(16)
)
_MANY_IPV4, _MANY_IPV6 = 3, 2
_MAILBOXES = tuple(
    map(
        Mailbox.parse,
        (
            "somebody@nonesuch-a4.com",
            "ann.lee@c7-nonesuch.org",
            "x@mail.nonesuch.net",
            "info7@nonesuch3.de",
            "q_9@nonesuch.co.uk",
            "zoe+tag@nonesuch5.io",
            "B.Miller@nonesuch.info",
        ),
    )
)
_SOMEBODY = Mailbox("somebody", "outside.invalid")
_NAMED = re.compile(r"[a-z0-9-]+(?:(?:\\?\.|\[\.\])[a-z0-9-]+)+")  # a domain in a regex
_CLIENT = Client(_IPV4[0])
_NAME = "client.outside.invalid"
_POSTMASTER = "postmaster"
_MOST_SAID = 64  # combinations of what others may say that are tried
# top-level domains that are nobody's on the Internet, or for tests (RFC 6761, RFC 8375, ICANN)
_PRIVATE = frozenset(
    (
        *("arpa", "corp", "example", "home", "internal", "intern", "intranet", "invalid", "lan"),
        *("local", "localdomain", "localhost", "mail", "onion", "private", "test"),
    )
)


def open_doors(ruleset: Ruleset, listeners: Sequence[str] = ()) -> list[Problem]:
    """A warning for each rule that strangers get in by.

    `listeners`: those at which strangers may speak without a login.
    """
    few: dict[str, ReadyRule[AdmissionRule]] = {}  # who gets in by rules that let in some only
    problems = []
    tops = functools.cache(partial(_tops, ruleset.tables))
    spared: list[Condition] = []  # what rules before make an exception of
    for entry in ruleset.admission.entries:
        if entry.rule.examines:  # whoever comes to it was let in before
            continue
        if entry.rule.verb != "accept":
            spared += (each for each in entry.rule.tests if each.negated)
            continue
        let_in: set[str] = set()
        for view in _Strangers(ruleset, entry, listeners, tops, spared):
            if view.client.address not in let_in and _is_first(ruleset, entry, view):
                let_in.add(view.client.address)
                if _many(let_in):
                    problems.append(_problem(entry, _whither(view.recipient.mailbox)))
                    break
        else:
            for address in let_in:
                few.setdefault(address, entry)
    if not problems and _many(few):
        doors = list(dict.fromkeys(few.values()))
        whither = f"everywhere ({len(doors)} rules together)"
        problems.append(_problem(doors[0], whither))
    return problems


def _problem(entry: ReadyRule[AdmissionRule], whither: str) -> Problem:
    return Problem(
        entry.rule.place,
        f"this takes mail from everyone for {whither}: an open relay",
        'expected "from", "to" or "login" with something definite',
    )


def _whither(mailbox: Mailbox) -> str:
    """Everywhere, or the mailbox that a pattern fits which is wider than it looks."""
    return "everywhere" if mailbox in _MAILBOXES else f"{mailbox}, too"


def _many(addresses: set[str] | Mapping[str, object]) -> bool:
    ipv6 = sum(":" in each for each in addresses)
    return ipv6 >= _MANY_IPV6 or len(addresses) - ipv6 >= _MANY_IPV4


def _is_first(ruleset: Ruleset, entry: ReadyRule[AdmissionRule], view: View) -> bool:
    """Whether no rule before it decides."""
    for each in ruleset.admission.candidates(view):
        if each.number >= entry.number:
            return True
        if each.rule.verb != "hold" and _holds(each.needed, view):
            return False
    return True


def _holds(tests: Sequence[Test], view: View) -> bool:
    try:
        return all(test(view) for test in tests)
    except Unknown:  # it is told to come later
        return False


class _Strangers:
    """What a rule would see of strangers, who say and ask whatever it takes."""

    def __init__(
        self,
        ruleset: Ruleset,
        entry: ReadyRule[AdmissionRule],
        listeners: Sequence[str],
        tops: Callable[[str], Sequence[Mailbox]],
        spared: Sequence[Condition],
    ) -> None:
        self._tops = tops
        self._said = (*spared, *entry.rule.tests)  # names that it may help to give oneself
        self._ruleset = ruleset
        self._listeners = (*listeners, "elsewhere:0")
        self._tests = list(zip(entry.rule.tests, entry.tests, strict=True))

    def __iter__(self) -> Iterator[View]:
        """Those for whom it holds. Each of its conditions asks for one thing, so one is varied."""
        tables = self._ruleset.tables
        operands = _operands(ToRecipient, [each for each, _ in self._tests])
        given = (*_MAILBOXES, *self._below_top(operands), *_beside(operands))
        recipients = [
            each
            for each in map(self._subject, given)
            if self._hold(ToRecipient, View(_CLIENT, None, each))
        ]
        if not recipients:
            return
        recipient = recipients[0]
        addresses = [
            each
            for each in (*_IPV4, *_IPV6)
            if self._hold(FromClient, View(Client(each), None, recipient))
        ]
        if not addresses:
            return
        named = (_SOMEBODY, *_named(_operands(FromSender, self._said), tables))
        senders = [
            each
            for each in (None, *map(Subject, named))
            if self._hold(FromSender, View(_CLIENT, each, recipient))
        ]
        others = [
            (client, gathered)
            for client, gathered in self._clients()
            if self._hold(Condition, View(client, None, recipient, gathered))
        ]
        for (client, gathered), each, to in itertools.product(others, senders, recipients):
            for address in addresses:
                yield View(but(client, address=address), each, to, gathered)

    def _clients(self) -> Iterator[tuple[Client, Mapping[Fact, object]]]:
        for name, (tls, certificate), listener, gathered in itertools.product(
            self._names(), self._secured(), self._listeners, self._gathered()
        ):
            client = but(_CLIENT, listener=listener, helo=name, tls=tls, certificate=certificate)
            yield client, gathered

    def _hold(self, kind: type[Condition], view: View) -> bool:
        """Whether the rule's conditions of a kind hold; `Condition`: all but the other kinds."""
        apart = (ToRecipient, FromClient, FromSender)
        return _holds(
            [
                test
                for each, test in self._tests
                if (isinstance(each, kind) and (kind in apart or not isinstance(each, apart)))
                # what a sender or a HELO must be like for a regex nobody can tell; somebody will
                and not (
                    isinstance(each, FromSender | ByHelo) and any(map(_is_regex, each.operands))
                )
            ],
            view,
        )

    def _below_top(self, operands: Sequence[object]) -> Iterator[Mailbox]:
        """Somebody below each top-level domain that a pattern takes whole."""
        for operand in operands:
            if isinstance(operand, SubDomains):
                yield from _public(operand.probe)
            elif isinstance(operand, InTable):
                yield from self._tops(operand.name)

    def _subject(self, mailbox: Mailbox) -> Subject:
        return Subject(mailbox, self._ruleset.subaddress)

    def _names(self) -> Iterator[str]:
        """What a client calls itself."""
        yield _NAME
        for operand in _operands(ByHelo, self._said):
            if isinstance(operand, Text):
                yield operand.text
            elif isinstance(operand, InTable):
                table = self._ruleset.tables[operand.name]
                yield from itertools.islice(getattr(table, "words", ()), 1)

    def _secured(self) -> tuple[tuple[str, str], ...]:
        if self._ruleset.needs & {TLS, CERTIFICATE}:
            return ("", ""), ("TLSv1.3", "f" * 64)
        return (("", ""),)

    def _gathered(self) -> tuple[Mapping[Fact, object], ...]:
        """What others may say of him: of each fact that its conditions ask for, everything."""
        asked = sorted({fact for each in self._said for fact in each.needs if fact.asked}, key=str)
        usual = self._ruleset.usual
        return tuple(
            usual | dict(zip(asked, values, strict=True))
            for values in itertools.islice(itertools.product(*map(self._values, asked)), _MOST_SAID)
        )

    def _values(self, fact: Fact) -> Sequence[object]:
        return ("", *self._reverse_names()) if fact == REVERSE_NAME else fact.values

    def _reverse_names(self) -> Iterator[str]:
        """Names that strangers have: one below each top-level domain that a rule takes whole."""
        yield from (_NAME, *(each.domain for each in _MAILBOXES))
        for operand in _operands(ByReverseName, self._said):
            if isinstance(operand, Text):
                yield from (each.domain for each in _public(f"@{operand.text}"))


def _operands(kind: type[Condition], tests: Sequence[Condition]) -> list[object]:
    return [one for each in tests if isinstance(each, kind) for one in each.operands]


def _is_regex(operand: object) -> bool:
    return isinstance(operand, Regex)


def _tops(tables: Mapping[str, Table], name: str) -> Sequence[Mailbox]:
    """Somebody below each top-level domain that a table takes whole."""
    wide = (probe for probe in _probes(tables[name]) if probe.startswith("@."))
    return [mailbox for probe in wide for mailbox in _public(probe)]


def _beside(operands: Sequence[object]) -> Iterator[Mailbox]:
    """Mailboxes that are fitted by accident: by a regex that speaks of a domain but says not where,
    by a local part that everybody has, and is let in wherever that is. The postmaster is no door
    (RFC 5321 section 4.5.1).
    """
    for operand in operands:
        if isinstance(operand, LocalPart) and operand.local.lower() != _POSTMASTER:
            yield Mailbox(operand.local, "nonesuch.com")
        for written in _NAMED.findall(operand.text) if isinstance(operand, Regex) else ():
            domain = written.replace("\\", "").replace("[.]", ".")
            yield Mailbox("somebody", f"{domain}.nonesuch.com")
            yield Mailbox("somebody", f"nonesuch-{domain}")
            yield Mailbox(domain, "nonesuch.com")


def _public(probe: str) -> Iterator[Mailbox]:
    top = probe[2:]
    if "." not in top and top not in _PRIVATE:
        yield Mailbox("somebody", f"nonesuch.{top}")


def _named(operands: Sequence[object], tables: Mapping[str, Table]) -> Iterator[Mailbox]:
    """A sender for each pattern."""
    for operand in operands:
        probes: Iterator[str]
        if isinstance(operand, InTable):
            probes = itertools.islice(_probes(tables[operand.name]), 1)
        else:
            probes = iter([str(getattr(operand, "probe", ""))])
        for probe in probes:
            local, at, domain = probe.rpartition("@")
            if at:
                domain = f"sub{domain}" if domain.startswith(".") else domain
                yield Mailbox(local or "somebody", domain or "outside.invalid")


def _probes(table: Table) -> Iterator[str]:
    if isinstance(table, ListTable):
        return iter(table.probes)
    return iter(table.entries) if isinstance(table, MapTable | TransportTable) else iter(())
