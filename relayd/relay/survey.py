"""What a next hop's name leads to: hosts in order with their addresses, or why there are none."""

from __future__ import annotations

import enum
from dataclasses import field
from typing import NamedTuple

from relayd.mail.outcome import Outcome
from relayd.mail.value import dataclass

UNIX = "unix:"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a courier connects to; `host` is the name that led there, for TLS and the log."""

    host: str
    address: str  # IP address as text, or "unix:/path" with port 0
    port: int
    # what the DNS said on the way there, which does not make it another place
    secure: bool = field(default=False, compare=False)  # MX and addresses are signed (AD)
    canonical: str = field(default="", compare=False)  # where the CNAMEs of the host end

    @property
    def unix(self) -> str:
        """The path of a unix socket, or empty."""
        return self.address.removeprefix(UNIX) if self.address.startswith(UNIX) else ""

    def __str__(self) -> str:
        if self.address.startswith(UNIX):
            return self.address
        return (
            f"[{self.address}]:{self.port}"
            if ":" in self.address
            else f"{self.address}:{self.port}"
        )


class Terms(NamedTuple):
    """On what terms a host takes a connection (see relayd.relay.sites)."""

    provider: str = ""  # whose it is; empty: nobody's with a name
    messages: int = 0  # that are wanted on it; 0: nothing is said of it
    group: str = ""  # with which others it is counted
    room: int = 1 << 30  # how many of those may be open without mail


ON_ANY = Terms()


class SurveyKind(enum.Enum):
    """How the hosts were found."""

    MX = "mx"
    IMPLICIT = "implicit"  # no MX records: the domain itself (RFC 5321 section 5.1)
    LITERAL = "literal"  # the domain is an address
    HOSTS = "hosts"  # a named next hop's own list
    UNIX = "unix"  # a named next hop's socket
    NONE = "none"  # there is nothing to list


@dataclass(frozen=True, slots=True)
class Host:
    """One host of a survey. With a `note` it is not used, and the note says why."""

    name: str
    port: int
    preference: int = 0  # of its MX record
    addresses: tuple[str, ...] = ()  # in the order in which they are tried
    note: str = ""
    secure: bool = False  # the DNS vouches for the way there and the addresses
    canonical: str = ""  # where the CNAMEs of the name end

    def __str__(self) -> str:
        where = f" [{', '.join(self.addresses)}]" if self.addresses else ""
        return f"{self.name}{where}{f' ({self.note})' if self.note else ''}"


@dataclass(frozen=True, slots=True)
class Survey:
    """All that was found, used or not; `outcome` is set when there is nowhere to go."""

    where: str  # the domain, or the next hop's name
    kind: SurveyKind
    hosts: tuple[Host, ...] = ()
    outcome: Outcome | None = None

    def lines(self) -> list[str]:
        """One text per host, as `relayctl explain` shows them, and the outcome if there is one."""
        if self.kind is SurveyKind.MX:
            lines = [f"MX {host.preference} {host}" for host in self.hosts]
        elif self.kind is SurveyKind.IMPLICIT:
            lines = [f"no MX, implicit: {host}" for host in self.hosts]
        else:
            lines = [str(host) for host in self.hosts]
        return lines if self.outcome is None else [*lines, str(self.outcome.reply)]


class UnresolvedError(Exception):
    """There is nowhere to go; `outcome` is what became of the attempt."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome.reply))
        self.outcome = outcome
