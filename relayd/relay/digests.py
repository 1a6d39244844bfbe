"""Tells the postmaster of the reports that were kept from strangers: one digest for all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.mail.log import MailLog
from relayd.reactor.coroutine import log_bug, spawn
from relayd.relay.keptreports import KeptReports
from relayd.report.backscatter import KeptSummary

PERIOD = 2.0  # seconds between two looks whether anything has changed: an operator may have asked
UNCHANGED = 60.0  # ... and where nothing has, whether it is time

Tell = Callable[[Sequence[KeptSummary]], Awaitable[None]]
"""Puts the digest into the spool; raises OSError."""


class Digests:
    """One of all workers sends them. Died in between, it is sent once more, not less."""

    def __init__(
        self,
        clock: IReactorTime,
        kept: KeptReports,
        tell: Tell,
        in_thread: Callable[..., Awaitable[Any]],
        log: MailLog,
        now: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._kept = kept
        self._tell = tell
        self._in_thread = in_thread
        self._log = log
        self._now = now
        self._timer: IDelayedCall | None = None
        self._seen = 0
        self._next = 0.0

    def start(self) -> None:
        """Look now and then."""
        self._timer = self._clock.callLater(PERIOD, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _look(self) -> None:
        changed, now = self._kept.changed, self._clock.seconds()
        if not changed or (changed == self._seen and now < self._next):
            self.start()
        else:
            self._seen, self._next = changed, now + UNCHANGED
            spawn(self._looked(), partial(log_bug, self._log, "digest not sent"))

    async def _looked(self) -> None:
        timer = self._timer
        try:
            await self.send_if_due()
        except OSError as error:
            self._log.trouble("digest of kept reports not sent", why=str(error))
        finally:
            if self._timer is timer and timer is not None:
                self.start()

    async def send_if_due(self) -> bool:
        """Whether it was due, and is on its way; raises OSError."""
        now = self._now()
        if not await self._in_thread(self._kept.due, now):
            return False
        kept = await self._in_thread(self._kept.claim, now)
        await self._tell(kept)
        await self._in_thread(self._kept.told, kept, now)
        self._log.notice("digest of kept reports", reports=sum(each.reports for each in kept))
        return True
