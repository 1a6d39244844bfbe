"""Filters and listings over messages in memory: what search.py asks of SQLite, in Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from relayd.mail.address import spellings
from relayd.mail.envelope import Direction, direct_queue
from relayd.mail.message import Message, RecipientState, Record
from relayd.mail.naming import shown
from relayd.spool.condition import rule_words, spelled
from relayd.spool.sqlite.rows import fold, raw, raw_path
from relayd.spool.sqlite.sieve import named, words
from relayd.spool.view import (
    FindFilter,
    FoundRecipient,
    History,
    QueueFilter,
    RecipientSummary,
    Summary,
)


def matches(wanted: QueueFilter, message: Message, record: Record) -> bool:
    """Whether a waiting recipient is meant (see QueueFilter)."""
    recipient = record.recipient
    destinations = {recipient.destination, *Direction.parse(recipient.next_hop).names}
    direct = direct_queue(spellings(wanted.destination)[0])
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
        and (
            not wanted.domain
            or _is(f"@{wanted.domain}", raw(recipient.mailbox))
            or _is(f"@{wanted.domain}", raw(recipient.original))
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
        return fold(text) in spelled(pattern)
    return any(each in fold(text) for each in spelled(pattern))


def found_in(
    wanted: FindFilter, history: History, waiting: Mapping[int, Record]
) -> Iterator[FoundRecipient]:
    """The recipients of a message that are looked for."""
    sender, names, client = raw_path(history.reverse_path), history.names, history.client
    if (
        not (_is(wanted.sender, sender) if wanted.sender != "<>" else sender == "")
        or (wanted.message_id and named(wanted.message_id) != named(names.message_id))
        or not set(words(wanted.subject)) <= set(words(names.subject))
        or (wanted.since and history.received_at < wanted.since)
        or (wanted.until and history.received_at >= wanted.until)
    ):
        return
    for asked, known in (
        (wanted.envid, history.envelope.envid),
        (wanted.client, client.address),
        (wanted.login, client.login),
    ):
        if asked and fold(asked) != fold(known):
            return
    for entry in history.entries:
        record = waiting.get(entry.number)
        state = record.state if record is not None else entry.state
        if (
            state is None
            or (wanted.states and state not in wanted.states)
            or not any(_is(wanted.recipient, raw(to)) for to in (entry.mailbox, entry.original))
        ):
            continue
        said = record.last if record is not None else entry.outcome
        yield FoundRecipient(
            history.ident,
            history.received_at,
            history.size,
            sender,
            names.message_id,
            shown(names.subject),
            entry.number,
            raw(entry.mailbox),
            raw(entry.original),
            entry.next_hop,
            int(state),
            entry.attempts if record is None else record.attempts,
            entry.ended_at,
            "" if said is None else str(said.reply),
        )


def _is(wanted: str, mailbox: str) -> bool:
    """A whole address, or all of a domain."""
    if wanted.startswith("@"):
        return fold(mailbox).endswith(spelled(wanted))
    return not wanted or fold(mailbox) in spelled(wanted)


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
