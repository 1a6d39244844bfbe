"""Which login, or which forwarded address, brings the mail that providers refuse for what it is.

A word about the content or its reputation is booked to the origin of that message: the login, else
the address that was forwarded. The one with the worst share is slowed first, and alone: its mail
goes direct at a rate that halves with each further word and rises while there is none. As long as
nobody complains, nothing is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from relayd.mail.delivery import Delivery
from relayd.mail.log import MailLog
from relayd.mail.message import Record
from relayd.mail.outcome import Meaning, Outcome
from relayd.mail.reply import Reply, printable
from relayd.relay.learntrate import LearntRate

_ENOUGH = 5  # complaints before anybody is slowed
_SHARE = 0.2  # ... and what part of its mail they are
_HALF_LIFE = 6 * 3600.0  # seconds in which what was counted counts half
_FIRST = 0.1  # messages a second, of which half is left by the first lesson
_NEWS = 10.0  # seconds: complaints that come together are one lesson
_MOST = 5000  # origins to remember
_MOST_SLOTS = 10_000  # messages that know when it is their turn


class _Origin:
    """What is known of one. Times are seconds since the epoch."""

    __slots__ = ("_at", "complaints", "last", "messages", "name", "rate", "refused_at", "turn")

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.messages = 0.0
        self.complaints = 0.0
        self.last = ""  # what was said
        self.rate: LearntRate | None = None  # not None: it is slowed
        self.refused_at = 0.0
        self.turn = 0.0  # when the next of its messages may go
        self._at = now

    def count(self, now: float, *, complaint: bool) -> None:
        """One more message, with its answer."""
        passed = max(now - self._at, 0.0)
        self._at = now
        kept = 0.5 ** (passed / _HALF_LIFE)
        self.messages = self.messages * kept + 1
        self.complaints = self.complaints * kept + complaint

    @property
    def share(self) -> float:
        """What part of its mail is complained about."""
        return self.complaints / self.messages if self.messages else 0.0


class Origins:
    """Keeps count of them, for one process."""

    def __init__(self, log: MailLog, now: Callable[[], float], random: Callable[[], float]) -> None:
        self._log = log
        self._now = now
        self._random = random
        self._known: dict[str, _Origin] = {}
        self._slots: dict[int, float] = {}  # of messages: when it is their turn
        self.slowed = False  # anybody is
        self.counting = False  # somebody was complained about

    def heard(self, delivery: Delivery, outcomes: Sequence[Outcome]) -> None:
        """What became of a delivery by a domain's exchangers."""
        for record, outcome in zip(delivery.records, outcomes, strict=True):
            complaint = outcome.meaning is Meaning.CONTENT
            if complaint or (self._known and outcome.reply.code < 300):
                name = _name(delivery, record)
                if name:
                    self._count(name, outcome, complaint=complaint)

    def _count(self, name: str, outcome: Outcome, *, complaint: bool) -> None:
        now = self._now()
        origin = self._known.get(name)
        if origin is None:
            if len(self._known) >= _MOST:
                self._forget_one()
            origin = self._known[name] = _Origin(name, now)
            self.counting = True
        origin.count(now, complaint=complaint)
        if complaint:
            origin.last = str(outcome.reply)
            self._complained(origin, now)
        elif origin.rate is not None:
            origin.rate.took(now, now)
            if not origin.rate.rate:
                origin.rate = None
                self._log.notice("origin is not slowed any more", origin=name)
                self.slowed = any(each.rate is not None for each in self._known.values())

    def _complained(self, origin: _Origin, now: float) -> None:
        if origin.complaints < _ENOUGH or origin.share < _SHARE:
            return
        if origin.rate is None:
            at_large = [each for each in self._known.values() if each.rate is None]
            if max(at_large, key=lambda each: each.share) is not origin:
                return  # another one is worse, and is slowed first
            origin.rate = LearntRate(self._random)
            origin.rate.rate = _FIRST
            self.slowed = True
            self._log.notice(
                "origin slowed",
                origin=origin.name,
                share=f"{origin.share:.2f}",
                reply=origin.last,
            )
        elif now - origin.refused_at < _NEWS:
            return
        origin.refused_at = now
        origin.rate.took(now, now)
        origin.rate.slower(now, now)

    def _forget_one(self) -> None:
        """The longest known that nobody complains about, or else the longest known."""
        quiet = (name for name, each in self._known.items() if each.complaints < 1)
        del self._known[next(quiet, next(iter(self._known)))]

    def turn_of(self, delivery: Delivery) -> tuple[float, Outcome] | None:
        """When a delivery of a slowed origin may go, and what is said of it; None: now."""
        now = self._now()
        for record in delivery.records:
            origin = self._known.get(_name(delivery, record))
            if origin is None or origin.rate is None:
                continue
            at = self._slots.pop(delivery.message.ident, None)
            if at is not None and now >= at - 1:
                return None
            if at is None:
                at = max(origin.turn, origin.rate.resume_at, now)
                origin.turn = at + 1 / (origin.rate.rate or 1)
                if at <= now:
                    return None
            if len(self._slots) >= _MOST_SLOTS:
                self._slots.clear()
            self._slots[delivery.message.ident] = at
            text = printable(
                f"Slowed ({origin.name}), for providers refuse its mail: {origin.last}"
            )
            return at, Outcome(Reply.of(450, "4.7.0", text))
        return None

    def documents(self) -> Iterator[dict[str, object]]:
        """For the operator: those that are complained about, the worst first."""
        for origin in sorted(self._known.values(), key=lambda each: -each.share):
            if origin.complaints >= 0.5:
                yield {
                    "origin": origin.name,
                    "messages": round(origin.messages, 1),
                    "complaints": round(origin.complaints, 1),
                    "share": round(origin.share, 3),
                    "rate": round(60 * origin.rate.rate, 3) if origin.rate is not None else 0.0,
                    "last": origin.last,
                }


def _name(delivery: Delivery, record: Record) -> str:
    """Who a message came by; empty: nobody in particular."""
    recipient = record.recipient
    login = delivery.message.client.login
    if login and not recipient.bcc:  # of a copy he knows nothing
        return f"login {login}"
    if recipient.original.key != recipient.mailbox.key and not recipient.bcc:
        return f"forward {recipient.original}"
    return ""
