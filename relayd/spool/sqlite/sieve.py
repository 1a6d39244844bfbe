"""Which part of the ledger may speak of somebody: a sieve for each few hundred messages.

Theory of operation. The ledger lies in the order of its messages, which is the newest first that
a search wants; what it lacks is a way to pass over the many that are not meant. So the writer, when
it comes to it, takes the next rows (sift.py) and keeps of all that could be asked for in them
(addresses, domains, Message-IDs, words of the subject) three bits each out of sixteen: a Bloom
filter. A search reads these alone, some 20 octets a message, and looks into the blocks whose sieve
lets its key through: all that hold it, and one in two hundred of the others. An index would take
ten times the room, and would be written to at random places, in the transaction that 250 waits for.

What comes to a block after its sieve was made (a message whose content took long, a recipient
that an operator has added) spoils it: until it is made anew every search looks into the block.
How recipients ended is apart, in `ending`: a block and a state, but for DELIVERED, which all have.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable
from zlib import crc32

from relayd.mail.naming import shown
from relayd.spool.sqlite.rows import fold

BITS = 16  # for each thing that can be asked for
TEXT = 100  # characters of a thing that count
WORDS = 20  # of a subject

_WORD = re.compile(r"\w+")
_MIX = 0x9E3779B97F4A7C15  # spreads what a CRC leaves close together
_MASK = (1 << 64) - 1

# One step of SQLite each, which holds up no other thread. What has to be folded is, all at once.
_ABOUT = """
    SELECT json_group_array(json_array(sender, json_extract(facts,
        '$[0][3]', '$[0][5]', '$[1][0]', '$[1][6]')))
    FROM ledger WHERE message > ? AND message <= ? AND number = 0 AND ended = 0"""
_SUBJECTS = """
    SELECT json_group_array(subject) FROM (SELECT DISTINCT json_extract(facts, '$[0][6]')
        AS subject FROM ledger WHERE message > ? AND message <= ? AND number = 0 AND ended = 0)"""
_WHOM = """
    SELECT json_group_array(json_array(mailbox, original))
    FROM ledger WHERE message > ? AND message <= ? AND ended = 0"""


def named(message_id: str) -> str:
    """A Message-ID as it is compared."""
    return fold(message_id.strip("<> "))


def words(subject: str) -> list[str]:
    """Those of a subject that can be asked for."""
    return _WORD.findall(shown(subject).lower())[:WORDS]


def key(thing: str) -> int:
    """What stands for one thing; its first letter says of which kind it is."""
    return crc32(thing[:TEXT].encode("utf-8", "surrogatepass")) * _MIX & _MASK


def _places(key: int, bits: int) -> tuple[int, int, int]:
    return key % bits, (key >> 21) % bits, (key >> 42) % bits


def sieve_of(keys: set[int]) -> bytes:
    """The sieve that lets these through."""
    bits = max(BITS * len(keys), 64) & ~7
    cells = bytearray(b"0") * bits
    one = ord("1")
    for each in keys:  # as _places has them: it is the innermost loop of all
        cells[each % bits] = cells[(each >> 21) % bits] = cells[(each >> 42) % bits] = one
    return int(cells, 2).to_bytes(bits // 8, "big")


def passes(sieve: bytes, keys: Iterable[int]) -> bool:
    """Whether it lets all of these through."""
    bits = 8 * len(sieve)
    return all(
        sieve[place >> 3] >> (7 - (place & 7)) & 1 for each in keys for place in _places(each, bits)
    )


def keys_of(connection: sqlite3.Connection, first: int, last: int) -> set[int]:
    """All that can be asked for of the messages after one and up to another."""

    def told(text: str) -> str:
        found: str = connection.execute(text, (first, last)).fetchone()[0]
        return found

    things: set[str] = set()
    whom, about = json.loads(fold(told(_WHOM))), json.loads(fold(told(_ABOUT)))
    for kind, mailboxes in (
        ("r", {each for both in whom for each in both if each}),
        ("s", {each[0] or "" for each in about}),
    ):
        things.update([kind + mailbox for mailbox in mailboxes])
        things.update({f"{kind}@{mailbox.rpartition('@')[2]}" for mailbox in mailboxes})
    for _, facts in about:
        envid, message_id, client, login = facts or _NOTHING
        if envid:
            things.add("e" + envid)
        if message_id:
            things.add("m" + message_id.strip("<> "))
        if client:
            things.add("c" + client)
        if login:
            things.add("l" + login)
    for subject in json.loads(told(_SUBJECTS)):
        if subject:
            things.update(["w" + word for word in words(subject)])
    return {crc32(thing[:TEXT].encode("utf-8", "surrogatepass")) * _MIX & _MASK for thing in things}


_NOTHING = (None, None, None, None)
