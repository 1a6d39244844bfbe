"""The `srs` statements: the domain that rewritten senders get, what is ours, what is exempt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field

from relayd.mail.address import Mailbox, fold_domain, is_srs
from relayd.mail.value import dataclass
from relayd.rules.conditions.condition import Condition
from relayd.rules.conditions.mailbox import FromSender
from relayd.rules.conditions.registry import CONDITIONS, condition, when
from relayd.rules.language.lexer import TokenKind, quote
from relayd.rules.language.model import (
    NOWHERE,
    Forward,
    HeaderRewrite,
    Item,
    Rule,
    commas,
    spaces,
)
from relayd.rules.language.pattern import (
    Anything,
    Exact,
    InTable,
    MailboxPattern,
    Null,
    Reversible,
)
from relayd.rules.language.patternreader import mailbox_patterns
from relayd.rules.language.source import Complaint, Place, Problem
from relayd.rules.language.words import Words
from relayd.rules.srs import HASH_LENGTH, MAX_AGE, MAX_HASH_LENGTH, is_authors
from relayd.rules.tables.table import MapTable, Table

_WHAT = ("domain", "ours", "except")


@dataclass(frozen=True, slots=True)
class SrsStatement(Rule):
    """What the three have in common."""

    @property
    def stage(self) -> str:
        """All of them belong to one stage."""
        return "srs"


@dataclass(frozen=True, slots=True)
class SrsDomain(SrsStatement):
    """`srs domain DOMAIN keys file PATH [hash-length N] [sender any]`: senders are rewritten."""

    domain: str
    keys_file: str  # relative to the file it is written in
    hash_length: int = HASH_LENGTH  # at least, whatever the keys say
    reports_only: bool = True  # SRS addresses take mail from the null sender alone
    domain_place: Place = field(default=NOWHERE, compare=False, repr=False)
    keys_place: Place = field(default=NOWHERE, compare=False, repr=False)

    @property
    def body(self) -> str:
        """The statement without its verb."""
        words = f"domain {self.domain} keys file {quote(self.keys_file)}"
        if self.hash_length != HASH_LENGTH:
            words += f" hash-length {self.hash_length}"
        return words if self.reports_only else f"{words} sender any"


@dataclass(frozen=True, slots=True)
class SrsOurs(SrsStatement):
    """`srs ours PATTERNS`: the domains that are ours, instead of what `accept to` names."""

    patterns: tuple[MailboxPattern, ...]

    @property
    def body(self) -> str:
        """The statement without its verb."""
        return f"ours {commas(self.patterns)}"


@dataclass(frozen=True, slots=True)
class SrsException(SrsStatement):
    """`srs except CONDITIONS`: senders, recipients, clients for whom nothing is rewritten."""

    conditions: tuple[Condition, ...]

    @property
    def tests(self) -> tuple[Condition, ...]:
        """Every condition that must hold, those of `when` included."""
        return self.conditions + self.when

    @property
    def body(self) -> str:
        """The statement without its verb and `when`."""
        return f"except {spaces(self.conditions)}"


def read_srs(words: Words) -> Item:
    """One `srs` statement, the verb consumed."""
    what = words.choice(_WHAT, "domain, ours or except")
    if what == "domain":
        return _domain(words)
    if what == "ours":
        return _ours(words)
    tests = _exceptions(words)
    return SrsException(tests, when=when(words), place=words.verb.place)


def _domain(words: Words) -> SrsDomain:
    token = words.word("the domain that rewritten senders get, e.g. srs.example.com")
    text = token.text
    if "@" in text:
        raise words.complain(f'"{text}" is no domain', f'did you mean "{text.rpartition("@")[2]}"?')
    domain = fold_domain(words.domain(text))
    if domain.startswith("["):
        raise words.complain(f'"{text}" is no domain', "expected a name, e.g. srs.example.com")
    if not words.skip_word("keys") or not words.skip_word("file"):
        raise words.missing('"keys file PATH"')
    keys, keys_place = words.next("the path of the keys file").text, words.last
    if not keys:
        raise words.complain("an empty path", "expected the path of the keys file")
    length = HASH_LENGTH
    if words.skip_word("hash-length"):
        number = words.word("a number of characters").text
        length = int(number) if number.isascii() and number.isdigit() and len(number) < 4 else 0
        if not HASH_LENGTH <= length <= MAX_HASH_LENGTH:
            raise words.complain(
                f'"{number}" is no hash length', f"expected {HASH_LENGTH} to {MAX_HASH_LENGTH}"
            )
    reports_only = True
    if words.skip_word("sender"):
        reports_only = words.choice(("null", "any"), "null (reports only) or any") == "null"
    place = words.verb.place
    return SrsDomain(domain, keys, length, reports_only, token.place, keys_place, place=place)


def _ours(words: Words) -> SrsOurs:
    start = words.place
    patterns = mailbox_patterns(words)
    if any(isinstance(pattern, Anything | Null) for pattern in patterns):
        raise Complaint(start, "not everything is ours", "expected our domains, e.g. @example.com")
    return SrsOurs(patterns, place=words.verb.place)


def _exceptions(words: Words) -> tuple[Condition, ...]:
    """Conditions, as behind `accept`; mailbox patterns alone are about the sender."""
    token = words.peek()
    if token is not None and token.kind is TokenKind.WORD and token.text.lower() in CONDITIONS:
        tests: list[Condition] = []
        while words.at_word(*CONDITIONS):
            tests.append(condition(words))
        return tuple(tests)
    return (FromSender(mailbox_patterns(words)),)


def srs_problems(items: Sequence[Item], tables: Mapping[str, Table]) -> list[Problem]:
    """What is wrong with the `srs` statements as a whole."""
    domains = [item for item in items if isinstance(item, SrsDomain)]
    if not domains:
        wanted = 'expected a statement "srs domain DOMAIN keys file PATH"'
        return [
            Problem(item.place, "this does nothing, for senders are not rewritten", wanted)
            if isinstance(item, SrsStatement)
            else Problem(item.place, 'there is no domain for "srs"', wanted)
            for item in items
            if isinstance(item, SrsStatement)
            or (isinstance(item, HeaderRewrite) and isinstance(item.replacement, Reversible))
        ]
    first = domains[0]
    what = f"the SRS domain is set already, at {first.place}"
    problems = [Problem(again.place, what, "expected one") for again in domains[1:]]
    for item in items:
        if isinstance(item, Forward):
            for mailbox, place in _targets(item, tables):
                ours = is_srs(mailbox.local) or is_authors(mailbox.local)
                if ours and mailbox.domain_key == first.domain:
                    what = f"mail is forwarded to {mailbox}, an SRS address of our own"
                    why = f"it is good for {MAX_AGE} days at most: expected the mailbox itself"
                    problems.append(Problem(place, what, why))
    return problems


def _targets(rule: Forward, tables: Mapping[str, Table]) -> Iterator[tuple[Mailbox, Place]]:
    """The mailboxes a rule names, itself or by its tables, that could be SRS addresses."""
    for target in rule.targets:
        if isinstance(target, Exact):
            yield target.mailbox, rule.place
    for pattern in rule.patterns if not rule.targets else ():
        table = tables.get(pattern.name) if isinstance(pattern, InTable) else None
        if isinstance(table, MapTable):
            for entry in table.entries.values():
                for value in entry.values:
                    if value[:3].lower() == "srs" and "@" in value:
                        yield Mailbox.parse(value), table.place_of(entry.line) or rule.place
