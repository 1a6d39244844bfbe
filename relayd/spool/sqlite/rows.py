"""Messages as rows of the tables and back; nothing pickled, every value as column or JSON.

The order in which values are stored is written down here, once: of the columns in the row types,
of what stands in JSON in the tuples of names. Statements name their columns (`columns`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.client import Client
from relayd.mail.content import BytesContent, Content
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.message import Message, RecipientState, Record, Submission
from relayd.mail.naming import NAMELESS, MessageNames, names_in, names_of
from relayd.mail.outcome import Blame, Outcome
from relayd.mail.plan import Step
from relayd.mail.reply import Reply
from relayd.spool.view import Accepted, Envelopes, History, LedgerEntry

Row = tuple[Any, ...]

T = TypeVar("T")

EIGHT_BIT = 1
UTF8_HEADER = 2
IN_FILE = 4


class MessageRow(NamedTuple):
    """See schema.TABLES for what is in each column."""

    ident: int
    received: float
    sender: str
    size: int
    header_size: int
    flags: int
    facts: str
    content_parity: int
    parity: int


class RecipientRow(NamedTuple):
    """Up to `parity` it never changes."""

    message: int
    number: int
    destination: str
    mailbox: str
    original: str | None
    next_hop: str
    sender: str | None
    orcpt: str
    notify: str
    header: int
    parity: int
    state: int
    attempts: int
    next_attempt: float
    warned: int
    reply: str | None
    outcome: str | None

    def with_header(self, header: int) -> RecipientRow:
        """It with another header section: the one thing of it that an operator may change."""
        changed = self._replace(header=header)
        return changed._replace(parity=_parity(changed[:_RECIPIENT_FIXED]))


class ContentRow(NamedTuple):
    """Content that is in no file."""

    message: int
    data: bytes


class HeaderRow(NamedTuple):
    """A rewritten header section; numbers count from 1."""

    message: int
    number: int
    section: bytes


class LedgerRow(NamedTuple):
    """See schema.LEDGER for which columns are filled when."""

    message: int
    number: int
    ended: int
    at: float
    state: int
    mailbox: str | None = None
    original: str | None = None
    next_hop: str | None = None
    size: int | None = None
    sender: str | None = None
    facts: str | None = None
    attempts: int | None = None
    outcome: str | None = None
    note: str | None = None


class EndRow(NamedTuple):
    """What the ledger's row about the end of a recipient says; all else in it is empty."""

    message: int
    number: int
    at: float
    state: int
    attempts: int
    outcome: str | None  # as text
    note: str


ROWS: dict[str, type[NamedTuple]] = {
    "message": MessageRow,
    "recipient": RecipientRow,
    "content": ContentRow,
    "header": HeaderRow,
    "ledger": LedgerRow,
}
"""By the name of the table."""

_MESSAGE_FIXED = MessageRow._fields.index("parity")  # columns that parity is over
_RECIPIENT_FIXED = RecipientRow._fields.index("parity")

# What is written of a recipient when it is accepted: neither what is the same in all that are new,
# nor what is empty.
NEW_RECIPIENT = (*RecipientRow._fields[: _RECIPIENT_FIXED + 1], "state", "next_attempt")
SAME = 0
"""Stands in these rows for NULL: sqlite3 asks of None, but of no number, how it is to be stored,
and words an exception each time."""
MAY_BE_SAME = ("original", "sender")

# Fields in the order in which JSON has them. What is added goes to the end: what was stored
# before lacks it, and gets the default.
_ENVELOPE = ("body", "smtputf8", "ret", "envid", "require_tls")  # then the message's MessageNames
_CLIENT = ("address", "port", "listener", "helo", "protocol", "tls", "login", "certificate", "rdns")
_STEP = ("stage", "place", "rule", "note")
_REPLY = ("code", "subject", "detail", "lines")
_OUTCOME = ("remote_mta", "remote_address", "blame.value", "passed_on", "tls", "why")

