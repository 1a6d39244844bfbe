"""Tables whose entries are elsewhere: `table NAME postgresql "..." query "..." refresh 1m`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from relayd.rules.language.lexer import quote, string
from relayd.rules.language.source import Complaint, Place, Source
from relayd.rules.language.words import Words

POSTGRESQL, MYSQL, LDAP, HTTP, SQLITE = "postgresql", "mysql", "ldap", "http", "sqlite"
DIRECTORIES = (POSTGRESQL, MYSQL, LDAP, HTTP)  # ... and SQLite, with `refresh`
WEEK = 7 * 86400.0
SHRINK = 50  # percent
LEAST_REFRESH = 1.0  # seconds
LEAST_STALE = 60.0
LEAST_CACHE = 1.0
KEY = "$1"  # in what a live table asks: what is looked up
_SCHEMES = {LDAP: ("ldaps", "ldap"), HTTP: ("https", "http")}
_EXAMPLES = {
    POSTGRESQL: 'expected a string of libpq\'s such as "service=mail"',
    MYSQL: 'expected e.g. "service=mail"',
    LDAP: "expected e.g. ldaps://ldap.example.com",
    HTTP: "expected e.g. https://panel.example.com/forwards.json",
}
_NOT_HERE = "expected it where the service is described, or in a file of its own"
_MYSQL = ("service", "file", "host", "port", "user", "dbname", "unix_socket", "tls")


@dataclass(frozen=True, slots=True)
class DirectoryDef:
    """Where a table's entries come from, and how often they are looked for."""

    kind: str
    where: str  # a connection, a URL, or a file relative to the one that names it
    query: str = ""
    base: str = ""  # with LDAP: below which entry
    filter: str = ""
    key: str = ""  # ... and the attributes that keys and targets stand in
    value: str = ""
    bind: str = ""  # ... and as whom
    secret: str = ""  # a file, relative to the one that names it
    refresh: float = 60.0  # seconds from one look to the next
    stale: float = WEEK  # ... that the last good one is believed while the source is away
    shrink: int = SHRINK  # percent that may be lost before somebody is asked
    strict: bool = False  # one bad entry keeps all of them out
    version: str = ""  # a query: entries are read when its answer is another
    live: float = 0.0  # seconds that an answer is believed; 0: entries are read, not asked for

    @property
    def source(self) -> str:
        """What is asked, and where, without how often: entries of another are not its own."""
        return " ".join(self._source())

    def _source(self) -> list[str]:
        if self.kind == SQLITE:
            words = [self.kind, "file", quote(self.where)]
        elif self.kind in (LDAP, HTTP):
            words = [self.kind, quote(self.where)]
        else:
            words = [self.kind, string(self.where)]
        for name in ("base", "filter", "query", "bind"):
            if getattr(self, name):
                words += [name, string(getattr(self, name))]
        for name in ("key", "value"):
            if getattr(self, name):
                words += [name, quote(getattr(self, name))]
        return words + (["secret", "file", quote(self.secret)] if self.secret else [])

    def __str__(self) -> str:
        if self.live:
            return " ".join([*self._source(), "live", "cache", f"{self.live:.0f}s"])
        words = [*self._source(), "refresh", f"{self.refresh:.0f}s"]
        words += ["stale", f"{self.stale:.0f}s"] if self.stale != WEEK else []
        words += ["shrink", f"{self.shrink}%"] if self.shrink != SHRINK else []
        words += ["strict"] if self.strict else []
        return " ".join([*words, *(["version", string(self.version)] if self.version else [])])


def read_directory(words: Words, kind: str) -> DirectoryDef:
    """What stands behind `table NAME KIND`; raises Complaint."""
    where = _where(words, kind)
    parts: dict[str, str] = {}
    if kind in (POSTGRESQL, MYSQL):
        parts["query"] = _query(words)
    elif kind == LDAP:
        parts = _search(words)
    if kind == HTTP or parts.get("bind"):
        parts["secret"] = _secret(words, needed=kind == LDAP)
    return read_refreshing(words, kind, where, parts)


