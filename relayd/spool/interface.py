"""What a spool is to the rest of relayd.

Spool, PostgresqlSpool and MemorySpool pass the same contract suite.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Protocol

from relayd.mail.message import Settlement, Submission
from relayd.spool.lease import Lease
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
    NewMessage,
    Page,
    QueueFilter,
    Rerouting,
)


class AnyDraft(Protocol):
    """A message on its way in."""

    ident: int
    size: int  # octets written so far

    def write(self, data: bytes) -> None:
        """More content; raises SpoolError (then commit would fail as well)."""

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """What was written, from `start` on, in pieces of CHUNK or as they came.

        Nothing may be written meanwhile. Raises SpoolError, also at the end if it is not whole.
        """

    def anew(self) -> AnyDraft:
        """An empty draft, for what may take the place of this content; else roll it back, too."""

    def become(self, fresh: AnyDraft) -> None:
        """Have the content of `fresh`, made by `anew`, instead of our own; `fresh` is over.

        SpoolError: neither can be committed.
        """

    def commit(self, submission: Submission) -> Awaitable[Accepted]:
        """Durable when it fires; SpoolError: nothing was accepted (promise 1 and 4)."""

    def rollback(self) -> None:
        """Forget it; harmless after commit."""


class Store(Protocol):
    """A spool. Methods are called in the owner's thread, and promises fire there.

    Several nodes may share one, and then each sends what it has taken: what `destinations`, `due`,
    `earliest` and `aged` tell is this node's own; everything else is of all.
    """

    on_trouble: Callable[[str], None]  # it has just become unhealthy, and why
    on_recovery: Callable[[], None]
    on_change: Callable[[str, Sequence[tuple[int, int]]], None]
    # ^ the operator's "retry", "hold", "release" or "remove" met these (message, number)s; or
    # his "reroute", where another node has carried it out

    @property
    def lease(self) -> Lease | None:
        """For how long what it has to send is its own; None: for ever, there is nobody else."""

    @property
    def healthy(self) -> bool:
        """It can record; while not, everything that must be recorded fails at once.

        So do the questions whose answers are acted upon, from `destinations` to `aged`: what is
        read then may be of a COMMIT that failed, and about to be dropped.
        """

    def room(self, size: int) -> bool:
        """Space and inodes for a message of so many octets, above the floors (promise 5)."""

    def new_ident(self) -> int:
        """An identifier never given before, later than all others."""

    def create(self, *, pure: bool = False) -> AnyDraft:
        """Begin to take in a message. `pure`: see Content; whoever writes it has looked."""

    def settle(
        self, settlements: Sequence[Settlement], reports: Sequence[NewMessage] = ()
    ) -> Awaitable[list[Accepted]]:
        """Record outcomes and the reports they owe in one transaction (promise 3).

        Call it once per delivery. The first end state of a recipient wins; a postponement keeps
        an operator's hold; reports are stored only if at least one recipient ended or was warned
        of for the first time, so repeating a call that failed is safe. Gives the reports stored.
        """

    def answered(self, ident: int) -> Awaitable[None]:
        """The client of this message is about to hear 250: who is UNANSWERED is queued, due now.

        Those whose client had heard nothing when an earlier run ended are let go (REMOVED) when
        the store is opened: their client has the message still (RFC 5321 section 4.1.1.4).
        """

    def destinations(self) -> Awaitable[list[tuple[str, float]]]:
        """Every destination with queued mail, and its earliest next_attempt."""

    def due(
        self, destination: str, now: float, limit: int, *, longest: float = math.inf
    ) -> Awaitable[list[Accepted]]:
        """Up to `limit` messages with their due records, the earliest next_attempt first.

        Due is also what waits for a time more than `longest` seconds away: no schedule has said
        that, but a clock that was set back since.
        """

    def earliest(self, destination: str, after: float) -> Awaitable[float | None]:
        """The earliest next_attempt later than `after` among its queued records."""

    def aged(
        self, received_before: float, after: int, limit: int, *, unwarned: bool = False
    ) -> Awaitable[list[Accepted]]:
        """Waiting messages by ident with all their waiting records, for warnings and expiry.

        Go on with the last ident until the list is empty. `unwarned`: only messages with a
        queued recipient whose sender was not warned yet.
        """

    def load(self, ident: int) -> Awaitable[Accepted | None]:
        """One waiting message with all its waiting records."""

    def history(self, ident: int) -> Awaitable[History | None]:
        """What the ledger knows of a message, also after its end."""

    def listing(self, wanted: QueueFilter, after: int, limit: int) -> Awaitable[Page]:
        """Waiting messages by ident, at most `limit` and those after `after`."""

    def find(self, wanted: FindFilter, before: int, limit: int) -> Awaitable[FoundPage]:
        """Recipients of waiting and of finished mail, the newest message first.

        About `limit`, whole messages only, and those of messages with an ident below `before`.
        """

    def counts(self) -> Awaitable[Counts]:
        """Totals."""

    def backlog(self) -> Awaitable[Backlog]:
        """How much waits, and how old it is, as quick with a million messages.

        `oldest` has the destinations of the messages that have waited longest, some hundreds; all
        next hops with a name; and one at least of those sent to directly, if there are some, which
        is the oldest of them. Of a next hop with tens of thousands of recipients, and younger
        messages than others, it may be one that is tried soon in the place of the oldest.
        """

    def audit(self, after: int, limit: int) -> Awaitable[Audit]:
        """Recipients in the ledger by ident, about `limit`, and those not accounted for."""

    def retry(self, wanted: QueueFilter) -> Awaitable[int]:
        """Make queued recipients due now; how many. In small steps, like the next three."""

    def hold(self, wanted: QueueFilter, by: str = "") -> Awaitable[int]:
        """Keep queued recipients out of the queue; how many. `by`: who wants it so, and why."""

    def release(
        self, wanted: QueueFilter, sections: Mapping[int, bytes] = AS_THEY_ARE
    ) -> Awaitable[int]:
        """Put held recipients back, due now; how many. Not who is UNANSWERED: see `answered`.

        `sections`, of one message alone: header sections that its recipients see from now on, by
        those that they were to see (Recipient.header).
        """

    def remove(self, wanted: QueueFilter, note: str = "") -> Awaitable[int]:
        """End waiting recipients as REMOVED; how many."""

    def envelopes(
        self, wanted: QueueFilter, after: int, limit: int
    ) -> Awaitable[tuple[list[Envelopes], int | None]]:
        """Waiting messages by ident that the filter means, of the next `limit`; where to go on.

        None: that was all. Read to act upon.
        """

    def reroute(self, reroutings: Sequence[Rerouting]) -> Awaitable[list[int]]:
        """Send waiting recipients another way, in one transaction; of which messages.

        One of which a recipient is not as it was is left alone. No `on_change`: whoever asks for it
        keeps what is under way off, and knows what to look for afterwards. The owners of others'
        hear of it: what is under way there already ends the way that it has.
        """

    def set_aside(self, ident: int, reason: str) -> Awaitable[bool]:
        """Take a damaged message out of the queue, kept for inspection (promise 8)."""

    def close(self) -> Awaitable[None]:
        """Finish what was asked for, then let go of the files."""
