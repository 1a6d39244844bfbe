"""Deliveries end in time before others may begin the same (see relayd.spool.lease)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.mail.log import MailLog
from relayd.spool.lease import Lease

_LOOK = 1.0  # seconds between two looks, or half of what lies between two signs of life


class TenureWatch:
    """Calls `withdraw` once each time that the lease has run low."""

    def __init__(
        self, clock: IReactorTime, lease: Lease, withdraw: Callable[[], None], log: MailLog
    ) -> None:
        self._clock = clock
        self._lease = lease
        self._withdraw = withdraw
        self._log = log
        self._timer: IDelayedCall | None = None
        self._cut = False

    def start(self) -> None:
        """Look from now on."""
        self._timer = self._clock.callLater(min(_LOOK, self._lease.beat / 2), self._look)

    def stop(self) -> None:
        """No more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        cut = not self._lease.may_go_on()
        if cut and not self._cut:
            self._log.trouble("no sign of life for too long: deliveries are cut off")
            self._withdraw()
        self._cut = cut
        self.start()
