"""The reader: one private thread with a session of its own answers all questions."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from relayd.spool.errors import SpoolError
from relayd.spool.postgresql.content import LocalFiles
from relayd.spool.postgresql.search import SharedSearch
from relayd.spool.postgresql.session import DatabaseSession, trouble_of
from relayd.spool.sqlite.bridge import Bridge, Promise

Question = Callable[[SharedSearch], object]

REMEMBERED = 30.0  # seconds that the position of a scan counts: others may put mail before it


class SharedReader:
    """Answers questions in the order they were asked; results reach the owner's thread."""

    def __init__(
        self,
        session: Callable[[], DatabaseSession],
        files: LocalFiles,
        bridge: Bridge,
        *,
        owner: Callable[[], int],
        clock: Callable[[], float],
        damaged: Callable[[int, str], None],
    ) -> None:
        self._make = session
        self._files = files
        self._bridge = bridge
        self._owner = owner
        self._clock = clock
        self._damaged = damaged
        self._doubt: SpoolError | None = None
        self._questions: queue.SimpleQueue[tuple[Promise[Any], Question, bool] | None]
        self._questions = queue.SimpleQueue()
        self._session: DatabaseSession | None = None
        self._positions: dict[str, float] = {}
        self._positions_until = 0.0
        self._thread = threading.Thread(target=self._run, name="spool reader", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer what was asked, then end; blocks."""
        self._questions.put(None)
        self._thread.join()

    def ask(self, question: Question, promise: Promise[Any], *, to_act: bool = False) -> None:
        """Queue a question; from any thread. `to_act`: whoever asks relies on the answer."""
        self._questions.put((promise, question, to_act))

    def doubt(self, error: SpoolError | None) -> None:
        """What is read from now on may be taken back (None: no more), so nobody may act upon it."""
        self._doubt = error

    def forget_positions(self) -> None:
        """Mail may wait before where an earlier scan began; from any thread."""
        self._positions_until = 0.0

    def _run(self) -> None:
        while (item := self._questions.get()) is not None:
            promise, question, to_act = item
            try:
                if to_act and (doubt := self._doubt) is not None:
                    raise SpoolError(doubt.reason)
                value = self._surely(question)
            except Exception as error:
                trouble = trouble_of(error)
                reason = trouble or SpoolError(f"reading the spool failed: {error!r}")
                self._bridge.call(promise.errback, reason)
            else:
                self._bridge.call(promise.callback, value)
        self._close()

    def _surely(self, question: Question) -> object:
        """The answer; from a new session if the old one turns out to be lost."""
        try:
            return self._answer(question)
        except Exception:
            if self._session is None or not self._session.lost:
                raise
        return self._answer(question)

    def _answer(self, question: Question) -> object:
        if self._session is None or self._session.lost:
            self._close()
            self._session = self._make()
        if (now := time.monotonic()) >= self._positions_until:
            self._positions = {}
            self._positions_until = now + REMEMBERED
        session = self._session
        search = SharedSearch(
            session, self._files, self._owner(), self._positions, float(self._clock())
        )
        # One answer is one snapshot: what ends while it is put together must not seem missing.
        session.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            value = question(search)
        finally:
            with suppress(Exception):  # then the answer was an error, too
                session.rollback()
        for ident, reason in search.damaged:
            self._damaged(ident, reason)
        return value

    def _close(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            session.close()
