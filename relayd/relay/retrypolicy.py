"""What one outcome makes of one recipient: delivered, failed, expired, or another attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from relayd.mail.message import Message, RecipientState, Record, Settlement
from relayd.mail.outcome import Blame, Outcome
from relayd.mail.reply import Severity
from relayd.relay.trouble import TOO_MUCH
from relayd.spool.schedule import DEFAULT, Schedule

NEAR = 300.0  # seconds; a recipient whose attempt is that near is left to it by the sweep


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long we try. Times are seconds."""

    schedule: Schedule = field(default_factory=lambda: Schedule.parse(DEFAULT))
    warn_after: float = 4 * 3600.0
    give_up: float = 5 * 86400.0
    jitter: float = 0.1  # a delay is that part shorter or longer

    def delay(self, attempts: int, chance: float) -> float:
        """Seconds until the next attempt after so many; `chance` is in [0, 1)."""
        return self.schedule.delay(attempts) * (1 + self.jitter * (2 * chance - 1))

    @property
    def longest(self) -> float:
        """No next attempt is further away, in seconds, unless the clock was set back."""
        return max(self.schedule.delays) * (1 + self.jitter) + 60.0

    @property
    def farthest(self) -> float:
        """As far away may be what somebody else has set, in seconds."""
        return self.longest - 30.0

    def expired(self, message: Message, now: float) -> bool:
        """Too old to try again."""
        return now - message.received_at >= self.give_up

    def worrying(self, message: Message, record: Record, now: float) -> bool:
        """The sender should hear of the delay."""
        return not record.warned and now - message.received_at >= self.warn_after


def speaks_against_destination(outcome: Outcome) -> bool:
    """The next hop as a whole is in trouble."""
    return outcome.blame is Blame.DESTINATION and outcome.severity is Severity.TRANSIENT


def serves_none(outcomes: Sequence[Outcome]) -> bool:
    """The next hop does not serve us for any of these, and may for others."""
    return all(outcome.blame is Blame.SERVICE for outcome in outcomes)


def asks_for_less(outcome: Outcome) -> bool:
    """The next hop itself said that it is too much, in whatever words about this mail.

    Not 4.3.2 (RFC 3463: it takes nothing from anybody just now): that is as a connection lost.
    """
    return (
        outcome.severity is Severity.TRANSIENT
        and outcome.remote_mta != ""
        and outcome.reply.status != "4.3.2"
        and (outcome.blame is Blame.DESTINATION or outcome.reply.status in TOO_MUCH)
    )


def judge(
    message: Message,
    record: Record,
    outcome: Outcome,
    retry_policy: RetryPolicy,
    *,
    now: float,
    retry_at: float,
    excused: bool = False,
) -> Settlement:
    """Settle an attempt that failed; `retry_at` is when the next one would be.

    `excused`: it does not count. What is owed to the sender after so long a time is owed all the
    same.
    """
    if outcome.severity is Severity.PERMANENT:
        return Settlement(record, RecipientState.FAILED, outcome)
    if retry_policy.expired(message, now):
        return Settlement(record, RecipientState.EXPIRED, outcome)
    # the last attempt is made when the time is up, not up to four hours later
    last = max(message.received_at + retry_policy.give_up, now + 1.0)
    at = min(retry_at, last)
    # the sweep warns of all that wait for long, together
    warned = at <= now + NEAR and retry_policy.worrying(message, record, now)
    return Settlement(
        record,
        RecipientState.QUEUED,
        outcome,
        next_attempt=at,
        attempted=not excused or warned,  # a report tells of it
        warned=warned,
    )


def judge_waiting(
    message: Message,
    record: Record,
    trouble: Outcome | None,
    retry_policy: RetryPolicy,
    *,
    now: float,
) -> Settlement | None:
    """Settle a recipient that waits and is not attempted; None: nothing to say.

    `trouble` is the lane's, for who was never attempted because the lane is down.
    """
    outcome = record.last or trouble
    if outcome is None:
        return None  # never tried, and no reason not to: its attempt comes first
    if retry_policy.expired(message, now):
        return Settlement(record, RecipientState.EXPIRED, outcome, attempted=False)
    if retry_policy.worrying(message, record, now):
        return Settlement(
            record,
            RecipientState.QUEUED,
            outcome,
            next_attempt=record.next_attempt,
            attempted=False,
            warned=True,
        )
    return None


def unreported(settlement: Settlement, *, now: float, delay: float) -> Settlement:
    """The same without owing a report, for when that cannot be written: a bug loses no mail."""
    if settlement.state in (RecipientState.FAILED, RecipientState.EXPIRED):
        return Settlement(
            settlement.record,
            RecipientState.QUEUED,
            settlement.outcome,
            next_attempt=now + delay,
            attempted=settlement.attempted,
        )
    return Settlement(
        settlement.record,
        settlement.state,
        settlement.outcome,
        settlement.next_attempt,
        settlement.attempted,
    )
