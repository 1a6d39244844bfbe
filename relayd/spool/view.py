"""What the spool takes and shows besides messages: filters, summaries, totals, histories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope
from relayd.mail.message import Message, RecipientState, Record, Submission
from relayd.mail.naming import MessageNames
from relayd.mail.outcome import Outcome
from relayd.mail.plan import Step
from relayd.mail.value import dataclass

AS_THEY_ARE: Mapping[int, bytes] = {}
"""No other header sections for anybody."""

NEVER_ANSWERED = "relayd ended before its client was answered, who has it still"
"""What the ledger says of those who are let go when a spool is opened (see Store.answered)."""

Accepted = tuple[Message, tuple[Record, ...]]
"""A message with records of its recipients (all, or those that were asked for)."""


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message of our own making (a report), stored by Spool.settle; ident by new_ident()."""

    ident: int
    content: bytes
    submission: Submission


@dataclass(frozen=True, slots=True)
class QueueFilter:
    """Which waiting recipients are meant; fields left at their default do not narrow.

    `sender` and `recipient` match without regard to case: a whole mailbox (`a@b.example`) only
    itself, anything else as a part (`@b.example`, `smith`). `recipient` looks at the mailbox and
    at the original one; `sender` "<>" is the null reverse-path.
    """

    ident: int = 0
    state: RecipientState | None = None
    destination: str = ""  # Recipient.destination, a next hop's name, or a domain sent to directly
    sender: str = ""
    recipient: str = ""
    received_before: float = 0.0  # seconds since the epoch
    reply: str = ""  # what the last reply begins with
    domain: str = ""  # only recipients in it: as the client named them, or as the rules did
    rule: str = ""  # only what is held: words of the rule or filter that holds it, or its place


@dataclass(frozen=True, slots=True)
class FindFilter:
    """What is looked for among all mail that the ledger knows; defaults do not narrow.

    Each is compared without regard to case. `sender` and `recipient` are whole addresses, or
    `@example.com` for all of a domain, or "<>"; of `subject` each word has to be there.
    """

    sender: str = ""
    recipient: str = ""  # as the client gave it, or as the rules made it
    message_id: str = ""
    envid: str = ""
    client: str = ""  # its address
    login: str = ""
    subject: str = ""
    states: frozenset[RecipientState] = frozenset()  # any of them
    since: float = 0.0  # accepted then or later, seconds since the epoch
    until: float = 0.0  # ... before


class FoundRecipient(NamedTuple):
    """One recipient that was found. Mailboxes are raw: local part unquoted."""

    ident: int
    received_at: float
    size: int
    sender: str  # empty: the null reverse-path
    message_id: str
    subject: str  # decoded
    number: int
    mailbox: str
    original: str
    next_hop: str
    state: int  # RecipientState
    attempts: int
    ended_at: float  # 0: it waits
    last_reply: str  # str(Reply), empty where nothing was tried


class FoundPage(NamedTuple):
    """A piece of what is found. Goes on at `before` until that is None; may be empty before."""

    found: list[FoundRecipient]
    before: int | None


class RecipientSummary(NamedTuple):
    """One waiting recipient in a listing. Mailboxes are raw: local part unquoted."""

    number: int
    mailbox: str
    original: str
    next_hop: str
    destination: str
    state: int  # State.QUEUED or State.HELD
    attempts: int
    next_attempt: float
    last_reply: str  # str(Reply), empty before the first attempt


class Summary(NamedTuple):
    """One waiting message in a listing, with those of its recipients that match."""

    ident: int
    received_at: float
    size: int
    sender: str  # empty: the null reverse-path
    recipients: list[RecipientSummary]


class Page(NamedTuple):
    """A piece of a listing. Goes on at `after` until that is None; may be empty before.

    `rows` is JSON as it goes to the reader, an array of Summary each of which is an array of its
    fields: nothing of ours has to touch a hundred thousand rows one by one.
    """

    rows: str
    messages: int
    after: int | None


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is waiting."""

    messages: int
    octets: int
    queued: int  # recipients
    held: int  # recipients
    destinations: dict[str, int]  # queued recipients by destination
    damaged: int  # messages set aside


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits, and since when, as it is known without counting."""

    messages: int
    octets: int
    oldest: dict[str, float]  # by destination: when the oldest of its messages came


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What the ledger knows of one recipient: its acceptance and, if there was one, its end."""

    number: int
    mailbox: Mailbox
    original: Mailbox
    next_hop: str
    state: RecipientState | None  # the end state; None: not ended
    ended_at: float = 0.0
    attempts: int = 0
    outcome: Outcome | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """What the ledger knows of one message; it outlives the message by some days."""

    ident: int
    received_at: float
    size: int
    envelope: Envelope
    client: Client
    rules: str
    trail: tuple[Step, ...]
    names: MessageNames
    entries: tuple[LedgerEntry, ...]

    @property
    def reverse_path(self) -> ReversePath:
        """MAIL FROM as the client gave it."""
        return self.envelope.reverse_path


@dataclass(frozen=True, slots=True)
class Envelopes:
    """A waiting message without its content, for whoever decides about it again."""

    ident: int
    received_at: float
    envelope: Envelope
    client: Client
    trail: tuple[Step, ...]
    records: tuple[Record, ...]  # all that wait
    meant: frozenset[int]  # the numbers of those that the filter means
    ended: tuple[tuple[Mailbox, str], ...]  # who waits no more, with the ledger's note
    next_number: int  # of a further recipient


@dataclass(frozen=True, slots=True)
class Rerouting:
    """Another way for recipients of one message: all of it, or nothing."""

    message: int
    changed: tuple[tuple[Record, Record], ...] = ()  # as it is, as it is to be; of one number
    added: tuple[Record, ...] = ()
    ended: tuple[tuple[Record, str], ...] = ()  # what others of the message stand for; and why

    @property
    def before(self) -> Iterator[Record]:
        """What is to be found as it was."""
        yield from (old for old, _ in self.changed)
        yield from (old for old, _ in self.ended)

    @property
    def after(self) -> Iterator[Record]:
        """What waits then."""
        yield from (new for _, new in self.changed)
        yield from self.added


class Discrepancy(NamedTuple):
    """One recipient that the ledger cannot account for (see Spool.audit)."""

    ident: int
    number: int
    problem: str


class Audit(NamedTuple):
    """A piece of an audit. Goes on at `after` until that is None."""

    accepted: int  # recipients looked at
    discrepancies: list[Discrepancy]
    after: int | None
