"""`relayctl top`: rates, what waits and the destinations in trouble, live in the terminal."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import threading
import time
import tty
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from relayd.ctl import terminal
from relayd.ctl.client import Daemon, DaemonError
from relayd.ops import text
from relayd.ops.maillog import STATUS

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # a screen of its own, no cursor
_HOME, _REST, _LINE = "\x1b[H", "\x1b[J", "\x1b[K"
_KEYS = "q ends"
RATES = ("accepted", "sent", "deferred", "bounced", "refused")
_STATES = {state.name.lower(): word for state, word in STATUS.items()}


class FollowedRates:
    """How often what happened, from one look to the next: told by `follow`, in a thread."""

    def __init__(self, daemon: Daemon, clock: Callable[[], float] = time.monotonic) -> None:
        self._daemon = daemon
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._last = clock()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        """Listen from now on."""
        self._thread.start()

    def _follow(self) -> None:
        while True:
            try:
                for event in self._daemon.ask("follow", event="accepted,refused,attempt"):
                    self.hear(event)
            except DaemonError:
                time.sleep(1.0)  # it may be back

    def hear(self, event: Mapping[str, Any]) -> None:
        """One more event."""
        kind = event["event"]
        self._counts[_STATES.get(event.get("state", ""), kind) if kind == "attempt" else kind] += 1

    def look(self) -> dict[str, float]:
        """Events a second since the last look."""
        now = self._clock()
        seconds, self._last = max(now - self._last, 0.001), now
        counts, self._counts = self._counts, Counter()
        return {name: counts[name] / seconds for name in RATES}


def screen(
    status: Mapping[str, Any], rates: Mapping[str, float], columns: int, rows: int, now: float
) -> list[str]:
    """What is on a screen of that size, no line wider and no line more."""
    waiting = status["waiting"]
    sessions = sum(each.get("sessions", 0) for each in status["shards"])
    deliveries = sum(each.get("deliveries", 0) for each in status["shards"])
    up = text.duration(int(now - status["started"])) if status.get("started") else "?"
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    lines = [
        f"relayd at {status.get('hostname', '?')}, up {up}   {clock}   ({_KEYS})",
        "  ".join(f"{name} {rates.get(name, 0.0):.1f}/s" for name in RATES),
        f"waiting {text.many(waiting['messages'], 'message')} ({text.octets(waiting['octets'])}),"
        f" {text.many(waiting['queued'], 'recipient')}, {waiting['held']:,} held"
        f"   sessions {sessions:,}   deliveries {deliveries:,}",
    ]
    amiss = [*_amiss(status)]
    most = max(rows // 3 - 1, 1)
    lines += amiss[:most]
    if len(amiss) > most:
        lines.append(f"... and {len(amiss) - most} more: relayctl status")
    lines += ["", f"{'DESTINATION':32}  {'WAITING':>9}  {'OLDEST':>6}  {'NOW':>4}  STATE"]
    for lane in status["destinations"]:
        age = text.coarse(now - lane["oldest"]) if "oldest" in lane and lane["waiting"] else ""
        trouble = f": {lane['trouble']}" if lane.get("trouble") else ""
        lines.append(
            f"{lane['destination'][:32]:32}  {lane['waiting']:9,}  {age:>6}"
            f"  {lane.get('in_flight', 0):4}  {lane['standing']}{trouble}"
        )
    return [*terminal.cut(map(text.safe, lines[:rows]), columns)]


def _amiss(status: Mapping[str, Any]) -> Iterator[str]:
    """In a line each, what `status` tells more of."""
    if status.get("refused"):
        yield "REFUSED  the configuration on disk is not in force"
    for shard in status["shards"]:
        if not shard["healthy"]:
            yield f"CANNOT RECORD  shard {shard['shard']}: nothing is accepted or delivered"
    for each in status.get("set_up", ()):
        yield f"MEND  {each['destination']}: {each['trouble']}"
    for each in status.get("full", ()):
        yield f"FULL  {each}"
    for each in status.get("hooks", ()):
        if each["trouble"]:
            yield f"HOOK  {each['name']}: {each['trouble']}"
    for each in status.get("sites", ()):
        word = "BLOCKED" if each["blocked_until"] else "slowed"
        yield f"{word}  {each['site']}: {each['trouble']}"
    for each in status.get("suspended", ()):
        yield f"suspended  {each['kind']} {each['whom']}"


def run(daemon: Daemon, *, seconds: float, color: str) -> None:
    """Until somebody types q. Standard input and output are a terminal."""
    daemon.answer("figures")  # nobody there, and no screen is changed
    rates = FollowedRates(daemon)
    rates.start()
    colours = terminal.colours(color)
    with _screen():
        while True:
            size = shutil.get_terminal_size()
            try:
                now = time.time()
                status = daemon.answer("status")
                lines = screen(status, rates.look(), size.columns, size.lines, now)
            except DaemonError as error:
                lines = [*terminal.cut([f"{error}   ({_KEYS})"], size.columns)]
            shown = [*terminal.coloured(lines)] if colours else lines
            sys.stdout.write(_HOME + f"{_LINE}\r\n".join(shown) + _LINE + _REST)
            sys.stdout.flush()
            if _typed_q(seconds):
                return


@contextmanager
def _screen() -> Iterator[None]:
    """Keys come one by one, and the terminal is as it was in the end."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    resized = signal.signal(signal.SIGWINCH, lambda *_: None)  # it ends the wait for a key
    sys.stdout.write(_ENTER)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, resized)
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()


def _typed_q(seconds: float) -> bool:
    """Whether it is time to go; any other key looks again at once."""
    ready, _, _ = select.select([sys.stdin.fileno()], [], [], seconds)
    if not ready:
        return False
    typed = os.read(sys.stdin.fileno(), 64)
    return not typed or bool({*b"qQ\x03\x04"} & {*typed})
