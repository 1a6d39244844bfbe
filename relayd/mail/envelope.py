"""The envelope: reverse-path, recipients, parameters (RFC 5321 section 2.3.1, RFC 3461)."""

from __future__ import annotations

from functools import lru_cache

from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.reply import Reply
from relayd.mail.value import dataclass

DIRECT = "direct"
"""The next hop's name that means "the mail exchangers of the recipient's domain"."""

_REFUSED = "refused "


@dataclass(frozen=True, slots=True)
class Direction:
    """Where a recipient goes: by next hops of ours, direct (there are none), or nowhere.

    `Recipient.next_hop` is its text, which the spool keeps; it is made and read here alone.
    """

    names: tuple[str, ...] = ()  # of next hops, in order
    refusal: Reply | None = None  # nowhere: the rules' last word, which a report is to tell

    @property
    def direct(self) -> bool:
        """To the mail exchangers of the recipient's domain."""
        return not self.names and self.refusal is None

    @staticmethod
    @lru_cache(maxsize=1024)
    def parse(text: str) -> Direction:
        """The inverse of str(); blanks around names are nothing."""
        if text == DIRECT:
            return Direction()
        if text.startswith(_REFUSED):
            return Direction(refusal=Reply.parse(text.removeprefix(_REFUSED)))
        return Direction(tuple(name.strip() for name in text.split(",")))

    def __str__(self) -> str:
        if self.refusal is not None:
            return f"{_REFUSED}{self.refusal}"
        return ",".join(self.names) or DIRECT


def direct_queue(domain: str) -> str:
    """The name of the queue of what goes direct to this (folded) domain; see `is_direct`."""
    return f"{DIRECT} {domain}"


def is_direct(queue: str) -> bool:
    """Whether a queue (Recipient.destination) is a domain's, and not one of next hops of ours."""
    return queue.startswith(f"{DIRECT} ")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What MAIL said, common to all recipients. Reports go to `reverse_path` or a list's owner."""

    reverse_path: ReversePath
    body: str = ""  # "", "7BIT" or "8BITMIME" (RFC 6152)
    smtputf8: bool = False  # RFC 6531
    ret: str = ""  # "", "FULL" or "HDRS" (RFC 3461 section 4.3)
    envid: str = ""  # xtext-decoded (RFC 3461 section 4.4)
    require_tls: bool = False  # RFC 8689


@dataclass(frozen=True, slots=True)
class Recipient:
    """One addressee after the rules had their say, with where it goes."""

    mailbox: Mailbox  # RCPT TO at the next hop
    original: Mailbox  # RCPT TO as the client gave it
    next_hop: str = DIRECT  # where it goes, as Direction has it
    reverse_path: ReversePath = None  # MAIL FROM at the next hop (rewritten, SRS)
    orcpt: str = ""  # "rfc822;user@example.com", xtext-decoded
    notify: frozenset[str] = frozenset()  # of NEVER SUCCESS FAILURE DELAY; empty: not given
    header: int = 0  # 0: header section as received, n: the message's n-th rewritten one

    @property
    def destination(self) -> str:
        """The name of the queue it waits in: recipients of one destination share their fate."""
        if self.next_hop == DIRECT:
            return direct_queue(self.mailbox.domain_key)
        return self.next_hop
