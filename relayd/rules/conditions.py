"""Conditions: the tests that any statement may make, and the patterns inside them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from relayd.rules.lexer import TokenKind
from relayd.rules.model import Condition, Operand
from relayd.rules.pattern import (
    Anything,
    ClientPattern,
    Domain,
    Exact,
    InTable,
    LocalPart,
    MailboxPattern,
    NamePattern,
    Net,
    Null,
    Regex,
    SubDomains,
    Text,
)
from relayd.rules.regex import trouble
from relayd.rules.source import Complaint, Place, did_you_mean, one_of
from relayd.rules.words import Words, domain_of, local_of, mailbox_of, network_of, table_name

_PATTERN = "a mailbox pattern: local@domain, @domain, @.domain, local@, <table>, regex or any"


def mailbox_patterns(words: Words) -> tuple[MailboxPattern, ...]:
    """One or more mailbox patterns with commas between them."""
    return words.commas(lambda: mailbox_pattern(words))


def mailbox_pattern(words: Words) -> MailboxPattern:
    """`info@example.com`, `@example.com`, `@.example.com`, `postmaster@`, `<table>`, ..."""
    token = words.next(_PATTERN)
    text, place = token.text, token.place
    if token.kind is TokenKind.STRING:
        plain = "@" in text and not set(text) & set("\\^$*+?()[]{}| ")
        hint = f"did you mean {text}, without quotes?" if plain else f'did you mean regex "{text}"?'
        raise Complaint(place, "a quoted text is no pattern", hint)
    table = table_name(token) if text != "<>" else None
    if table is not None:
        return InTable(table)
    if token.is_word("regex"):
        return _regex(words)
    if token.is_word("any"):
        return Anything()
    if token.is_word("null") or text == "<>":
        return Null()
    if "*" in text and text.rpartition("@")[0] in ("", "*"):
        domain = text.rpartition("@")[2]
        guess = "any" if domain == "*" else "@" + domain.removeprefix("*")
        raise Complaint(place, f'"{text}": there are no wildcards', f'did you mean "{guess}"?')
    if text.startswith("@."):
        return SubDomains(domain_of(text[2:], place))
    if text.startswith("@"):
        return Domain(domain_of(text[1:], place))
    if text.endswith("@"):
        return LocalPart(local_of(text[:-1], place))
    if "@" in text:
        return Exact(mailbox_of(token))
    raise Complaint(place, f'"{text}" is no mailbox pattern', _hint(text))


def _hint(text: str) -> str:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        pass
    else:
        return f'a client goes with "from": did you mean "from {text}"?'
    return f'did you mean "@{text}"?' if "." in text else f"expected {_PATTERN}"


def _regex(words: Words) -> Regex:
    token = words.next("the regular expression in quotes")
    wrong = trouble(token.text)
    if wrong is not None:
        what, hint, at = wrong
        place = token.place
        if at is not None and token.kind is TokenKind.STRING and '"' not in token.text:
            place = Place(place.source, place.line, place.column + 1 + at)
        raise Complaint(place, what, hint)
    return Regex(token.text)


def client_pattern(words: Words) -> ClientPattern:
    """`192.0.2.66`, `2001:db8::/32`, `<table>` or `any`."""
    token = words.next("an IP address, a network, <table> or any")
    if token.is_word("any"):
        return Anything()
    table = table_name(token)
    if table is not None:
        return InTable(table)
    if "@" in token.text:
        raise Complaint(
            token.place,
            f'"{token.text}" is no client: "from" looks at the client\'s address',
            f'did you mean "sender {token.text}"?',
        )
    return Net(network_of(token.text, token.place))


def _name(words: Words) -> NamePattern:
    token = words.next("a name, <table> or any")
    if token.is_word("any"):
        return Anything()
    table = table_name(token)
    return Text(token.text) if table is None else InTable(table)


def _certificate(words: Words) -> NamePattern:
    token = words.next("the SHA-256 of a certificate or its key, <table> or any")
    if token.is_word("any"):
        return Anything()
    table = table_name(token)
    if table is not None:
        return InTable(table)
    text = token.text.replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", text):
        hint = "expected 64 hexadecimal digits, as openssl x509 -fingerprint -sha256 prints them"
        raise Complaint(token.place, f'"{token.text}" is no SHA-256 fingerprint', hint)
    return Text(text)


CONDITIONS: dict[str, Callable[[Words], Operand] | None] = {
    "from": client_pattern,
    "to": mailbox_pattern,
    "sender": mailbox_pattern,
    "login": _name,
    "listener": _name,
    "helo": _name,
    "certificate": _certificate,
    "tls": None,
    "any": None,
}
"""Every condition's name, and how its operands are read; None: it has none."""


def condition(words: Words, kind: str, *, negated: bool = False) -> Condition:
    """The operands of a condition whose name was consumed."""
    reader = CONDITIONS[kind]
    if reader is None:
        return Condition(kind, (), negated)
    start = words.place
    operands = words.commas(lambda: reader(words))
    if kind == "to" and any(isinstance(operand, Null) for operand in operands):
        raise Complaint(start, "a recipient is never null", 'did you mean "sender null"?')
    return Condition(kind, operands, negated)


def conditions(words: Words) -> tuple[Condition, ...]:
    """The conditions right behind a verb: all must hold."""
    tests: list[Condition] = []
    while words.at_word(*CONDITIONS):
        tests.append(condition(words, words.word("a condition").text.lower()))
    if not tests:
        token = words.peek()
        if token is not None and token.kind is TokenKind.WORD and "@" in token.text:
            raise Complaint(
                token.place, f'"{token.text}" stands alone', f'did you mean "to {token.text}"?'
            )
        close = did_you_mean(token.text, CONDITIONS) if token is not None else ""
        if token is not None and close:
            raise Complaint(token.place, f'unexpected "{token.text}"', close)
        raise words.missing(f"a condition: {one_of(list(CONDITIONS))}")
    return tuple(tests)


def when(words: Words) -> tuple[Condition, ...]:
    """`when CONDITION and not CONDITION ...`, or nothing."""
    if not words.skip_word("when"):
        return ()
    tests = [_one(words)]
    while words.skip_word("and"):
        tests.append(_one(words))
    if words.at_word("or"):
        raise words.missing('"and" (an "or" is a second rule)')
    return tuple(tests)


def _one(words: Words) -> Condition:
    negated = words.skip_word("not")
    kind = words.choice(CONDITIONS, f"a condition: {one_of(list(CONDITIONS))}")
    return condition(words, kind, negated=negated)
