"""An SPF record as it is written (RFC 7208 sections 4.5, 4.6 and 12), read into terms."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from relayd.authentication.spfmacro import MacroString, macro_string
from relayd.mail.value import dataclass

_KNOWN = 1000  # records that are kept as read, so that each is read once
_MOST_KEPT = 2000  # octets of one: what a stranger makes larger is read each time


class SpfSyntaxError(ValueError):
    """The record breaks the grammar: `permerror`."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One directive: what it looks at, and the result when that is so (section 4.6.2)."""

    name: str  # all, include, a, mx, ptr, ip4, ip6, exists
    result: str  # of its qualifier
    domain: MacroString | None = None
    network: int = 0  # ip4 and ip6
    prefix4: int = 32  # bits that count
    prefix6: int = 128


@dataclass(frozen=True, slots=True)
class SpfRecord:
    """The terms of a record: mechanisms in their order, and what modifiers say."""

    mechanisms: tuple[Mechanism, ...]
    redirect: MacroString | None = None
    explanation: MacroString | None = None


_RESULTS = {"": "pass", "+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}
_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9._-]*)=(.*)", re.DOTALL)
_MECHANISM = re.compile(r"([+?~-]?)([A-Za-z][A-Za-z0-9._-]*)(.*)", re.DOTALL)
# ip4-cidr-length / ip6-cidr-length: no leading zeros
_CIDR = re.compile(r"(?:/(0|[1-9][0-9]?))?(?://(0|[1-9][0-9]{0,2}))?\Z")
# toplabel: not all digits, no hyphen at its ends (section 7.1), and a dot may follow
_TOP_LABEL = re.compile(r"\.(?![0-9]+\.?\Z)[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.?\Z")


def is_spf(text: str) -> bool:
    """A TXT record that speaks of SPF: of this version, and of no longer word (section 4.5)."""
    return text[:6].lower() == "v=spf1" and (len(text) == 6 or text[6] == " ")


def spf_record(text: str) -> SpfRecord:
    """Read a record that `is_spf`, the whole of it (section 4.6). Raises SpfSyntaxError."""
    return _known_record(text) if len(text) <= _MOST_KEPT else _record(text)


def _record(text: str) -> SpfRecord:
    mechanisms: list[Mechanism] = []
    modifiers: dict[str, MacroString] = {}
    if not text.isascii() or not text.isprintable():
        raise SpfSyntaxError("octets that no record may have")
    for term in text[6:].split(" "):
        if not term:
            continue
        modifier = _MODIFIER.match(term)
        if modifier is None:
            mechanisms.append(_mechanism(term))
            continue
        name, value = modifier[1].lower(), modifier[2]
        if name in ("redirect", "exp"):
            if name in modifiers:
                raise SpfSyntaxError(f"{name} twice")
            modifiers[name] = _domain(value)
        else:  # of a time to come: a macro-string, and of no consequence
            macro_string(value)
    return SpfRecord(tuple(mechanisms), modifiers.get("redirect"), modifiers.get("exp"))


_known_record = lru_cache(_KNOWN)(_record)


def _mechanism(term: str) -> Mechanism:
    parts = _MECHANISM.match(term)
    if parts is None:
        raise SpfSyntaxError(term)
    result, name, rest = _RESULTS[parts[1]], parts[2].lower(), parts[3]
    if name == "all" and not rest:
        return Mechanism(name, result)
    if name in ("include", "exists") and rest[:1] == ":":
        return Mechanism(name, result, _domain(rest[1:]))
    if name == "ptr" and not rest:
        return Mechanism(name, result)
    if name == "ptr" and rest[:1] == ":":
        return Mechanism(name, result, _domain(rest[1:]))
    if name in ("a", "mx"):
        return _addresses_of(name, result, rest)
    if name in ("ip4", "ip6") and rest[:1] == ":":
        return _network(name, result, rest)
    raise SpfSyntaxError(term)


def _addresses_of(name: str, result: str, rest: str) -> Mechanism:
    """`a` and `mx`: [":" domain-spec] [dual-cidr-length]."""
    domain = None
    if rest[:1] == ":":
        # what follows the last that is no length; a macro may have a slash inside its braces
        bare = rest.rstrip("0123456789/")
        slash = rest.find("/", len(bare))
        end = slash if slash >= 0 else len(rest)
        domain, rest = _domain(rest[1:end]), rest[end:]
    lengths = _CIDR.match(rest)
    if lengths is None:
        raise SpfSyntaxError(rest)
    prefix4 = 32 if lengths[1] is None else int(lengths[1])
    prefix6 = 128 if lengths[2] is None else int(lengths[2])
    if prefix4 > 32 or prefix6 > 128:
        raise SpfSyntaxError(rest)
    return Mechanism(name, result, domain, prefix4=prefix4, prefix6=prefix6)


def _network(name: str, result: str, rest: str) -> Mechanism:
    """`ip4` and `ip6`: ":" network [cidr-length]."""
    text, slash, length = rest[1:].partition("/")
    if "%" in text:  # Python knows zones
        raise SpfSyntaxError(name + rest)
    most = 32 if name == "ip4" else 128
    prefix = most
    if slash:
        if re.fullmatch(r"0|[1-9][0-9]{0,2}", length) is None or int(length) > most:
            raise SpfSyntaxError(rest)
        prefix = int(length)
    try:
        network = IPv4Address(text) if name == "ip4" else IPv6Address(text)
    except AddressValueError as error:
        raise SpfSyntaxError(name + rest) from error
    return Mechanism(name, result, network=int(network), prefix4=prefix, prefix6=prefix)


def _domain(spec: str) -> MacroString:
    """domain-spec: a macro-string that ends in a macro or in a top label."""
    domain = macro_string(spec)
    if not spec.endswith("}") and _TOP_LABEL.search(spec) is None:
        raise SpfSyntaxError(f"{spec!r} is no domain")
    if spec.endswith("}") and not domain.ends_in_macro:
        raise SpfSyntaxError(f"{spec!r} is no domain")
    if domain.explains:
        raise SpfSyntaxError(f"{spec!r} has macros that only an explanation may have")
    return domain
