"""The reader: one private thread with a connection of its own answers all questions."""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from relayd.spool.disk.content import ContentFiles
from relayd.spool.disk.trouble import SpoolCorrupt, trouble_of
from relayd.spool.errors import SpoolError
from relayd.spool.sqlite.bridge import Bridge, Promise, surely
from relayd.spool.sqlite.database import Database
from relayd.spool.sqlite.search import Search

CACHE = 8 << 20

T = TypeVar("T")
Question = Callable[[Search], object]


class Reader:
    """Answers questions in the order they were asked; results reach the owner's thread."""

    def __init__(
        self,
        database: Database,
        files: ContentFiles,
        bridge: Bridge,
        *,
        damaged: Callable[[int, str], None],
        corrupt: Callable[[SpoolError], None],
    ) -> None:
        self._database = database
        self._files = files
        self._bridge = bridge
        self._damaged = damaged
        self._corrupt = corrupt
        self._doubt: SpoolError | None = None
        self._questions: queue.SimpleQueue[tuple[Promise[Any] | None, Question, bool] | None]
        self._questions = queue.SimpleQueue()
        self._asking: Promise[Any] | None = None  # who waits for the question in hand
        self._error: Exception | None = None  # that he is to hear of
        self._ended = False
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._run, name="spool reader", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer what was asked, then end; blocks."""
        self._questions.put(None)
        self._thread.join()

    def ask(
        self, question: Question, promise: Promise[Any] | None, *, to_act: bool = False
    ) -> None:
        """Queue a question; from any thread. `to_act`: whoever asks relies on the answer."""
        self._questions.put((promise, question, to_act))

    def doubt(self, error: SpoolError | None) -> None:
        """What is read from now on may be taken back (None: no more), so nobody may act upon it.

        A COMMIT that failed leaves its rows in the log; once that is read anew they are there,
        though their senders were told that they are not, until mending has dropped them.
        """
        self._doubt = error

    def answer(self, question: Callable[[Search], T]) -> T:
        """Answer at once, in the calling thread; raises SpoolError."""
        try:
            with self._lock:
                return self._answer(question)
        except Exception as error:
            trouble = trouble_of(error) or SpoolError(f"reading the spool failed: {error!r}")
            raise trouble from error

    @contextmanager
    def away(self) -> Iterator[None]:
        """Keep the reader off the files, its connection closed, while they are mended."""
        with self._lock:
            self._close()
            yield

    def _run(self) -> None:
        while not self._ended:
            try:
                if self._error is not None:
                    self._failed(self._error)
                else:
                    self._answer_one()
            except Exception as error:
                # nothing is called here, for that might break, too, and a reader that ends answers
                # nobody any more
                if self._error is None:
                    self._error = error
        with self._lock:
            self._close()

    def _answer_one(self) -> None:
        """The next question; None is the end."""
        self._asking = None
        item = self._questions.get()
        if item is None:
            self._ended = True
            return
        promise, question, to_act = item
        self._asking = promise
        with self._lock:
            if to_act and (doubt := self._doubt) is not None:
                raise SpoolError(doubt.reason)
            value = self._answer(question)
        if promise is not None:
            surely(self._bridge, promise.callback, value)

    def _answer(self, question: Callable[[Search], T]) -> T:
        if self._connection is None:
            self._connection = self._database.connect(cache=CACHE, read_only=True)
        search = Search(self._connection, self._files)
        # One answer is one snapshot: what ends while it is put together must not seem missing.
        self._connection.execute("BEGIN")
        try:
            value = self._asked(question, search)
        finally:
            with suppress(sqlite3.Error):  # then the answer was an error, too
                self._connection.execute("ROLLBACK")
        for ident, reason in search.damaged:
            self._damaged(ident, reason)
        return value

    def _asked(self, question: Callable[[Search], T], search: Search) -> T:
        assert self._connection is not None
        try:
            return question(search)
        except sqlite3.OperationalError as error:
            if hasattr(error, "sqlite_errorcode"):
                raise
            # A text that is no UTF-8: read it all the same; its parity will show whose it is.
            self._connection.text_factory = _tolerant
            try:
                return question(search)
            finally:
                self._connection.text_factory = str

    def _failed(self, error: Exception) -> None:
        """The question that broke is answered so, when there is memory for that."""
        trouble = trouble_of(error)
        if trouble is not None:
            with self._lock:
                self._close()
        if isinstance(trouble, SpoolCorrupt):
            self._corrupt(trouble)
        if self._asking is not None:
            if trouble is None:
                trouble = SpoolError(f"reading the spool failed: {error!r}")
            surely(self._bridge, self._asking.errback, trouble)
            self._asking = None
        self._error = None

    def _close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()


def _tolerant(data: bytes) -> str:
    return data.decode("utf-8", "replace")
