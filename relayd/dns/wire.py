"""The part of a long response that is worth reading, before dnspython reads it.

dnspython makes objects of every record, some fifty microseconds each, and follows any chain of
compression pointers: an answer of 64 KiB, of which there may be two for each mail exchanger, would
stop everybody's mail for seconds. So a long one is walked by its lengths and written anew: the
first records of the type that was asked for, of MX records the preferred ones, names in full.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

SHORT = 1232  # octets: what we ask for by UDP; a response up to here is left as it is
MOST_RECORDS = 100  # of the type asked for: more than one attempt at delivery looks at
MOST_ALIASES = 16  # CNAMEs, as dnspython follows
MOST_DATA = 32 * 1024  # octets of all of them: policies and keys in TXT are far below
_MOST_STEPS = 128  # labels and pointers of one name: 255 octets are 127 labels at most
_MOST_NAME = 255  # octets, RFC 1035 section 3.1

_HEADER = struct.Struct("!HHHHHH")  # RFC 1035 section 4.1.1
_QUESTION = struct.Struct("!HH")  # behind its name: type, class
_RECORD = struct.Struct("!HHIH")  # likewise: type, class, TTL, length of the data
_CNAME, _SOA, _MX = 5, 6, 15
# types whose names may be compressed: octets before them, how many there are (NS, PTR too)
_NAMES = {2: (0, 1), _CNAME: (0, 1), _SOA: (0, 2), 12: (0, 1), _MX: (2, 1)}


class _Record(NamedTuple):
    """Where one record stands."""

    owner: int
    kind: int
    fixed: int  # type, class, TTL
    data: int
    end: int


def worth_reading(response: bytes) -> bytes:
    """The response itself when it is short, else one that is soon read; empty: it is malformed."""
    if len(response) <= SHORT:
        return response
    try:
        return _shortened(response)
    except (struct.error, IndexError, ValueError):
        return b""


def _shortened(wire: bytes) -> bytes:
    ident, flags, questions, answers, authorities, _ = _HEADER.unpack_from(wire)
    if questions != 1:
        raise ValueError("not one question")
    at = _end_of_name(wire, _HEADER.size)
    asked, _ = _QUESTION.unpack_from(wire, at)
    at += _QUESTION.size
    question = wire[_HEADER.size : at]
    answer = [each for each in _records(wire, at, answers) if each.kind in (asked, _CNAME)]
    found = [each for each in answer if each.kind == asked]
    if asked == _MX:  # equals stay as the server has them: the first of them, whom it turns round
        found.sort(key=lambda record: wire[record.data : record.data + 2])
    aliases = [each for each in answer if each.kind != asked]
    kept = _fitting(wire, [*aliases[:MOST_ALIASES], *found[:MOST_RECORDS]])
    if found and len(kept) <= min(len(aliases), MOST_ALIASES):
        raise ValueError("no record of a sane size")  # which is not the same as none at all
    denial = [] if found else _denial(wire, at, answers + authorities)
    header = _HEADER.pack(ident, flags, 1, len(kept), len(denial), 0)
    return b"".join((header, question, *kept, *denial))


def _denial(wire: bytes, at: int, number: int) -> list[bytes]:
    """The SOA that says how long there will be none (RFC 2308 section 5), if it is there."""
    soas = (each for each in _records(wire, at, number) if each.kind == _SOA)
    return [_written(wire, each) for each in soas][:1]


def _fitting(wire: bytes, records: list[_Record]) -> list[bytes]:
    """As many of the records as MOST_DATA allows, written anew."""
    kept, left = [], MOST_DATA
    for record in records:
        if record.end - record.data > left:
            continue
        written = _written(wire, record)
        left -= len(written)
        kept.append(written)
    return kept


def _records(wire: bytes, at: int, number: int) -> Iterator[_Record]:
    """So many records from here on."""
    for _ in range(number):
        fixed = _end_of_name(wire, at)
        kind, _class, _ttl, length = _RECORD.unpack_from(wire, fixed)
        data = fixed + _RECORD.size
        if data + length > len(wire):
            raise ValueError("a record without an end")
        yield _Record(at, kind, fixed, data, data + length)
        at = data + length


def _written(wire: bytes, record: _Record) -> bytes:
    """The record with its names in full, so that it can stand anywhere."""
    before, names = _NAMES.get(record.kind, (0, 0))
    at = record.data + before
    parts = [wire[record.data : at]]
    for _ in range(names):
        parts.append(_name(wire, at))
        at = _end_of_name(wire, at)
    if at > record.end:
        raise ValueError("a name beyond its record")
    data = b"".join((*parts, wire[at : record.end]))
    fixed = wire[record.fixed : record.data - 2]
    return b"".join((_name(wire, record.owner), fixed, len(data).to_bytes(2, "big"), data))


def _end_of_name(wire: bytes, at: int) -> int:
    """Where what stands here of a name ends: behind its root label or its pointer."""
    while (octet := wire[at]) and octet < 0xC0:
        at += 1 + octet
    return at + (2 if octet else 1)


def _name(wire: bytes, at: int) -> bytes:
    """The name that begins here, its pointers followed; they lead back only (section 4.1.4)."""
    labels: list[bytes] = []
    size, first = 1, at
    for _ in range(_MOST_STEPS):
        octet = wire[at]
        if octet >= 0xC0:
            at = (octet & 0x3F) << 8 | wire[at + 1]
            if at >= first:
                raise ValueError("a pointer forward")
            first = at
            continue
        if octet > 63:
            raise ValueError("an unknown kind of label")
        if not octet:
            return b"".join((*labels, b"\0"))
        size += 1 + octet
        if size > _MOST_NAME:
            raise ValueError("a name too long")
        labels.append(wire[at : at + 1 + octet])
        at += 1 + octet
    raise ValueError("a name without an end")
