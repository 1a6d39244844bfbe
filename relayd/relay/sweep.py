"""Looks after mail that waits without being attempted: delay warnings, and expiry."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.mail.log import MailLog
from relayd.mail.message import Message, RecipientState, Record, Settlement
from relayd.reactor.coroutine import log_bug, promise, spawn
from relayd.relay.retrypolicy import NEAR, RetryPolicy, judge_waiting
from relayd.relay.settling import QueueStore
from relayd.spool.queue import Queue, Standing
from relayd.spool.view import Accepted

_PAGE = 50  # messages per step
_PAUSE = 60.0  # seconds between two walks through what is old, at most
_BREATH = 0.5  # ... and between two steps that had nothing to do


class Settle(Protocol):
    """Records settlements of one message; what was recorded, or None: that was refused."""

    def __call__(
        self, message: Message, settlements: Sequence[Settlement]
    ) -> Coroutine[Any, Any, Sequence[Settlement] | None]:
        """See Dispatcher._settle_swept."""


class Sweep:
    """Walks by ident over what is older than the lifetime, and over what nobody was warned of.

    What is in memory, or near its attempt, is left to its attempt, so that mail is only given
    up with a reason: also when the clock jumps ahead, every lane is tried first.
    """

    def __init__(
        self,
        clock: IReactorTime,
        shelf: QueueStore,
        queue: Queue,
        settle: Settle,
        log: MailLog,
        retry_policy: Callable[[], RetryPolicy],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._shelf = shelf
        self._queue = queue
        self._settle = settle
        self._log = log
        self._retry_policy = retry_policy
        self._now = now
        self._after = 0
        self._warning = False  # which of the two walks
        self._call: IDelayedCall | None = None
        self._stopped = False

    def start(self) -> None:
        """Begin, not at once: a start has better things to do."""
        self._later(self._pause())

    def stop(self) -> None:
        """Start no further step."""
        self._stopped = True
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _later(self, delay: float) -> None:
        if not self._stopped:
            self._call = self._clock.callLater(delay, self._step)

    def _step(self) -> None:
        # a step that fails is taken again; nothing is skipped
        spawn(self._take_step(), partial(log_bug, self._log, "bug"))

    async def _take_step(self) -> None:
        delay = self._pause()
        try:
            delay = await self._walk()
        except Exception as error:  # the spool's trouble, or a bug: all the same, we go on
            self._log.trouble("mail that waits not looked after", why=repr(error))
        self._later(delay)

    async def _walk(self) -> float:
        """One step; returns how long to pause."""
        retry_policy = self._retry_policy()
        age = retry_policy.warn_after if self._warning else retry_policy.give_up
        page, owed = await self._claimed(retry_policy, self._now() - age)
        # together, so that they share a commit
        steps = [promise(self._record(*each)) for each in owed]
        for step in steps:
            await step
        if page:
            self._after = page[-1][0].ident
            return 0.0 if owed else _BREATH
        self._after = 0
        self._warning = not self._warning
        return 0.0 if self._warning else self._pause()

    def _pause(self) -> float:
        """Until the next walk: shorter where mail has only a short time to wait."""
        retry_policy = self._retry_policy()
        return min(_PAUSE, max(_BREATH, min(retry_policy.warn_after, retry_policy.give_up) / 4))

    async def _claimed(
        self, retry_policy: RetryPolicy, before: float
    ) -> tuple[Sequence[Accepted], list[tuple[Message, list[Settlement]]]]:
        """The next page, and what there is to settle in it, now ours until recorded."""
        queue = self._queue
        gone = queue.begin_watch()
        try:
            page = await self._shelf.aged(before, self._after, _PAGE, unwarned=self._warning)
            if self._stopped:
                return [], []
            owed = []
            for message, records in page:
                mine = [record for record in records if queue.free(record, gone)]
                settlements = [
                    settlement
                    for settlement in (self._judged(message, each, retry_policy) for each in mine)
                    if settlement is not None
                ]
                if settlements:
                    queue.claim(settlements)
                    owed.append((message, settlements))
            return page, owed
        finally:
            queue.end_watch()

    def _judged(
        self, message: Message, record: Record, retry_policy: RetryPolicy
    ) -> Settlement | None:
        if record.state is not RecipientState.QUEUED:
            return None
        now = self._now()
        lane = self._queue.lanes.get(record.recipient.destination)
        if lane is not None and lane.standing is Standing.DOWN:
            if lane.probe_at <= now:
                return None
            return judge_waiting(message, record, lane.trouble, retry_policy, now=now)
        if lane is not None and lane.pace is not None and not retry_policy.expired(message, now):
            # its turn comes, but perhaps not today
            return judge_waiting(message, record, lane.trouble, retry_policy, now=now)
        if record.next_attempt <= now + NEAR:
            return None
        return judge_waiting(message, record, None, retry_policy, now=now)

    async def _record(self, message: Message, settlements: list[Settlement]) -> None:
        expired = [each for each in settlements if each.state is RecipientState.EXPIRED]
        self._log.attempted(message, expired, 0.0)
        if await self._settle(message, settlements) is not None:
            self._queue.disclaim(settlements)
