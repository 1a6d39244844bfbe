"""Which answers of a list in the DNS mean that it has somebody (RFC 5782 section 2.1)."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network

_RANGES = re.compile(r"127(?:\.\d{1,3}(?:-\d{1,3})?){3}\Z", re.ASCII)
_LOOPBACK = IPv4Network("127.0.0.0/8")
# what lists say instead of an answer: a zone mistyped, a resolver not welcome, too many questions
_REFUSALS = (IPv4Network("127.255.255.0/24"), IPv4Network("127.0.1.255/32"))
_USUAL = {"dnsbl": ("127.0.0.2-11",), "dnswl": ("127.0.0.0/16",)}
_OVERUSED = IPv4Address("127.0.0.255")  # of a dnswl

Counts = Callable[[IPv4Address], bool]


def counts(text: str) -> Counts:
    """Whether an answer counts: an address, with ranges in place of octets, or a network.

    Raises ValueError.
    """
    if "-" in text and _RANGES.match(text) is not None:
        ends = [octet.partition("-") for octet in text.split(".")]
        first = IPv4Address(".".join(low for low, _, _ in ends)).packed
        last = IPv4Address(".".join(high or low for low, _, high in ends)).packed
        if any(map(operator.gt, first, last)):
            raise ValueError("the range is empty")
        return lambda answer: all(
            low <= octet <= high
            for low, octet, high in zip(first, answer.packed, last, strict=True)
        )
    network = IPv4Network(text)
    if not network.subnet_of(_LOOPBACK):
        raise ValueError("it is not of 127.0.0.0/8")
    return lambda answer: answer in network


def meaning(kind: str, answers: Iterable[str]) -> Callable[[Iterable[str]], bool | None]:
    """What the answers of a list mean: it has somebody, it has not, or (None) it will not say."""
    tests = [counts(text) for text in (*answers,) or _USUAL[kind]]

    def listed(addresses: Iterable[str]) -> bool | None:
        said = [IPv4Address(address) for address in addresses]
        if any(_refuses(kind, answer) for answer in said):
            return None
        return any(test(answer) for test in tests for answer in said)

    return listed


def _refuses(kind: str, answer: IPv4Address) -> bool:
    return (
        answer not in _LOOPBACK
        or any(answer in network for network in _REFUSALS)
        or (kind == "dnswl" and answer == _OVERUSED)
    )
