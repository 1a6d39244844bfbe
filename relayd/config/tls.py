"""The statements about TLS: certificates, listeners, and what domains demand of a connection."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from relayd.mail.address import AddressError, check_domain, fold_domain
from relayd.mail.nexthop import HostPort
from relayd.mail.security import IMPLICIT, LEVELS, Level
from relayd.rules.language.source import Place, Problem, one_of
from relayd.rules.language.words import Words, domain_of, host_port
from relayd.tls.files import CertificateFiles, open_key

MINIMUMS = ("1.0", "1.1", "1.2", "1.3")
LISTENER_TLS = (IMPLICIT, "optional", "none")

_PATTERN = "@domain, @.domain (what lies below it) or any"


@dataclass(frozen=True, slots=True)
class DomainTls:
    """`tls to @example.com verify`: for mail that goes to these domains by MX."""

    domains: tuple[str, ...]  # folded; ".example.com" is what lies below it; "": any
    level: Level

    def __str__(self) -> str:
        shown = ", ".join(f"@{domain}" if domain else "any" for domain in self.domains)
        return f"tls to {shown} {self.level}"


def certificate(words: Words) -> CertificateFiles:
    """`FILE key FILE [for NAME, ...] [on ADDRESS:PORT, ...]`; paths as written."""
    chain = words.next("the file with the certificate").text
    if not words.skip_word("key"):
        raise words.missing('"key FILE"')
    key = words.next("the file with its key").text
    names: tuple[str, ...] = ()
    listeners: tuple[str, ...] = ()
    if words.skip_word("for"):
        names = words.commas(lambda: _server_name(words))
    if words.skip_word("on"):
        listeners = words.commas(lambda: _listener_name(words))
    return CertificateFiles(Path(chain), Path(key), names, listeners)


def _server_name(words: Words) -> str:
    token = words.next("a server name, e.g. mail.example.com or *.example.com")
    star = "*." if token.text.startswith("*.") else ""
    return star + fold_domain(domain_of(token.text.removeprefix("*."), token.place))


def _listener_name(words: Words) -> str:
    token = words.next("a listener, as in its own statement")
    text = re.sub(r":0\Z", ":1", token.text)
    place = host_port(text, token.place)
    return str(HostPort(place.host, 0 if text != token.text else place.port))


def domain_tls(words: Words) -> DomainTls:
    """`to @example.com, @.example.org verify`."""
    if not words.skip_word("to"):
        raise words.missing('"to @domain"')
    domains = words.commas(lambda: _domain(words))
    return DomainTls(domains, Level(words.choice(LEVELS, one_of(LEVELS))))


def _domain(words: Words) -> str:
    token = words.word(_PATTERN)
    if token.is_word("any"):
        return ""
    if not token.text.startswith("@"):
        hint = f'did you mean "@{token.text}"?' if "." in token.text else f"expected {_PATTERN}"
        raise words.complain(f'"{token.text}" is no domain pattern', hint)
    name = token.text[1:]
    try:
        check_domain(name.removeprefix("."))
    except AddressError as error:
        what = f'"{token.text}" is no domain: {error}'
        raise words.complain(what, f"expected {_PATTERN}") from None
    return ("." if name.startswith(".") else "") + fold_domain(name.removeprefix("."))


def listener_tls(words: Words) -> str:
    """What stands behind `listen ADDRESS:PORT tls`."""
    return words.choice(LISTENER_TLS, one_of(LISTENER_TLS))


def resolved(files: CertificateFiles, folder: Path) -> CertificateFiles:
    """The same with absolute paths."""
    return replace(
        files,
        certificate=(folder / files.certificate).absolute(),
        key=(folder / files.key).absolute(),
    )


def certificate_problems(
    given: Iterable[tuple[CertificateFiles, Place]], listeners: Iterable[tuple[str, str, Place]]
) -> list[Problem]:
    """Pairs that cannot be loaded, listeners that are not there or have nothing to serve.

    `listeners`: the name of each, its TLS, and where it stands.
    """
    problems = []
    pairs = list(given)
    doors = list(listeners)
    names = {name for name, _, _ in doors}
    for files, place in pairs:
        why = _trouble(files)
        if why:
            problems.append(Problem(place, why, "expected a PEM certificate with its key"))
        for name in files.listeners:
            if name not in names:
                hint = f'expected a statement "listen {name}"'
                problems.append(Problem(place, f"there is no listener {name}", hint))
    for name, tls, place in doors:
        if tls == IMPLICIT and not any(
            not files.listeners or name in files.listeners for files, _ in pairs
        ):
            hint = 'expected a statement "certificate FILE key FILE"'
            problems.append(Problem(place, f"{name} has no certificate to serve", hint))
    return problems


def open_keys(keys: Iterable[tuple[Path, Place]]) -> list[Problem]:
    """Warnings: private keys that every user of the machine may read."""
    return [
        Problem(place, why, f"expected e.g. chmod 640 {key}")
        for key, place in keys
        if (why := open_key(key))
    ]


def _trouble(files: CertificateFiles) -> str:
    # only who has certificates needs OpenSSL, which takes its time to load
    from relayd.tls.pair import CertificateError, load

    try:
        load(files)
    except CertificateError as error:
        return str(error)
    return ""


def level_for(statements: Iterable[DomainTls]) -> Callable[[str], Level]:
    """What the statements say of a domain: the most special one, else AUTO."""
    table = {domain: each.level for each in statements for domain in each.domains}

    def find(domain: str) -> Level:
        found = table.get(domain)
        rest = domain
        while found is None and "." in rest:
            rest = rest.partition(".")[2]
            found = table.get("." + rest)
        return found or table.get("") or Level.AUTO

    return find
