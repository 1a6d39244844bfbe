"""How many messages in what time a place takes that has asked for less: learnt from its replies.

Theory of operation. Where nobody asks for less there is no rate. "Slower" halves it, at first
what was taken of late, and after a moment the next one asks. From then on the rate rises by a
tenth in each interval that was clean and had mail for it.

What a place takes over the time from one refusal to the next is what it takes at all: if it
counts as tokens do, it had none left at both ends, and if it counts over some time, that was full.
So each such cycle says how much is enough, and after two or three the rate stays there, a little
below. A place of which a refusal is followed by others, with nothing taken between them, counts
over some time: that time is found by asking now and then, and says the same at once. After a while
more is tried; if that is refused, the while doubles.

Several workers learn each for itself what is left by the others. One that is refused what had been
enough says so to those, and each of them stays a little lower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

SLOWEST = 1 / 60.0  # messages a second
RISE = 1.1
INTERVAL = 5.0  # seconds: in each the rate rises where it has not been before
_QUICK = 1.0  # ... where it has been, or nothing is known of what is too much
_MESSAGES = 3  # in an interval of the first kind; one in the other
_OPENING = 1.0  # messages a second: where the first word was a refusal
_WINDOW = 30.0  # seconds of which it is known what was taken, before the first refusal
_IDLE = 10.0  # seconds, or so many distances, without mail: what comes then is a new beginning
_FAR = 1.12  # so much less in one step, at most: what comes in a cycle may have been too little
_NEAR = 1.15  # ... but not by that much
_ENOUGH = 0.96  # of what it takes: below that it has no reason to refuse
SHORTEST_PAUSE = 1.0  # seconds
LONGEST_PAUSE = 300.0
_PATIENCE = 16  # nothing taken for so long: the next one asks after that part of it
_HOLD = 600.0  # seconds
_LONGEST_HOLD = 24 * 3600.0
_NEWS = 10.0  # seconds: what was refused before says nothing of now
_LESS = 0.97  # where it was too much for another worker
_USED = 0.8  # of the rate: with less mail nothing is learnt of it
_LATE = 0.5  # seconds
_JITTER = 0.05  # a distance is that part shorter or longer
FORGOTTEN = 7 * 86_400.0  # seconds without a refusal after which there is no limit any more
_PLENTY = 100.0  # messages a second: who takes that for as long as _HOLD has no limit


class LearntRate:
    """The rate of one place. Times are seconds since the epoch; `random` is in [0, 1)."""

    __slots__ = (
        *("_before", "_busy", "_changed_at", "_credit", "_full", "_heard_at", "_held", "_hold"),
        *("_known", "_last", "_next", "_random", "_refused_at", "_silent", "_since", "_taken"),
        *("_too_much", "pinned", "rate", "resume_at"),
    )

    def __init__(self, random: Callable[[], float]) -> None:
        self.rate = 0.0  # messages a second; 0: as they come
        self.pinned = 0.0  # what the administrator says it is
        self.resume_at = 0.0  # nothing starts before
        self._random = random
        self._next = 0.0  # when the next one may start, by the rate
        self._credit = 0  # taken since the rate was changed
        self._changed_at = 0.0
        self._refused_at = 0.0
        self._heard_at = 0.0  # when another worker was surprised
        self._full = 0.0  # when it refused what was more than enough; 0: it has taken since
        self._silent = False  # ... and has refused again since then
        self._too_much = 0.0  # the rate that was refused
        self._held = 0.0  # the rate to stay at: what was more was refused
        self._hold = _HOLD  # seconds to stay there
        # a cycle: from the first one taken after a refusal to the first one after the next
        self._since = 0.0
        self._taken = 0
        self._last = 0.0
        self._known = False  # that it began with a refusal
        self._busy = True  # there was mail enough all the time
        self._before: tuple[Any, ...] | None = None  # the one before, until this one says something

    @property
    def active(self) -> bool:
        """There is something to keep to."""
        return bool(self.rate or self.pinned or self.resume_at)

    @property
    def in_force(self) -> float:
        """Messages a second; 0: as they come."""
        return self.pinned or self.rate

    def opens_at(self, now: float) -> float:
        """When the next one may start; not so far away if the clock was set back."""
        at = max(self.resume_at, self._next)
        return at if at - now <= max(24 * 3600.0, 2 / (self.in_force or 1)) else now

    def started(self, now: float) -> None:
        """One has: the next keeps its distance."""
        rate = self.in_force
        if not rate:
            return
        distance = 1 / rate
        if not self.pinned:
            distance *= 1 + _JITTER * (2 * self._random() - 1)
        # what woke up a little late is made good, so that the rate is reached
        late = now - self._next
        self._next = (self._next if 0.0 <= late < _LATE else now) + distance

    def spared(self) -> None:
        """One that had started was no attempt: the next one has its time."""
        if self.in_force:
            self._next -= 1 / self.in_force

    def took(self, now: float, began: float) -> None:
        """A message was taken, in an attempt that began then."""
        if self._full:
            if not self._began_before(began, now):  # else it opens nothing
                self._takes_again(now)
        elif not 0.0 <= now - self._last < _IDLE:
            if not 0.0 <= now - self._last < self._idle:
                self._begin(now, known=False)
        elif not self.rate and now - self._since > 2 * _WINDOW:
            self._since += _WINDOW
            self._taken //= 2
        self._taken += 1
        self._last = now
        if self.resume_at and now >= self.resume_at:
            self.resume_at = 0.0
        if self.rate and not self.pinned:
            self._credit += 1
            self._rise(now)

    def slower(self, now: float, began: float, pause: float = 0.0) -> bool:
        """An attempt that began then was told so; whether that was news.

        `pause`: for how long nothing is wanted, where that is known.
        """
        if pause:
            self.resume_at = max(self.resume_at, now + pause)
        if self._began_before(began, now):
            return False
        if not self._full:
            self._full = now
            if self._before is not None and self._taken < _MESSAGES:
                self._go_on(self._before)
            else:
                self._too_much, self._silent = self.rate, False
            self.rate = max((self.rate or self._lately(now) or _OPENING) / 2, SLOWEST)
        else:
            self._silent = True
            if self._taken:
                self.rate = max(min(self.rate, self._lately(now)), SLOWEST)
        if pause:
            self._known = self._silent = self._busy = False
        wait = min(max((now - self._full) / _PATIENCE, SHORTEST_PAUSE), LONGEST_PAUSE)
        self.resume_at = max(self.resume_at, now + wait)
        self._next = self.resume_at
        self._refused_at = self._changed_at = now
        self._credit = 0
        return True

    @property
    def surprised(self) -> bool:
        """What it last refused was no more than had seemed enough; so others use it, too."""
        return 0.0 < self._too_much <= self._held * 1.01

    def heard(self, now: float, at: float) -> None:
        """Another worker was surprised at that time: they are a little too much, together."""
        if self._heard_at < at <= now < at + _NEWS:
            self._heard_at = at
            if self._held and not self._full and self.rate <= self._held * 1.01:
                self._stay(self._held * _LESS)
                self.rate = min(self.rate, self._held)

    def reopened(self) -> None:
        """It is to be tried now: pauses begin anew, what was learnt stays."""
        self.resume_at = self._next = 0.0

    def _began_before(self, began: float, now: float) -> bool:
        """It was under way when the last word came; not so if the clock was set back."""
        return began <= self._refused_at <= now

    @property
    def _idle(self) -> float:
        """Seconds without mail after which a cycle begins anew."""
        return max(_IDLE, _MESSAGES / self.rate) if self.rate else _IDLE

    def _lately(self, now: float) -> float:
        """What was taken a second in this cycle."""
        return self._taken / max(now - self._since, 1.0)

    def _begin(self, now: float, *, known: bool) -> None:
        """A new cycle."""
        self._since, self._taken, self._known, self._busy = now, 0, known, True
        self._before = None

    def _go_on(self, before: tuple[Any, ...]) -> None:
        """The one before was not over: others have taken what had come free."""
        taken = self._taken
        self._since, self._taken, self._known, self._busy, *rest = before
        self._silent, self._too_much, self._held, self._hold = rest
        self._taken += taken

    def _takes_again(self, now: float) -> None:
        """The cycle is over: what is enough?"""
        asked = max(self.resume_at, self._refused_at)  # or a little later: there may be no mail
        enough = self._lately(min(now, 2 * asked - self._refused_at + 1))
        before = (
            *(self._since, self._taken, self._known, self._busy),
            *(self._silent, self._too_much, self._held, self._hold),
        )
        refused, held = self._too_much, self._held
        if self._silent and self._taken:
            self._stay(enough)
            self.rate = min(self.rate, self._held)
        elif held and refused > held * RISE * 1.01:  # more was tried, and much more was taken
            self._stay(refused / RISE)
        elif held and refused > held * 1.01:
            self._hold = min(2 * self._hold, _LONGEST_HOLD)
        elif refused and self._known and self._busy:
            less = refused / _FAR
            self._stay(min(enough if less < _NEAR * enough else less, refused) * _ENOUGH)
        elif refused:
            self._stay(refused / RISE)
        self._full = 0.0
        self._begin(now, known=True)
        self._before = before

    def _stay(self, rate: float) -> None:
        self._held, self._hold = max(rate, SLOWEST), _HOLD

    def _rise(self, now: float) -> None:
        more = self.rate * RISE
        beyond = self._held and more > self._held
        least, messages = (INTERVAL, _MESSAGES) if beyond else (_QUICK, 1)
        interval = max(least, messages / self.rate)
        if 0.0 <= now - self._changed_at < interval:
            return
        wanted = self._credit + 1 >= _USED * self.rate * (now - self._changed_at)
        self._changed_at, self._credit = now, 0
        quiet = now - self._refused_at
        if self._refused_at and quiet >= FORGOTTEN:
            self.rate = self._held = self._next = 0.0
            return
        if not wanted:
            self._busy = False
            return  # nothing is known of what it takes beyond what there was
        self.rate = self._held if beyond and quiet < self._hold else more
        if self.rate >= _PLENTY and quiet >= _HOLD:
            self.rate = self._held = self._next = 0.0

    # across a restart

    def kept(self) -> dict[str, float]:
        """What is worth keeping."""
        return {
            "rate": self.rate,
            "held": self._held,
            "hold": self._hold,
            "resume_at": self.resume_at,
            "refused_at": self._refused_at,
            "full": self._full,
            "too_much": self._too_much,
            "since": self._since,
            "last": self._last,
            "taken": self._taken,
            "known": float(self._known),
        }

    def restore(self, kept: Mapping[str, float], now: float) -> None:
        """What was kept; what is not in it, or cannot be, is as at first."""
        self.rate = min(max(kept.get("rate", 0.0), 0.0), 1e6)
        if self.rate:
            self.rate = max(self.rate, SLOWEST)
        self._held = max(kept.get("held", 0.0), 0.0)
        self._hold = min(max(kept.get("hold", _HOLD), _HOLD), _LONGEST_HOLD)
        self.resume_at = min(kept.get("resume_at", 0.0), now + 24 * 3600.0)
        self._refused_at = min(kept.get("refused_at", 0.0), now)
        self._changed_at = now
        # what was taken before, as far as it is known; nothing was after the last refusal
        self._since = min(kept.get("since", 0.0), now)
        self._last = min(kept.get("last", self._since), now)
        self._taken = int(min(max(kept.get("taken", 0.0), 0.0), 1e9))
        self._too_much = max(kept.get("too_much", 0.0), 0.0)
        self._known = kept.get("known", 0.0) > 0  # the time since then was idle: it is no less
        self._full = min(kept.get("full", 0.0), now)
        self._silent = self._full > 0.0
