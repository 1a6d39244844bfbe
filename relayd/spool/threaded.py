"""What is the same in all stores that record and answer in threads of their own."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from relayd.mail.ident import make_ident
from relayd.mail.log import MailLog
from relayd.spool.errors import SpoolError
from relayd.spool.sqlite.bridge import Bridge
from relayd.spool.sqlite.search import newest_by
from relayd.spool.view import (
    AS_THEY_ARE,
    Accepted,
    Audit,
    Backlog,
    Counts,
    Envelopes,
    FindFilter,
    FoundPage,
    History,
    Page,
    QueueFilter,
)


class ThreadedStore:
    """The part of a Store that does not depend on what is asked, nor on what records."""

    on_change: Callable[[str, Sequence[tuple[int, int]]], None]
    _bridge: Bridge
    _log: MailLog | None
    _clock: Callable[[], float]
    _shard: int
    _last_us: int  # of the identifier given last
    _open: bool
    _trouble: SpoolError | None

    def _change(
        self,
        verb: str,
        wanted: QueueFilter,
        note: str = "",
        sections: Mapping[int, bytes] = AS_THEY_ARE,
    ) -> Awaitable[int]:
        """Have an operator's word carried out."""
        raise NotImplementedError

    def _ask(self, question: Callable[[Any], object], *, to_act: bool = False) -> Awaitable[Any]:
        """Have it answered. `to_act`: whoever asks relies on the answer."""
        raise NotImplementedError

    def destinations(self) -> Awaitable[list[tuple[str, float]]]:
        """Every destination with queued mail, and its earliest next_attempt."""
        return self._ask(lambda search: search.destinations(), to_act=True)

    def due(
        self, destination: str, now: float, limit: int, *, longest: float = math.inf
    ) -> Awaitable[list[Accepted]]:
        """Up to `limit` messages with their due records."""
        return self._ask(
            lambda search: search.due(destination, now, limit, longest=longest), to_act=True
        )

    def earliest(self, destination: str, after: float) -> Awaitable[float | None]:
        """The earliest next_attempt later than `after`."""
        return self._ask(lambda search: search.earliest(destination, after), to_act=True)

    def load(self, ident: int) -> Awaitable[Accepted | None]:
        """One waiting message with all its waiting records."""
        return self._ask(lambda search: search.load(ident))

    def history(self, ident: int) -> Awaitable[History | None]:
        """What the ledger knows of a message."""
        return self._ask(lambda search: search.history(ident))

    def listing(self, wanted: QueueFilter, after: int, limit: int) -> Awaitable[Page]:
        """Waiting messages by ident."""
        return self._ask(lambda search: search.listing(wanted, after, limit))

    def envelopes(
        self, wanted: QueueFilter, after: int, limit: int
    ) -> Awaitable[tuple[list[Envelopes], int | None]]:
        """Waiting messages by ident that the filter means."""
        return self._ask(lambda search: search.envelopes(wanted, after, limit), to_act=True)

    def find(self, wanted: FindFilter, before: int, limit: int) -> Awaitable[FoundPage]:
        """Recipients of waiting and of finished mail, the newest message first."""
        return self._ask(lambda search: search.find(wanted, before, limit))

    def counts(self) -> Awaitable[Counts]:
        """Totals."""
        return self._ask(lambda search: search.counts())

    def backlog(self) -> Awaitable[Backlog]:
        """How much waits, and how old it is."""
        return self._ask(lambda search: search.backlog())

    def audit(self, after: int, limit: int) -> Awaitable[Audit]:
        """Recipients in the ledger that are not accounted for."""
        return self._ask(lambda search: search.audit(after, limit))

    def new_ident(self) -> int:
        """An identifier never given before, later than all others, whatever the clock does."""
        self._last_us = max(self._last_us + 1, int(self._clock() * 1e6))
        return make_ident(self._last_us, self._shard)

    def retry(self, wanted: QueueFilter) -> Awaitable[int]:
        """Make queued recipients due now."""
        return self._change("retry", wanted)

    def hold(self, wanted: QueueFilter, by: str = "") -> Awaitable[int]:
        """Keep queued recipients out of the queue."""
        return self._change("hold", wanted, by)

    def release(
        self, wanted: QueueFilter, sections: Mapping[int, bytes] = AS_THEY_ARE
    ) -> Awaitable[int]:
        """Put held recipients back, due now."""
        return self._change("release", wanted, sections=sections)

    def remove(self, wanted: QueueFilter, note: str = "") -> Awaitable[int]:
        """End waiting recipients as REMOVED."""
        return self._change("remove", wanted, note)

    def _unable(self) -> SpoolError:
        """Why it is not healthy."""
        return self._trouble if self._open and self._trouble else SpoolError("the spool is closed")

    def notice(self, event: str, **facts: object) -> None:
        """For the threads: something for the log."""
        self._bridge.call(lambda: self._say(event, **facts))

    def _say(self, event: str, **facts: object) -> None:
        if self._log is not None:
            self._log.trouble(event, **facts)

    def _let_go(self, recipients: int) -> None:
        if self._log is not None:
            event = "let go: the clients were not answered before the end, and have it still"
            self._bridge.call(lambda log: log.notice(event, recipients=recipients), self._log)

    def _changed(self, verb: str, met: list[tuple[int, int]]) -> None:
        self._bridge.call(lambda: self.on_change(verb, met))

    def aged(
        self, received_before: float, after: int, limit: int, *, unwarned: bool = False
    ) -> Awaitable[list[Accepted]]:
        """Waiting messages by ident with all their waiting records."""
        # idents run ahead of the clock after it was set back: then they bound nothing
        ahead = self._last_us > self._clock() * 1e6 + 1e6
        newest = min(1 << 62, newest_by(received_before)) if not ahead else 1 << 62
        return self._ask(
            lambda search: search.aged(received_before, after, limit, newest, unwarned), to_act=True
        )
