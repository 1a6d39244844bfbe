"""Directories that are asked while somebody waits: by threads, with connections of their own.

A server that hangs holds its own threads and whoever asks it, for PATIENCE, and nobody else. What
it has said is remembered, that it has no such key, too; who asks what is just being asked waits
for the same answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from relayd.directories.source import PATIENCE, AskedSource, Connect, SourceError, TableOrder
from relayd.mail.log import MailLog
from relayd.rules.tables.live import LiveAnswer, LiveTable, read_targets
from relayd.rules.tables.table import Table
from relayd.shared.seldom import Seldom

THREADS = 4  # of each table
MOST_WAITING = 1000  # questions to one source
MOST_KEPT = 200_000  # answers
TROUBLE = 2.0  # seconds that one is not asked again about a key that it gave no answer for
IDLE = 60.0  # seconds after which a connection is closed


class _Question:
    """One key, and who waits for what is said of it."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.waiting: list[Deferred[object]] = []
        self.over = False
        self.limit: IDelayedCall | None = None
        self.asked: AskedSource | None = None  # the connection that it has been put to


class LiveDirectory:
    """One of them, in one process; see relayd.rules.tables.live.LiveAnswers."""

    def __init__(self, reactor: Any, order: TableOrder, log: MailLog, seldom: Seldom) -> None:  # noqa: ANN401
        self._reactor, self._order, self._log, self._seldom = reactor, order, log, seldom
        self.seconds: Callable[[], float] = reactor.seconds
        self._kept: dict[str, LiveAnswer] = {}  # the oldest first
        self._open: dict[str, _Question] = {}
        self._queue: SimpleQueue[_Question | None] = SimpleQueue()
        self._threads = 0
        self._cache = order.directory.live
        self._why, self._since = "", 0.0  # the last answer was none, and those before, since then

    @property
    def figures(self) -> Mapping[str, object]:
        """How it is, for `status`."""
        return {
            "name": self._order.name,
            "kind": self._order.directory.kind,
            "remembered": len(self._kept),
            "asked": len(self._open),
            "trouble": self._why,
            "since": self._since if self._why else None,
        }

    def known(self, key: str) -> LiveAnswer | None:
        """See LiveAnswers."""
        answer = self._kept.get(key)
        return None if answer is None or answer.until <= self.seconds() else answer

    def ask(self, key: str) -> object:
        """See LiveAnswers."""
        answer = self.known(key)
        if answer is not None:
            return _said(answer)
        question = self._open.get(key)
        if question is None:
            if len(self._open) >= MOST_WAITING:
                self._keep(key, self._trouble(f"more than {MOST_WAITING} questions at a time"))
                return None
            question = self._open[key] = _Question(key)
            question.limit = self._reactor.callLater(PATIENCE, self._late, question)
            self._queue.put(question)
            if self._threads < min(THREADS, len(self._open)):
                self._threads += 1
                threading.Thread(target=self._work, daemon=True).start()
        waiting: Deferred[object] = Deferred(question.waiting.remove)
        question.waiting.append(waiting)
        return waiting

    def stop(self) -> None:
        """Nobody asks any more; who still waits is told that nobody knows."""
        for question in [*self._open.values()]:
            self._end(question, self._trouble("the rules have changed"))
        for _ in range(self._threads):
            self._queue.put(None)

    # what is answered

    def _late(self, question: _Question) -> None:
        self._end(question, self._trouble(f"it has not answered within {PATIENCE:g} seconds"))

    def _end(self, question: _Question, answer: LiveAnswer) -> None:
        if question.over:
            return
        question.over = True
        if question.limit is not None and question.limit.active():
            question.limit.cancel()
        if answer.trouble and question.asked is not None:
            question.asked.end()  # the thread waits no longer, either
        del self._open[question.key]
        self._keep(question.key, answer)
        if answer.trouble and not self._why:
            self._since = time.time()
        self._why = answer.trouble
        said = answer.trouble or answer.wrong
        if said and self._seldom.times(f"table {self._order.name} {said}"):
            event = "table not asked" if answer.trouble else "entry passed over"
            self._log.trouble(event, table=self._order.name, key=question.key, why=said)
        for each in question.waiting:
            each.callback(_said(answer))

    def _keep(self, key: str, answer: LiveAnswer) -> None:
        self._kept.pop(key, None)
        self._kept[key] = answer
        if len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]

    def _trouble(self, why: str) -> LiveAnswer:
        now = self.seconds()
        return LiveAnswer((), now, now + TROUBLE, trouble=why)

    def _answered(self, question: _Question, rows: Sequence[object], trouble: str) -> None:
        if trouble:
            self._end(question, self._trouble(trouble))
            return
        now = self.seconds()
        targets, wrong = read_targets(self._order.name, rows) if rows else ((), "")
        answer = LiveAnswer(targets, now, now + self._cache, bool(rows), wrong)
        self._end(question, answer)

    # in a thread

    def _work(self) -> None:
        connect: Connect = import_module(f"relayd.directories.{self._order.directory.kind}").connect
        line: AskedSource | None = None
        while True:
            try:
                question = self._queue.get(timeout=IDLE)
            except Empty:
                if line is not None:
                    line.end()
                line = None
                continue
            if question is None:
                if line is not None:
                    line.end()
                return
            if question.over:
                continue
            rows: Sequence[object] = ()
            trouble = ""
            for fresh in (line is None, True):  # an old connection may have been closed meanwhile
                trouble = ""
                try:
                    line = line or connect(self._order)
                    question.asked = line
                    rows = [*line.ask(question.key)]
                except Exception as error:  # whatever a library raises must end no thread
                    trouble = _plain(error)
                    if line is not None:
                        line.end()
                    line = None
                if not trouble or fresh or question.over:
                    break
            question.asked = None
            self._reactor.callFromThread(self._answered, question, rows, trouble)


class LiveDirectories:
    """All of a process."""

    def __init__(self, reactor: Any, log: MailLog) -> None:  # noqa: ANN401  # several interfaces
        self._reactor, self._log = reactor, log
        self._seldom = Seldom(reactor.seconds)
        self._all: dict[str, LiveDirectory] = {}
        self._orders: dict[str, TableOrder] = {}

    def apply(self, orders: Sequence[TableOrder], tables: Mapping[str, Table]) -> None:
        """Those that there are now; what they have said is kept where the statement is the same."""
        wanted = {order.name: order for order in orders}
        for name in [*self._all]:
            if wanted.get(name) != self._orders[name]:
                self._all.pop(name).stop()
        for name, order in wanted.items():
            table = tables.get(name)
            if isinstance(table, LiveTable):
                if name not in self._all:
                    self._all[name] = LiveDirectory(self._reactor, order, self._log, self._seldom)
                    self._orders[name] = order
                table.answers = self._all[name]

    def figures(self) -> list[Mapping[str, object]]:
        """How each is."""
        return [each.figures for each in self._all.values()]

    def stop(self) -> None:
        """No more."""
        self.apply((), {})


def _said(answer: LiveAnswer) -> tuple[str, ...] | None:
    return None if answer.trouble else answer.targets


def _plain(error: Exception) -> str:
    if isinstance(error, SourceError):
        return str(error)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
