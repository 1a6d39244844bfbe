"""Whose exchangers are one provider, how fast mail goes there, and from which address of ours.

As the rules say it, each value printing itself as its statement.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import field

from relayd.mail.value import dataclass

_RATE = re.compile(r"([0-9]{1,9})/([0-9]{1,6})([smhd]?)\Z")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 7 * 86400  # seconds over which messages are counted

PROVIDER, TO, VIA = "provider", "to", "via"
"""What a pace is for: a provider, a domain, a next hop."""


def matches(pattern: str, name: str) -> bool:
    """Whether a (folded) name is this one, or, of a pattern with a dot in front, below it."""
    return name.endswith(pattern) if pattern.startswith(".") else name == pattern


@dataclass(frozen=True, slots=True)
class MailProvider:
    """Who runs exchangers with these names: however many domains, it is one place to send to."""

    name: str
    exchangers: tuple[str, ...]  # folded; with a dot in front: every name below

    def runs(self, exchangers: Iterable[str]) -> bool:
        """Whether all of these are its."""
        return all(any(matches(each, name) for each in self.exchangers) for name in exchangers)

    def __str__(self) -> str:
        return f"provider {self.name} mx {', '.join(self.exchangers)}"


@dataclass(frozen=True, slots=True)
class Rate:
    """So many messages in so much time."""

    messages: int
    time: str  # as it is written: 1m

    @classmethod
    def parse(cls, text: str) -> Rate:
        """`600/1m`; raises ValueError."""
        match = _RATE.match(text)
        if match is None:
            raise ValueError("not messages/time")
        rate = cls(int(match[1]), match[2] + match[3])
        if not rate.messages or not 0 < rate.seconds <= _LONGEST:
            raise ValueError("a rate is at least 1 message in at most 7 days")
        return rate

    @property
    def seconds(self) -> int:
        """The time."""
        unit = self.time[-1:] if self.time[-1:].isalpha() else ""
        return int(self.time.removesuffix(unit)) * _SECONDS[unit]

    @property
    def interval(self) -> float:
        """Seconds from one message to the next."""
        return self.seconds / self.messages

    def __str__(self) -> str:
        return f"{self.messages}/{self.time}"


@dataclass(frozen=True, slots=True)
class PaceLimits:
    """How fast mail goes somewhere; 0 or None: nothing is said of it."""

    kind: str  # PROVIDER, TO or VIA
    whom: str  # a provider, a (folded) domain as in `matches`, or a next hop
    connections: int = 0  # at a time
    messages: int = 0  # on one connection
    rate: Rate | None = None

    def over(self, other: PaceLimits) -> PaceLimits:
        """What this one says, and else what the other does."""
        return PaceLimits(
            self.kind,
            self.whom,
            self.connections or other.connections,
            self.messages or other.messages,
            self.rate or other.rate,
        )

    def __str__(self) -> str:
        words = ["pace", self.kind, f"@{self.whom}" if self.kind == TO else self.whom]
        words += ["connections", str(self.connections)] if self.connections else []
        words += ["messages", str(self.messages)] if self.messages else []
        words += ["rate", str(self.rate)] if self.rate is not None else []
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class SourceAddress:
    """An address of ours to send from, for each family at most one, and how we introduce ourselves.

    The name in EHLO is what the address resolves to and back.
    """

    name: str
    addresses: tuple[str, ...]
    helo: str

    def of_family(self, address: str) -> str:
        """The one that reaches this address; empty: there is none of its family."""
        return next((each for each in self.addresses if (":" in each) == (":" in address)), "")

    def __str__(self) -> str:
        return f"source {self.name} {', '.join(self.addresses)} helo {self.helo}"


@dataclass(frozen=True, slots=True)
class Pacing:
    """All of it. Of a provider, and of a limit, that is given twice the later one counts."""

    providers: Mapping[str, MailProvider] = field(default_factory=dict, hash=False)
    paces: tuple[PaceLimits, ...] = ()
    sources: Mapping[str, SourceAddress] = field(default_factory=dict, hash=False)

    def provider_of(self, exchangers: Iterable[str]) -> str:
        """Whose these are; empty: nobody's that has a name."""
        names = tuple(exchangers)
        if not names:
            return ""
        return next((each.name for each in self.providers.values() if each.runs(names)), "")

    def pace(self, kind: str, whom: str) -> PaceLimits | None:
        """What is said of a provider, a domain or a next hop; None: nothing."""
        found: PaceLimits | None = None
        for each in self.paces:
            fits = matches(each.whom, whom) if kind == TO else each.whom == whom
            if each.kind == kind and fits:
                found = each if found is None else each.over(found)
        return found