_envelope_values = attrgetter(*_ENVELOPE)
client_values = attrgetter(*_CLIENT)
_reply_values = attrgetter(*_REPLY)
_outcome_values = attrgetter(*_OUTCOME)


def columns(table: str) -> str:
    """The columns of a table as SQL has them, in the order of its row type."""
    return ", ".join(ROWS[table]._fields)


# ASCII only: whatever a peer managed to say, the text can be stored
_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class UndecodableError(Exception):
    """A row does not say what a row says; the text tells which part."""


class NewRows(NamedTuple):
    """Everything one acceptance writes, and what it returns."""

    ident: int
    message: MessageRow | None  # None: the ledger alone hears of it
    content: Row | None
    recipients: list[Row]  # NEW_RECIPIENT
    held: list[RecipientRow]  # further ones, of whom it is said why they wait
    headers: list[Row]
    ended: list[LedgerRow]  # of those who end at once; the others' are made of what is stored
    value: Accepted


def raw(mailbox: Mailbox) -> str:
    """The mailbox as stored; unlike str() it comes back exactly, whatever is in it."""
    return f"{mailbox.local}@{mailbox.domain}"


def raw_path(path: ReversePath) -> str:
    """The reverse-path as stored; empty is the null one."""
    return "" if path is None else f"{path.local}@{path.domain}"


def mailbox_of(text: str) -> Mailbox:
    """The inverse of raw: a domain has no @, a local part may."""
    local, at, domain = text.rpartition("@")
    if not at:
        raise UndecodableError("mailbox")
    return Mailbox(local, domain)


def path_of(text: str) -> ReversePath:
    """The inverse of raw_path."""
    return mailbox_of(text) if text else None


def fold(text: str) -> str:
    """Lower case as SQLite has it: ASCII letters only."""
    return text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def facts_text(submission: Submission, names: MessageNames = NAMELESS) -> str:
    """What the message and the ledger keep of MAIL, the client and the rules."""
    return _to_json(
        (
            (*_envelope_values(submission.envelope), *names),
            client_values(submission.client),
            submission.rules,
            submission.trail,
        )
    )


class StoredFacts(NamedTuple):
    """The inverse of facts_text."""

    envelope: Envelope
    client: Client
    rules: str
    trail: tuple[Step, ...]
    names: MessageNames


def facts_of(sender: str, text: str) -> StoredFacts:
    """Read back what facts_text wrote."""
    try:
        envelope, client, rules, trail = json.loads(text)
        return StoredFacts(
            Envelope(path_of(sender), **_named(_ENVELOPE, envelope)),
            client_of(client),
            rules,
            tuple(Step(**_named(_STEP, step)) for step in trail),
            MessageNames(*(*map(str, envelope[len(_ENVELOPE) :]), *NAMELESS)[: len(NAMELESS)]),
        )
    except (ValueError, TypeError) as error:
        raise UndecodableError("message facts") from error


def client_of(values: Iterable[Any]) -> Client:
    """The inverse of client_values."""
    return Client(**_named(_CLIENT, values))


def _named(names: tuple[str, ...], values: Iterable[Any]) -> dict[str, Any]:
    return dict(zip(names, values, strict=False))


def outcome_text(outcome: Outcome | None) -> str | None:
    """An outcome as JSON."""
    if outcome is None:
        return None
    return _to_json((_reply_values(outcome.reply), *_outcome_values(outcome)))


def outcome_of(text: str | None) -> Outcome | None:
    """The inverse of outcome_text."""
    if text is None:
        return None
    try:
        reply, *values = json.loads(text)
        said = _named(_REPLY, reply)
        said["lines"] = tuple(said["lines"])
        known = _named(_OUTCOME, values)
        known["blame"] = Blame(known.pop("blame.value"))
        return Outcome(Reply(**said), **known)
    except (ValueError, TypeError, KeyError) as error:
        raise UndecodableError("last outcome") from error


