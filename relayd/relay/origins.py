"""Which login, or which forwarded address, brings the mail that providers refuse for what it is.

A word about the content or its reputation is booked to the origin of that message: the login, else
the address that was forwarded. The one with the worst share is slowed first, and alone: its mail
goes direct at a rate that halves with each further word and rises while there is none. As long as
nobody complains, nothing is counted.

Several workers count together, in a table of all of them: so many words are enough, whichever
workers they were said to, and who is slowed is so at each from then on.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from relayd.mail.delivery import Delivery
from relayd.mail.log import MailLog
from relayd.mail.message import Record
from relayd.mail.outcome import Meaning, Outcome
from relayd.mail.reply import Reply, printable
from relayd.relay.learntrate import LearntRate
from relayd.shared.counters import SharedCounters
from relayd.shared.keytable import KeyTable

FILE = "origins"  # below the spool, of a relayd with several workers
_ENOUGH = 5  # complaints before anybody is slowed
_SHARE = 0.2  # ... and what part of its mail they are
_HALF_LIFE = 6 * 3600.0  # seconds in which what was counted counts half
_FIRST = 0.1  # messages a second, of which half is left by the first lesson
_NEWS = 10.0  # seconds: complaints that come together are one lesson
_LATELY = 24 * 3600.0  # seconds for which other workers look whom it is that one of them slows
_MOST = 5000  # origins to remember
_MOST_SLOTS = 10_000  # messages that know when it is their turn
_ROW = struct.Struct("<dddd")  # counted at, messages, complaints, slowed since
_SINCE = struct.Struct("<d")  # its last column
_COMPLAINED, _SLOWED = "complaint", "origin slowed"  # what workers tell each other


class _Origin:
    """What is known of one. Times are seconds since the epoch."""

    __slots__ = (
        *("_at", "complaints", "in_all", "last", "messages", "name", "rate", "refused_at"),
        *("slowed_at", "turn"),
    )

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.messages = 0.0
        self.complaints = 0.0
        self.in_all = 0.0, 0.0  # of all workers: messages, complaints
        self.slowed_at = 0.0  # as the others know it
        self.last = ""  # what was said
        self.rate: LearntRate | None = None  # not None: it is slowed
        self.refused_at = 0.0
        self.turn = 0.0  # when the next of its messages may go
        self._at = now

    def count(self, now: float, *, complaint: bool) -> None:
        """One more message, with its answer."""
        kept = _kept(now, self._at)
        self._at = now
        self.messages = self.messages * kept + 1
        self.complaints = self.complaints * kept + complaint
        self.in_all = self.messages, self.complaints

    @property
    def share(self) -> float:
        """What part of its mail is complained about."""
        messages, complaints = self.in_all
        return complaints / messages if messages else 0.0


class Origins:
    """Keeps count of them, for one process.

    `counters` and `folder`: what the workers of a relayd share, and where; None: there is one.
    """

    def __init__(
        self,
        log: MailLog,
        now: Callable[[], float],
        random: Callable[[], float],
        *,
        counters: SharedCounters | None = None,
        folder: Path | None = None,
    ) -> None:
        self._log = log
        self._now = now
        self._random = random
        self._counters = counters
        self._path = None if counters is None or folder is None else folder / FILE
        self._table: KeyTable | None = None
        self._known: dict[str, _Origin] = {}
        self._slots: dict[int, float] = {}  # of messages: when it is their turn
        self.slowed = False  # anybody is
        self.counting = False  # somebody was complained about
        self.shared = self._path is not None  # others may know of that first

    def ask_others(self) -> None:
        """What other workers have heard, before a message goes."""
        counters = self._counters
        if counters is not None and not self.slowed:
            self.counting = self.counting or counters.noted(_COMPLAINED) > 0
            lately = 0.0 <= self._now() - counters.noted(_SLOWED) < _LATELY
            self.slowed = self.counting and lately

    def heard(self, delivery: Delivery, outcomes: Sequence[Outcome]) -> None:
        """What became of a delivery by a domain's exchangers."""
        for record, outcome in zip(delivery.records, outcomes, strict=True):
            complaint = outcome.meaning is Meaning.CONTENT
            if complaint or (self.counting and outcome.reply.code < 300):
                name = _name(delivery, record)
                if name:
                    self._count(name, outcome, complaint=complaint)

    def _count(self, name: str, outcome: Outcome, *, complaint: bool) -> None:
        now = self._now()
        origin = self._known.get(name)
        if origin is None:
            origin = self._remember(name, now)
        origin.count(now, complaint=complaint)
        if self._path is not None:
            self._count_in_all(self._path, origin, now, complaint=complaint)
        if complaint:
            origin.last = str(outcome.reply)
            if self._counters is not None:
                self._counters.note(_COMPLAINED, now)
            self._complained(origin, now)
        elif origin.rate is not None:
            origin.rate.took(now, now)
            if not origin.rate.rate:
                self._let_go(origin, now)

    def _count_in_all(self, path: Path, origin: _Origin, now: float, *, complaint: bool) -> None:
        """The same in the table of all workers."""

        def edit(row: bytes | None) -> bytes:
            at, messages, complaints, since = _ROW.unpack(row) if row else (now, 0.0, 0.0, 0.0)
            kept = _kept(now, at)
            messages, complaints = messages * kept + 1, complaints * kept + complaint
            origin.in_all, origin.slowed_at = (messages, complaints), since
            return _ROW.pack(now, messages, complaints, since)

        # a disk in trouble is told elsewhere; until then each counts for itself
        with contextlib.suppress(OSError):
            self._opened(path).change(origin.name, now, edit)

    def _tell(self, origin: _Origin, now: float, since: float) -> None:
        """Other workers: it is slowed since then; 0: no more."""
        origin.slowed_at = since
        if self._path is None or self._counters is None:
            return
        if since:
            self._counters.note(_SLOWED, now)

        def edit(row: bytes | None) -> bytes | None:
            return row and row[: -_SINCE.size] + _SINCE.pack(since)

        with contextlib.suppress(OSError):
            self._opened(self._path).change(origin.name, now, edit)

    def _opened(self, path: Path) -> KeyTable:
        """The table; raises OSError."""
        if self._table is None:
            self._table = KeyTable(path, _ROW.size, _MOST)
        return self._table

    def _let_go(self, origin: _Origin, now: float) -> None:
        origin.rate = None
        self._tell(origin, now, 0.0)
        self._log.notice("origin is not slowed any more", origin=origin.name)
        self.slowed = any(each.rate is not None for each in self._known.values())

    def _slow(self, origin: _Origin) -> LearntRate:
        origin.rate = LearntRate(self._random)
        origin.rate.rate = _FIRST / (1 if self._counters is None else self._counters.rows)
        self.slowed = True
        self._log.notice(
            "origin slowed",
            origin=origin.name,
            share=f"{origin.share:.2f}",
            reply=origin.last,
        )
        return origin.rate

    def _complained(self, origin: _Origin, now: float) -> None:
        if origin.in_all[1] < _ENOUGH or origin.share < _SHARE:
            return
        rate = origin.rate
        if rate is None:
            at_large = [each for each in self._known.values() if each.rate is None]
            if not origin.slowed_at and max(at_large, key=lambda each: each.share) is not origin:
                return  # another one is worse, and is slowed first
            rate = self._slow(origin)
        elif now - origin.refused_at < _NEWS:
            return
        origin.refused_at = now
        rate.took(now, now)
        rate.slower(now, now)
        self._tell(origin, now, origin.slowed_at or now)

    def _remember(self, name: str, now: float) -> _Origin:
        if len(self._known) >= _MOST:
            self._forget_one()
        self.counting = True
        origin = self._known[name] = _Origin(name, now)
        return origin

    def _forget_one(self) -> None:
        """The longest known that nobody complains about, or else the longest known."""
        quiet = (name for name, each in self._known.items() if each.complaints < 1)
        del self._known[next(quiet, next(iter(self._known)))]

    def turn_of(self, delivery: Delivery) -> tuple[float, Outcome] | None:
        """When a delivery of a slowed origin may go, and what is said of it; None: now."""
        now = self._now()
        for record in delivery.records:
            name = _name(delivery, record)
            origin = self._known.get(name)
            if self._path is not None and name and (origin is None or origin.rate is None):
                origin = self._slowed_elsewhere(self._path, name, now)
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

    def _slowed_elsewhere(self, path: Path, name: str, now: float) -> _Origin | None:
        """One that another worker slows, of which this one has not known."""
        try:
            row = self._opened(path).look(name)
        except OSError:
            return None
        _, messages, complaints, since = _ROW.unpack(row) if row else (0.0, 0.0, 0.0, 0.0)
        if not since:
            return None
        origin = self._known.get(name)
        if origin is None:
            origin = self._remember(name, now)
        origin.in_all, origin.slowed_at = (messages, complaints), since
        rate = self._slow(origin)
        rate.took(now, now)
        rate.slower(now, now)
        return origin

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


def begin_anew(folder: Path) -> None:
    """Before the first of several workers starts: what the last ones counted is over."""
    with contextlib.suppress(OSError):
        (folder / FILE).unlink(missing_ok=True)


def _kept(now: float, before: float) -> float:
    """What part is left of what was counted then."""
    return float(0.5 ** (max(now - before, 0.0) / _HALF_LIFE))


def _name(delivery: Delivery, record: Record) -> str:
    """Who a message came by; empty: nobody in particular."""
    recipient = record.recipient
    login = delivery.message.client.login
    if login and not recipient.bcc:  # of a copy he knows nothing
        return f"login {login}"
    if recipient.original.key != recipient.mailbox.key and not recipient.bcc:
        return f"forward {recipient.original}"
    return ""
