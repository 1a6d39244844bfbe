"""What is asked of a store that has a thread for its answers: the same, whatever it searches."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

from relayd.spool.view import (
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


class Questions:
    """The questions of a Store; each is put to a Search, in the thread of a reader."""

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
