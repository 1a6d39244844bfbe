"""The verbs of the language: for each the function that reads its statement into a value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from relayd.mail.envelope import DIRECT
from relayd.mail.nexthop import (
    LMTP,
    NO_CONVERSION,
    SMTP,
    WITHOUT_TLS,
    HostPort,
    NextHop,
)
from relayd.mail.security import IMPLICIT, LEVELS, Level
from relayd.rules.conditions.registry import CONDITIONS
from relayd.rules.dnslist import counts
from relayd.rules.language.directory import DIRECTORIES, read_directory, read_refreshing
from relayd.rules.language.expectation import read_expect
from relayd.rules.language.filtering import read_ask, read_filter
from relayd.rules.language.lexer import Lexeme, Statement, TokenKind
from relayd.rules.language.model import (
    Counted,
    DnsListDef,
    HopDef,
    Include,
    Item,
    LimitDef,
    Subaddress,
    TableDef,
)
from relayd.rules.language.pacing import read_pace, read_provider, read_source
from relayd.rules.language.sentences import (
    read_admission,
    read_copy,
    read_forward,
    read_header,
    read_rewrite,
    read_route,
)
from relayd.rules.language.signing import read_arc, read_dkim, read_sign
from relayd.rules.language.source import Complaint, did_you_mean, one_of
from relayd.rules.language.words import Words, host_port, seconds_of
from relayd.rules.sendas import read_send_as
from relayd.rules.srsrule import read_srs

T = TypeVar("T")
Reader = Callable[[Words], T]
KINDS = (
    *("aliases", "virtual", "canonical", "transport", "sqlite", "users", "dovecot-auth"),
    *DIRECTORIES,
)
MOST_COUNTED = 10**9  # by a limit
SHORTEST_WINDOW = 1.0  # seconds
_COUNT = re.compile(r"\d{1,12}\Z", re.ASCII)
_RESERVED = (DIRECT, "any", "via", "null")


def read_statement(statement: Statement, verbs: Mapping[str, Reader[T]]) -> T:
    """The statement's value; raises Complaint."""
    verb = statement.verb
    reader = verbs.get(verb.text.lower()) if verb.kind is TokenKind.WORD else None
    if reader is None:
        hint = did_you_mean(verb.text, verbs) or "expected a verb such as accept, forward or route"
        raise Complaint(verb.place, f'unknown verb "{verb.text}"', hint)
    words = Words(statement)
    value = reader(words)
    words.end(CONDITIONS)
    return value


def _table(words: Words) -> TableDef:
    name, place = words.name("the table's name"), words.last
    kind = "list"
    if not words.at_word("file") and not (words.peek() or words.verb).is_mark("{"):
        kind = words.choice((*KINDS, "file"), 'a kind, "file PATH" or "{"')
    if words.skip_mark("{"):
        if kind != "list":
            raise words.complain(f"a table of kind {kind} lives in a file", "expected file PATH")
        tokens: list[Lexeme] = []
        while not words.skip_mark("}"):
            tokens.append(words.next('an entry or "}"'))
            words.skip_mark(",")
        return TableDef(
            name,
            kind,
            tuple(token.text for token in tokens),
            place=place,
            entry_places=tuple(token.place for token in tokens),
        )
    if kind == "dovecot-auth":
        socket = _unix(words, "dovecot-auth", "unix:/run/dovecot/auth-client")
        return TableDef(name, kind, (), socket=socket, place=place, entry_places=(words.last,))
    if kind in DIRECTORIES:
        return TableDef(name, kind, directory=read_directory(words, kind), place=place)
    if not words.skip_word("file"):
        raise words.missing('"file PATH"' + ("" if kind != "list" else ' or "{"'))
    path, path_place = words.next("the file's path").text, words.last
    includes = query = ""
    if kind == "aliases" and words.skip_word("include"):
        includes = words.next("the folder below which :include: is allowed").text
    if kind == "sqlite":
        if not words.skip_word("query"):
            raise words.missing('query "SELECT ... WHERE ... = ?"')
        query = words.string("the query in quotes").text
        if words.at_word("refresh", "live"):
            directory = read_refreshing(words, kind, path, {"query": query})
            return TableDef(name, kind, directory=directory, place=place)
    return TableDef(name, kind, (), path, includes, query, place=place, entry_places=(path_place,))


def _unix(words: Words, kind: str, example: str) -> str:
    """The absolute path of a unix socket."""
    token = words.next(example)
    path = token.text.removeprefix("unix:")
    if path == token.text or not path.startswith("/"):
        raise words.complain(f'"{token.text}" is no socket', f'expected e.g. "{kind} {example}"')
    return path


def _next_hop(words: Words) -> HopDef:
    name, place = words.name("the next hop's name"), words.last
    if name.lower() in (SMTP, LMTP):
        raise words.complain("a next hop has a name first", f'expected "next-hop NAME {name} ..."')
    if name.lower() in _RESERVED:
        raise words.complain(f'"{name}" has a meaning of its own', "expected another name")
    token = words.peek()
    if token is not None and ":" in token.text:
        raise words.missing(f'smtp or lmtp before it: "smtp {token.text}"')
    protocol = words.choice((SMTP, LMTP), "smtp or lmtp")
    unix = ""
    hosts: tuple[HostPort, ...] = ()
    token = words.peek()
    if token is not None and token.text.startswith("unix:"):
        unix = words.next("a socket").text.removeprefix("unix:")
        if protocol != LMTP:
            raise words.complain("a unix socket goes with lmtp", "expected host:port")
        if not unix.startswith("/"):
            raise words.complain(f'"{unix}" is no absolute path', 'expected "unix:/path"')
    else:
        if token is not None and token.text.startswith("/") and protocol == LMTP:
            words.next("a socket")
            raise words.complain(f'"{token.text}" is no host', f'did you mean "unix:{token.text}"?')
        hosts = words.commas(lambda: _host(words, protocol))
    mx = protocol == SMTP and words.skip_word("mx")
    level, implicit = _hop_tls(words) if words.skip_word("tls") else (None, False)
    if level is not None and unix:
        raise words.complain("a unix socket needs no TLS", "expected the end of the line")
    login, without_tls = _hop_login(words) if words.skip_word("login") else ("", False)
    converts = not words.skip_word(NO_CONVERSION)
    if not converts and words.peek() is not None:
        raise words.missing(f'"{NO_CONVERSION}" as the last word')
    hop = NextHop(name, protocol, hosts, unix, mx, level, implicit, login, without_tls, converts)
    return HopDef(hop, place=place)


