"""What EHLO offers: our own offer, and a next hop's offer as we read it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT_SIZE = 50 << 20  # octets


@dataclass(frozen=True, slots=True)
class Offer:
    """The service extensions our server offers (RFC 5321 section 2.2)."""

    size: int = DEFAULT_SIZE  # octets of content, RFC 1870; 0: no fixed limit
    pipelining: bool = True  # RFC 2920
    eight_bit: bool = True  # RFC 6152
    smtputf8: bool = True  # RFC 6531
    chunking: bool = True  # RFC 3030
    dsn: bool = True  # RFC 3461
    starttls: bool = False  # RFC 3207; never under TLS
    auth: tuple[str, ...] = ()  # RFC 4954 mechanisms
    auth_in_clear: bool = False  # ... also without TLS
    require_tls: bool = False  # RFC 8689; only under TLS
    xclient: tuple[str, ...] = ()  # Postfix's: attributes that this peer may set


@functools.lru_cache(maxsize=64)
def ehlo_lines(offer: Offer, tls: bool) -> tuple[str, ...]:
    """The lines of a positive EHLO reply after the first."""
    offered = {
        "PIPELINING": offer.pipelining,
        f"SIZE {offer.size}": True,
        "8BITMIME": offer.eight_bit,
        "SMTPUTF8": offer.smtputf8,
        "ENHANCEDSTATUSCODES": True,  # RFC 2034
        "CHUNKING": offer.chunking,
        "DSN": offer.dsn,
        "STARTTLS": offer.starttls and not tls,
        f"AUTH {' '.join(offer.auth)}": bool(offer.auth) and (tls or offer.auth_in_clear),
        "REQUIRETLS": offer.require_tls and tls,
        f"XCLIENT {' '.join(offer.xclient)}": bool(offer.xclient),
    }
    return tuple(line for line, wanted in offered.items() if wanted)


@functools.lru_cache(maxsize=64)
def mail_keywords(offer: Offer, tls: bool, strict: bool = False) -> frozenset[str]:
    """Parameters that MAIL accepts under this offer; any other is 555.

    AUTH always, unless `strict`: it changes nothing, and clients say it without being asked.
    """
    offered = {
        "SIZE": True,
        "BODY": offer.eight_bit,
        "SMTPUTF8": offer.smtputf8,
        "RET": offer.dsn,
        "ENVID": offer.dsn,
        "AUTH": not strict or (bool(offer.auth) and (tls or offer.auth_in_clear)),
        "REQUIRETLS": offer.require_tls and tls,
    }
    return frozenset(keyword for keyword, wanted in offered.items() if wanted)


DSN_RCPT = frozenset({"NOTIFY", "ORCPT"})
"""Parameters that RCPT accepts where DSN is offered; any other is 555."""


class Extensions:
    """What a next hop said it can do; empty after HELO."""

    __slots__ = (
        "chunking",
        "dsn",
        "eight_bit",
        "keywords",
        "pipelining",
        "require_tls",
        "size",
        "size_limit",
        "smtputf8",
        "starttls",
    )

    def __init__(self, keywords: Mapping[str, str]) -> None:
        self.keywords = dict(keywords)  # upper-case keyword to its parameters
        self.pipelining = "PIPELINING" in keywords
        self.eight_bit = "8BITMIME" in keywords
        self.smtputf8 = "SMTPUTF8" in keywords
        self.chunking = "CHUNKING" in keywords
        self.dsn = "DSN" in keywords
        self.starttls = "STARTTLS" in keywords
        self.require_tls = "REQUIRETLS" in keywords
        self.size = "SIZE" in keywords
        limit = keywords.get("SIZE", "")
        # RFC 1870 section 4: no number or 0 means that no fixed limit is stated
        self.size_limit = int(limit) if limit.isascii() and limit.isdigit() else 0

    @classmethod
    def parse(cls, lines: tuple[str, ...]) -> Extensions:
        """Read the lines of a positive EHLO reply; the first is the server's greeting.

        What is no `ehlo-line` of RFC 5321 section 4.1.1.1 is skipped: it offers nothing we use.
        """
        keywords: dict[str, str] = {}
        for line in lines[1:]:
            keyword, _, parameters = line.partition(" ")
            if keyword.upper().startswith("AUTH="):  # an old spelling, before RFC 4954
                keyword, parameters = "AUTH", f"{keyword[5:]} {parameters}"
            if keyword:
                keywords.setdefault(keyword.upper(), parameters.strip())
        return cls(keywords)

    @property
    def auth(self) -> tuple[str, ...]:
        """SASL mechanisms, upper-case (RFC 4954)."""
        return tuple(self.keywords.get("AUTH", "").upper().split())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extensions) and self.keywords == other.keywords

    def __hash__(self) -> int:
        return hash(frozenset(self.keywords.items()))

    def __repr__(self) -> str:
        return f"Extensions({self.keywords!r})"


NONE_OFFERED = Extensions({})
