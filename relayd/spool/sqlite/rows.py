"""Messages as rows of the tables and back; nothing pickled, every value as column or JSON."""

from __future__ import annotations

import json
from typing import Any, NamedTuple
from zlib import crc32

from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.client import Client
from relayd.mail.content import Content
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.message import Message, RecipientState, Record, Settlement, Submission
from relayd.mail.outcome import Blame, Outcome
from relayd.mail.plan import Step
from relayd.mail.reply import Reply
from relayd.spool.view import Accepted, History, LedgerEntry

Row = tuple[Any, ...]

EIGHT_BIT = 1
UTF8_HEADER = 2
IN_FILE = 4

# ASCII only: whatever a peer managed to say, the text can be stored
_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class UndecodableError(Exception):
    """A row does not say what a row says; the text tells which part."""


class NewRows(NamedTuple):
    """Everything one acceptance writes, and what it returns."""

    ident: int
    message: Row | None  # None: the ledger alone hears of it
    content: Row | None
    recipients: list[Row]
    headers: list[Row]
    ledger: list[Row]
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


def facts_text(submission: Submission) -> str:
    """What the message and the ledger keep of MAIL, the client and the rules."""
    envelope, client = submission.envelope, submission.client
    return _to_json(
        (
            (envelope.body, envelope.smtputf8, envelope.ret, envelope.envid, envelope.require_tls),
            (
                client.address,
                client.port,
                client.listener,
                client.helo,
                client.protocol,
                client.tls,
                client.login,
                client.certificate,
            ),
            submission.rules,
            [(step.stage, step.place, step.rule, step.note) for step in submission.trail],
        )
    )


class StoredFacts(NamedTuple):
    """The inverse of facts_text."""

    envelope: Envelope
    client: Client
    rules: str
    trail: tuple[Step, ...]


def facts_of(sender: str, text: str) -> StoredFacts:
    """Read back what facts_text wrote."""
    try:
        envelope, client, rules, trail = json.loads(text)
        return StoredFacts(
            Envelope(path_of(sender), *envelope),
            Client(*client),
            rules,
            tuple(Step(*step) for step in trail),
        )
    except (ValueError, TypeError) as error:
        raise UndecodableError("message facts") from error


def outcome_text(outcome: Outcome | None) -> str | None:
    """An outcome as JSON."""
    if outcome is None:
        return None
    reply = outcome.reply
    return _to_json(
        (
            (reply.code, reply.subject, reply.detail, reply.lines),
            outcome.remote_mta,
            outcome.remote_address,
            outcome.blame.value,
            outcome.passed_on,
            outcome.tls,
            outcome.why,
        )
    )


def outcome_of(text: str | None) -> Outcome | None:
    """The inverse of outcome_text."""
    if text is None:
        return None
    try:
        (code, subject, detail, lines), mta, address, blame, passed_on, tls, why = json.loads(text)
        reply = Reply(code, subject, detail, tuple(lines))
        return Outcome(reply, mta, address, Blame(blame), passed_on, tls, why)
    except (ValueError, TypeError) as error:
        raise UndecodableError("last outcome") from error


def _text_parity(text: str, start: int = 0) -> int:
    return crc32(text.encode("utf-8", "surrogatepass"), start)


def message_parity(row: Row) -> int:
    """Over all columns of a message row but `parity` itself."""
    return _text_parity(repr(row[:8]))


