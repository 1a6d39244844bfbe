"""The journal: recipients that the ledger is silent about, remembered for as little as it can cost.

The ledger remembers deliveries. Here are the recipients that were refused, and the few whose mail
went along with another recipient's. They are no mail, so nothing here is synced, no command waits
for it, and a flood leaves a sample of itself: every entry is paid for out of a
budget that grows with time, and what cannot be paid is counted.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.client import Client
from relayd.mail.plan import FACT, Plan
from relayd.spool.sqlite.rows import client_values, raw, raw_path

FOLDER = "journal"  # in the shard's
SUFFIX = ".jsonl"

_SEGMENTS = 8  # files that the whole is kept in; the oldest goes as one
_REST = 1.0  # seconds until what was noted is written
_BUFFER = 65536  # octets that are written at once
_REPEAT = 3600.0  # seconds in which the same question and answer is not noted twice
_MOST_REPEATS = 10_000

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class NotedEntry(NamedTuple):
    """One entry, in the order in which JSON has it; a line of two is a time and how many more."""

    at: float  # seconds since the epoch
    sender: str  # raw, as in the spool
    recipient: str
    client: Sequence[Any]  # see rows.client_values
    reply: str
    place: str  # of the rule
    rules: str  # hash of the rule set
    verdict: str
    ways: Sequence[tuple[str, str, str]]  # mailbox, next hop, reverse-path of each
    facts: Mapping[str, str] = {}  # that rules looked at: values in JSON, by name


def begun(segment: Path) -> float:
    """When its first entry was written, in seconds since the epoch; its name tells."""
    digits = segment.name.removesuffix(SUFFIX)
    return int(digits) / 1e6 if digits.isdecimal() else 0.0


class RefusedLog:
    """Noted recipients of one shard, at most `most` octets and no older than `period` seconds.

    `later` calls a function after some seconds. Trouble with the disk costs entries, nothing else.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], float],
        later: Callable[[float, Callable[[], None]], object],
        period: float,
        most: int,
    ) -> None:
        self.dropped = 0  # since the start
        self._folder = folder
        self._clock = clock
        self._later = later
        self._lines: list[bytes] = []
        self._buffered = 0
        self._waiting = False
        self._descriptor = -1
        self._written = 0  # octets of the open segment
        self._opened_at = 0.0
        self._untold = 0  # dropped, and not yet said in the journal
        self._seen: set[int] = set()
        self._seen_since = 0.0
        self._paid_at = clock()
        self._budget = math.inf
        self.apply(period, most)

    def apply(self, period: float, most: int) -> None:
        """Other bounds from now on. No period: nothing is noted, and what was is forgotten."""
        self._period = period if most else 0.0
        self._most = most
        self._segment = most // _SEGMENTS
        self._budget = min(self._budget, float(self._segment))
        if not self._period:
            self._close()
            self._lines.clear()
            self._forget(everything=True)

    def note(
        self, client: Client, sender: ReversePath, recipient: Mailbox, plan: Plan, rules: str
    ) -> None:
        """Note a recipient that was refused, or that the ledger is silent about."""
        if not self._period:
            return
        now = self._clock()
        self._earn(now)
        if self._budget <= 0:
            self._drop()
            return
        step = plan.trail[-1] if plan.trail else None
        ways = [
            (raw(way.mailbox), way.next_hop, raw_path(way.reverse_path))
            for way in plan.destinations
        ]
        about = (
            raw_path(sender),
            raw(recipient),
            client_values(client),
            str(plan.reply),
            step.place if step else "",
        )  # as NotedEntry has them
        verdict = plan.verdict.value
        question = (about[:2], client.with_(port=0))
        if self._is_repeated(hash((question, verdict, about[3], *ways)), now):
            return
        if self._untold:
            self._append((round(now, 3), self._untold))
            self._untold = 0
        facts = {step.place: step.note for step in plan.trail if step.stage == FACT}
        self._append(NotedEntry(round(now, 3), *about, rules, verdict, ways, facts))

    def _earn(self, now: float) -> None:
        """A full journal's worth in one period, and never more than a segment at once."""
        earned = max(now - self._paid_at, 0.0) * self._most / self._period
        self._paid_at = now
        self._budget = min(self._budget + earned, float(self._segment))

    def _is_repeated(self, identity: int, now: float) -> bool:
        if now - self._seen_since > _REPEAT or len(self._seen) >= _MOST_REPEATS:
            self._seen.clear()
            self._seen_since = now
        if identity in self._seen:
            return True
        self._seen.add(identity)
        return False

    def _append(self, entry: tuple[object, ...]) -> None:
        line = _encode(entry).encode("ascii") + b"\n"
        self._budget -= len(line)
        self._lines.append(line)
        self._buffered += len(line)
        if self._buffered >= _BUFFER:
            self.flush()
        elif not self._waiting:
            self._waiting = True
            self._later(_REST, self._in_time)

    def _drop(self, count: int = 1) -> None:
        self.dropped += count
        self._untold += count

    # the files

    def _in_time(self) -> None:
        self._waiting = False
        self.flush()

    def flush(self) -> None:
        """Write what was noted; the kernel brings it to the disk in its own time."""
        if not self._lines:
            return
        data, count = b"".join(self._lines), len(self._lines)
        self._lines.clear()
        self._buffered = 0
        try:
            self._open_segment()
            # one write: a crash leaves whole lines but for the last
            self._written += os.write(self._descriptor, data)
        except OSError:
            self._close()
            self._drop(count)

    def _open_segment(self) -> None:
        now = self._clock()
        if self._descriptor >= 0:
            fresh = 0 <= now - self._opened_at < self._period / _SEGMENTS
            if fresh and self._written < self._segment:
                return
            self._close()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._forget()
        path = self._folder / f"{int(now * 1e6):020}{SUFFIX}"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        self._written = os.fstat(self._descriptor).st_size
        self._opened_at = now

    def _forget(self, *, everything: bool = False) -> None:
        """Room for one more segment: away with what is too old, then with the oldest."""
        with contextlib.suppress(OSError):
            found = sorted(self._folder.glob(f"*{SUFFIX}"), reverse=True)
            total = self._segment
            ended = self._clock()  # when the segment after this one was begun
            for path in found:
                total += path.stat().st_size
                old = ended < self._clock() - self._period
                if everything or old or total > self._most:
                    path.unlink()
                ended = begun(path)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def close(self) -> None:
        """Write what was noted, and no more."""
        self.flush()
        self._close()
