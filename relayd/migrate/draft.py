"""The new configuration while it grows: settings, tables, next hops and rules, then files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from relayd.mail.address import AddressError, Mailbox, check_domain
from relayd.mail.nexthop import LMTP, SMTP, HostPort, NextHop
from relayd.rules.language.lexer import quote
from relayd.rules.language.pattern import Domain, Exact, LocalPart, SubDomains
from relayd.rules.language.source import Place, Source
from relayd.rules.tables.tablefile import list_table

RULES = Path("rules.d/50-postfix.rules")
CONF = Path("relayd.conf")
SECRETS = Path("secrets")
KEYS = Path("srs.keys")
PRIVATE = (SECRETS, KEYS)
SECTIONS = ("admission", "ask", "rewrite", "forward", "copy", "route", "pace", "tests")
_TITLES = {
    "admission": "Who may send what to whom",
    "ask": "Who is asked about it",
    "rewrite": "Addresses that become others",
    "forward": "Mail that goes on elsewhere",
    "copy": "Who gets a copy of it, and nobody hears of it",
    "route": "Where mail goes next",
    "pace": "How fast it goes there",
    "tests": "Tests: with one that fails the rules never go live",
}
INLINE = 6  # entries of a list that stand in the rules themselves
NOT_MOVED = "has not moved to this relay yet"
LATER = f'451 4.3.0 "This address {NOT_MOVED}, try again later"'
RETRY = f"retry:4.3.0 This address {NOT_MOVED}, try again later"
RESERVED = ("any", "none", "null", "when", "not", "and", "or", "on", "timeout")
_NAME_LETTER = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass
class DraftTable:
    """A table's statement, and its file's lines where it has one."""

    name: str
    kind: str
    lines: list[str]
    origin: str  # what it was made from
    copied: bool = False  # the lines are the Postfix file's own
    spec: str = ""  # its Postfix name, for marks

    @property
    def inline(self) -> bool:
        """Whether its entries stand in the rules."""
        return self.kind == "list" and len(self.lines) <= INLINE

    @property
    def path(self) -> Path:
        """Its file, relative to relayd.conf."""
        return Path("tables") / self.name

    @property
    def statement(self) -> str:
        """Its `table` statement."""
        if self.inline:
            return f"table {self.name} {{ {', '.join(map(quote, self.lines))} }}"
        kind = "" if self.kind == "list" else f" {self.kind}"
        return f"table {self.name}{kind} file {self.path}"


@dataclass
class ConfigDraft:
    """Everything collected so far. Rules of a section keep the order they were given in."""

    settings: list[tuple[str, str]] = field(default_factory=list)  # statement, comment
    subaddress: str = ""
    tables: dict[str, DraftTable] = field(default_factory=dict)
    hops: dict[str, NextHop] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)  # of who is asked, by name
    rules: dict[str, list[tuple[str, str]]] = field(
        default_factory=lambda: {section: [] for section in SECTIONS}
    )
    secrets: list[str] = field(default_factory=list)  # lines of the secrets file
    keys: list[str] = field(default_factory=list)  # lines of the file of SRS keys
    shut: str = ""  # a rule that relayd would not take, for which all mail waits
    later: dict[str, None] = field(default_factory=dict)  # what is to be asked for again later

    def setting(self, statement: str, comment: str = "") -> None:
        """A statement of relayd.conf."""
        self.settings.append((statement, comment))

    def rule(self, section: str, text: str, comment: str = "") -> None:
        """A rule, once; the comment stands above it."""
        if all(text != known for known, _ in self.rules[section]):
            self.rules[section].append((text, comment))

    def list_of(self, name: str, entries: Iterable[str], origin: str) -> str:
        """A list table, as an operand; empty without any good entry."""
        lines = [entry for entry in dict.fromkeys(entries) if good_entry(entry)]
        return self._table(name, "list", lines, origin) if lines else ""

    def map_of(
        self,
        name: str,
        kind: str,
        lines: Sequence[str],
        origin: str,
        *,
        copied: bool = False,
        spec: str = "",
    ) -> str:
        """A table of another kind, as an operand."""
        return self._table(name, kind, list(lines), origin, copied=copied, spec=spec)

    def _table(
        self,
        name: str,
        kind: str,
        lines: list[str],
        origin: str,
        *,
        copied: bool = False,
        spec: str = "",
    ) -> str:
        for known in self.tables.values():
            if known.kind == kind and known.lines == lines:
                return f"<{known.name}>"
        unique = self._unique(slug(name), self.tables)
        self.tables[unique] = DraftTable(unique, kind, lines, origin, copied, spec)
        return f"<{unique}>"

    def hop(
        self,
        name: str,
        hosts: Sequence[HostPort],
        *,
        protocol: str = SMTP,
        unix: str = "",
        mx: bool = False,
    ) -> str:
        """A next hop's name; the same place has one name only."""
        hop = NextHop("", protocol, tuple(hosts), unix, mx)
        for known, other in self.hops.items():
            if NextHop("", other.protocol, other.hosts, other.unix, other.mx) == hop:
                return known
        wanted = slug(name)
        if wanted.lower() in (SMTP, LMTP, "direct", "any", "via", "null"):
            wanted += "-hop"
        unique = self._unique(wanted, self.hops)
        self.hops[unique] = NextHop(unique, protocol, tuple(hosts), unix, mx)
        return unique

    def definition(self, kind: str, name: str, rest: str) -> str:
        """The name of somebody who is asked: `dnsbl NAME zone`, `milter NAME where ...`."""
        for known, statement in self.definitions.items():
            if statement == f"{kind} {known} {rest}":
                return known
        unique = self._unique(slug(name), {*self.definitions, *RESERVED})
        self.definitions[unique] = f"{kind} {unique} {rest}"
        return unique

    def _unique(self, name: str, taken: Iterable[str]) -> str:
        number, unique, known = 2, name, set(taken)
        while unique in known:
            unique, number = f"{name}-{number}", number + 1
        return unique

    def _in_use(self) -> tuple[list[DraftTable], list[NextHop]]:
        """The tables and next hops that some rule names."""
        text = "\n".join(rule for section in SECTIONS for rule, _ in self.rules[section])
        tables = [each for each in self.tables.values() if f"<{each.name}>" in text]
        named = {
            word
            for words in re.findall(r" (?:via|unknown at) ([^\s,]+(?:, [^\s,]+)*)", text)
            for word in words.split(", ")
        }
        return tables, [hop for name, hop in self.hops.items() if name in named]

    def files(self) -> dict[Path, list[str]]:
        """Every file's lines, by its path relative to relayd.conf."""
        self._not_moved()
        tables, hops = self._in_use()
        files = {CONF: self._conf(), RULES: self._rules(tables, hops)}
        for table in tables:
            if not table.inline:
                head = [] if table.copied else [f"# made from {table.origin}"]
                files[table.path] = [*head, *table.lines]
        if self.secrets:
            files[SECRETS] = ["# NAME USER PASSWORD", *self.secrets]
        if self.keys:
            files[KEYS] = list(self.keys)
        return files

    def _not_moved(self) -> None:
        """What could not be translated waits, also where another address leads to it.

        At RCPT it is refused; behind an alias it stays what it is, and has no route.
        """
        names = ("not-moved", "not-moved-stays", "not-moved-waits")
        for name in names:
            self.tables.pop(name, None)
        title = "closed: its entry is not understood; see the report"
        for section in SECTIONS:
            self.rules[section] = [one for one in self.rules[section] if one[1] != title]
        listed = self.list_of(names[0], self.later, "what could not be translated")
        if self.shut:
            self.rules["admission"].insert(0, (f"reject any {LATER}", title))
        if not listed:
            return
        good = [each for each in self.later if good_entry(each)]
        stays = [f"{each} {each}" for each in good if each[0] != "@"]
        waits = [f"{each.removeprefix('@')} {RETRY}" for each in good]
        route = self.map_of(names[2], "transport", waits, "what could not be translated")
        self.rules["route"].insert(0, (f"route {route}", title))
        if stays:
            forward = self.map_of(names[1], "virtual", stays, "what could not be translated")
            self.rules["forward"].insert(0, (f"forward {forward}", title))
        self.rules["admission"].insert(0, (f"reject to {listed} {LATER}", title))

    def _conf(self) -> list[str]:
        lines = ["# Made by `relayctl import postfix`. What each setting means: relayd.conf(5)", ""]
        for statement, comment in self.settings:
            lines += [*(["", f"# {comment}"] if comment else []), statement]
        return [*lines, "", "include rules.d/*.rules"]

    def _rules(self, tables: Sequence[DraftTable], hops: Sequence[NextHop]) -> list[str]:
        lines = ["# Made by `relayctl import postfix`.", ""]
        if self.subaddress:
            lines += [f"subaddress {quote(self.subaddress)}", ""]
        for table in tables:
            lines += [f"# {table.origin}", table.statement]
        lines += [""] if hops else []
        lines += [str(hop) for hop in hops]
        texts = [text for section in SECTIONS for text, _ in self.rules[section]]
        used = {word.rstrip(",") for text in texts for word in text.split()}
        asked = [text for name, text in self.definitions.items() if name in used]
        lines += ["", *asked] if asked else []
        for section in SECTIONS:
            rules = self.rules[section]
            if not rules:
                continue
            lines += ["", f"# {_TITLES[section]}"]
            for text, comment in rules:
                lines += [*([f"# {comment}"] if comment else []), text]
        return lines


