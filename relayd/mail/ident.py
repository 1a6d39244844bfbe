"""Message identifiers: 60 bits of time and shard, shown as twelve characters that sort by age."""

from __future__ import annotations

from functools import lru_cache

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: no I, L, O, U to misread
_VALUE = {character: value for value, character in enumerate(_ALPHABET)}
_VALUE |= {character.lower(): value for character, value in _VALUE.items()}
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]  # ten bits at once
_LENGTH = 12
SHARD_BITS = 8
MAX_SHARDS = 1 << SHARD_BITS


def make_ident(microseconds: int, shard: int) -> int:
    """The identifier for a message created at this time since the epoch in this shard."""
    return microseconds << SHARD_BITS | shard


def shard_of(ident: int) -> int:
    """Which shard of the spool holds the message."""
    return ident & (MAX_SHARDS - 1)


@lru_cache(1024)  # a message's is asked for by its trace field, its reply and its log lines
def ident_text(ident: int) -> str:
    """Twelve characters, e.g. `1K7QJ4V8Z0G0`."""
    pairs = _PAIRS
    return (
        f"{pairs[ident >> 50 & 1023]}{pairs[ident >> 40 & 1023]}{pairs[ident >> 30 & 1023]}"
        f"{pairs[ident >> 20 & 1023]}{pairs[ident >> 10 & 1023]}{pairs[ident & 1023]}"
    )


def parse_ident(text: str) -> int:
    """The inverse of ident_text, in either case; raises ValueError."""
    if len(text) != _LENGTH or not all(character in _VALUE for character in text):
        raise ValueError(f"{text[:40]!r} is not a message ID (twelve letters and digits)")
    ident = 0
    for character in text:
        ident = ident << 5 | _VALUE[character]
    return ident
