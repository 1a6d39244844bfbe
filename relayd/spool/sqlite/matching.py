"""Filters and listings over messages in memory: what search.py asks of SQLite, in Python."""

from __future__ import annotations

from relayd.mail.envelope import Direction, direct_queue
from relayd.mail.message import Message, RecipientState, Record
from relayd.spool.sqlite.rows import raw, raw_path
from relayd.spool.sqlite.search import fold, rule_words
from relayd.spool.view import QueueFilter, RecipientSummary, Summary


def matches(wanted: QueueFilter, message: Message, record: Record) -> bool:
    """Whether a waiting recipient is meant (see QueueFilter)."""
    recipient = record.recipient
    destinations = {recipient.destination, *Direction.parse(recipient.next_hop).names}
    direct = direct_queue(wanted.destination.lower())
    sender = raw_path(message.envelope.reverse_path)
    return (
        (not wanted.ident or message.ident == wanted.ident)
        and (wanted.state is None or record.state is wanted.state)
        and (
            not wanted.destination
            or bool({wanted.destination, direct} & destinations)
            or recipient.destination.startswith(f"{direct} ")
        )
        and (sender == "" if wanted.sender == "<>" else _match(wanted.sender, sender))
        and (
            _match(wanted.recipient, raw(recipient.mailbox))
            or _match(wanted.recipient, raw(recipient.original))
        )
        and (not wanted.rule or _holds(wanted.rule, record))
        and (record.last is not None or not wanted.reply)
        and (record.last is None or str(record.last.reply).startswith(wanted.reply))
        and (not wanted.received_before or message.received_at < wanted.received_before)
    )


def _holds(rule: str, record: Record) -> bool:
    said = "" if record.last is None else str(record.last.reply)
    return record.state is RecipientState.HELD and rule_words(rule) in f" {fold(said)} "


def _match(pattern: str, text: str) -> bool:
    local, at, domain = pattern.rpartition("@")
    if at and local and domain:
        return fold(pattern) == fold(text)
    return fold(pattern) in fold(text)


def summary_of(message: Message) -> Summary:
    """A message as a listing shows it, without its recipients."""
    sender = raw_path(message.envelope.reverse_path)
    return Summary(message.ident, message.received_at, message.content.size, sender, [])


def recipient_summary_of(record: Record) -> RecipientSummary:
    """A record as a listing shows it."""
    recipient = record.recipient
    return RecipientSummary(
        record.number,
        raw(recipient.mailbox),
        raw(recipient.original),
        recipient.next_hop,
        recipient.destination,
        int(record.state),
        record.attempts,
        record.next_attempt,
        "" if record.last is None else str(record.last.reply),
    )
