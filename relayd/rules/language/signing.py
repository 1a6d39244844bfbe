"""The verbs for signatures that we make: `dkim`, which names keys, `sign` and `arc`."""

from __future__ import annotations

import re

from relayd.mail.address import fold_domain
from relayd.rules.conditions.registry import conditions, when
from relayd.rules.language.model import ArcSeal, DkimDef, KeyFile, Sign
from relayd.rules.language.words import Words

_LONGEST = 253  # octets of a name in the DNS
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?\Z", re.ASCII)


def read_dkim(words: Words) -> DkimDef:
    """`dkim NAME domain DOMAIN selector S key file PATH, ... [retired selector ...]`."""
    name, place = words.name("the name of these keys"), words.last
    if not words.skip_word("domain"):
        raise words.missing('"domain DOMAIN"')
    text = words.word("the domain that signs, e.g. example.com").text
    if "@" in text:
        raise words.complain(f'"{text}" is no domain', f'did you mean "{text.rpartition("@")[2]}"?')
    domain = fold_domain(words.domain(text))
    if domain.startswith("["):
        raise words.complain(f'"{text}" is no domain', "expected a name, e.g. example.com")
    taken: set[str] = set()
    keys = words.commas(lambda: _key_file(words, domain, taken))
    retired: tuple[KeyFile, ...] = ()
    if words.skip_word("retired"):
        retired = words.commas(lambda: _key_file(words, domain, taken))
    return DkimDef(name, domain, keys, retired, place=place)


def _key_file(words: Words, domain: str, taken: set[str]) -> KeyFile:
    if not words.skip_word("selector"):
        raise words.missing('"selector SELECTOR key file PATH"')
    text = words.word("the selector, e.g. s2026").text
    selector = text.lower()
    if not all(map(_LABEL.match, selector.split("."))):
        raise words.complain(f'"{text}" is no selector', "expected e.g. s2026")
    if len(f"{selector}._domainkey.{domain}") > _LONGEST:
        raise words.complain(f'"{text}" is too long a selector', "expected e.g. s2026")
    if selector in taken:  # RFC 6376 section 3.6.2.2
        raise words.complain(f"selector {selector} has a key already", "expected another selector")
    taken.add(selector)
    if not words.skip_word("key") or not words.skip_word("file"):
        raise words.missing('"key file PATH"')
    path = words.next("the path of the private key").text
    if not path:
        raise words.complain("an empty path", "expected the path of the private key")
    return KeyFile(selector, path, words.last)


def read_sign(words: Words) -> Sign:
    """`sign CONDITIONS with NAME [when ...]`."""
    tests = conditions(words)
    if not words.skip_word("with"):
        raise words.missing('"with NAME"')
    name = words.name("the name of a dkim statement")
    return Sign(tests, name, when=when(words), place=words.verb.place)


def read_arc(words: Words) -> ArcSeal:
    """`arc seal with NAME [when ...]`."""
    if not words.skip_word("seal") or not words.skip_word("with"):
        raise words.missing('"seal with NAME"')
    name = words.name("the name of a dkim statement")
    return ArcSeal((), name, when=when(words), place=words.verb.place)