def _hop_login(words: Words) -> tuple[str, bool]:
    """`login NAME` or `login NAME without-tls`; see NextHop.login."""
    name = words.name("the name of a secret")
    if name.lower() in ("tls", "login", IMPLICIT, WITHOUT_TLS, NO_CONVERSION):
        raise words.complain(f'"{name}" has a meaning of its own', "expected another name")
    return name, words.skip_word(WITHOUT_TLS)


def _hop_tls(words: Words) -> tuple[Level, bool]:
    """`tls LEVEL`, `tls implicit` or `tls LEVEL implicit`; see NextHop.tls."""
    known = (*LEVELS, IMPLICIT)
    level = words.choice(known, one_of(known))
    if level == IMPLICIT:
        return Level.REQUIRED, True
    if not words.skip_word(IMPLICIT):
        return Level(level), False
    if level in (Level.NONE, Level.OPTIONAL, Level.AUTO):
        raise words.complain(f'"{IMPLICIT}" leaves no room for "{level}"', "expected e.g. verify")
    return Level(level), True


def _host(words: Words, protocol: str) -> HostPort:
    token = words.next("host:port" if protocol == SMTP else "unix:/path or host:port")
    return host_port(token.text, token.place, 25 if protocol == SMTP else 0)


def _dns_list(words: Words) -> DnsListDef:
    kind = words.verb.text.lower()
    name, place = words.name("the list's name"), words.last
    zone = words.domain(words.word("the list's zone, e.g. zen.spamhaus.org").text.rstrip("."))
    answers = words.commas(lambda: _answer(words)) if words.peek() is not None else ()
    return DnsListDef(kind, name, zone, answers, place=place)


def _answer(words: Words) -> str:
    """`127.0.0.2`, `127.0.0.2-11` or `127.0.0.0/24`."""
    text = words.word("an answer that counts, e.g. 127.0.0.2").text
    try:
        counts(text)
    except ValueError as error:
        hint = "expected e.g. 127.0.0.2, 127.0.0.2-11 or 127.0.0.0/24"
        raise words.complain(f'"{text}" is no answer of a list: {error}', hint) from None
    return text


def _limit(words: Words) -> LimitDef:
    name, place = words.name("the limit's name"), words.last
    text = words.word("how many in what time, e.g. 500/1h").text
    count, slash, time = text.partition("/")
    seconds = seconds_of(time)
    if not (slash and _COUNT.match(count)) or seconds is None:
        hint = "expected how many in what time, e.g. 500/1h or 20/30s"
        raise words.complain(f'"{text}" is no limit', hint)
    if not 0 < int(count) <= MOST_COUNTED:
        raise words.complain(f"{count} is out of range", f"expected 1 to {MOST_COUNTED}")
    words.within(time, seconds, SHORTEST_WINDOW)
    messages = words.skip_word("messages")
    if not messages:
        words.skip_word("recipients")
    if not words.skip_word("per"):
        if words.at_word("message"):
            raise words.missing('"messages"')
        raise words.missing('"per login", "per client", ...')
    known = [each.value for each in Counted]
    per = Counted(words.choice(known, one_of(known)))
    return LimitDef(name, int(count), time, per, messages, place=place)


def _subaddress(words: Words) -> Subaddress:
    text = words.next("the separator, e.g. +").text
    if any(letter.isalnum() or letter in '@."\\ ,' for letter in text) or not text.isascii():
        raise words.complain(f'"{text}" cannot separate a tag', "expected e.g. + or -")
    return Subaddress(text, place=words.verb.place)


def _include(words: Words) -> Include:
    pattern = words.next("a file or a pattern such as rules.d/*.rules").text
    place = words.last
    return Include(pattern, scoped=words.skip_word("scoped"), place=place)


def _shared_table(words: Words) -> TableDef:
    item = _table(words)
    return replace(item, shared=True) if words.skip_word("shared") else item


def _shared_hop(words: Words) -> HopDef:
    item = _next_hop(words)
    return replace(item, shared=True) if words.skip_word("shared") else item


VERBS: dict[str, Reader[Item]] = {
    "accept": read_admission,
    "reject": read_admission,
    "defer": read_admission,
    "hold": read_admission,
    "discard": read_admission,
    "rewrite": read_rewrite,
    "header": read_header,
    "forward": read_forward,
    "route": read_route,
    "copy": read_copy,
    "table": _shared_table,
    "next-hop": _shared_hop,
    "dnsbl": _dns_list,
    "dnswl": _dns_list,
    "milter": read_filter,
    "rspamd": read_filter,
    "clamd": read_filter,
    "policy": read_filter,
    "ask": read_ask,
    "limit": _limit,
    "subaddress": _subaddress,
    "include": _include,
    "expect": read_expect,
    "srs": read_srs,
    "dkim": read_dkim,
    "sign": read_sign,
    "arc": read_arc,
    "may-send-as": read_send_as,
    "provider": read_provider,
    "pace": read_pace,
    "source": read_source,
}
