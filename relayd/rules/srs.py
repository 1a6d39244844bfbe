"""The Sender Rewriting Scheme: a sender of elsewhere put into an address of ours, and taken out.

    SRS0=hash=stamp=domain=local@ours          what we make of local@domain
    SRS1=hash=domain==hash=stamp=...@ours      what we make of SRS0=hash=stamp=...@domain
    SRSF=hash=stamp=domain=local@ours          an author, for RFC5322.From: anybody may answer

A next hop that checks SPF then finds our domain in the reverse-path, and a report comes to us. The
hash is a keyed one over what follows it, so that nobody else can make us relay to an address of
his choice; the stamp ends that an address once seen can be used for ever. SRS1 is for senders that
another relay has rewritten already: it names that relay, so that addresses do not grow with each
one on the way. The spelling is that of libsrs2 and PostSRSd, with which keys can be shared.
"""

from __future__ import annotations

import base64
import hmac
import re
from dataclasses import dataclass, field

from relayd.mail.address import AddressError, Mailbox, fold_domain, is_srs

DAY = 86400  # seconds
MAX_AGE = 21  # days that an address is good for
HASH_LENGTH = 4  # characters, PostSRSd's default; of a key that does not say how many
MAX_HASH_LENGTH = 27  # what base 64 makes of SHA-1's 20 octets, without the padding
AUTHORS_HASH = 8  # characters at least where anybody may write to the address, not reports alone
_AUTHORS = "from\0"  # in front of what is hashed: the hash is good for nothing else
MAX_MAILBOX = 254  # octets: a path has 256 with its angle brackets (RFC 5321 section 4.5.3.1.3)

_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_STAMPS = len(_BASE32) ** 2  # days until a stamp comes again
# the first separator is - + or =, by whoever made the address; the others are always =
_FLAGS = re.IGNORECASE | re.ASCII | re.DOTALL
_SRS0 = re.compile(r"SRS0[-+=]([^=]*)=([^=]*)=([^=]*)=(.*)\Z", _FLAGS)
_SRS1 = re.compile(r"SRS1[-+=]([^=]*)=([^=]*)=([-+=].*)\Z", _FLAGS)
_SRSF = re.compile(r"SRSF=([^=]*)=([^=]*)=([^=]*)=(.*)\Z", _FLAGS)
# how a key says the length of its hashes; all of the line is the key, for us as for PostSRSd
_LENGTH = re.compile(rb"hash-length-([0-9]{1,2}):")


class SrsError(ValueError):
    """An address that cannot be taken back, or not be made; `str()` is fit for a reply."""


class MalformedError(SrsError):
    """It only begins like an SRS address."""


class ForgedError(SrsError):
    """None of our keys made this hash."""


class ExpiredError(SrsError):
    """The stamp is older than MAX_AGE days; one of the future is, too."""


class TooLongError(SrsError):
    """The address would have more than MAX_MAILBOX octets."""


def length_of(key: bytes) -> int:
    """The characters of a hash that this key asks for: what it begins with, or HASH_LENGTH."""
    said = _LENGTH.match(key)
    return HASH_LENGTH if said is None else int(said[1])