def read_refreshing(words: Words, kind: str, where: str, parts: Mapping[str, Any]) -> DirectoryDef:
    """`refresh TIME`, and what may stand behind it; or `live cache TIME`."""
    asked = parts.get("query") or parts.get("filter") or where
    if words.skip_word("live"):
        if KEY not in asked:
            raise _no_key(words, kind)
        if not words.skip_word("cache"):
            raise words.missing("cache, and how long an answer is believed: cache 5m")
        return DirectoryDef(kind, where, **parts, live=words.duration(LEAST_CACHE))
    if not words.skip_word("refresh"):
        raise words.missing(
            "live, and how long an answer is believed: live cache 5m"
            if KEY in asked
            else "refresh, and how often: refresh 1m"
        )
    if KEY in asked and kind != HTTP:
        raise words.complain(
            f'"{KEY}" is what is looked up, and nothing is: all entries are read',
            "expected live cache 5m, or no $1",
        )
    refresh, stale, shrink, strict = words.duration(LEAST_REFRESH), WEEK, SHRINK, False
    version = ""
    options = ("stale", "shrink", "strict", *(("version",) if parts.get("query") else ()))
    while words.at_word(*options):
        if words.skip_word("stale"):
            stale = words.duration(LEAST_STALE)
        elif words.skip_word("shrink"):
            shrink = _percent(words)
        elif words.skip_word("version"):
            version = words.string("a query in quotes, of one row").text
        else:
            strict = words.skip_word("strict")
    return DirectoryDef(kind, where, **parts, refresh=refresh, stale=stale, shrink=shrink,
                     strict=strict, version=version)  # fmt: skip


def _no_key(words: Words, kind: str) -> Complaint:
    where = {LDAP: "in the filter: (mail=$1)", HTTP: "in the URL: .../forwards/$1"}
    return words.complain(
        f'a live table asks for one address, and "{KEY}", which stands for it, is missing',
        f"expected it {where.get(kind, 'in the query: WHERE alias = $1')}",
    )


def _where(words: Words, kind: str) -> str:
    if kind in (POSTGRESQL, MYSQL):
        return read_connection(words, kind)
    where = words.next("a URL").text
    parts = urlsplit(where)
    if parts.scheme.lower() not in _SCHEMES[kind] or not parts.hostname:
        raise words.complain(f'"{where}" is no URL of {kind}\'s', _EXAMPLES[kind])
    if parts.username is not None:
        raise _secret_here(words, parts.password or parts.username)
    return where


def read_connection(words: Words, kind: str) -> str:
    """How a database is reached, without a password; raises Complaint."""
    where = words.string("the connection in quotes").text
    _no_password(words, kind, where)
    return where


def _no_password(words: Words, kind: str, where: str) -> None:
    if "://" in where:
        login = where.partition("://")[2].rpartition("@")[0]
        if ":" in login:
            raise _secret_here(words, login.partition(":")[2])
        return
    for name, _, value in (each.partition("=") for each in where.split()):
        if name.lower() in ("password", "passwd"):
            raise _secret_here(words, value)
    if "=" not in where:
        raise words.complain(f'"{where}" is no connection', _EXAMPLES[kind])
    for name, equals, value in (each.partition("=") for each in where.split()):
        if kind == MYSQL and (name not in _MYSQL or not equals or not value):
            known = ", ".join(f"{each}=" for each in _MYSQL)
            raise words.complain(f'"{name}{equals}" is not known here', f"expected {known}")


def _secret_here(words: Words, secret: str) -> Complaint:
    """The complaint, which goes to the log: the secret is not in it."""
    at = words.last
    hidden = tuple(
        line.replace(secret, "*" * len(secret)) if secret else line for line in at.source.lines
    )
    source = Source(at.source.path, at.source.name, hidden)
    what = "a password stands in the connection"
    return Complaint(Place(source, at.line, at.column, at.width), what, _NOT_HERE)


def _query(words: Words) -> str:
    if not words.skip_word("query"):
        raise words.missing('query "SELECT ..."')
    return words.string("the query in quotes").text


def _search(words: Words) -> dict[str, str]:
    """`base "..." filter "..." key ATTRIBUTE [value ATTRIBUTE] [bind "..."]`."""
    parts = {}
    for name, example in (
        ("base", 'base "ou=people,dc=example,dc=com"'),
        ("filter", 'filter "(objectClass=inetOrgPerson)"'),
    ):
        if not words.skip_word(name):
            raise words.missing(example)
        parts[name] = words.string(f"the {name} in quotes").text
    if not words.skip_word("key"):
        raise words.missing("key, and an attribute: key mail")
    parts["key"] = words.word("an attribute").text
    if words.skip_word("value"):
        parts["value"] = words.word("an attribute").text
    if words.skip_word("bind"):
        parts["bind"] = words.string("whom to bind as, in quotes").text
    return parts


def _secret(words: Words, *, needed: bool) -> str:
    if not words.skip_word("secret"):
        if needed:
            raise words.missing("secret file PATH")
        return ""
    if not words.skip_word("file"):
        raise words.missing("file PATH: a secret has a file of its own")
    return words.next("the path of the secret's file").text


def _percent(words: Words) -> int:
    text = words.word("a share such as 50%").text
    number = text.removesuffix("%")
    if number == text or not number.isascii() or not number.isdigit() or int(number[:4]) > 100:
        raise words.complain(f'"{text}" is no share', "expected 0% to 100%: so much may be lost")
    return int(number)