def foreign(text: str) -> bool:
    """Whether there are octets in it that are not UTF-8."""
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


def slug(text: str) -> str:
    """The text as a name of the language."""
    name = _NAME_LETTER.sub("-", text).strip("-.")
    return name if name and name[0].isalnum() else f"x{name}"


def good_entry(text: str) -> bool:
    """Whether a list can hold it."""
    if foreign(text):
        return False
    problems: list[object] = []
    place = Place(Source("", "", (text,)), 1)
    list_table("", "", [(text, place)], problems)  # type: ignore[arg-type]  # only counted
    return not problems


def pattern(text: str) -> str:
    """`info@example.com`, `@example.com`, `@.example.com`, `info@` as the language writes it.

    Raises AddressError.
    """
    if foreign(text):
        raise AddressError("it is not UTF-8")
    if text.startswith("@."):
        check_domain(text[2:])
        return str(SubDomains(text[2:]))
    if text.startswith("@"):
        check_domain(text[1:])
        return str(Domain(text[1:]))
    if text.endswith("@"):
        return str(LocalPart(Mailbox.parse(text + "x").local))
    return str(Exact(Mailbox.parse(text)))


def is_mailbox(text: str) -> bool:
    """Whether the text is a whole mailbox."""
    try:
        Mailbox.parse(text)
    except AddressError:
        return False
    return True
