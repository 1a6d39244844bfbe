"""The envelope: reverse-path, recipients, parameters (RFC 5321 section 2.3.1, RFC 3461)."""

from __future__ import annotations

from functools import lru_cache

from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.reply import Reply
from relayd.mail.value import dataclass

DIRECT = "direct"
"""The next hop's name that means "the mail exchangers of the recipient's domain"."""

_REFUSED = "refused "
_FROM = " from "
_DIRECT_AND = (f"{DIRECT},", f"{DIRECT} ")


@dataclass(frozen=True, slots=True)
class Direction:
    """Where a recipient goes: by next hops of ours, direct, by one if not by the other, or nowhere.

    `Recipient.next_hop` is its text, which the spool keeps; it is made and read here alone.
    """

    names: tuple[str, ...] = ()  # of next hops, in order
    refusal: Reply | None = None  # nowhere: the rules' last word, which a report is to tell
    exchangers: bool = False  # the domain's mail exchangers come before the names
    source: str = ""  # the name of the source that the way to them begins at

    @property
    def direct(self) -> bool:
        """To the mail exchangers of the recipient's domain, if only at first."""
        return self.exchangers or (not self.names and self.refusal is None)

    @property
    def words(self) -> str:
        """As rules say it: `via a, b`, `direct from bulk, via isp`."""
        via = [f"via {', '.join(self.names)}"] if self.names else []
        return ", ".join([self._first, *via] if self.direct else via)

    @property
    def _first(self) -> str:
        return f"{DIRECT}{_FROM}{self.source}" if self.source else DIRECT

    @staticmethod
    @lru_cache(maxsize=1024)
    def parse(text: str) -> Direction:
        """The inverse of str(); blanks around names are nothing."""
        if text == DIRECT:
            return Direction()
        if text.startswith(_REFUSED):
            return Direction(refusal=Reply.parse(text.removeprefix(_REFUSED)))
        names = tuple(name.strip() for name in text.split(","))
        first, _, source = names[0].partition(_FROM)
        if first != DIRECT:
            return Direction(names)
        return Direction(names[1:], exchangers=len(names) > 1, source=source)

    def __str__(self) -> str:
        if self.refusal is not None:
            return f"{_REFUSED}{self.refusal}"
        return ",".join([self._first, *self.names] if self.direct else self.names)


def direct_queue(domain: str, next_hop: str = DIRECT) -> str:
    """The name of the queue of what goes direct to this (folded) domain; see `is_direct`.

    With another source, or next hops for when it cannot, `next_hop` tells it from the others.
    """
    if next_hop == DIRECT:
        return f"{DIRECT} {domain}"
    return f"{DIRECT} {domain} {Direction.parse(next_hop).words.removeprefix(DIRECT).lstrip(', ')}"


def domain_of(queue: str) -> str:
    """Of a queue that `is_direct`: whose it is."""
    return queue.split(" ", 2)[1]


def is_direct(queue: str) -> bool:
    """Whether a queue (Recipient.destination) is a domain's, and not one of next hops of ours."""
    return queue.startswith(f"{DIRECT} ")


ALL_DIRECT = (f"{DIRECT} ", f"{DIRECT}!")
"""Between which of two texts the queues stand that are `is_direct`, in the order of ASCII."""


def source_of(queue: str) -> str:
    """Of a queue that `is_direct`: the name of the source that it leaves from; empty: of none."""
    _, _, way = queue.removeprefix(f"{DIRECT} ").partition(" ")
    word, _, rest = way.partition(" ")
    return rest.partition(",")[0] if word == _FROM.strip() else ""


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
        next_hop = self.next_hop
        if next_hop == DIRECT or next_hop.startswith(_DIRECT_AND):
            return direct_queue(self.mailbox.domain_key, next_hop)
        return next_hop
