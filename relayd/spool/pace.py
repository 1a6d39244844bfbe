"""How a destination is sent to that has asked for less: how far apart, and when it may be more.

Theory of operation. Refused while others of ours were being served, it was the number at a time:
the lane's window shrinks to those, and nothing else changes. Refused alone, it was the rate:
nothing starts for a pause, which doubles as long as it was too short. What was taken from one
such refusal to the next shows what the destination can take, and deliveries then start so far
apart. More is tried by small steps, each after as many successes as the last lesson made `_needed`;
a step that is refused doubles them, two that are not halve them. Where successes are few because
they are far apart, a while without a refusal will do.
"""

from __future__ import annotations

FIRST_PAUSE = 1.0  # seconds
LONGEST_PAUSE = 30.0  # seconds; what needs more is down, and probed by the retry schedule
_CLOSEST = 0.05  # seconds; deliveries that may be nearer to each other need no distance
_FASTER = 0.9  # times the interval, a step; after some in a row each one so much more
_FASTEST = 0.5
_SLOWER = 1.1  # times the interval that was refused, at least
_NEEDED = (8, 16, 512)  # successes before a step: the fewest, at first, the most
_CLEAN = 20.0  # seconds: the while
_STEPS = 3  # so many in a row that nobody refused: there is no limit any more
_EXCUSES = 3  # attempts of one message that count for nothing; then it is the message
_ONCE = 120.0  # seconds without a refusal after which one more is no pattern yet
_MOST_EXCUSED = 1000  # messages to remember


class Pace:
    """The pace of one lane. Times are seconds; `now` is the caller's."""

    __slots__ = (
        "_changed_at",
        "_credit",
        "_excuses",
        "_needed",
        "_pause",
        "_since",
        "_steps",
        "_taken",
        "interval",
        "losses",
        "resume_at",
    )

    def __init__(self, now: float) -> None:
        self.interval = 0.0  # between two starts; 0: as they come
        self.resume_at = 0.0  # nothing starts before
        self.losses = 0  # connections in a row that were lost or not made
        self._pause = 0.0
        self._since = now  # the last refusal after which something was taken
        self._taken = 0  # ... and how much, since
        self._needed = 0
        self._credit = 0  # successes since the pace was changed
        self._changed_at = now
        self._steps = 0
        self._excuses: dict[int, int] = {}

    def waits(self, now: float) -> bool:
        """Nothing may start yet; not so if the clock was set back."""
        return 0.0 < self.resume_at - now <= LONGEST_PAUSE

    def started(self, now: float) -> None:
        """A delivery has: the next one keeps its distance."""
        if self.interval:
            self.resume_at = now + self.interval

    def learnt(self, now: float, *, spoken: bool) -> None:
        """It asked for less: more is tried after twice as many successes.

        Not `spoken`: a connection was lost or not made, which may have had other reasons.
        """
        fewest, first, most = _NEEDED
        if spoken:
            self._needed = min(max(2 * self._needed, first), most)
            self._credit = 0
        else:
            self._needed = max(self._needed, fewest)
            self.losses += 1
        self._steps = 0
        self._changed_at = now

    def refused(self, now: float, longest: float) -> bool:
        """It was the rate: a pause begins. False: it would have to be longer than that."""
        if self._taken:
            if self.interval or now - self._since < _ONCE:
                average = (now - self._since) / self._taken
                interval = min(average, max(2 * self.interval, FIRST_PAUSE))
                self.interval = min(max(interval, self.interval * _SLOWER), LONGEST_PAUSE)
            self._pause = max(self.interval, FIRST_PAUSE)
            self._since, self._taken = now, 0
        else:
            self._pause = max(2 * self._pause, FIRST_PAUSE)
        self.resume_at = now + min(self._pause, LONGEST_PAUSE)
        return self._pause <= min(longest, LONGEST_PAUSE)

    def took(self, now: float) -> bool:
        """It took a message; whether one more at a time may be tried now."""
        self.losses = 0
        self._taken += 1
        self._credit += 1
        if self._credit < self._needed and not (self.interval and now - self._changed_at >= _CLEAN):
            return False
        self._credit = 0
        self._changed_at = now
        self._steps += 1
        if self._steps > 1:
            self._needed = max(self._needed // 2, _NEEDED[0])
        if self.interval:
            self.interval *= max(_FASTER ** max(self._steps - 2, 1), _FASTEST)
            if self.interval < _CLOSEST:
                self.interval = 0.0
        return not self.waits(now)  # or it is the distance that holds us back, not the number

    @property
    def over(self) -> bool:
        """It takes what it gets."""
        return self._steps >= _STEPS and not self.interval

    def excuses(self, message: int) -> bool:
        """Whether this attempt counts for nothing: not if it is always the same message."""
        excuses = self._excuses
        if len(excuses) >= _MOST_EXCUSED and message not in excuses:
            excuses.clear()
        excuses[message] = excuses.get(message, 0) + 1
        return excuses[message] <= _EXCUSES

    def reopened(self) -> None:
        """Its lane was down: pauses begin anew, what was learnt stays."""
        self.resume_at = self._pause = 0.0