def stamp(now: float) -> str:
    """The day of `now` (seconds since the epoch) in two characters; they come again after 1,024."""
    day = int(now // DAY) % _STAMPS
    return _BASE32[day >> 5] + _BASE32[day & 31]


def days_since(text: str, now: float) -> int:
    """How many days ago a stamp was made, from 0 to 1,023; raises MalformedError."""
    known = text.isascii() and len(text) == 2
    high, low = (_BASE32.find(letter) for letter in text.upper()) if known else (-1, -1)
    if min(high, low) < 0:
        raise MalformedError("Malformed SRS address")
    return (int(now // DAY) - (high << 5 | low)) % _STAMPS


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one domain rewrites: the first key signs, and what any of them signed is good.

    Hashes are compared without regard to case, as mail servers on the way may change it; shorter
    ones than their key or `hash_length` asks for are refused, longer ones are welcome.
    """

    domain: str
    keys: tuple[bytes, ...] = field(repr=False)
    hash_length: int = HASH_LENGTH

    def holds(self, mailbox: Mailbox) -> bool:
        """Whether this is an SRS address of our domain, be it a good one or not."""
        local = mailbox.local
        return (is_srs(local) or is_authors(local)) and mailbox.domain_key == fold_domain(
            self.domain
        )

    def of_author(self, author: Mailbox, now: float) -> Mailbox:
        """The author's address as one of our domain, for RFC5322.From: answers come by it.

        Its hash is of its own kind: nobody makes one out of an address that is for reports.
        Raises TooLongError.
        """
        domain = author.domain if author.domain.isascii() else author.domain_key
        day = stamp(now)
        given = self._signed(*_author_parts(day, domain, author.local), least=AUTHORS_HASH)
        mailbox = Mailbox(f"SRSF={given}={day}={domain}={author.local}", self.domain)
        return _short_enough(mailbox, author)

    def forward(self, sender: Mailbox, now: float) -> Mailbox:
        """The sender as an address of our domain; `now` is in seconds since the epoch.

        The local part may come out longer than the 64 octets of RFC 5321 section 4.5.3.1.1, as
        everybody's does who rewrites; raises TooLongError where the whole is too long for a path.
        """
        # a U-label would make the local part need SMTPUTF8, which the sender may not
        domain = sender.domain if sender.domain.isascii() else sender.domain_key
        wrapped = self._wrap(sender.local, domain)
        if wrapped is None:
            day = stamp(now)
            wrapped = (
                f"SRS0={self._signed(day, domain, sender.local)}={day}={domain}={sender.local}"
            )
        return _short_enough(Mailbox(wrapped, self.domain), sender)

    def _wrap(self, local: str, domain: str) -> str | None:
        """The SRS1 local part for an SRS address of another domain; None: it is none."""
        if is_srs(local) and local[3] == "0":
            host, rest = domain, local[4:]
        else:
            match = _SRS1.match(local)
            if match is None or not match.group(2):
                return None
            # who made the SRS1 need not see the report: it goes to where the SRS0 was made
            host, rest = match.group(2), match.group(3)
        return f"SRS1={self._signed(host, rest)}={host}={rest}"

    def reverse(self, mailbox: Mailbox, now: float) -> Mailbox:
        """The sender inside an address of ours; raises SrsError where it is not one of ours.

        Out of an SRS1 comes the SRS0 address of the relay that rewrote first.
        """
        if is_authors(mailbox.local):
            return self._author(mailbox, now)
        match = _SRS1.match(mailbox.local)
        if match is not None:
            given, host, rest = match.groups()
            self._check(given, host, rest)
            inner = _mailbox("SRS0" + rest, host)
            if not self.holds(inner):
                return inner
            mailbox = inner  # we were that relay: the mail came by here twice
        match = _SRS0.match(mailbox.local)
        if match is None:
            raise MalformedError("Malformed SRS address")
        given, day, domain, local = match.groups()
        self._check(given, day, domain, local)
        if days_since(day, now) > MAX_AGE:
            raise ExpiredError("This SRS address has expired")
        sender = _mailbox(local, domain)
        if self.holds(sender):  # we never rewrite our own: somebody who has the key plays
            raise MalformedError("Malformed SRS address")
        return sender

    def _author(self, mailbox: Mailbox, now: float) -> Mailbox:
        match = _SRSF.match(mailbox.local)
        if match is None:
            raise MalformedError("Malformed SRS address")
        given, day, domain, local = match.groups()
        self._check(given, *_author_parts(day, domain, local), least=AUTHORS_HASH)
        if days_since(day, now) > MAX_AGE:
            raise ExpiredError("This SRS address has expired")
        author = _mailbox(local, domain)
        if self.holds(author):
            raise MalformedError("Malformed SRS address")
        return author

    def _check(self, given: str, *parts: str, least: int = 0) -> None:
        """Raise ForgedError unless one of the keys makes this hash of the parts."""
        octets = given.encode("utf-8", "replace").lower()
        length = len(octets)
        # every key is tried, and each in the same time whatever was given
        good = [
            hmac.compare_digest(self._hash(key, *parts)[:length].lower().encode(), octets)
            and max(self._length(key), least) <= length <= MAX_HASH_LENGTH
            for key in self.keys
        ]
        if not any(good):
            raise ForgedError("This SRS address is not one of ours")

    def _length(self, key: bytes) -> int:
        return max(self.hash_length, length_of(key))

    def _signed(self, *parts: str, least: int = 0) -> str:
        """The hash by the key that signs, as long as an address has it."""
        key = self.keys[0]
        return self._hash(key, *parts)[: max(self._length(key), least)]

    @staticmethod
    def _hash(key: bytes, *parts: str) -> str:
        """The hash at its full length. Case does not count, of ASCII letters only (libsrs2)."""
        text = "".join(parts).encode("utf-8", "replace").lower()
        return base64.b64encode(hmac.digest(key, text, "sha1")).decode()


def _author_parts(day: str, domain: str, local: str) -> tuple[str, ...]:
    """What is hashed of an author: where the domain ends counts, too, other than with SRS0."""
    return _AUTHORS, day, domain, "\0", local


def is_authors(local: str) -> bool:
    """Whether the local part is tagged as that of an author's reversible address."""
    return local[:5].lower() == "srsf="


def _short_enough(mailbox: Mailbox, original: Mailbox) -> Mailbox:
    if len(str(mailbox).encode("utf-8", "replace")) > MAX_MAILBOX:
        raise TooLongError(f"An SRS address for {original} would be too long")
    return mailbox


def _mailbox(local: str, domain: str) -> Mailbox:
    """The mailbox, if it could stand in a path; else raises MalformedError."""
    try:
        return Mailbox.parse(str(Mailbox(local, domain)))
    except (AddressError, UnicodeError):
        raise MalformedError("Malformed SRS address") from None
