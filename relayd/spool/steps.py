"""An operator's word about much mail, carried out in small steps between which mail goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from relayd.mail.message import RecipientState
from relayd.mail.outcome import UNANSWERED
from relayd.spool.condition import Dialect, condition
from relayd.spool.sqlite.bridge import Promise
from relayd.spool.sqlite.rows import outcome_text
from relayd.spool.view import QueueFilter

SCANNED = 4000  # recipients that one step looks at
CHANGED = 500  # ... and changes, so that acceptance never waits long for it
NOBODY_ANSWERED = outcome_text(UNANSWERED)  # no peer can say it: there is no remote MTA in it

_OF_STATE = {
    "retry": RecipientState.QUEUED,
    "hold": RecipientState.QUEUED,
    "release": RecipientState.HELD,
}


class OperatorSteps:
    """What a retry, hold, release or remove is about, and how far it has come.

    A write of a store, whose `enter` takes a step from `_at` on: what it changes is `_met`, and
    `_next` is where it has come to.
    """

    dialect: Dialect

    def __init__(
        self,
        promise: Promise[Any],
        verb: str,
        wanted: QueueFilter,
        note: str,
        report: Callable[[str, list[tuple[int, int]]], None],
        sections: Mapping[int, bytes],
    ) -> None:
        self.promise: Promise[Any] | None = promise
        self._sections = sections
        self._verb = verb
        self._note = note
        self._report = report
        self._condition, self._parameters = condition(wanted, self.dialect)
        bound = self.dialect.bound
        if verb in _OF_STATE:
            self._condition += f" AND r.state = {bound('only')}"
            self._parameters["only"] = int(_OF_STATE[verb])
        if verb == "release":  # not what a client is about to be answered about
            self._condition += f" AND coalesce(r.outcome, '') <> {bound('unanswered')}"
            self._parameters["unanswered"] = NOBODY_ANSWERED
        self._at = (wanted.ident, -1) if wanted.ident else (0, -1)
        self._last = wanted.ident or (1 << 62)
        self._next = self._at
        self._met: list[tuple[int, int]] = []
        self.value: object = 0

    def done(self) -> bool:
        """Count what was changed; go on unless the end was reached."""
        assert isinstance(self.value, int)
        self.value += len(self._met)
        self._at = self._next
        if self._met:
            self._report(self._verb, self._met)
        return self._at[0] >= self._last
