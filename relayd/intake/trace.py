"""Trace fields: the Received field a message gets here, and what earlier ones tell of loops."""

from __future__ import annotations

import re
import time
from itertools import islice

from relayd.mail.address import AddressError, Mailbox, fold_domain
from relayd.mail.client import Client
from relayd.mail.ident import ident_text
from relayd.mail.value import dataclass

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# Domain / address-literal, by their letters alone: nothing here can end a clause or a line
_EXTENDED_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_.\-]{0,254})|\[[A-Za-z0-9.:]{2,64}\])\Z"
)
# ctext of RFC 5322 section 3.2.2 that needs no thought: no parentheses, no backslash
_NOT_FOR_COMMENT = re.compile(r"[^A-Za-z0-9 ._:,+=@\[\]/\-]")


def protocol_keyword(esmtp: bool, tls: bool, login: bool, smtputf8: bool) -> str:
    """The word after `with`: RFC 3848's ESMTP, ESMTPS, ESMTPA, ESMTPSA, RFC 6531's UTF8SMTP*."""
    if not esmtp:
        return "SMTP"
    return ("UTF8SMTP" if smtputf8 else "ESMTP") + ("S" if tls else "") + ("A" if login else "")


def address_literal(address: str) -> str:
    """An IP address as RFC 5321 section 4.1.3 writes it; "[unknown]" for what is none."""
    if not address:
        return "[unknown]"
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def date_time(now: float) -> str:
    """The date-time of RFC 5322 section 3.3 in UTC, whatever the locale."""
    at = time.gmtime(now)
    return (
        f"{_DAYS[at.tm_wday]}, {at.tm_mday:02} {_MONTHS[at.tm_mon - 1]} {at.tm_year}"
        f" {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} +0000"
    )


@dataclass(frozen=True, slots=True)
class Hops:
    """What the trace fields of a header section say of the way so far."""

    received: int = 0  # Received fields: the hop count of RFC 5321 section 6.3
    own: int = 0  # ... of which this host wrote
    recipients: tuple[str, ...] = ()  # lower-case mailboxes it was for: our own, and Delivered-To

    def __add__(self, other: Hops) -> Hops:
        return Hops(
            self.received + other.received,
            self.own + other.own,
            (self.recipients + other.recipients)[:_MOST_RECIPIENTS],
        )


NO_HOPS = Hops()


@dataclass(frozen=True, slots=True)
class Passages:
    """For whom a message has been on its way since it was here last, and before."""

    here: frozenset[str] = frozenset()  # lower-case mailboxes that our own trace fields name
    since: frozenset[str] = frozenset()  # ... and those that stand above one of ours

    def holds(self, mailbox: Mailbox, *, own: bool) -> bool:
        """Whether a copy for this mailbox would go round; `own`: for the recipient himself.

        Others may have named him on the way by right: a list that we sent it to.
        """
        if not self.here and not self.since:
            return False
        text = (_ascii(mailbox) or str(mailbox)).lower()
        return text in self.here or (not own and text in self.since)


NOWHERE_YET = Passages()


@dataclass(frozen=True, slots=True)
class LoopLimits:
    """From how many passages on a message is taken to be in a loop.

    One message may pass one relay more than once by right: out to a mailing list and back in,
    through a content filter that hands it back, forwarded away and home again under another
    mailbox. So one own trace field proves nothing. Sole recipients are counted mailbox by
    mailbox: a list or a filter brings a message back for the same mailbox once, a loop again
    and again. For messages to several mailboxes (whose trace fields name none, RFC 5321
    section 7.2) only the number of passages is left, and it is the larger for that. Both only
    cut short what the hop count would end anyway.
    """

    hops: int = 50  # Received fields in all (RFC 5321 section 6.3)
    own: int = 10  # own trace fields
    same_recipient: int = 3  # own trace fields, or Delivered-To, for the sole recipient


