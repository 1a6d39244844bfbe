"""Patterns as they are read: about a mailbox, a client, a name."""

from __future__ import annotations

import ipaddress

from relayd.rules.language.lexer import TokenKind
from relayd.rules.language.pattern import (
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
from relayd.rules.language.regex import trouble
from relayd.rules.language.source import Complaint, Place
from relayd.rules.language.words import (
    Words,
    domain_of,
    local_of,
    mailbox_of,
    network_of,
    table_name,
)

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
        return regex_pattern(words)
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


def regex_pattern(words: Words, about: str = "addresses") -> Regex:
    """What stands behind `regex`."""
    token = words.next("the regular expression in quotes")
    wrong = trouble(token.text, about)
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


def name_pattern(words: Words, expected: str = "a name, <table> or any") -> NamePattern:
    """`bob`, `<table>` or `any`; `expected` says what kind of name."""
    token = words.next(expected)
    if token.is_word("any"):
        return Anything()
    table = table_name(token)
    return Text(token.text) if table is None else InTable(table)
