"""Bad news of one message that comes together is told in one report.

What the sender is to be told of a recipient waits, not recorded, while other deliveries of the
same message are in memory: loaded, with a courier, or being recorded. The waiting ends with the
last of them, after LONGEST seconds, or when relayd stops. Whoever was cut off by the death of the
process is in the table as he was, and is tried again: nobody is crossed off without his report
(promise 3). What was delivered never waits: it would be delivered twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from relayd.mail.message import Message, RecipientState, Settlement
from relayd.reactor.coroutine import spawn

LONGEST = 5.0  # seconds that bad news may wait for more
MOST = 500  # messages at a time whose bad news waits: they take memory
LULL = 1.0  # ... after a second or later attempt, where others fall due at the same moment

Recorded = Sequence[Settlement] | None
"""What was recorded; None: that was refused (see Settling.record)."""


class _Batch:
    __slots__ = ("held", "lull", "message", "settlements", "timers", "waiting")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.settlements: list[Settlement] = []
        self.waiting: list[Deferred[Recorded]] = []
        self.held = 0  # deliveries that wait here
        self.lull = False  # others may fall due now
        self.timers: list[IDelayedCall] = []


class Gathering:
    """`parts` says how many deliveries of a message are in memory."""

    def __init__(
        self,
        clock: IReactorTime,
        parts: Callable[[int], int],
        record: Callable[[Message, Sequence[Settlement]], Awaitable[Recorded]],
    ) -> None:
        self._clock = clock
        self._parts = parts
        self._record = record
        self._batches: dict[int, _Batch] = {}
        self._stopped = False

    async def settle(
        self, message: Message, settlements: Sequence[Settlement], *, parts: int = 1
    ) -> Recorded:
        """Record bad news, with what else there is; `parts` deliveries brought it."""
        ident = message.ident
        lull = any(each.attempted and each.record.attempts for each in settlements)
        batch = self._batches.get(ident)
        if batch is None:
            alone = not lull and self._parts(ident) <= parts
            if alone or not parts or self._stopped or len(self._batches) >= MOST:
                return await self._record(message, settlements)
            batch = self._batches[ident] = _Batch(message)
            batch.timers.append(self._clock.callLater(LONGEST, self._flush, batch))
        if lull and not batch.lull:
            batch.lull = True
            batch.timers.append(self._clock.callLater(LULL, self._calm, batch))
        batch.settlements += settlements
        batch.held += parts
        told: Deferred[Recorded] = Deferred()
        batch.waiting.append(told)
        self.landed(ident)
        recorded = await told
        if recorded is None:
            return None
        mine = {each.record.number for each in settlements}
        return [each for each in recorded if each.record.number in mine]

    def landed(self, ident: int) -> None:
        """A delivery of this message is not in memory any more."""
        batch = self._batches.get(ident)
        if batch is not None and not batch.lull and self._parts(ident) <= batch.held:
            self._flush(batch)

    def stop(self) -> None:
        """What waits is recorded at once, and nothing waits any more."""
        self._stopped = True
        for batch in list(self._batches.values()):
            self._flush(batch)

    def _calm(self, batch: _Batch) -> None:
        batch.lull = False
        self.landed(batch.message.ident)

    def _flush(self, batch: _Batch) -> None:
        del self._batches[batch.message.ident]
        for timer in batch.timers:
            if timer.active():
                timer.cancel()
        spawn(self._recorded(batch), partial(_fail, batch))

    async def _recorded(self, batch: _Batch) -> None:
        recorded = await self._record(batch.message, batch.settlements)
        for told in batch.waiting:
            told.callback(recorded)


def _fail(batch: _Batch, failure: Failure) -> None:
    for told in batch.waiting:
        if not told.called:
            told.errback(failure)


def bad_news(settlement: Settlement) -> bool:
    """Whether the sender may have to hear of it, and it can wait."""
    return settlement.state in (RecipientState.FAILED, RecipientState.EXPIRED) or (
        settlement.state is RecipientState.QUEUED and settlement.warned
    )
