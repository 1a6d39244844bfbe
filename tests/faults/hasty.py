"""A relayd that answers before the commit: the oracle must catch it (see test_controls)."""

from __future__ import annotations

from collections.abc import Awaitable

from twisted.internet.defer import ensureDeferred, succeed
from twisted.scripts.twistd import run

from relayd.mail.message import Submission
from relayd.spool.draft import Draft
from relayd.spool.rows import accept_rows
from relayd.spool.store import Spool
from relayd.spool.view import Accepted

_patient = Spool._commit


async def _by_and_by(stored: Awaitable[Accepted]) -> None:
    await stored


def _hasty(spool: Spool, draft: Draft, submission: Submission) -> Awaitable[Accepted]:
    """First the promise, then the disk."""
    data = b"".join(draft._pieces)
    rows = accept_rows(draft.ident, spool._clock(), submission, draft.content(data), 0, data)
    ensureDeferred(_by_and_by(_patient(spool, draft, submission))).addErrback(lambda why: None)
    return succeed(rows.value)


if __name__ == "__main__":
    Spool._commit = _hasty  # type: ignore[method-assign,assignment]
    run()
