"""What a message calls itself: the Message-ID and the Subject in its header section."""

from __future__ import annotations

from typing import NamedTuple

from relayd.mail.content import CHUNK, Content

MOST = 400  # octets of either that are kept


class MessageNames(NamedTuple):
    """Both as they stand there, unfolded; empty where there is none."""

    message_id: str
    subject: str


NAMELESS = MessageNames("", "")


def names_of(content: Content, header_size: int) -> MessageNames:
    """The names in the header section of some content."""
    head = b""
    try:
        for chunk in content.chunks():
            head += chunk
            if len(head) >= min(header_size, CHUNK):
                break
    except OSError:
        return NAMELESS
    return names_in(head, header_size)


def names_in(octets: bytes, header_size: int) -> MessageNames:
    """The names in the header section that some octets begin with; 2 us a kilobyte of it."""
    head = octets[: min(header_size, CHUNK)]
    found = []
    low = head.lower()
    for field in (b"\nmessage-id:", b"\nsubject:"):
        start = low.find(field) + len(field)
        if start < len(field):  # not there; the first field of all has no line before it
            start = len(field) - 1 if low.startswith(field[1:]) else -1
        if start < 0:
            found.append("")
            continue
        end = low.find(b"\n", start)
        while end >= 0 and low[end + 1 : end + 2] in (b" ", b"\t"):
            end = low.find(b"\n", end + 1)
        body = head[start : end if end >= 0 else len(head)][:MOST]
        if b"\r" in body:
            body = body.replace(b"\r\n", b"").replace(b"\r", b"")
        found.append(body.decode("utf-8", "replace").strip())
    return MessageNames(*found)


def shown(subject: str) -> str:
    """A subject as people read it: encoded words decoded (RFC 2047)."""
    if "=?" not in subject:
        return subject
    from email.errors import HeaderParseError  # half of what relayctl would have to load
    from email.header import decode_header

    try:
        pieces = decode_header(subject)
    except (HeaderParseError, ValueError):
        return subject
    return "".join(
        piece if isinstance(piece, str) else _in(piece, charset or "us-ascii")
        for piece, charset in pieces
    )


def _in(octets: bytes, charset: str) -> str:
    try:
        return octets.decode(charset, "replace")
    except (LookupError, ValueError):
        return octets.decode("latin-1")
