"""A statement read word by word: each reader says what it expects, and complains at the place."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from relayd.mail.address import (
    AddressError,
    Mailbox,
    check_domain,
    check_local,
)
from relayd.mail.nexthop import HostPort
from relayd.rules.language.lexer import Lexeme, Statement, TokenKind
from relayd.rules.language.pattern import Network
from relayd.rules.language.size import SIZE, UNITS
from relayd.rules.language.source import Complaint, Place, did_you_mean

T = TypeVar("T")
MAX_DURATION = 366 * 86400  # seconds
_DURATION = re.compile(r"(?:\d+[dhms])+\Z", re.ASCII)
_DURATION_PART = re.compile(r"(\d+)([dhms])", re.ASCII)
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_TABLE = re.compile(r"<(.*)>\Z")
_FIELD = re.compile(r"[\x21-\x39\x3b-\x7e]+\Z")  # ftext of RFC 5322 section 2.2
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\Z")


class Words:
    """The tokens behind the verb, consumed from left to right."""

    def __init__(self, statement: Statement) -> None:
        self._tokens = statement.tokens
        self._at = 1
        self._list_end = 0  # where a list with commas has just ended
        self.verb = statement.verb

    @property
    def place(self) -> Place:
        """Where the next token stands, or the end of the last one."""
        if self._at < len(self._tokens):
            return self._tokens[self._at].place
        last = self._tokens[-1].place
        return Place(last.source, last.line, last.column + last.width)

    @property
    def last(self) -> Place:
        """Where the token consumed last stands."""
        return self._tokens[self._at - 1].place

    @property
    def text(self) -> str:
        """The token consumed last, as it is written."""
        return self._tokens[self._at - 1].text

    def peek(self) -> Lexeme | None:
        """The next token, not consumed."""
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def complain(self, what: str, expected: str = "", place: Place | None = None) -> Complaint:
        """An error to raise; by default at the token consumed last."""
        return Complaint(place or self.last, what, expected)

    def missing(self, expected: str) -> Complaint:
        """An error to raise: the next token is not what is expected."""
        token = self.peek()
        if token is None:
            return Complaint(self.place, "the statement ends too early", f"expected {expected}")
        shown = "quoted text" if token.kind is TokenKind.STRING else f'"{token.text}"'
        return Complaint(token.place, f"unexpected {shown}", f"expected {expected}")

    def next(self, expected: str) -> Lexeme:
        """The next word or string."""
        token = self.peek()
        if token is None or token.kind is TokenKind.MARK:
            raise self.missing(expected)
        self._at += 1
        return token

    def word(self, expected: str) -> Lexeme:
        """The next word (no string)."""
        token = self.peek()
        if token is None or token.kind is not TokenKind.WORD:
            raise self.missing(expected)
        self._at += 1
        return token

    def string(self, expected: str) -> Lexeme:
        """The next quoted text."""
        token = self.peek()
        if token is None or token.kind is not TokenKind.STRING:
            raise self.missing(expected)
        self._at += 1
        return token

    def skip_mark(self, mark: str) -> bool:
        """Consume the mark if it is next."""
        token = self.peek()
        if token is None or not token.is_mark(mark):
            return False
        self._at += 1
        return True

    def skip_word(self, word: str) -> bool:
        """Consume the keyword if it is next."""
        token = self.peek()
        if token is None or not token.is_word(word):
            return False
        self._at += 1
        return True

    def at_word(self, *words: str) -> bool:
        """Whether one of the keywords is next."""
        token = self.peek()
        return token is not None and token.is_word(*words)

    def comes(self, word: str) -> bool:
        """Whether the keyword stands anywhere from here on."""
        return any(token.is_word(word) for token in self._tokens[self._at :])

    def commas(self, item: Callable[[], T]) -> tuple[T, ...]:
        """One or more items with commas between them."""
        items = [item()]
        while self.skip_mark(","):
            items.append(item())
        self._list_end = self._at
        return tuple(items)

    def end(self, conditions: Iterable[str] = ()) -> None:
        """Nothing may follow. A word of `conditions` asks for a `when` before it."""
        token = self.peek()
        if token is None:
            return
        expected = "the end of the line"
        if self.at_word(*conditions):
            expected = f'"when" before it: "when {token.text} ..."'
        elif self._list_end == self._at and token.kind is not TokenKind.MARK:
            expected = "a comma before it, or the end of the line"
        raise self.missing(expected)

    def choice(self, known: Iterable[str], what: str) -> str:
        """The next word, one of `known`; complains with a suggestion."""
        names = list(known)
        token = self.word(what)
        if token.text.lower() not in names:
            hint = did_you_mean(token.text, names) or f"expected {what}"
            raise self.complain(f'unknown word "{token.text}"', hint)
        return token.text.lower()

    def name(self, what: str) -> str:
        """A name that the admin gives or uses: letters, digits, `- _ .`"""
        token = self.word(what)
        if not _NAME.match(token.text):
            hint = f"expected {what}: letters, digits, - _ ."
            match = _TABLE.match(token.text)
            if match is not None and _NAME.match(match.group(1)):
                hint = f'did you mean "{match.group(1)}"? (here it stands without < and >)'
            raise self.complain(f'"{token.text}" is no name', hint)
        return token.text

    def duration(self, least: float = 0) -> float:
        """`90s`, `5m`, `4h`, `5d`, `1h30m` as seconds."""
        token = self.word("a duration such as 5m, 4h or 1h30m")
        seconds = seconds_of(token.text)
        if seconds is None:
            hint = "expected e.g. 90s, 5m, 4h, 5d or 1h30m"
            unit = self.peek()
            if token.text.isdecimal() and unit is not None and unit.text[:1].lower() in _SECONDS:
                hint = f'did you mean "{token.text}{unit.text[0].lower()}"?'
            raise self.complain(f'"{token.text}" is no duration', hint)
        self.within(token.text, seconds, least)
        return seconds

    def within(self, text: str, seconds: float, least: float) -> None:
        """A duration is neither too short nor too long; at the token consumed last."""
        if not least <= seconds <= MAX_DURATION:
            raise self.complain(
                f"{text} is out of range", f"expected {least:g} seconds to 366 days"
            )

    def size(self, least: int) -> int:
        """`50MiB`, `10MB`, `4096` as octets."""
        token = self.word("a size such as 50MiB")
        match = SIZE.match(token.text)
        unit = None if match is None else UNITS.get(match.group(2).lower())
        if match is None or unit is None:
            hint = "expected e.g. 50MiB, 10MB or 4096"
            if match is not None and match.group(2).lower() in ("k", "m", "g"):
                hint = f'did you mean "{token.text}iB"?'
            raise self.complain(f'"{token.text}" is no size', hint)
        octets = int(match.group(1)[:18]) * unit
        if not least <= octets < 2**50:
            unit_ = self.peek()
            hint = f"expected at least {least}"
            if unit_ is not None and unit_.text.lower() in UNITS:
                hint = f'did you mean "{token.text}{unit_.text}"?'
            raise self.complain(f"{token.text} is out of range", hint)
        return octets

    def field_name(self) -> str:
        """The name of a header field."""
        name = self.word("a header field's name").text
        if not _FIELD.match(name):
            hint = "expected e.g. X-Gateway"
            if _FIELD.match(name.rstrip(":")):
                hint = f'did you mean "{name.rstrip(":")}"?'
            raise self.complain(f'"{name}" is no header field\'s name', hint)
        return name

    def mailbox(self, what: str = "a mailbox, local@domain") -> Mailbox:
        """A whole mailbox."""
        return mailbox_of(self.next(what))

    def domain(self, text: str) -> str:
        """The text, checked to be a domain, at the token consumed last."""
        return domain_of(text, self.last)


def seconds_of(text: str) -> float | None:
    """A duration, `5m` or `1h30m`, in seconds; None: it is none."""
    if not _DURATION.match(text):
        return None
    parts = _DURATION_PART.findall(text)
    return float(sum(int(count[:9]) * _SECONDS[unit] for count, unit in parts))


def table_name(token: Lexeme) -> str | None:
    """`ours` of `<ours>`; None: the token is no table."""
    match = _TABLE.match(token.text) if token.kind is TokenKind.WORD else None
    if match is None:
        return None
    if not _NAME.match(match.group(1)):
        raise Complaint(token.place, f'"{token.text}" is no table', "expected <name>")
    return match.group(1)


def mailbox_of(token: Lexeme) -> Mailbox:
    """The token as a mailbox."""
    try:
        return Mailbox.parse(token.text)
    except AddressError as error:
        why = f"no mailbox: {error}" if table_name(token) is None else "a table, not one mailbox"
        raise Complaint(token.place, f'"{token.text}" is {why}', "expected local@domain") from None


def domain_of(text: str, place: Place) -> str:
    """The text, checked to be a domain."""
    try:
        check_domain(text)
    except AddressError as error:
        raise Complaint(
            place, f'"{text}" is no domain: {error}', "expected e.g. example.com"
        ) from None
    return text


def local_of(text: str, place: Place) -> str:
    """The text, checked to be a local part (quoted or not), without its quotes."""
    try:
        if text.startswith('"'):
            return Mailbox.parse(text + "@x").local
        check_local(text, quoted=False)
    except AddressError as error:
        raise Complaint(
            place, f'"{text}" is no local part: {error}', "expected e.g. info"
        ) from None
    return text


def network_of(text: str, place: Place) -> Network:
    """The text as an IP address or network."""
    bare = text.strip("[]") if text.startswith("[") else text
    try:
        return ipaddress.ip_network(bare)
    except ValueError:
        pass
    try:
        loose = ipaddress.ip_network(bare, strict=False)
    except ValueError:
        raise Complaint(
            place, f'"{text}" is no IP address or network', "expected e.g. 192.0.2.0/24 or ::1"
        ) from None
    raise Complaint(
        place, f'"{text}" has bits set behind its prefix length', f'did you mean "{loose}"?'
    )


def host_port(text: str, place: Place, default: int = 0) -> HostPort:
    """`HOST:PORT`, `[V6]:PORT`; without a port the default, where there is one."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise Complaint(place, f'"{text}" has no closing bracket', 'expected "[::1]:25"')
    else:
        if text.count(":") > 1:
            head, _, tail = text.rpartition(":")
            hint = f'expected "[{text}]:PORT"'
            if tail.isdecimal() and _is_ipv6(head):
                hint = f'did you mean "[{head}]:{tail}"?'
            raise Complaint(place, f'"{text}" is an IPv6 address without brackets', hint)
        host, colon, rest = text.partition(":")
        rest = colon + rest
    if not rest and default:
        port = default
    elif rest[:1] == ":" and rest[1:].isascii() and rest[1:].isdigit():
        port = int(rest[1:])
    else:
        if len(rest) > 1:
            raise Complaint(place, f'port "{rest[1:]}" is no number', "expected 1 to 65535")
        raise Complaint(place, f'"{text}" has no port', f'expected e.g. "{text.strip(":")}:25"')
    if not 0 < port < 65536:
        raise Complaint(place, f"port {port} is out of range", "expected 1 to 65535")
    _check_host(host, text, place)
    return HostPort(host, port)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _check_host(host: str, text: str, place: Place) -> None:
    if text.startswith("["):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise Complaint(
                place, f'"{host}" is no IP address', "expected one between the brackets"
            ) from None
    elif re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise Complaint(
                place, f'"{host}" is no IP address', "expected e.g. 127.0.0.1"
            ) from None
    elif host.startswith("-") or host.endswith("."):
        raise Complaint(place, f'"{host}" is no host name', "expected e.g. mx.example.com")
    else:
        domain_of(host, place)
