"""A message: envelope and content, once accepted, and the record of each of its recipients."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import field

from relayd.mail.client import Client
from relayd.mail.content import Content, SplicedContent
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.ident import ident_text
from relayd.mail.outcome import UNANSWERED, Outcome, held
from relayd.mail.plan import Step
from relayd.mail.value import dataclass


class RecipientState(enum.IntEnum):
    """Where a recipient of an accepted message stands. Values are stored: never renumber."""

    QUEUED = 0
    HELD = 1
    # the end states: every accepted recipient reaches exactly one of them (promise 3)
    DELIVERED = 2
    FAILED = 3  # permanent failure, reported unless NOTIFY or a null reverse-path forbade it
    EXPIRED = 4  # given up after the queue lifetime, reported likewise
    DISCARDED = 5  # by a named rule
    REMOVED = 6  # by the operator

    def __init__(self, number: int) -> None:
        self.waiting = number < 2  # not yet in an end state


@dataclass(frozen=True, slots=True)
class Message:
    """One accepted message. Times are seconds since the epoch (they live in an index)."""

    ident: int
    received_at: float
    envelope: Envelope
    client: Client
    content: Content
    header_size: int  # octets up to and including the empty line; trace fields included
    eight_bit: bool  # an octet above 127 is in the content
    utf8_header: bool  # ... and in its header section (RFC 6532)
    headers: tuple[bytes, ...] = ()  # rewritten header sections; Recipient.header counts from 1

    def __str__(self) -> str:
        return ident_text(self.ident)

    def content_for(self, header: int) -> Content:
        """The content with the header section that a recipient is to see (Recipient.header)."""
        if header == 0:
            return self.content
        return SplicedContent(self.headers[header - 1], self.content, self.header_size)


@dataclass(frozen=True, slots=True)
class Record:
    """One recipient of one message as the spool knows it."""

    message: int
    number: int  # position among the message's recipients, from 0
    recipient: Recipient
    state: RecipientState = RecipientState.QUEUED
    attempts: int = 0
    next_attempt: float = 0.0  # seconds since the epoch
    last: Outcome | None = None
    warned: bool = False  # the delay warning was sent


@dataclass(frozen=True, slots=True)
class Submission:
    """All that becomes durable before 250: handed to the spool in one piece."""

    envelope: Envelope
    client: Client
    recipients: tuple[Recipient, ...]
    header_size: int
    eight_bit: bool
    utf8_header: bool
    headers: tuple[bytes, ...] = ()
    state: RecipientState = (
        RecipientState.QUEUED
    )  # or HELD, or DISCARDED (then only the ledger knows it)
    trail: tuple[Step, ...] = ()
    rules: str = ""  # hash of the rule set that decided
    states: tuple[
        RecipientState, ...
    ] = ()  # one per recipient where they differ; empty: all in `state`
    unanswered: bool = False  # all are HELD until Store.answered says that the client heard 250
    holding: tuple[Iterable[Step], ...] = ()
    # ^ one per recipient, where somebody is held: what was decided about this one; empty: `trail`

    def state_of(self, number: int) -> RecipientState:
        """The state in which the recipient of this number (from 0) enters the spool."""
        return self.states[number] if self.states else self.state

    def first_word(self, number: int) -> Outcome | None:
        """What is to be said of a recipient before any attempt: which rules hold it."""
        if self.state_of(number) is not RecipientState.HELD:
            return None
        if self.unanswered:
            return UNANSWERED
        return held_by_rules(self.holding[number] if self.holding else self.trail)


def held_by_rules(trail: Iterable[Step]) -> Outcome:
    """What is to be said of a recipient whom the rules of this trail hold."""
    steps = (step for step in trail if step.stage == "hold")
    holding = dict.fromkeys(f"{step.place} {step.rule}" for step in steps)  # each once
    return held(f"rule {', '.join(holding)}" if holding else "a rule")


@dataclass(frozen=True, slots=True)
class Settlement:
    """What one attempt (or the operator) makes of one recipient."""

    record: Record
    state: RecipientState
    outcome: Outcome | None = None
    next_attempt: float = 0.0  # only for QUEUED
    attempted: bool = True  # counts as an attempt
    warned: bool = False  # the delay warning goes out with this settlement
    note: str = field(default="")  # for the ledger: the operator's or the rule's reason
