"""What the rules of a customer's file may do: nothing beyond his own domain.

A scoped file is named after a domain, `customers/example.com.rules`. Its rules are about recipients
in that domain and below, and about senders of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from re import _constants as constants  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]

from relayd.mail.address import AddressError, check_domain, fold_domain
from relayd.rules.conditions.condition import Condition
from relayd.rules.conditions.mailbox import FromSender, ToRecipient
from relayd.rules.language.grammar import VERBS, Reader, read_statement
from relayd.rules.language.lexer import Lexeme, Statement, TokenKind
from relayd.rules.language.model import (
    AdmissionRule,
    Expect,
    Forward,
    HeaderEdit,
    HopDef,
    Item,
    Rule,
    TableDef,
)
from relayd.rules.language.pattern import Domain, Exact, InTable, Regex, SubDomains
from relayd.rules.language.source import Complaint, Place, Problem, did_you_mean, one_of

ALLOWED = ("accept", "reject", "defer", "hold", "discard", "forward", "header", "expect", "table")
# what they say is believed further on because it is we who say it
_OUR_WORD = re.compile(r"(?i)Authentication-Results|Received-SPF|ARC-.*")
_TABLE = re.compile(r"<([^<>]*)>\Z")
_VERBS: Mapping[str, Reader[Item]] = {name: VERBS[name] for name in ALLOWED}


@dataclass(frozen=True)
class Shared:
    """What of the main set the files may name."""

    tables: frozenset[str]
    next_hops: frozenset[str]

    @classmethod
    def of(cls, items: Sequence[Item]) -> Shared:
        """Those that are marked."""
        return cls(
            frozenset(each.name for each in items if isinstance(each, TableDef) and each.shared),
            frozenset(each.hop.name for each in items if isinstance(each, HopDef) and each.shared),
        )


def domain_of_file(path: Path) -> str:
    """The domain that a file is named after, folded; raises AddressError."""
    name = path.name.removesuffix(path.suffix)
    check_domain(name)
    domain = fold_domain(name)
    if "." not in domain:
        raise AddressError(f"{name} is no domain of anybody's")
    return domain


def read_scoped(
    statements: Sequence[Statement], domain: str, shared: Shared
) -> tuple[list[Item], list[Problem]]:
    """The items of one file, their tables by names of their own, and what is wrong with it."""
    scope = _Scope(domain, shared, statements)
    items: list[Item] = []
    problems: list[Problem] = []
    for statement in statements:
        try:
            items.append(scope.read(statement))
        except Complaint as complaint:
            problems.append(complaint.problem)
    return items, problems


class _Scope:
    def __init__(self, domain: str, shared: Shared, statements: Sequence[Statement]) -> None:
        self._domain, self._shared = domain, shared
        self._own = {
            each.tokens[1].text
            for each in statements
            if each.verb.is_word("table") and len(each.tokens) > 1
        }
        self._area = (Domain(domain), SubDomains(domain))

    def read(self, statement: Statement) -> Item:
        """One statement; raises Complaint."""
        verb = statement.verb
        if not verb.is_word(*ALLOWED):
            known = verb.kind is TokenKind.WORD and verb.text.lower() in VERBS
            what = f'"{verb.text}" is not for the file of {self._domain}'
            hint = "" if known else did_you_mean(verb.text, ALLOWED)
            raise Complaint(verb.place, what, hint or f"expected {one_of(ALLOWED)}")
        renamed = Statement(tuple(self._named(statement)))
        item = read_statement(renamed, _VERBS)
        if isinstance(item, TableDef):
            return self._table(item)
        if isinstance(item, Expect):
            return self._expect(item)
        assert isinstance(item, Rule)
        for condition in item.tests:
            for kind, name in condition.named:
                raise self._complain(item, name, f"{kind} {name} is not shared", "leave it out")
        if isinstance(item, Forward):
            return self._confined(item, item.patterns, ToRecipient)
        assert isinstance(item, AdmissionRule | HeaderEdit)
        if isinstance(item, HeaderEdit) and _OUR_WORD.fullmatch(item.name):
            what = f"{item.name} is relayd's own word about mail"
            raise self._complain(item, item.name, what, "expected another field")
        return self._with_condition(item)

    def _named(self, statement: Statement) -> Iterator[Lexeme]:
        """Its tokens, the names of tables made unlike all others."""
        for number, token in enumerate(statement.tokens):
            match = None
            if token.kind is TokenKind.WORD and token.text[0] == "<":
                match = _TABLE.match(token.text)
            if number == 1 and statement.verb.is_word("table"):
                if "." in token.text:
                    raise Complaint(
                        token.place, f'"{token.text}" has a dot in it', "expected a name without"
                    )
                yield replace(token, text=f"{self._domain}.{token.text}")
            elif match is None:
                yield token
            elif match[1] in self._own:
                yield replace(token, text=f"<{self._domain}.{match[1]}>")
            elif match[1] in self._shared.tables:
                yield token
            else:
                raise Complaint(
                    token.place,
                    f"there is no table {match[1]} here",
                    did_you_mean(match[1], self._own | self._shared.tables)
                    or "expected one of this file, or one that is marked shared",
                )

    def _table(self, item: TableDef) -> TableDef:
        if item.file or item.socket or item.directory is not None:
            raise Complaint(
                item.place,
                "a table of this file reads nothing else",
                "expected its entries: { ..., ... }",
            )
        if item.shared:
            raise Complaint(item.place, "what is here is for this file alone", 'leave out "shared"')
        return item

    def _expect(self, item: Expect) -> Expect:
        if not self._holds(item.recipient.domain):
            raise self._complain(item, str(item.recipient), *self._outside(str(item.recipient)))
        for goal in (*item.destinations, *item.copies):
            for name in goal.next_hop.split(","):
                if name and name != "direct" and name not in self._shared.next_hops:
                    raise self._complain(
                        item, name, f"next hop {name} is not shared", "leave it out"
                    )
        for condition in item.stated:
            for kind, name in condition.named:
                raise self._complain(item, name, f"{kind} {name} is not shared", "leave it out")
        return item

    def _with_condition(self, item: AdmissionRule | HeaderEdit) -> Item:
        to = [each for each in item.tests if isinstance(each, ToRecipient) and not each.negated]
        if to:
            return self._confined(item, to[0].operands, ToRecipient)
        sender = [each for each in item.tests if isinstance(each, FromSender) and not each.negated]
        if not sender or (isinstance(item, AdmissionRule) and item.verb == "accept"):
            raise Complaint(
                item.place,
                "this rule is about everybody's recipients",
                f"expected e.g. to @{self._domain}",
            )
        return self._confined(item, sender[0].operands, FromSender)

    def _confined(
        self,
        item: AdmissionRule | HeaderEdit | Forward,
        patterns: Sequence[object],
        kind: type[ToRecipient] | type[FromSender],
    ) -> Item:
        """With a condition more, where its patterns do not say themselves that they end here."""
        for pattern in patterns:
            if not self._inside(pattern):
                raise self._complain(item, str(pattern), *self._outside(str(pattern)))
        if all(isinstance(each, Exact | Domain | SubDomains) for each in patterns):
            return item
        bound: Condition = kind(self._area)
        return replace(item, when=(*item.when, bound))

    def _inside(self, pattern: object) -> bool:
        match pattern:
            case Exact():
                return self._holds(pattern.mailbox.domain)
            case Domain() | SubDomains():
                return self._holds(pattern.domain)
            case Regex():
                return self._ends_inside(pattern.text)
            case InTable():
                return True  # it is bound by a condition
        return False

    def _holds(self, domain: str) -> bool:
        try:
            folded = fold_domain(domain)
        except AddressError:
            return False
        return folded == self._domain or folded.endswith(f".{self._domain}")

    def _ends_inside(self, text: str) -> bool:
        """Whether nothing fits but what ends with our domain: so it stands in the expression."""
        parsed = parser.parse(text)
        *before, end = [*parsed] or [(None, None)]
        if end != (constants.AT, constants.AT_END) or parsed.state.flags & re.MULTILINE:
            return False
        size = len(self._domain) + 1
        last = before[-size:]
        if len(last) < size or any(code is not constants.LITERAL for code, _ in last):
            return False
        return "".join(chr(letter) for _, letter in last) in (
            f"@{self._domain}",
            f".{self._domain}",
        )

    def _outside(self, what: str) -> tuple[str, str]:
        if what.startswith("regex"):
            ends = self._domain.replace(".", r"\.")
            return f"this reaches out of {self._domain}", f'expected one that ends with "@{ends}$"'
        return f"{what} is not in {self._domain}", f"expected e.g. info@{self._domain}"

    def _complain(self, item: Rule, word: str, what: str, expected: str) -> Complaint:
        return Complaint(_at(item.place, word.removeprefix("regex ")), what, expected)


def _at(place: Place, word: str) -> Place:
    """Where a word stands in its statement, or the statement."""
    line = place.source.line(place.line)
    at = line.lower().find(word.lower(), place.column + place.width - 1)
    return place if at < 0 else Place(place.source, place.line, at + 1, len(word))
