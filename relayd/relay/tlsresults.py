"""Counts how TLS went, session by session; written down every few seconds, not at each one."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.mail.delivery import Delivery
from relayd.mail.log import MailLog
from relayd.reactor.coroutine import log_bug, spawn
from relayd.relay.tlsledger import MOST_WHY, Key, TlsLedger
from relayd.report.tlsrpt import TlsReports
from relayd.tls.flaw import Failure, Policy

BATCH = 10.0  # seconds
MOST = 10_000  # different results in memory: beyond, failures are counted without details
MOST_OCTETS = 4 << 20  # of policies in memory, for it is others who write them: likewise

InThread = Callable[..., Awaitable[Any]]


def day_of(now: float) -> str:
    """The UTC day, as 2026-11-22."""
    return time.strftime("%Y-%m-%d", time.gmtime(now))


class TlsResults:
    """The counts of one process. Without the setting nothing is counted."""

    def __init__(
        self,
        clock: IReactorTime,
        ledger: TlsLedger,
        in_thread: InThread,
        log: MailLog,
        settings: Callable[[], TlsReports | None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._in_thread = in_thread
        self._log = log
        self._settings = settings
        self._now = now
        self._counts: dict[Key, int] = {}
        self._policies: dict[Policy, Policy] = {}  # those in the counts, each kept once
        self._octets = 0  # of what they publish
        self._timer: IDelayedCall | None = None

    def ours(self, delivery: Delivery) -> bool:
        """Whether it is a report itself: those are not reported on (RFC 8460 section 5.3)."""
        settings = self._settings()
        return settings is not None and delivery.reverse_path == settings.address

    def note(self, policy: Policy, failure: Failure | None) -> None:
        """A session came to TLS as the policy wants it, or failed."""
        if self._settings() is None:
            return
        if failure is not None and len(failure.why) > MOST_WHY:
            failure = replace(failure, why=failure.why[:MOST_WHY])
        key = (day_of(self._now()), self._once(policy), failure)
        if len(self._counts) >= MOST and key not in self._counts:
            key = (key[0], _bare(policy), None if failure is None else Failure(failure.flaw))
        self._counts[key] = self._counts.get(key, 0) + 1
        if self._timer is None:
            self._timer = self._clock.callLater(BATCH, self._due)

    def _once(self, policy: Policy) -> Policy:
        """The same policy as in other counts; without what it publishes where that is too much."""
        if not policy.strings and not policy.mx:
            return policy
        known = self._policies.get(policy)
        if known is None:
            octets = sum(len(each) + 64 for each in (*policy.strings, *policy.mx))
            if self._octets + octets > MOST_OCTETS:
                return _bare(policy)
            self._octets += octets
            known = self._policies[policy] = policy
        return known

    def _due(self) -> None:
        self._timer = None
        spawn(self.flush(), partial(log_bug, self._log, "bug"))

    async def flush(self) -> None:
        """Write down what there is; the log says when that fails, and it is lost."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        counts, self._counts = self._counts, {}
        self._policies, self._octets = {}, 0
        if not counts:
            return
        try:
            await self._in_thread(self._ledger.add, counts)
        except OSError as error:
            self._log.trouble("TLS results not kept", why=str(error), results=sum(counts.values()))


def _bare(policy: Policy) -> Policy:
    return replace(policy, strings=(), mx=())
