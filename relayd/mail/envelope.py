"""The envelope: reverse-path, recipients, parameters (RFC 5321 section 2.3.1, RFC 3461)."""

from __future__ import annotations

from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.value import dataclass

DIRECT = "direct"
"""The next hop's name that means "the mail exchangers of the recipient's domain"."""

REFUSED = "refused "
"""How the name of a next hop begins that is none: behind it the reply that reports are to tell."""


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
    next_hop: str = DIRECT  # names out of the rules, comma-separated in order, or DIRECT
    reverse_path: ReversePath = None  # MAIL FROM at the next hop (rewritten, SRS)
    orcpt: str = ""  # "rfc822;user@example.com", xtext-decoded
    notify: frozenset[str] = frozenset()  # of NEVER SUCCESS FAILURE DELAY; empty: not given
    header: int = 0  # 0: header section as received, n: the message's n-th rewritten one

    @property
    def destination(self) -> str:
        """The name of the queue it waits in: recipients of one destination share their fate."""
        if self.next_hop == DIRECT:
            return f"{DIRECT} {self.mailbox.domain_key}"
        return self.next_hop