class TraceField:
    """Writes and reads the Received fields of one host."""

    def __init__(self, hostname: str) -> None:
        self.hostname = hostname
        self._needle = hostname.lower().encode("ascii", "replace")
        self._second = -1
        self._date = ""
        host = re.escape(self._needle)
        # what received() writes, lower-cased, however a later hop has folded it
        self._own = re.compile(
            rb"^received:\s+from\s+\S+\s+\((?:\S+\s+)?\S+\)(?:\s+\(helo [^()]*\))?"
            rb"\s+by\s+" + host + rb"\s+\(relayd\)\s+with\s+[a-z0-9]+\s+id\s+[0-9a-z]{12}"
            rb"(?:\s+\([^()]*\))?(?:\s+for\s+<([^\r\n]*)>)?;",
            re.MULTILINE,
        )

    def received(self, client: Client, ident: int, recipient: Mailbox | None, now: float) -> bytes:
        """The Received field of RFC 5321 section 4.4, always ASCII, with its CRLF.

        `recipient` is the sole one of the transaction; with several, naming one would tell
        each of the others (section 7.2). A mailbox that only UTF-8 can spell is left out, so
        that our trace field never turns an ASCII header section into one for SMTPUTF8 only.
        """
        second = int(now)
        if second != self._second:
            self._second, self._date = second, date_time(second)
        address = address_literal(client.address)
        name = f"{client.rdns or 'unknown'} " if client.address else ""
        helo = client.helo
        if _EXTENDED_DOMAIN.match(helo):
            origin = f"{helo} ({name}{address})"
        else:
            origin = _odd_origin(helo, name, address)
        tls = f"\r\n ({_comment(client.tls)})" if client.tls else ""
        sole = ""
        if recipient is not None:
            mailbox = _ascii(recipient)
            if mailbox:
                sole = f"\r\n for <{mailbox}>"
        return (
            f"Received: from {origin}\r\n by {self.hostname} (relayd) with {client.protocol}"
            f" id {ident_text(ident)}{tls}{sole};\r\n {self._date}\r\n"
        ).encode("ascii", "replace")

    def hops(self, section: bytes) -> Hops:
        """Count the trace fields in a header section (or in whole lines of one)."""
        lowered = section.lower()
        received = lowered.count(b"\nreceived:") + lowered.startswith(b"received:")
        own = 0
        recipients: list[str] = []
        if received and self._needle in lowered:
            for match in self._own.finditer(lowered):
                own += 1
                if match[1]:
                    recipients.append(match[1].decode("ascii", "replace"))
        if b"delivered-to:" in lowered:
            recipients += [
                match[1].decode("utf-8", "replace").strip(" \t<>")
                for match in islice(_DELIVERED_TO.finditer(lowered), _MOST_RECIPIENTS)
            ]
        return Hops(received, own, tuple(recipients[:_MOST_RECIPIENTS]))

    def passed(self, section: bytes) -> Passages:
        """Where it has been, by the trace fields in a whole header section."""
        lowered = section.lower()
        ours = [*self._own.finditer(lowered)]
        if not ours:
            return NOWHERE_YET
        here = (match[1] for match in ours if match[1])
        since = _FOR.finditer(lowered, 0, ours[-1].start())
        return Passages(
            frozenset(each.decode("ascii", "replace") for each in here),
            frozenset(
                match[1].decode("utf-8", "replace") for match in islice(since, _MOST_RECIPIENTS)
            ),
        )


# for whom a Received field says that it is
_FOR = re.compile(
    rb"^received:(?:[^\r\n]|\r\n(?=[ \t]))*?[ \t]for[ \t]+<?([^\s<>;@]+@[^\s<>;@]+)>?[ \t]*;",
    re.MULTILINE,
)
_DELIVERED_TO = re.compile(rb"^delivered-to:([^\r\n]*)", re.MULTILINE)
_MOST_RECIPIENTS = 100  # remembered of one header section; a loop shows long before


def loop(hops: Hops, limits: LoopLimits, recipient: Mailbox | None) -> str:
    """Why this message is taken to be in a loop; empty: it is not (see LoopLimits)."""
    if hops.received > limits.hops:
        return "Too many hops"
    if hops.own >= limits.own:
        return "Mail loop: the message has passed this host too often"
    if recipient is not None and hops.recipients:
        # as received() spelled it, so that a match is a match
        mailbox = (_ascii(recipient) or str(recipient)).lower()
        if hops.recipients.count(mailbox) >= limits.same_recipient:
            return "Mail loop: the message has passed this host for this recipient before"
    return ""


def _odd_origin(helo: str, name: str, address: str) -> str:
    """The From-domain for an argument of EHLO that is no name: the address speaks for it."""
    try:
        folded = fold_domain(helo)
    except (AddressError, UnicodeError):
        folded = ""
    if not helo.isascii() and _EXTENDED_DOMAIN.match(folded):
        return f"{folded} ({name}{address})"
    origin = f"{address} ({name}{address})"
    return f"{origin} (HELO {_comment(helo)})" if helo else origin


def _comment(text: str) -> str:
    """A peer's text inside a comment, with nothing in it that could end the comment."""
    return _NOT_FOR_COMMENT.sub("?", text)[:64]


def _ascii(mailbox: Mailbox) -> str:
    """The mailbox in ASCII, or empty where it has no such spelling."""
    if mailbox.local.isascii():
        try:
            return mailbox.ascii
        except AddressError:
            return ""
    return ""
