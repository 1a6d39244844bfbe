"""Finds the addresses inside a header field's body, and nothing else (RFC 5322 section 3.4).

Display names, comments, group names and white space are walked over, never changed: the finder
says from which octet to which an addr-spec stands, the caller puts another one there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from relayd.mail.address import AddressError, Mailbox

# RFC 5322 section 3.2: what a field body is made of; octets above 127 by RFC 6532
_TOKEN = re.compile(
    rb"(?P<space>[ \t\r\n]+)"
    rb'|(?P<quoted>"(?:[^"\\]|\\.)*(?:"|\Z))'
    rb"|(?P<literal>\[(?:[^\[\]\\]|\\.)*\])"
    rb"|(?P<atom>[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-]+)"
    rb"|(?P<special>.)",
    re.DOTALL,
)
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
Span = tuple[int, int]
_Piece = tuple[str, bytes, int, int]  # kind, octets, start, end


def addresses(body: bytes) -> Iterator[tuple[int, int, Mailbox]]:
    """Start, end and mailbox of every addr-spec in the body, in order."""
    for member in _members(_pieces(body)):
        angle = next((n for n, piece in enumerate(member) if piece[1] == b"<"), None)
        # with an angle-addr, an @ before it is part of the display name
        for local, domain in _specs(member if angle is None else member[angle + 1 :]):
            mailbox = _mailbox(body[slice(*local)] + b"@" + body[slice(*domain)])
            if mailbox is not None:
                yield local[0], domain[1], mailbox


def unqualified(body: bytes) -> Iterator[int]:
    """Where in the body a domain is missing: behind each local part that stands alone, in order."""
    for member in _members(_pieces(body)):
        angle = next((n for n, piece in enumerate(member) if piece[1] == b"<"), None)
        if angle is None:
            colon = max((n for n, piece in enumerate(member) if piece[1] == b":"), default=-1)
            words = [piece for piece in member[colon + 1 :] if piece[0] != "space"]
        else:
            inside = [piece for piece in member[angle + 1 :] if piece[0] != "space"]
            if not inside or inside[-1][1] != b">":
                continue
            words = inside[:-1]
        if words and _is_local_part(words, body):
            yield words[-1][3]


def _is_local_part(words: list[_Piece], body: bytes) -> bool:
    """Word *("." word) without anything between."""
    for n, (kind, octets, start, end) in enumerate(words):
        if kind == "quoted" and not _QUOTED.fullmatch(body, start, end):
            return False  # it never ends
        if n and start != words[n - 1][3]:
            return False
        if n % 2 == 0 and kind not in ("atom", "quoted"):
            return False
        if n % 2 == 1 and octets != b".":
            return False
    return len(words) % 2 == 1


def _pieces(body: bytes) -> Iterator[_Piece]:
    """The tokens outside comments."""
    at = 0
    while at < len(body):
        if body[at] == 0x28:  # (
            at = _after_comment(body, at)
            continue
        match = _TOKEN.match(body, at)
        assert match is not None  # `special` takes any octet
        at = match.end()
        kind = match.lastgroup or ""
        yield kind, match.group() if kind != "quoted" else b"", match.start(), at


def _after_comment(body: bytes, at: int) -> int:
    """Comments nest (RFC 5322 section 3.2.2); an unclosed one reaches to the end."""
    depth = 0
    while at < len(body):
        octet = body[at]
        if octet == 0x5C:  # \
            at += 1
        elif octet == 0x28:
            depth += 1
        elif octet == 0x29:
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return at


def _members(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    """The list's members: split at commas and semicolons outside angle brackets."""
    member: list[_Piece] = []
    inside = False
    for piece in pieces:
        if piece[1] == b"<":
            inside = True
        elif piece[1] == b">":
            inside = False
        if piece[1] in (b",", b";") and not inside:
            yield member
            member = []
        else:
            member.append(piece)
    yield member


def _specs(member: list[_Piece]) -> Iterator[tuple[Span, Span]]:
    """The local part and the domain of each addr-spec, wherever it stands.

    White space and comments may stand around the @ (RFC 5322 section 3.2.3), nowhere else.
    """
    for at, (kind, octets, _, _) in enumerate(member):
        if kind != "special" or octets != b"@":
            continue
        left = at - 2 if at and member[at - 1][0] == "space" else at - 1
        right = at + 2 if member[at + 1 : at + 2] and member[at + 1][0] == "space" else at + 1
        first = _leftmost(member, left)
        last = _rightmost(member, right)
        if first is not None and last is not None:
            yield (member[first][2], member[left][3]), (member[right][2], member[last][3])


def _leftmost(member: list[_Piece], near: int) -> int | None:
    """The first token of the local part whose last is at `near`."""
    first = None
    word = True  # a word is due, then a dot
    for n in range(near, -1, -1):
        kind, octets, _, end = member[n]
        if n != near and end != member[n + 1][2]:
            break  # a comment between
        if word and kind in ("atom", "quoted"):
            first, word = n, False
        elif not word and octets == b".":
            word = True
        else:
            break
    return None if word else first


def _rightmost(member: list[_Piece], near: int) -> int | None:
    """The last token of the domain whose first is at `near`."""
    last = None
    word = True
    for n in range(near, len(member)):
        kind, octets, start, _ = member[n]
        if n != near and start != member[n - 1][3]:
            break
        if word and kind == "literal" and last is None:
            return n
        if word and kind == "atom":
            last, word = n, False
        elif not word and octets == b".":
            word = True
        else:
            break
    return last


def _mailbox(octets: bytes) -> Mailbox | None:
    try:
        return Mailbox.parse(octets.decode("utf-8"))
    except (AddressError, UnicodeDecodeError):
        return None
