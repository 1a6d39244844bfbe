"""How many messages in what time a place takes that has asked for less: learnt from its replies.

Theory of operation. Where nobody asks for less there is no rate. "Slower" halves it, at first
what was taken of late; as long as nothing is taken after that, pauses that double follow, and no
further halving: the place counts over some time, and is full. From then on the rate rises by a
tenth in each interval that was clean and had mail for it. One that was refused is not tried again
soon: the rate rises to the one that held before, and stays there. After a while more is tried; if
that is refused, the while doubles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

SLOWEST = 1 / 60.0  # messages a second
RISE = 1.1
INTERVAL = 5.0  # seconds
_MESSAGES = 3  # in an interval, at least: where they are far apart, it is longer
_WINDOW = 10.0  # seconds of which it is known what was taken
LONGEST_PAUSE = 300.0  # seconds
_HOLD = 600.0  # seconds
_LONGEST_HOLD = 24 * 3600.0
_USED = 0.8  # of the rate: with less mail nothing is learnt of it
_LATE = 0.5  # seconds
_JITTER = 0.05  # a distance is that part shorter or longer
FORGOTTEN = 7 * 86_400.0  # seconds without a refusal after which there is no limit any more
_PLENTY = 100.0  # messages a second: who takes that for as long as _HOLD has no limit


class LearntRate:
    """The rate of one place. Times are seconds since the epoch; `random` is in [0, 1)."""

    __slots__ = (
        *("_bucket", "_changed_at", "_clean", "_credit", "_earlier", "_held", "_hold"),
        *("_next", "_pause", "_random", "_refused_at", "_taken", "_window_at"),
        *("pinned", "rate", "resume_at"),
    )

    def __init__(self, random: Callable[[], float]) -> None:
        self.rate = 0.0  # messages a second; 0: as they come
        self.pinned = 0.0  # what the administrator says it is
        self.resume_at = 0.0  # nothing starts before
        self._random = random
        self._next = 0.0  # when the next one may start, by the rate
        self._pause = 0.0
        self._taken = 0  # since it last said "slower"
        self._credit = 0  # ... since the rate was changed
        self._changed_at = 0.0
        self._refused_at = 0.0
        self._clean = 0.0  # the rate that last held for an interval
        self._held = 0.0  # the rate to stay at: what was more was refused
        self._hold = _HOLD  # seconds to stay there
        self._window_at = 0.0
        self._bucket = self._earlier = 0  # taken in this window, and in the one before

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

    def took(self, now: float) -> None:
        """A message was taken."""
        if not 0.0 <= now - self._window_at < _WINDOW:
            self._earlier = self._bucket if now - self._window_at < 2 * _WINDOW else 0
            self._bucket, self._window_at = 0, now
        self._bucket += 1
        self._taken += 1
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
        if began <= self._refused_at:
            return False
        if self._taken or not self._refused_at:
            self._pause = INTERVAL
            self._halve(now)
        else:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self.resume_at = max(self.resume_at, now + self._pause)
        self._next = self.resume_at
        self._refused_at = self._changed_at = now
        self._taken = self._credit = 0
        return True

    def reopened(self) -> None:
        """It is to be tried now: pauses begin anew, what was learnt stays."""
        self.resume_at = self._pause = self._next = 0.0

    def _halve(self, now: float) -> None:
        if not self.rate:
            self.rate = max(self._lately(now) / 2, SLOWEST)
            self._clean = self._held = 0.0
            return
        if self._held and self.rate > self._held:  # what was tried beyond it
            self._hold = min(2 * self._hold, _LONGEST_HOLD)
        elif self._clean:
            self._hold = _HOLD
            self._held = max(min(self._clean, self.rate / RISE), SLOWEST)
        self.rate = max(self.rate / 2, SLOWEST)
        self._clean = 0.0

    def _lately(self, now: float) -> float:
        """What was taken a second, over the last ten."""
        into = now - self._window_at
        if not 0.0 <= into < 2 * _WINDOW:
            return 0.0
        if into >= _WINDOW:
            return self._bucket * (2 - into / _WINDOW) / _WINDOW
        return (self._bucket + self._earlier * (1 - into / _WINDOW)) / _WINDOW

    def _rise(self, now: float) -> None:
        interval = max(INTERVAL, _MESSAGES / self.rate)
        if now - self._changed_at < interval:
            return
        wanted = self._credit + 1 >= _USED * self.rate * (now - self._changed_at)
        self._changed_at, self._credit = now, 0
        if not wanted:
            return  # nothing is known of what it takes beyond what there was
        self._clean = self.rate
        more = self.rate * RISE
        if self._held and more > self._held:
            if now - self._refused_at < self._hold:
                self.rate = self._held
                return
            self.rate = more
        else:
            self.rate = more
        quiet = now - self._refused_at
        if (self.rate >= _PLENTY and quiet >= _HOLD) or quiet >= FORGOTTEN:
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
        self._taken = 1
        self._changed_at = now
