"""What all translations share: the configuration, its tables, the report and the draft."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from relayd.mail.address import AddressError
from relayd.mail.nexthop import HostPort
from relayd.migrate.domains import DomainReader, Names
from relayd.migrate.draft import ConfigDraft, is_mailbox, pattern
from relayd.migrate.expressions import carried
from relayd.migrate.mailboxes import ListError, addresses
from relayd.migrate.maincf import MainCf
from relayd.migrate.mastercf import Service
from relayd.migrate.report import ImportReport
from relayd.migrate.tables import MapSpec, MapText, PatternRow, PostfixTables, maps
from relayd.rules.language.lexer import string
from relayd.rules.language.regex import trouble

_MOST = 380  # characters of an expression made of many names
_CLOSE_THEMSELVES = (
    "alias_maps",  # only for names of the local domains
    "transport_maps",  # only for what nothing before it routes
    "sender_dependent_relayhost_maps",
    "sender_dependent_default_transport_maps",
    "smtp_sasl_password_maps",  # without one the next hop refuses, and mail waits
)


@dataclass
class Work:
    """One import on its way."""

    main: MainCf
    services: Sequence[Service]
    shelf: PostfixTables
    report: ImportReport
    draft: ConfigDraft
    interfaces: Sequence[str] = ()  # this machine's addresses, loopback included
    users: Sequence[str] | None = None  # this machine's, where the configuration is its own
    local: Names = field(default_factory=lambda: Names("local-domains"))
    virtual: Names = field(default_factory=lambda: Names("virtual-domains"))
    mailbox: Names = field(default_factory=lambda: Names("mailbox-domains"))
    relay: Names = field(default_factory=lambda: Names("relay-domains"))
    trusted: Names = field(default_factory=lambda: Names("mynetworks"))
    listeners: list[tuple[Service, list[HostPort]]] = field(default_factory=list)
    incomplete: set[str] = field(default_factory=set)  # parameters with a table we cannot read
    elsewhere: set[MapSpec] = field(default_factory=set)  # tables that became something else
    listed: list[str] = field(default_factory=list)  # operands: who has an entry in a map
    by_transport: dict[str, list[str]] = field(default_factory=dict)  # domains that go by MX
    carried: set[tuple[str, str]] = field(default_factory=set)  # -o of a transport: service, name
    aliases: dict[str, list[str]] = field(default_factory=dict)  # names of alias_maps, understood
    closed: list[tuple[tuple[str, ...], str]] = field(default_factory=list)  # whom, and why

    @property
    def reader(self) -> DomainReader:
        """Reads lists of domains and networks."""
        return self.reader_of(self.main)

    def reader_of(self, main: MainCf) -> DomainReader:
        """The same for a listener with settings of its own."""
        return DomainReader(main, self.shelf, self.report)

    @property
    def bare_domains(self) -> list[str]:
        """Where a key without a domain counts: $myorigin and the local domains."""
        names = [self.main.myorigin.lower(), *self.local.entries]
        return [name for name in dict.fromkeys(names) if not name.startswith(".")]

    def all_classes(self) -> list[Names]:
        """The four lists of destinations, empty ones too."""
        return [self.local, self.virtual, self.mailbox, self.relay]

    def close(self, scope: Sequence[str], setting: str, why: str) -> None:
        """Mail for all in `scope` is asked to come later, for what is said here."""
        self.report.lost(setting, f"{why}; until then its mail is asked to come later")
        if (tuple(scope), f"{setting}: {why}") not in self.closed:
            self.closed.append((tuple(scope), f"{setting}: {why}"))

    def ours(self, *, final: bool = False) -> list[tuple[str, ...]]:
        """The destinations that are ours, each with its conditions.

        `final`: those whose mail ends with Postfix, and is not relayed.
        """
        plain, scopes = [], []
        for names in self.classes():
            if final and names is self.relay:
                continue
            excepted = names.exception(self.draft)
            if excepted:
                scopes.append((f"to {names.operand(self.draft)}", f"not to {excepted}"))
            else:
                plain.append(names.operand(self.draft))
        return [*([(f"to {', '.join(plain)}",)] if plain else []), *scopes]

    def senders_of_ours(self, *, final: bool = False) -> list[tuple[str, ...]]:
        """The senders of those domains, each with its conditions."""
        return [
            tuple(each.replace("to ", "sender ", 1) for each in scope)
            for scope in self.ours(final=final)
        ]

    @property
    def tagged(self) -> list[str]:
        """The condition that a recipient has a sub-address; empty: there are none."""
        marks = re.escape(self.draft.subaddress)
        return [f"to regex {string(f'^[^@]+[{marks}][^@]*@')}"] if marks else []

    def is_tagged(self, key: str) -> bool:
        """Whether a map's key is an address with a sub-address."""
        return any(mark in key.rpartition("@")[0][1:] for mark in self.draft.subaddress)

    def tagged_senders(self, entries: Sequence[str]) -> list[str]:
        """Senders with a sub-address, as operands: Postfix takes it away to look them up."""
        marks = self.draft.subaddress
        by_domain: dict[str, list[str]] = {}
        for entry in entries if marks else ():
            local, at, domain = entry.rpartition("@")
            if at and local and not local.startswith('"'):
                by_domain.setdefault(re.escape(domain.lower()), []).append(re.escape(local.lower()))
        made = []
        for domain, names in by_domain.items():
            while names:
                some = [names.pop(0)]
                while names and len("|".join(some)) + len(domain) < _MOST:
                    some.append(names.pop(0))
                end = f"{domain}$" if domain else ""
                text = f"^(?:{'|'.join(some)})[{re.escape(marks)}][^@]*@{end}"
                assert trouble(text) is None, text
                made.append(f"regex {string(text)}")
        return made

    def classes(self) -> list[Names]:
        """The destinations that Postfix takes mail for."""
        return [each for each in self.all_classes() if each]

    def tables(self, setting: str, *, aliases: bool = False) -> list[MapText]:
        """The readable tables of a `..._maps` parameter; the others are reported."""
        found = []
        for spec in maps(self.main[setting], self.main["default_database_type"]):
            if spec in self.elsewhere:
                continue
            table = self.shelf.read(spec, aliases=aliases and spec.type not in ("static", "inline"))
            if table.trouble:
                self.incomplete.add(setting)
                why = (
                    f"{spec}: {table.trouble}. Its entries are missing: put them in a text file"
                    " and import again, or use a table of kind sqlite"
                )
                if setting in _CLOSE_THEMSELVES:
                    self.report.lost(setting, why, f"map:{spec}")
                else:
                    self.close((), setting, why)
                break  # what stands behind it may be overruled by it
            found.append(table)
            for row in table.repeated:
                self.report.note(
                    f"{table.where(row.line)}: {row.key} has an entry already; Postfix and"
                    " relayd keep the first"
                )
        return found

    def complete(self, address: str) -> str:
        """The address as Postfix completes it: with $myorigin, perhaps with $mydomain."""
        if "@" not in address:
            return f"{address}@{self.main.myorigin}" if address else address
        local, _, domain = address.rpartition("@")
        if "." not in domain and domain and self.main.yes("append_dot_mydomain"):
            return f"{local}@{domain}.{self.main['mydomain']}"
        return address

    def targets(self, value: str) -> tuple[list[str], list[str]]:
        """The addresses of a map's value, completed; and what is none."""
        if value.startswith("@") and len(value.split()) == 1 and "," not in value:
            words = [value]
        else:
            try:
                words = addresses(value)
            except ListError as error:
                return [], [str(error)]
        good: list[str] = []
        bad: list[str] = []
        for word in words:
            whole = word if word.startswith("@") else self.complete(word)
            try:
                pattern(whole)
            except AddressError:
                bad.append(word)
            else:
                (bad if whole.endswith("@") else good).append(
                    word if whole.endswith("@") else whole
                )
        return good, bad

    def refuse_later(self, key: str) -> None:
        """Mail for an entry that could not be translated is to wait, not to be bounced."""
        keys = [key] if "@" in key else [f"{key}@{domain}" for domain in self.bare_domains]
        for each in keys:
            if each.startswith("@") or is_mailbox(each):
                self.draft.later[each] = None

    def condition(self, row: PatternRow, spec: MapSpec, kind: str) -> tuple[str, list[str]] | str:
        """A pattern row as an operand and the conditions of `when`; a text: why there is none."""
        tests = []
        for guard in row.guards:
            found = carried(guard, spec.type)
            if found.why:
                return f"if /{guard.text}/: {found.why}"
            tests.append(f"{'not ' if guard.negated else ''}{kind} regex {string(found.text)}")
        if not row.expression.text:
            return "any", tests
        found = carried(row.expression, spec.type)
        if found.why:
            return f"/{row.expression.text}/: {found.why}"
        text = f"regex {string(found.text)}"
        if row.expression.negated:
            return "any", [f"not {kind} {text}", *tests]
        return text, tests


def expression_of(operand: str) -> str:
    """The expression inside an operand; empty for `any`."""
    return operand.removeprefix('regex "')[:-1].replace('\\"', '"') if operand != "any" else ""


def when(tests: Sequence[str]) -> str:
    """` when a and b`, or nothing."""
    return f" when {' and '.join(tests)}" if tests else ""
