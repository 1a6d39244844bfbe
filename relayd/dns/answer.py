"""What a DNS query comes back with: an Answer, or one of three kinds of error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class MailExchanger(NamedTuple):
    """An MX record; sorts by preference. `exchange` is "." in a null MX (RFC 7505)."""

    preference: int
    exchange: str


class Tlsa(NamedTuple):
    """A TLSA record (RFC 6698 section 2.1)."""

    usage: int
    selector: int
    matching: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """The records of one name and type, at least one. Names carry no final dot, except the root."""

    name: str  # as asked, folded
    canonical: str  # where the CNAME chain ended (RFC 7671 section 7 wants to know)
    values: tuple[T, ...]
    secure: bool  # the resolver vouches for it by the AD flag (RFC 4035 section 3.2.3)
    ttl: int  # seconds, as the servers had it: the least along the chain


class DnsError(Exception):
    """There is no answer; `text` says why, `ttl` for how many seconds that stays so."""

    def __init__(self, name: str, rdtype: str, text: str, ttl: int = 0) -> None:
        super().__init__(f"{name} {rdtype}: {text}")
        self.name = name
        self.rdtype = rdtype
        self.text = text
        self.ttl = ttl


class NxDomain(DnsError):  # noqa: N818  # the DNS's own words
    """The name does not exist (or cannot: it is not a valid domain name)."""


class NoData(DnsError):  # noqa: N818
    """The name exists, but has no record of this type."""


class DnsTrouble(DnsError):  # noqa: N818
    """No server gave a usable answer: temporary, whatever the cause."""
