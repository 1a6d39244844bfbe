"""MTA-STS policies (RFC 8461): how they are announced, and what they say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MAX_AGE = 31_557_600  # seconds, a year: section 3.2
MAX_SIZE = 64 * 1024  # octets of a policy: section 3.3
MAX_MX = 1000

_RECORD = re.compile(r"v=STSv1\s*;(.*)\Z", re.DOTALL)
_ID = re.compile(r"[A-Za-z0-9]{1,32}\Z")
_MX = re.compile(r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9\-.]{0,252}[A-Za-z0-9])?\.?\Z")


@dataclass(frozen=True, slots=True)
class StsPolicy:
    """One domain's policy."""

    mode: str  # enforce, testing or none
    mx: tuple[str, ...]  # patterns, lower-case; "*." stands for one label
    max_age: int  # seconds

    @property
    def enforced(self) -> bool:
        """Mail waits rather than goes where the policy is not met."""
        return self.mode == "enforce"

    def allows(self, host: str) -> bool:
        """Whether the host is named (section 4.1)."""
        name = host.lower().rstrip(".")
        return name in self.mx or "*." + name.partition(".")[2] in self.mx

    def __str__(self) -> str:
        """The text it is published as."""
        lines = ["version: STSv1", f"mode: {self.mode}", *(f"mx: {each}" for each in self.mx)]
        return "\r\n".join([*lines, f"max_age: {self.max_age}", ""])


def policy_id(texts: Sequence[str]) -> str:
    """The id in the TXT records of _mta-sts.DOMAIN; empty: there is no policy (section 3.1)."""
    records = [match for match in map(_RECORD.match, texts) if match]
    if len(records) != 1:
        return ""
    for field in records[0][1].split(";"):
        name, _, value = field.strip().partition("=")
        if name.strip() == "id" and _ID.match(value.strip()):
            return value.strip()
    return ""


def parse_policy(text: str) -> StsPolicy:
    """A policy as published (section 3.2); raises ValueError."""
    fields: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), []).append(value.strip())
    # of a field that comes twice only the first counts, but for mx
    version, mode, age = (fields.get(name, [""])[0] for name in ("version", "mode", "max_age"))
    if version != "STSv1":
        raise ValueError("no version: STSv1")
    if mode not in ("enforce", "testing", "none"):
        raise ValueError("no mode that is known")
    if not re.fullmatch("[0-9]{1,10}", age):
        raise ValueError("no max_age")
    mx = tuple(each.lower().rstrip(".") for each in fields.get("mx", ()))
    if not all(map(_MX.match, mx)) or len(mx) > MAX_MX:
        raise ValueError("an mx that is no host name")
    if mode != "none" and not mx:
        raise ValueError("no mx")
    return StsPolicy(mode, mx, min(int(age), MAX_AGE))
