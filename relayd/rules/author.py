"""`rewrite header From ... -> srs`: an author in our domain, whose answers find the way back.

    From: "Ann Lee (via gw.example.com)" <SRSF=hash=stamp=sender.example=ann@gw.example.com>
    Reply-To: Ann Lee <ann@sender.example>
    X-Original-From: Ann Lee <ann@sender.example>

Of several authors (RFC 5322 section 3.6.2) one From is made, for large providers take no other: it
names all, its address is that of the first, and Reply-To has them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from email.errors import HeaderParseError
from email.header import Header, decode_header, make_header

from relayd.mail.address import Mailbox
from relayd.rules.srs import Scheme, TooLongError, is_authors

ORIGINAL = "X-Original-From"
_MOST_NAMES = 10  # that are told; the others are in Reply-To
_LONGEST = 150  # characters of all names
_LINE = 78  # octets of a line, where it can be
Author = tuple[str, Mailbox]
"""A display name as it is written, perhaps in encoded words; and the address."""


def reversible_from(authors: Sequence[Author], scheme: Scheme, now: float) -> bytes | None:
    """The field From that stands for these authors, whole.

    None: there is no author, none whose address would be short enough, or it is ours already.
    """
    if any(scheme.holds(mailbox) and is_authors(mailbox.local) for _, mailbox in authors):
        return None  # it comes by here a second time
    address = None
    for _, mailbox in authors:
        try:
            address = scheme.of_author(mailbox, now)
            break
        except TooLongError:
            continue
    if address is None:
        return None
    named = ", ".join(_shown(*author) for author in authors[:_MOST_NAMES])
    if len(named) > _LONGEST:
        named = f"{named[: _LONGEST - 3].rstrip()}..."
    phrase = _phrase(f"{named} (via {scheme.domain})")
    text = f"<{address.ascii}>".encode("utf-8", "replace")
    last = phrase[phrase.rfind(b"\n") + 1 :]
    blank = b" " if len(last) + 1 + len(text) <= _LINE else b"\r\n "
    return phrase + blank + text + b"\r\n"


def _shown(name: str, mailbox: Mailbox) -> str:
    """A display name as readers see it. No address of others stands in it: filters mistrust that.

    What it hides from sight, or turns round, is not taken over.
    """
    try:
        text = str(make_header(decode_header(name)))
    except (HeaderParseError, LookupError, ValueError):
        text = ""  # others may make something of it
    text = "".join(each if each.isprintable() else " " for each in text)
    # encoded words within encoded words: some readers decode what is quoted
    text = " ".join(text.replace("@", " at ").replace("=?", "= ?").split())
    return text or f"{mailbox.local} at {mailbox.domain}"


def _phrase(text: str) -> bytes:
    """`From:` with a display name (RFC 5322 section 3.2.5), in encoded words if it is not ASCII."""
    if text.isascii():
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'From: "{escaped}"'.encode("ascii")
    words = Header(text, "utf-8", header_name="From").encode(linesep="\r\n")
    return f"From: {words}".encode("ascii")
