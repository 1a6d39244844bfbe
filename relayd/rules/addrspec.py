"""Finds the addresses inside a header field's body, and nothing else (RFC 5322 section 3.4).

Display names, comments, group names and white space are walked over, never changed: the finder
says from which octet to which local part and domain of an addr-spec stand, the caller puts others
there. Every octet is looked at a few times at most, whatever a peer opens and never closes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from relayd.mail.address import AddressError, Mailbox
from relayd.mail.content import MAX_LINE

# of one header section, for a peer is not to say how long we work
MAX_ADDRESSES = 2000  # that are changed
MAX_OCTETS = 128 << 10  # of fields that addresses are looked for in

# RFC 5322 section 3.2: what a field body is made of; octets above 127 by RFC 6532. What is quoted
# and never closed reaches to the end; a literal ends before what it cannot hold (section 3.4.1)
_TOKEN = re.compile(
    rb"(?P<space>[ \t\r\n]+)"
    rb'|(?P<quoted>"(?:[^"\\]|\\.)*(?:"|\\?\Z))'
    rb"|(?P<literal>\[[^\[\]\\]*\])"
    rb"|(?P<atom>[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-]+)"
    rb"|(?P<special>.)",
    re.DOTALL,
)
_IN_COMMENT = re.compile(rb"\\.?|[()]", re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
Span = tuple[int, int]
_Piece = tuple[str, bytes, int, int]  # kind, octets, start, end


def addresses(body: bytes) -> Iterator[tuple[Span, Span, Mailbox]]:
    """Where local part and domain of every addr-spec in the body stand, in order; its mailbox."""
    for member in _members(_pieces(body)):
        angle = next((n for n, piece in enumerate(member) if piece[1] == b"<"), None)
        # with an angle-addr, an @ before it is part of the display name
        for local, domain in _specs(member if angle is None else member[angle + 1 :]):
            mailbox = _mailbox(body[slice(*local)] + b"@" + body[slice(*domain)])
            if mailbox is not None:
                yield local, domain, mailbox


def named_addresses(body: bytes) -> Iterator[tuple[str, Mailbox]]:
    """Every addr-spec in the body, with the display name as it is written; empty: there is none.

    Words that were quoted are told without their quotes; the name of a group belongs to nobody.
    """
    for member in _members(_pieces(body)):
        angle = next((n for n, piece in enumerate(member) if piece[1] == b"<"), None)
        words = [] if angle is None else member[:angle]
        colon = max((n for n, piece in enumerate(words) if piece[1] == b":"), default=-1)
        name = "".join(_word(piece, body) for piece in words[colon + 1 :])
        for local, domain in _specs(member if angle is None else member[angle + 1 :]):
            mailbox = _mailbox(body[slice(*local)] + b"@" + body[slice(*domain)])
            if mailbox is not None:
                yield " ".join(name.split()), mailbox


def _word(piece: _Piece, body: bytes) -> str:
    kind, _, start, end = piece
    text = body[start:end].decode("utf-8", "replace")
    if kind != "quoted":
        return text
    return _QUOTED_PAIR.sub(r"\1", text.strip('"').replace("\r\n", ""))


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


def folded(field: bytes) -> bytes:
    """The field with its lines of more than MAX_LINE octets folded where that changes nothing.

    That is in white space, behind the commas of the list, and before an angle bracket; where
    there is none of these for MAX_LINE octets the line stays too long.
    """
    if not any(len(line) > MAX_LINE for line in field.split(b"\r\n")):
        return field
    ends = [(match.start(), b"") for match in re.finditer(b"\r\n|\\Z", field)]
    pieces: list[bytes] = []
    done = line = 0  # up to where it is in the pieces; where the line in hand begins
    last: tuple[int, bytes] | None = None  # where that line may end
    for at, fold in sorted([*_folds(field), *ends]):
        if at - line > MAX_LINE and last is not None:
            pieces += [field[done : last[0]], last[1]]
            done, line = last[0], last[0] + 2 - len(last[1])
        if not fold:
            line, last = at + 2, None
        else:
            last = at, fold
    return b"".join([*pieces, field[done:]])


def _folds(field: bytes) -> Iterator[tuple[int, bytes]]:
    """Where a field of addresses may be folded, and what is put there."""
    start = field.index(b":") + 1
    last, behind = b"", 0
    for kind, octets, at, end in _pieces(field[start:]):
        if last in (b",", b";") and not (kind == "space" and at == behind):
            yield start + behind, b"\r\n "
        if kind == "space":
            if last and b"\r" not in octets and start + end < len(field):
                yield start + at, b"\r\n"
        elif octets == b"<" and last not in (b"", b" ", b",", b";"):
            yield start + at, b"\r\n "
        last, behind = b" " if kind == "space" else octets or b'"', end


def _is_local_part(words: list[_Piece], body: bytes) -> bool:
    """Words with dots between, at the ends and side by side, and nothing else."""
    word = True  # one may stand here: there is none before
    for n, (kind, octets, start, end) in enumerate(words):
        if n and start != words[n - 1][3]:
            return False
        if kind == "quoted" and not _QUOTED.fullmatch(body, start, end):
            return False  # it never ends
        if octets == b".":
            word = True
        elif word and kind in ("atom", "quoted"):
            word = False
        else:
            return False
    return any(octets != b"." for _, octets, _, _ in words)


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
    for match in _IN_COMMENT.finditer(body, at):
        if match.group() == b"(":
            depth += 1
        elif match.group() == b")":
            depth -= 1
            if depth == 0:
                return match.end()
    return len(body)


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
        left, right = at - 1, at + 1
        while left > 0 and member[left][0] == "space":  # a comment parts it into several
            left -= 1
        while right < len(member) - 1 and member[right][0] == "space":
            right += 1
        first = _leftmost(member, left)
        last = _rightmost(member, right)
        if first is not None and last is not None:
            yield (member[first][2], member[left][3]), (member[right][2], member[last][3])


def _leftmost(member: list[_Piece], near: int) -> int | None:
    """The first token of the local part whose last is at `near`.

    Words with dots between; and dots at its ends or side by side, which are met all the same.
    """
    first = None
    word = True  # one may stand here: there is none behind
    for n in range(near, -1, -1):
        kind, octets, _, end = member[n]
        if n != near and end != member[n + 1][2]:
            break  # a comment between
        if word and kind in ("atom", "quoted"):
            first, word = n, False
        elif octets == b".":
            first, word = n, True
        else:
            break
    return first


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
