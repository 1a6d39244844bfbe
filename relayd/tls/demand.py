"""What one connection to a next hop must prove, and why."""

from __future__ import annotations

from dataclasses import dataclass

from relayd.dns.answer import Tlsa
from relayd.mail.security import Level
from relayd.tls.flaw import Flaw, Policy


@dataclass(frozen=True, slots=True)
class Demand:
    """Never AUTO: that has been looked up by now."""

    level: Level
    server_name: str = ""  # for SNI; empty: the host is an address
    names: tuple[str, ...] = ()  # one of which the certificate must be for
    records: tuple[Tlsa, ...] = ()  # usable ones, with DANE
    source: str = ""  # who demands it: "next hop isp", "the TLSA records of mx.example.com"
    trusted: bool = False  # the host's name is what we, a signed zone or a policy say
    published: bool = False  # by the recipient's domain, not by our own administrator
    denied: str = ""  # why this host cannot meet it, whatever it proves
    policy: Policy | None = None  # for the domain's own report (RFC 8460); None: not told

    @property
    def clear(self) -> bool:
        """Without TLS it goes in the clear."""
        return self.level in (Level.NONE, Level.OPTIONAL)


class UnmetError(Exception):
    """The host does not prove what it must; the text says what is missing."""

    def __init__(self, why: str, flaw: Flaw = Flaw.VALIDATION) -> None:
        super().__init__(why)
        self.flaw = flaw