def _parity(fixed: Row) -> int:
    """Over the columns of a message or recipient that never change; a plain tuple of them."""
    return crc32(repr(fixed).encode("utf-8", "surrogatepass"))


def accept_rows(
    ident: int,
    now: float,
    submission: Submission,
    content: Content,
    parity: int,
    data: bytes | None,
) -> NewRows:
    """All rows of a submission, and the message and records it becomes. `data` None: in a file."""
    size = content.size
    message = Message(
        ident,
        now,
        submission.envelope,
        submission.client,
        content,
        submission.header_size,
        submission.eight_bit,
        submission.utf8_header,
        submission.headers,
    )
    header_size = submission.header_size
    names = names_of(content, header_size) if data is None else names_in(data, header_size)
    facts = facts_text(submission, names)
    sender = raw_path(submission.envelope.reverse_path)
    records = []
    recipients: list[Row] = []
    held: list[RecipientRow] = []
    ended: list[LedgerRow] = []
    states = submission.states or (submission.state,) * len(submission.recipients)
    for number, recipient in enumerate(submission.recipients):
        state = states[number]
        stored = int(state)
        mailbox = raw(recipient.mailbox)
        original: str | None = None
        if recipient.original is not recipient.mailbox:
            original = raw(recipient.original)
            if original == mailbox:
                original = None
        path: str | None = None
        if recipient.reverse_path is not submission.envelope.reverse_path:
            path = raw_path(recipient.reverse_path)
            if path == sender:
                path = None
        word = submission.first_word(number) if state is RecipientState.HELD else None
        records.append(Record(ident, number, recipient, state, 0, now, word))
        if not state.waiting:
            hop = recipient.next_hop
            taken = LedgerRow(ident, number, 0, now, stored, mailbox, original, hop, note=path)
            if number == 0:  # tells of the message too
                taken = taken._replace(size=size, sender=sender, facts=facts)
            ended += (taken, LedgerRow(ident, number, 1, now, stored, attempts=0, note=""))
            continue
        fixed = (
            ident,
            number,
            recipient.destination,
            mailbox,
            original,
            recipient.next_hop,
            path,
            recipient.orcpt,
            ",".join(sorted(recipient.notify)) if recipient.notify else "",
            recipient.header,
        )
        if word is None:
            before = SAME if original is None else original
            sent = SAME if path is None else path
            known = (*fixed[:4], before, recipient.next_hop, sent, *fixed[7:])
            recipients.append((*known, _parity(fixed), stored, now))
        else:
            said = (str(word.reply), outcome_text(word))
            held.append(RecipientRow(*fixed, _parity(fixed), stored, 0, now, 0, *said))
    value = (message, tuple(records))
    if not recipients and not held:
        return NewRows(ident, None, None, [], [], [], ended, value)
    flags = (
        (EIGHT_BIT if submission.eight_bit else 0)
        | (UTF8_HEADER if submission.utf8_header else 0)
        | (IN_FILE if data is None else 0)
    )
    row = (ident, now, sender, size, submission.header_size, flags, facts, parity)
    headers: list[Row] = []
    if submission.headers:
        headers = [(ident, n, section) for n, section in enumerate(submission.headers, 1)]
    return NewRows(
        ident,
        MessageRow(*row, _parity(row)),
        None if data is None else (ident, data),
        recipients,
        held,
        headers,
        ended,
        value,
    )


def message_of(row: MessageRow, content: Content, headers: tuple[bytes, ...]) -> Message:
    """A message from its row; raises UndecodableError."""
    if _parity(row[:_MESSAGE_FIXED]) != row.parity:
        raise UndecodableError("message row")
    facts = facts_of(row.sender, row.facts)
    return Message(
        row.ident,
        row.received,
        facts.envelope,
        facts.client,
        content,
        row.header_size,
        bool(row.flags & EIGHT_BIT),
        bool(row.flags & UTF8_HEADER),
        headers,
    )


_WAITING = {int(state): state for state in RecipientState if state.waiting}


