"""What changes on the screen Now while somebody looks at it: rates, and one piece for all watchers.

Whoever looks asks every few seconds; only the first of them makes anything be gathered and
rendered, all others get the same octets. Where nobody looks, nothing is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from relayd.web.markup import Markup

EVERY = 5.0  # seconds from one question of a page to the next
KEPT = 240  # samples: 20 minutes, as long as somebody looks
FRESH = 0.8 * EVERY  # seconds: pages ask at moments of their own

Sums = Callable[[], Mapping[str, float]]

_ATTEMPTS = "relayd_attempts_total{"
KINDS = ("accepted", "refused", "delivered", "deferred", "bounced")


def counted(sums: Mapping[str, float]) -> tuple[float, ...]:
    """How many of each of KINDS there have been, out of the counters of `metrics`."""

    def attempts(status: str) -> float:
        said = f'state="{status}"'
        return sum(
            value for name, value in sums.items() if name.startswith(_ATTEMPTS) and said in name
        )

    refused = sum(value for name, value in sums.items() if name.startswith("relayd_refused_total"))
    return (
        sums.get("relayd_accepted_messages_total", 0.0),
        refused,
        *(attempts(status) for status in ("sent", "deferred", "bounced")),
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """What had been counted at a moment, seconds since the epoch."""

    at: float
    counts: tuple[float, ...]


class Rates:
    """Samples of the last while. Over a time without watchers the mean is known, and no more."""

    def __init__(self, sums: Sums) -> None:
        self._sums = sums
        self._samples: deque[Sample] = deque(maxlen=KEPT)

    def look(self, now: float) -> None:
        """Take a sample, unless there is a fresh one."""
        if not self._samples or not 0.0 <= now - self._samples[-1].at < FRESH:
            self._samples.append(Sample(now, counted(self._sums())))

    def series(self) -> list[list[float]]:
        """Moments, then for each of KINDS what happened per second until then."""
        pairs = [
            (before, after)
            for before, after in zip(self._samples, [*self._samples][1:], strict=False)
            if after.at > before.at
        ]
        return [
            [round(after.at, 1) for _, after in pairs],
            *(
                [_rate(before, after, kind) for before, after in pairs]
                for kind in range(len(KINDS))
            ),
        ]

    def mean(self, seconds: float) -> tuple[float, ...]:
        """For each of KINDS how many per second, over about so long; empty: not known yet."""
        if len(self._samples) < 2:
            return ()
        last = self._samples[-1]
        first = next(each for each in self._samples if last.at - each.at <= seconds + EVERY)
        if first is last:  # nobody has looked for a while
            first = self._samples[-2]
        if last.at <= first.at:
            return ()
        return tuple(_rate(first, last, kind) for kind in range(len(KINDS)))

    def total(self) -> tuple[float, ...]:
        """For each of KINDS how many since we run."""
        return self._samples[-1].counts if self._samples else ()


def _rate(before: Sample, after: Sample, kind: int) -> float:
    done = after.counts[kind] - before.counts[kind]
    return round(max(done, 0.0) / (after.at - before.at), 3)


class SharedMarkup:
    """What is the same for all who ask within a moment."""

    def __init__(self, make: Callable[[], Awaitable[Markup]]) -> None:
        self._make = make
        self._made: Markup | None = None
        self._at = float("-inf")

    async def get(self, now: float) -> Markup:
        """`now` by a clock that never goes back."""
        if now - self._at >= FRESH or self._made is None:
            self._at = now
            self._made = await self._make()
        return self._made
