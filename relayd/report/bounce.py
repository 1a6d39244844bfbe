"""Which reports one attempt makes us owe, by the rules of RFC 3461: to whom, and about what."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import replace

from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.envelope import Recipient
from relayd.mail.message import Message, RecipientState, Settlement
from relayd.mail.outcome import Outcome
from relayd.mail.value import dataclass

MAX_ENTRIES = 1000  # recipients in one report; more are spread over several, none is left out


class Action(enum.Enum):
    """The Action field of RFC 3464 section 2.3.3; a report speaks of one of them."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"


_ORDER = {action: number for number, action in enumerate(Action)}


@dataclass(frozen=True, slots=True)
class ReportedRecipient:
    """One recipient in a report. `outcome` is None where nothing was attempted."""

    recipient: Recipient
    outcome: Outcome | None = None
    expired: bool = False  # given up for its age: `outcome` is the last transient one
    attempted_at: float = 0.0  # seconds since the epoch; 0: not in this settlement


@dataclass(frozen=True, slots=True)
class Report:
    """One report that is owed, not yet written. Times are seconds since the epoch."""

    about: Message
    to: Mailbox
    action: Action
    entries: tuple[ReportedRecipient, ...]
    retry_until: float = 0.0  # only for DELAYED
    lost: bool = False  # a report, or a copy, that nobody takes: the postmaster is told

    @property
    def of_copy(self) -> bool:
        """It is about what a `copy` rule sent."""
        return self.entries[0].recipient.bcc

    @property
    def kind(self) -> str:
        """For the log and the Message-ID."""
        return "lost" if self.lost else self.action.value


def owed(
    message: Message,
    settlements: Sequence[Settlement],
    *,
    now: float,
    give_up: float,
    final: bool,
) -> tuple[Report, ...]:
    """The reports that these settlements of one message make us owe.

    `give_up` is the queue lifetime in seconds; `final` says that the next hop is a mail store
    (LMTP), so that success is a delivery and not a relaying. Recipients with the same action
    and the same return path share one report, up to MAX_ENTRIES.
    """
    entries: dict[tuple[Action, Mailbox], list[ReportedRecipient]] = {}
    for settlement in settlements:
        action = action_owed(settlement, final=final)
        to = return_path(message, settlement.record.recipient)
        if action is not None and to is not None:
            entries.setdefault((action, to), []).append(entry_of(settlement, now))
    until = message.received_at + give_up
    return tuple(
        Report(message, to, action, part, until if action is Action.DELAYED else 0.0)
        for (action, to), told in sorted(entries.items(), key=lambda each: _ORDER[each[0][0]])
        for part in _parts(told)
    )


def return_path(message: Message, recipient: Recipient) -> ReversePath:
    """Who is told of this recipient's fate; None: nobody.

    The reverse-path that the rules left it with: a list's owner hears of the list's members
    (RFC 5321 section 3.9.2). An SRS address only stands for the sender, whom we know.
    """
    sender = message.envelope.reverse_path
    if sender is None:  # a report, or mail that wants none (RFC 5321 section 4.5.5)
        return None
    rewritten = recipient.reverse_path
    if rewritten is None or rewritten.local[:4].upper() in ("SRS0", "SRS1"):
        return sender
    return rewritten


def action_owed(settlement: Settlement, *, final: bool) -> Action | None:
    """What the sender is to be told of this recipient, if anything (RFC 3461 section 4.1)."""
    notify = settlement.record.recipient.notify
    if "NEVER" in notify:
        return None
    state = settlement.state
    # without NOTIFY, failures are reported, and delays may be
    if state in (RecipientState.FAILED, RecipientState.EXPIRED):
        return Action.FAILED if not notify or "FAILURE" in notify else None
    if state is RecipientState.QUEUED:
        return Action.DELAYED if settlement.warned and (not notify or "DELAY" in notify) else None
    if state is RecipientState.DELIVERED and "SUCCESS" in notify:
        return _success(settlement.outcome, final=final)
    return None


def _success(outcome: Outcome | None, *, final: bool) -> Action | None:
    """Who speaks of success: the next hop if it took that over, else we do."""
    if outcome is not None and outcome.passed_on:
        return None
    return Action.DELIVERED if final else Action.RELAYED


def expand(
    recipients: Sequence[Recipient],
) -> tuple[tuple[Recipient, ...], tuple[Recipient, ...]]:
    """Take the wish for a success report from recipients that an alias turned into several.

    RFC 3461, multiple-recipient aliases, way (c): the other parameters go on to every address,
    SUCCESS does not, and the sender is told "expanded" instead. Returns the recipients to store
    and, one each, the aliases that `expanded` is owed for. Called at acceptance.
    """
    for recipient in recipients:
        if "SUCCESS" in recipient.notify:
            break
    else:
        return tuple(recipients), ()
    groups: dict[tuple[Mailbox, str], int] = {}
    for recipient in recipients:
        key = recipient.original, recipient.orcpt
        groups[key] = groups.get(key, 0) + 1
    kept: list[Recipient] = []
    aliases: dict[tuple[Mailbox, str], Recipient] = {}
    for recipient in recipients:
        key = recipient.original, recipient.orcpt
        if groups[key] == 1 or "SUCCESS" not in recipient.notify:
            kept.append(recipient)
            continue
        aliases.setdefault(key, replace(recipient, mailbox=recipient.original))
        # an empty NOTIFY would mean the default, FAILURE: not what the sender said
        notify = recipient.notify - {"SUCCESS"} or frozenset({"NEVER"})
        kept.append(replace(recipient, notify=notify))
    return tuple(kept), tuple(aliases.values())


def expanded(message: Message, aliases: Sequence[Recipient]) -> tuple[Report, ...]:
    """The reports owed for the aliases that `expand` found, once the message is accepted."""
    to = message.envelope.reverse_path
    if to is None:
        return ()
    return tuple(
        Report(message, to, Action.EXPANDED, part)
        for part in _parts([ReportedRecipient(alias) for alias in aliases])
    )


def entry_of(settlement: Settlement, now: float) -> ReportedRecipient:
    """What a report says of this recipient."""
    return ReportedRecipient(
        settlement.record.recipient,
        # who is warned or given up between two attempts was told last time why
        settlement.outcome or settlement.record.last,
        expired=settlement.state is RecipientState.EXPIRED,
        attempted_at=now if settlement.attempted else 0.0,
    )


def _parts(entries: list[ReportedRecipient]) -> Iterator[tuple[ReportedRecipient, ...]]:
    for start in range(0, len(entries), MAX_ENTRIES):
        yield tuple(entries[start : start + MAX_ENTRIES])