def record_of(row: RecipientRow, envelope: Envelope) -> Record:
    """A record from its row; raises UndecodableError."""
    if _parity(row[:_RECIPIENT_FIXED]) != row.parity:
        raise UndecodableError("recipient row")
    if row.state not in _WAITING:
        raise UndecodableError("recipient state")
    to = mailbox_of(row.mailbox)
    recipient = Recipient(
        to,
        to if row.original is None else mailbox_of(row.original),
        row.next_hop,
        envelope.reverse_path if row.sender is None else path_of(row.sender),
        row.orcpt,
        frozenset(row.notify.split(",")) if row.notify else frozenset(),
        row.header,
    )
    return Record(
        row.message,
        row.number,
        recipient,
        _WAITING[row.state],
        row.attempts,
        row.next_attempt,
        outcome_of(row.outcome),
        bool(row.warned),
    )


def row_of(record: Record, message_sender: str) -> RecipientRow:
    """The inverse of record_of; `message_sender`: the message's raw reverse-path."""
    recipient = record.recipient
    mailbox, original = raw(recipient.mailbox), raw(recipient.original)
    path = raw_path(recipient.reverse_path)
    fixed = (
        record.message,
        record.number,
        recipient.destination,
        mailbox,
        None if original == mailbox else original,
        recipient.next_hop,
        None if path == message_sender else path,
        recipient.orcpt,
        ",".join(sorted(recipient.notify)),
        recipient.header,
    )
    return RecipientRow(
        *fixed,
        _parity(fixed),
        int(record.state),
        record.attempts,
        record.next_attempt,
        int(record.warned),
        None if record.last is None else str(record.last.reply),
        outcome_text(record.last),
    )


def envelopes_of(
    row: MessageRow,
    waiting: Iterable[RecipientRow],
    accepted: Iterable[tuple[int, str, str]],
    meant: frozenset[int],
) -> Envelopes:
    """A waiting message without its content; raises UndecodableError.

    `accepted`: of all its recipients the number, the mailbox, and the ledger's note of the end.
    """
    try:
        message = message_of(row, BytesContent(b""), ())
        records = tuple(record_of(each, message.envelope) for each in waiting)
        numbers = {record.number for record in records}
        told = tuple(accepted)
        return Envelopes(
            row.ident,
            row.received,
            message.envelope,
            message.client,
            facts_of(row.sender, row.facts).trail,
            records,
            meant & numbers,
            tuple((mailbox_of(to), note) for number, to, note in told if number not in numbers),
            1 + max(numbers.union(number for number, _, _ in told)),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise UndecodableError(f"row does not decode ({error})") from error


def history_of(ident: int, rows: list[LedgerRow]) -> History | None:
    """A message's ledger rows, in the order of their key, as one value; raises UndecodableError."""
    ends = {row.number: row for row in rows if row.ended}
    accepted = [row for row in rows if not row.ended]
    about = next((row for row in accepted if row.facts is not None), None)
    if about is None:
        return None
    assert about.size is not None and about.sender is not None and about.facts is not None
    facts = facts_of(about.sender, about.facts)
    return History(
        ident,
        about.at,
        about.size,
        facts.envelope,
        facts.client,
        facts.rules,
        facts.trail,
        facts.names,
        tuple(_entry(row, ends.get(row.number)) for row in accepted),
    )


def _entry(row: LedgerRow, end: LedgerRow | None) -> LedgerEntry:
    assert row.mailbox is not None and row.next_hop is not None
    to = mailbox_of(row.mailbox)
    first = to if row.original is None else mailbox_of(row.original)
    if end is None:
        return LedgerEntry(row.number, to, first, row.next_hop, None)
    assert end.attempts is not None and end.note is not None
    return LedgerEntry(
        row.number,
        to,
        first,
        row.next_hop,
        RecipientState(end.state),
        end.at,
        end.attempts,
        outcome_of(end.outcome),
        end.note,
    )