def recipient_parity(row: Row) -> int:
    """Over the columns of a recipient row that never change."""
    return _text_parity(repr(row[:10]))


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
    facts = facts_text(submission)
    sender = raw_path(submission.envelope.reverse_path)
    records = []
    recipients: list[Row] = []
    ledger: list[Row] = []
    for number, recipient in enumerate(submission.recipients):
        state = submission.state_of(number)
        stored = int(state)
        mailbox = raw(recipient.mailbox)
        original: str | None = raw(recipient.original)
        if original == mailbox:
            original = None
        about = (size, sender, facts) if number == 0 else (None, None, None)
        path: str | None = raw_path(recipient.reverse_path)
        if path == sender:
            path = None
        ledger.append(
            (ident, number, 0, now, stored, mailbox, original, recipient.next_hop, *about,
             None, None, path)
        )  # fmt: skip
        records.append(Record(ident, number, recipient, state, 0, now))
        if not state.waiting:
            ledger.append((ident, number, 1, now, stored, *_NO_FACTS, 0, None, ""))
            continue
        fixed: Row = (
            ident,
            number,
            recipient.destination,
            mailbox,
            original,
            recipient.next_hop,
            path,
            recipient.orcpt,
            ",".join(sorted(recipient.notify)),
            recipient.header,
        )
        recipients.append((*fixed, recipient_parity(fixed), stored, 0, now, 0, None, None))
    value = (message, tuple(records))
    if not recipients:
        return NewRows(ident, None, None, [], [], ledger, value)
    flags = (
        (EIGHT_BIT if submission.eight_bit else 0)
        | (UTF8_HEADER if submission.utf8_header else 0)
        | (IN_FILE if data is None else 0)
    )
    fixed = (ident, now, sender, size, submission.header_size, flags, facts, parity)
    headers = [(ident, n, section) for n, section in enumerate(submission.headers, 1)]
    return NewRows(
        ident,
        (*fixed, message_parity(fixed)),
        None if data is None else (ident, data),
        recipients,
        headers,
        ledger,
        value,
    )


_NO_FACTS = (None, None, None, None, None, None)


def end_row(settlement: Settlement, now: float) -> Row:
    """The ledger's row about the end of a recipient."""
    record = settlement.record
    return (
        record.message,
        record.number,
        1,
        now,
        int(settlement.state),
        *_NO_FACTS,
        record.attempts + settlement.attempted,
        outcome_text(settlement.outcome),
        settlement.note,
    )


def message_of(row: Row, content: Content, headers: tuple[bytes, ...]) -> Message:
    """A message from its row; raises UndecodableError."""
    if message_parity(row) != row[8]:
        raise UndecodableError("message row")
    ident, received, sender, _, header_size, flags, facts = row[:7]
    envelope, client, _, _ = facts_of(sender, facts)
    return Message(
        ident,
        received,
        envelope,
        client,
        content,
        header_size,
        bool(flags & EIGHT_BIT),
        bool(flags & UTF8_HEADER),
        headers,
    )


_WAITING = {int(state): state for state in RecipientState if state.waiting}


def record_of(row: Row, envelope: Envelope) -> Record:
    """A record from its row; raises UndecodableError."""
    if recipient_parity(row) != row[10]:
        raise UndecodableError("recipient row")
    number, _, mailbox, original, next_hop, sender, orcpt, notify, header = row[1:10]
    state, attempts, next_attempt, warned, _, outcome = row[11:]
    if state not in _WAITING:
        raise UndecodableError("recipient state")
    to = mailbox_of(mailbox)
    recipient = Recipient(
        to,
        to if original is None else mailbox_of(original),
        next_hop,
        envelope.reverse_path if sender is None else path_of(sender),
        orcpt,
        frozenset(notify.split(",")) if notify else frozenset(),
        header,
    )
    last = outcome_of(outcome)
    return Record(
        row[0], number, recipient, _WAITING[state], attempts, next_attempt, last, bool(warned)
    )


def history_of(ident: int, rows: list[Row]) -> History | None:
    """A message's ledger rows, in the order of their key, as one value; raises UndecodableError."""
    ends = {row[1]: row for row in rows if row[2] == 1}
    accepted = [row for row in rows if row[2] == 0]
    about = next((row for row in accepted if row[10] is not None), None)
    if about is None:
        return None
    size, sender, text = about[8:11]
    facts = facts_of(sender, text)
    entries = []
    for _, number, _, _, _, mailbox, original, next_hop, *_ in accepted:
        end = ends.get(number)
        to = mailbox_of(mailbox)
        first = to if original is None else mailbox_of(original)
        if end is None:
            entries.append(LedgerEntry(number, to, first, next_hop, None))
            continue
        at, state, attempts, outcome, note = end[3], end[4], end[11], end[12], end[13]
        entries.append(
            LedgerEntry(
                number,
                to,
                first,
                next_hop,
                RecipientState(state),
                at,
                attempts,
                outcome_of(outcome),
                note,
            )
        )
    return History(ident, about[3], size, *facts[:3], facts.trail, tuple(entries))
