"""How an evaluation asks for DNS records: it yields a question, and is sent what there is.

Whoever drives it knows a cache, a resolver, or a dictionary in a test; the evaluation knows none.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Literal, NamedTuple, TypeVar

T = TypeVar("T")

RecordType = Literal["A", "AAAA", "MX", "PTR", "TXT"]


class RecordQuery(NamedTuple):
    """The records of one name and type. Names carry no final dot."""

    name: str
    rdtype: RecordType


class Unanswered(Exception):  # noqa: N818  # it is thrown into a generator, as an answer is sent
    """No server answered, or none could: it may be otherwise later."""


Asking = Generator[RecordQuery, "tuple[Any, ...]", T]
"""Yields questions; is sent the records: empty where there are none (NXDOMAIN, or no data: a void
look-up of RFC 7208 section 4.6.4), or has Unanswered thrown in. Addresses and names are text, an
MX is a pair (preference, host). Returns its result."""


def ask(name: str, rdtype: RecordType) -> Asking[tuple[Any, ...]]:
    """Ask one question: the way to its records, with `yield from`. Raises Unanswered."""
    return (yield RecordQuery(name, rdtype))
