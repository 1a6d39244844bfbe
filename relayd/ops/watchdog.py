"""Measures that the reactor is never blocked for long, and says what it was doing when it was.

Theory of operation. The reactor knows when a turn began, and tells how long one took that was too
long. A thread of our own looks ten times a second: does a turn take long already, it notes where
the reactor's thread stands in the code. So a reactor that has nothing to do is not woken for this.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import PurePath
from types import FrameType
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.mail.log import MailLog

BEAT = 0.1  # seconds from one look to the next
LIMIT = 0.1  # seconds that one turn may take
QUIET = 10.0  # seconds between two lines in the log
DEPTH = 6  # calls that a line shows, the innermost first


class Watchdog:
    """Looks at a reactor from `start` to `stop`, which are called in the reactor's thread.

    The reactor is relayd.reactor.lean's; another knows of no turns, and nothing is said of it.
    """

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
        self._reactor: Any = reactor
        self._call: IDelayedCall | None = None  # to tell what is unsaid
        self._log = log
        self._seconds = seconds
        self._limit = limit
        self._watched = 0  # the reactor's thread
        self._place: tuple[str, ...] = ()  # where it was found; written by our thread only
        self._place_of = 0.0  # ... in the turn that began then
        self._unsaid: list[tuple[float, tuple[str, ...]]] = []
        self._quiet_until = float("-inf")
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """From now on."""
        self._watched = threading.get_ident()
        self._reactor.long_turn = (self._limit, self._was_long)
        self._stopped.clear()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more."""
        self._stopped.set()
        self._reactor.long_turn = None
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    # in the reactor's thread

    def _was_long(self, seconds: float) -> None:
        self.blocked += 1
        self.worst = max(self.worst, seconds)
        known = self._place_of == self._reactor.turn_began
        self._unsaid.append((seconds, self._place if known else ()))
        if self._call is None:
            left = max(self._quiet_until - self._seconds(), 0.0)
            self._call = self._reactor.callLater(left, self._say)

    def _say(self) -> None:
        self._call, self._quiet_until = None, self._seconds() + QUIET
        times = len(self._unsaid)
        longest, place = max(self._unsaid)
        self._unsaid.clear()
        self._log.trouble(
            "reactor blocked",
            seconds=round(longest, 3),
            times=times,
            at=" < ".join(place) or "unknown",
        )

    # in our own thread

    def _run(self) -> None:
        while not self._stopped.wait(BEAT):
            self.look()

    def look(self) -> None:
        """Note what the reactor's thread is doing, once for each turn that takes long."""
        began = getattr(self._reactor, "turn_began", 0.0)
        if not began or self._place_of == began or self._seconds() - began <= self._limit:
            return
        frame = sys._current_frames().get(self._watched)
        self._place = tuple(_calls(frame))
        self._place_of = began


def _calls(frame: FrameType | None) -> list[str]:
    """`module.py:12 function` of the innermost calls."""
    calls: list[str] = []
    while frame is not None and len(calls) < DEPTH:
        code = frame.f_code
        calls.append(f"{PurePath(code.co_filename).name}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return calls
