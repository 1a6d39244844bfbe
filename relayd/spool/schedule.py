"""When the next attempt is: `1m 5m*2 15m*3 1h*6 4h` is one minute, five twice, and so on."""

from __future__ import annotations

import re
from dataclasses import dataclass

_STEP = re.compile(r"(?P<count>[0-9]+)(?P<unit>[smhd]?)(?:\*(?P<times>[0-9]+))?\Z")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_DELAY = 30 * 86400
_MAX_TIMES = 1000


@dataclass(frozen=True, slots=True)
class Schedule:
    """Delays between attempts in seconds; the last one repeats. Jitter is the caller's."""

    delays: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read a schedule; raises ValueError with words for the administrator."""
        delays: list[int] = []
        for step in text.split():
            match = _STEP.match(step)
            if match is None:
                raise ValueError(f'"{step}" is no step of a schedule (as in 15m or 15m*3)')
            delay = int(match["count"]) * _SECONDS[match["unit"]]
            times = int(match["times"] or 1)
            if not 0 < delay <= _MAX_DELAY:
                raise ValueError(f'"{step}": a delay is more than nothing and at most 30 days')
            if not 0 < times <= _MAX_TIMES:
                raise ValueError(f'"{step}": a step repeats 1 to {_MAX_TIMES} times')
            delays += [delay] * times
        if not delays:
            raise ValueError("a schedule has at least one step")
        return cls(tuple(delays))

    def delay(self, attempts: int) -> int:
        """Seconds to wait after so many attempts (one or more)."""
        return self.delays[min(max(attempts, 1), len(self.delays)) - 1]

    def __str__(self) -> str:
        return " ".join(f"{delay}s" for delay in self.delays)


DEFAULT = "1m 5m*2 15m*3 1h*6 4h"
