"""Measures that the reactor is never blocked for long, and says what it was doing when it was.

Theory of operation. The reactor beats twenty times a second. A thread of our own looks as often:
is a beat late, it notes where the reactor's thread stands in the code. The next beat then tells
the log. A reactor that was found waiting for events was not blocked: the machine was busy.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import PurePath
from types import FrameType

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.mail.log import MailLog

BEAT = 0.05  # seconds
LIMIT = 0.1  # seconds that one thing may take
QUIET = 10.0  # seconds between two lines in the log
DEPTH = 6  # calls that a line shows, the innermost first

_IDLE = {"doPoll", "doSelect", "doIteration", "doWaitForMultipleEvents"}


class Watchdog:
    """Beats in the reactor from `start` to `stop`, which are called in the reactor's thread."""

    def __init__(
        self,
        reactor: IReactorTime,
        log: MailLog,
        *,
        seconds: Callable[[], float] = time.monotonic,
        limit: float = LIMIT,
    ) -> None:
        self.blocked = 0  # times since the start
        self.worst = 0.0  # seconds, of those
        self._reactor = reactor
        self._log = log
        self._seconds = seconds
        self._limit = limit
        self._call: IDelayedCall | None = None
        self._watched = 0  # the reactor's thread
        self._beat_at = 0.0
        self._place: tuple[str, ...] = ()  # where it was found; written by our thread only
        self._place_of = -1.0  # ... in which beat
        self._unsaid: list[tuple[float, tuple[str, ...]]] = []
        self._quiet_until = float("-inf")
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """From now on."""
        self._watched = threading.get_ident()
        self._beat_at = self._seconds()
        self._call = self._reactor.callLater(BEAT, self._beat)
        self._stopped.clear()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more."""
        self._stopped.set()
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    # in the reactor's thread

    def _beat(self) -> None:
        now = self._seconds()
        late, last = now - self._beat_at - BEAT, self._beat_at
        self._beat_at = now
        if late > self._limit:
            self._was_late(late, self._place if self._place_of == last else ())
        if self._unsaid and now >= self._quiet_until:
            self._say(now)
        self._call = self._reactor.callLater(BEAT, self._beat)

    def _was_late(self, late: float, place: tuple[str, ...]) -> None:
        if place and place[0].rpartition(" ")[2] in _IDLE:
            return
        self.blocked += 1
        self.worst = max(self.worst, late)
        self._unsaid.append((late, place))

    def _say(self, now: float) -> None:
        self._quiet_until = now + QUIET
        times = len(self._unsaid)
        late, place = max(self._unsaid)
        self._unsaid.clear()
        self._log.trouble(
            "reactor blocked",
            seconds=round(late, 3),
            times=times,
            at=" < ".join(place) or "unknown",
        )

    # in our own thread

    def _run(self) -> None:
        while not self._stopped.wait(BEAT):
            self.look()

    def look(self) -> None:
        """Note what the reactor's thread is doing, once for each beat that is late."""
        beat_at = self._beat_at
        if self._place_of == beat_at or self._seconds() - beat_at - BEAT <= self._limit:
            return
        frame = sys._current_frames().get(self._watched)
        self._place = tuple(_calls(frame))
        self._place_of = beat_at


def _calls(frame: FrameType | None) -> list[str]:
    """`module.py:12 function` of the innermost calls."""
    calls: list[str] = []
    while frame is not None and len(calls) < DEPTH:
        code = frame.f_code
        calls.append(f"{PurePath(code.co_filename).name}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return calls
