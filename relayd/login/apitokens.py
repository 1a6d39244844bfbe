"""The tokens of the HTTP API: whose each is, what it may do, and a hash instead of the token.

One a line, `NAME ROLE SHA-256 SINCE [DOMAIN]`. A token has 256 bits from the system's generator:
nobody guesses one, so a plain hash is enough, and whoever reads the file has no token.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from relayd.login.roles import ROLES, Role

PREFIX = "relayd_"  # so that a token found somewhere is known for what it is
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}\Z")
_LINE = re.compile(r"(\S+) (\w+) ([0-9a-f]{64}) ([0-9]{1,12})(?: ([^\s@]+))?\Z")


class ApiTokensError(ValueError):
    """A line cannot be understood."""


@dataclass(frozen=True, slots=True)
class ApiToken:
    """What is known of one."""

    name: str
    role: Role
    digest: str  # SHA-256, hexadecimal
    since: int  # seconds since the epoch
    domain: str = ""  # folded: only what is of it; empty: all

    def about(self, domain: str) -> bool:
        """Whether it is for this domain, folded; one below it may be somebody else's."""
        return self.domain in ("", domain)


def digest_of(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def made(name: str, role: Role, now: float, domain: str = "") -> tuple[str, ApiToken]:
    """A new token, which nobody is shown again, and what is kept of it."""
    token = PREFIX + secrets.token_urlsafe(32)
    return token, ApiToken(name, role, digest_of(token), int(now), domain)


def parse(lines: Iterable[str]) -> dict[str, ApiToken]:
    """By name; raises ApiTokensError, and says nothing of what is in the line."""
    found: dict[str, ApiToken] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None or not NAME.match(match[1]) or match[2] not in ROLES:
            raise ApiTokensError(f"line {number}: expected NAME ROLE SHA-256 SINCE [DOMAIN]")
        if match[1] in found:
            raise ApiTokensError(f"line {number}: {match[1]} has a line already")
        found[match[1]] = ApiToken(
            match[1], ROLES[match[2]], match[3], int(match[4]), match[5] or ""
        )
    return found


def lines_of(tokens: Iterable[ApiToken]) -> Iterator[str]:
    """What `parse` reads."""
    yield "# tokens of relayd's HTTP API, hashed; kept by: relayctl token"
    for each in tokens:
        line = f"{each.name} {each.role} {each.digest} {each.since}"
        yield f"{line} {each.domain}" if each.domain else line
