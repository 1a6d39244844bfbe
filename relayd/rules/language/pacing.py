"""`provider`, `pace` and `source`: how the statements about the way out are read."""

from __future__ import annotations

import ipaddress

from relayd.mail.address import fold_domain
from relayd.mail.pacing import PROVIDER, TO, VIA, MailProvider, PaceLimits, Rate, SourceAddress
from relayd.rules.language.model import PaceDef, ProviderDef, SourceDef
from relayd.rules.language.words import Words

MOST = 1_000_000  # connections, or messages on one
_LIMITS = ("connections", "messages", "rate")


def read_provider(words: Words) -> ProviderDef:
    """`provider`."""
    name, place = words.name("the provider's name"), words.last
    if not words.skip_word("mx"):
        raise words.missing('"mx" and the names of its exchangers, e.g. "mx .google.com"')
    exchangers = words.commas(lambda: _below(words, "an exchanger's name, e.g. .google.com"))
    return ProviderDef(MailProvider(name, exchangers), place)


def read_pace(words: Words) -> PaceDef:
    """`pace`."""
    kind = words.choice((PROVIDER, TO, VIA), "provider NAME, to @DOMAIN or via NEXT-HOP")
    if kind == TO:
        token = words.peek()
        if token is None or not token.text.startswith("@"):
            raise words.missing("@domain, or @.domain for all below it")
        whom = _below(words, "@domain", "@")
    else:
        whom = words.name("the provider's name" if kind == PROVIDER else "the name of a next hop")
    place = words.last
    given: dict[str, int | Rate] = {}
    while not given or words.peek() is not None:
        limit = words.choice(_LIMITS, "connections N, messages N or rate N/TIME")
        if limit in given:
            raise words.complain(f'"{limit}" stands here already', "expected it once")
        given[limit] = _rate(words) if limit == "rate" else _number(words, limit)
    return PaceDef(PaceLimits(kind, whom, **given), place)  # type: ignore[arg-type]  # by their names


def read_source(words: Words) -> SourceDef:
    """`source`."""
    name, place = words.name("the source's name"), words.last
    addresses: list[str] = []
    words.commas(lambda: addresses.append(_address(words, addresses)))
    if not words.skip_word("helo"):
        raise words.missing('"helo" and the name that the address resolves to')
    helo = words.domain(words.word("a host name, e.g. bulk.example.com").text)
    return SourceDef(SourceAddress(name, tuple(addresses), helo), place)


def _below(words: Words, what: str, mark: str = "") -> str:
    """A name, or with a dot in front all below it; folded."""
    text = words.word(what).text.removeprefix(mark)
    dot = "." if text.startswith(".") else ""
    return dot + fold_domain(words.domain(text.removeprefix(".")))


def _number(words: Words, limit: str) -> int:
    text = words.word("a number").text
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= MOST):
        raise words.complain(f'"{text}" is no number of {limit}', f"expected 1 to {MOST}")
    return int(text)


def _rate(words: Words) -> Rate:
    text = words.word("a rate, e.g. 600/1m").text
    try:
        return Rate.parse(text)
    except ValueError as error:
        raise words.complain(
            f'"{text}" is no rate: {error}', "expected e.g. 600/1m, 1000/1h or 1/30s"
        ) from None


def _address(words: Words, before: list[str]) -> str:
    text = words.next("an IP address of this host").text
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        raise words.complain(f'"{text}" is no IP address', "expected e.g. 192.0.2.10") from None
    if address.is_unspecified or address.is_multicast:
        raise words.complain(f'"{text}" is no address to send from', "expected one of this host's")
    if any((":" in each) == (address.version == 6) for each in before):
        raise words.complain(
            "a source has one address of each family", "expected another source for this one"
        )
    return str(address)
