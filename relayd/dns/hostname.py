"""Names of hosts as they stand in trace fields and rules: folded, and safe there."""

from __future__ import annotations

import re

LOCALHOST = "localhost"  # RFC 6761 section 6.3: no question for the DNS

# RFC 952 and RFC 1123, and the underscore that is in use
_HOST_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?\Z")


def host_name(text: str) -> str:
    """The name in lower case, without a dot at its end; empty: it can be none."""
    folded = text.lower().removesuffix(".")
    return folded if _HOST_NAME.match(folded) and ".." not in folded else ""


def is_loopback(address: str) -> bool:
    """Whether only this host itself has this address."""
    return address == "::1" or address.startswith("127.")
