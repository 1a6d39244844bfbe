"""A relayd that answers before the commit: the oracle must catch it (see test_controls)."""

from __future__ import annotations

from collections.abc import Awaitable

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred, succeed
from twisted.internet.task import deferLater
from twisted.scripts.twistd import run

from relayd.intake import takeover
from relayd.mail.message import Submission
from relayd.spool.disk.draft import Draft
from relayd.spool.sqlite.rows import accept_rows
from relayd.spool.sqlite.store import Spool
from relayd.spool.view import Accepted

# Long enough that whenever the power is cut something was promised and not yet stored: a commit
# takes a millisecond, and no cut would be sure to fall into one.
LATE = 0.25  # seconds from the promise to the commit

_patient = Spool._commit
_at_once = takeover._hand_over


async def _by_and_by(spool: Spool, draft: Draft, submission: Submission) -> None:
    await deferLater(reactor, LATE)
    await _patient(spool, draft, submission)


def _hasty(spool: Spool, draft: Draft, submission: Submission) -> Awaitable[Accepted]:
    """First the promise, then the disk."""
    data = b"".join(draft._pieces)
    rows = accept_rows(draft.ident, spool._clock(), submission, draft.content(data), 0, data)
    ensureDeferred(_by_and_by(spool, draft, submission)).addErrback(lambda why: None)
    return succeed(rows.value)


def _once_stored(*message: object) -> None:
    """It leaves when it is stored, as from any relayd; else the sink would have it already."""
    deferLater(reactor, 2 * LATE, _at_once, *message)


if __name__ == "__main__":
    Spool._commit = _hasty  # type: ignore[method-assign,assignment]
    takeover._hand_over = _once_stored  # type: ignore[assignment]
    run()
