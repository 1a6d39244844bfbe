"""Records outcomes in the spool, and holds on to them for as long as the spool cannot."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.mail.log import MailLog
from relayd.mail.message import Settlement
from relayd.spool.errors import SpoolAway, SpoolFull
from relayd.spool.view import Accepted, NewMessage

_POLL = 1.0  # seconds between looks at a spool that is in trouble
_TRIES = 3  # of one call, at a spool that says it is healthy


class QueueStore(Protocol):
    """What the relay manager asks of a spool (see relayd.spool.interface.Store)."""

    @property
    def healthy(self) -> bool:
        """It can record."""

    def settle(
        self, settlements: Sequence[Settlement], reports: Sequence[NewMessage] = ()
    ) -> Awaitable[list[Accepted]]:
        """Record outcomes and the reports they owe, in one transaction."""

    def destinations(self) -> Awaitable[list[tuple[str, float]]]:
        """Every destination with queued mail, and its earliest next_attempt."""

    def due(
        self, destination: str, now: float, limit: int, *, longest: float = math.inf
    ) -> Awaitable[list[Accepted]]:
        """Messages with their due records, the earliest next_attempt first (see Store.due)."""

    def earliest(self, destination: str, after: float) -> Awaitable[float | None]:
        """The earliest next_attempt later than `after` among the queued records."""

    def aged(
        self, received_before: float, after: int, limit: int, *, unwarned: bool = False
    ) -> Awaitable[list[Accepted]]:
        """Waiting messages by ident, for warnings and expiry."""

    def load(self, ident: int) -> Awaitable[Accepted | None]:
        """One waiting message."""


class Settling:
    """Every outcome goes through here. While one is owed to the spool, nothing new may start:

    a delivery whose outcome cannot be recorded would be repeated (promise 4).
    """

    def __init__(
        self, clock: IReactorTime, shelf: QueueStore, log: MailLog, resumed: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._shelf = shelf
        self._log = log
        self._resumed = resumed
        self._owed = 0  # calls that failed and are not made good yet
        self._waiting: list[Deferred[None]] = []
        self._poll: IDelayedCall | None = None

    @property
    def stalled(self) -> bool:
        """Delivery has to stand still; `resumed` is called when it may go on."""
        if self._owed or not self._shelf.healthy:
            self._watch()
            return True
        return False

    @property
    def owed(self) -> int:
        """How many calls wait for the spool to recover."""
        return self._owed

    async def record(
        self, settlements: Sequence[Settlement], reports: Sequence[NewMessage] = ()
    ) -> list[Accepted] | None:
        """Settle, however long it takes. None: the spool is well but will not take this one.

        Repeating a settle that failed is safe: the first end state of a recipient wins.
        """
        refused = 0
        owed = False
        try:
            while True:
                try:
                    return await self._shelf.settle(settlements, reports)
                except Exception as error:
                    if not owed:
                        owed = True
                        self._owed += 1
                        self._log.trouble("outcome not recorded", why=str(error))
                    # a store may be well again by now, for a moment: not for this one's sake
                    if not isinstance(error, (SpoolFull, SpoolAway)):
                        refused += self._shelf.healthy
                    if refused >= _TRIES:
                        self._log.trouble(
                            "outcome cannot be recorded; the recipients rest until a restart",
                            message=str(settlements[0].record.message) if settlements else "",
                            why=repr(error),
                        )
                        return None
                waiter: Deferred[None] = Deferred()
                self._waiting.append(waiter)
                self._watch()
                await waiter
        finally:
            if owed:
                self._owed -= 1
                self._check()

    async def record_now(self, settlements: Sequence[Settlement]) -> bool:
        """Settle, or say at once that it cannot be done now."""
        try:
            await self._shelf.settle(settlements)
        except Exception as error:
            self._log.trouble("outcome not recorded", why=str(error))
            return False
        return True

    def recovered(self) -> None:
        """The spool says that it can record again: what is owed goes first."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)
        self._check()

    def stop(self) -> None:
        """No more looking."""
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None

    def _watch(self) -> None:
        if self._poll is None:
            self._poll = self._clock.callLater(_POLL, self._look)

    def _look(self) -> None:
        self._poll = None
        if self._shelf.healthy:
            self.recovered()
        else:
            self._watch()

    def _check(self) -> None:
        if not self._owed and self._shelf.healthy:
            self._resumed()
