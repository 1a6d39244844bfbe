"""What follows when a report of ours is not delivered: smaller, or the postmaster hears of it.

There is never a report about a report to its recipient. What cannot be sent in a smaller form is
lost: one line of trouble, one more in the count, and a copy to the postmaster, of which only so
many are sent an hour, for a flood of forged senders is no flood to him. The copy is sent with
NOTIFY=NEVER: when it is lost too, it is counted, and that is all.

A copy that a `copy` rule sent is nobody's business but the postmaster's, too: when it fails he is
told, out of the same allowance, and its sender is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from relayd.mail.address import Mailbox
from relayd.mail.content import BytesContent
from relayd.mail.log import MailLog
from relayd.mail.message import Message, RecipientState, Settlement
from relayd.report.bounce import Action, Report, entry_of
from relayd.report.smaller import Smaller, in_seven_bits, smaller

POSTMASTER = Mailbox("postmaster", "")  # who that is, the rules say
COPIES = 20  # to the postmaster in an hour, of one shard
_HOUR = 3600.0


class LostReports:
    """Follows up reports that fail. `count`: lost ones since the start."""

    def __init__(self, log: MailLog, now: Callable[[], float]) -> None:
        self.count = 0
        self._log = log
        self._now = now
        self._hour = 0
        self._copies = 0

    def follow(self, message: Message, settlements: Sequence[Settlement]) -> list[Report | Smaller]:
        """What is to be sent instead of this report; its own outcome stays as it is."""
        alike: dict[object, list[Settlement]] = {}
        for each in settlements:
            if each.state in (RecipientState.FAILED, RecipientState.EXPIRED):
                status = each.outcome.reply.status if each.outcome is not None else ""
                alike.setdefault((each.state, status), []).append(each)
        followed: list[Report | Smaller] = []
        lost: list[Settlement] = []
        for group in alike.values():
            again = smaller(message, group)
            if again is not None:
                followed.append(again)
            else:
                lost += group
        copy = self._lose(message, lost) if lost else None
        return followed if copy is None else [*followed, copy]

    def copies(self, message: Message, settlements: Sequence[Settlement]) -> list[Report]:
        """What the postmaster is told, and nobody else, of copies that `copy` rules sent."""
        lost = [
            each
            for each in settlements
            if each.state in (RecipientState.FAILED, RecipientState.EXPIRED)
            and each.record.recipient.bcc
        ]
        if not lost:
            return []
        untold = self._too_many()
        self._say("copy lost", message, lost, untold)
        entries = tuple(entry_of(each, self._now()) for each in lost)
        return [] if untold else [Report(message, POSTMASTER, Action.FAILED, entries, lost=True)]

    def _lose(self, message: Message, lost: Sequence[Settlement]) -> Report | None:
        self.count += 1
        copy = any("NEVER" in each.record.recipient.notify for each in lost)
        untold = "this was the copy" if copy else self._too_many()
        self._say("report lost", message, lost, untold)
        if untold:
            return None
        # in 7 bits, so that it can be returned whole: it says which mail it is about
        content = in_seven_bits(message)
        about = replace(message, content=BytesContent(content), eight_bit=False, utf8_header=False)
        entries = tuple(entry_of(each, self._now()) for each in lost)
        return Report(about, POSTMASTER, Action.FAILED, entries, lost=True)

    def _say(self, event: str, message: Message, lost: Sequence[Settlement], untold: str) -> None:
        outcome = lost[0].outcome
        self._log.trouble(
            event,
            **{event.partition(" ")[0]: str(message)},
            to=", ".join(f"<{each.record.recipient.mailbox}>" for each in lost[:3]),
            reply=str(outcome.reply) if outcome is not None else "",
            postmaster=f"no: {untold}" if untold else "told",
        )

    def _too_many(self) -> str:
        """Why the postmaster is not told of one more; empty: he is."""
        hour = int(self._now() / _HOUR)
        if hour != self._hour:
            self._hour, self._copies = hour, 0
        self._copies += 1
        return "" if self._copies <= COPIES else f"{COPIES} copies in this hour already"
