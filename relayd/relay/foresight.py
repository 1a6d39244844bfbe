"""What was foreseen of copies, held against what next hops say of them.

A forecast of `pass` is right where the copy is taken, and wrong where it is refused for who sends
it; one of `fails` the other way round. A refusal for anything else says nothing about either, and
neither does what was called a risk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from relayd.mail.delivery import Delivery
from relayd.mail.log import MailLog
from relayd.mail.outcome import Meaning, Outcome
from relayd.mail.plan import FORECAST, Step

PASS, FAILS = "pass", "fails"
_MOST = 10_000  # messages that are remembered
# RFC 7372 and the registry of RFC 5248: DKIM, SPF, several at once, ARC; what the texts have
_STATUSES = frozenset((7, detail) for detail in (20, 21, 22, 23, 24, 26, 27, 29, 30))
_WORDS = re.compile(
    r"\b(?:DMARC|SPF|DKIM)\b|unauthenticated|not authenticated|authentication (?:checks?|failed)",
    re.IGNORECASE,
)


class Foresight:
    """Of one process, since its start."""

    def __init__(self, log: MailLog) -> None:
        self._log = log
        self.waiting: dict[int, dict[str, str]] = {}  # messages: what is foreseen for whom
        self.right = 0
        self.wrong = 0
        self.on_verdict: Callable[[bool], None] = lambda right: None

    def note(self, ident: int, trail: Sequence[Step]) -> None:
        """A message was taken, and this foreseen of its copies."""
        foreseen = {
            step.note.partition(": ")[0]: step.rule
            for step in trail
            if step.stage == FORECAST and step.rule in (PASS, FAILS)
        }
        if foreseen:
            if len(self.waiting) >= _MOST:  # the oldest waits for something else
                del self.waiting[next(iter(self.waiting))]
            self.waiting[ident] = foreseen

    def heard(self, delivery: Delivery, outcomes: Sequence[Outcome]) -> None:
        """What became of a delivery."""
        ident = delivery.message.ident
        foreseen = self.waiting.get(ident)
        if foreseen is None:
            return
        for record, outcome in zip(delivery.records, outcomes, strict=True):
            mailbox = str(record.recipient.mailbox)
            code = outcome.reply.code
            taken = code < 300
            refused = code >= 400 and bool(outcome.remote_mta) and _for_its_sender(outcome)
            if code >= 300 and not refused and code < 500:
                continue  # it is tried again
            forecast = foreseen.pop(mailbox, "")
            if not forecast or not (taken or refused):
                continue
            right = taken == (forecast == PASS)
            self.on_verdict(right)
            if right:
                self.right += 1
                continue
            self.wrong += 1
            self._log.notice(
                "forecast was wrong",
                id=str(delivery.message),
                to=mailbox,
                forecast=forecast,
                reply=str(outcome.reply),
            )
        if not foreseen:
            del self.waiting[ident]


def _for_its_sender(outcome: Outcome) -> bool:
    """Whether a refusal is for what nobody answers for."""
    reply = outcome.reply
    return (
        outcome.meaning is Meaning.UNAUTHENTICATED
        or (reply.subject, reply.detail) in _STATUSES
        or (reply.subject == 7 and _WORDS.search(reply.text) is not None)
    )
