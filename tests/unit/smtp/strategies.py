"""Hypothesis strategies for what goes over an SMTP wire, with a taste for its corners."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st

BOUNDED = settings(max_examples=150, deadline=None)

# pieces out of which dot-stuffing, line ends and ends of data are made
_CORNERS = (b"\r\n", b".", b"\r\n.\r\n", b"\r\n.", b"..", b"a", b"long line ", b"\xc3\xbc", b"\x85")
_OFFENCES = (b"\r", b"\n", b"\0", b"\n.\n", b"\r\n.\n", b"\n.\r\n", b"\r.\r")

clean_content = st.lists(st.sampled_from(_CORNERS), max_size=20).map(b"".join)
"""Content that may be sent: every CR and LF in a pair, no NUL. May lack its last CRLF."""

dirty_content = st.lists(st.sampled_from(_CORNERS + _OFFENCES), max_size=20).map(b"".join)
"""Any octets."""


def cuts_of(data: bytes) -> st.SearchStrategy[list[bytes]]:
    """All ways to cut `data` into pieces; empty pieces too."""
    return st.lists(st.integers(0, len(data)), max_size=30).map(lambda at: _cut(data, sorted(at)))


def _cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    return [data[a:b] for a, b in pairwise([0, *at, len(data)])]


def with_cuts(strategy: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    """What `strategy` makes, cut into pieces."""
    return strategy.flatmap(cuts_of)
