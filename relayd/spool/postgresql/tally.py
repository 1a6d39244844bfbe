"""What rules count and remember of clients, for all nodes: asked on the way of a recipient.

It has a thread and a session of its own, so that nobody waits behind mail, and begins with the
first question: where no rule counts, nothing of it is there. All that is asked at the same time is
one statement. Its COMMITs wait for no disk: a database that crashes may forget the last moment.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from relayd.shared.firstsights import KNOWN, RETRIED
from relayd.shared.slidingcounts import CELLS
from relayd.spool.errors import SpoolError
from relayd.spool.postgresql.session import DatabaseSession, trouble_of
from relayd.spool.sqlite.bridge import Bridge, Promise

REST = 1.0  # seconds without a question to a database that has just failed
PATIENCE = 2.0  # seconds that a question may have waited
PRUNE_EVERY = 60.0  # seconds
_HOUR = 3600.0  # a client that is known is noted anew no more often than this
MOST = 500  # questions in one statement

# Windows are as in relayd.shared.slidingcounts, by the clock of the database. Rows are taken in one
# order by all nodes, so that none waits for another that waits for it.
_COUNT = f"""
    WITH asked AS (
        SELECT v.name, v.key, v.width, v.times, floor(
            extract(epoch FROM clock_timestamp())::double precision / v.width)::bigint AS cell
        FROM unnest(%s::text[], %s::text[], %s::double precision[], %s::integer[])
            AS v(name, key, width, times)),
    put AS (
        INSERT INTO counted(name, key, cell, count, ends)
        SELECT name, key, cell, times, (cell + {CELLS}) * width FROM asked ORDER BY name, key
        ON CONFLICT (name, key, cell) DO UPDATE SET count = counted.count + excluded.count
        RETURNING name, key, cell, count)
    SELECT put.name, put.key, put.count + coalesce((
        SELECT sum(c.count) FROM counted AS c WHERE c.name = put.name AND c.key = put.key
        AND c.cell < put.cell AND c.cell > put.cell - {CELLS}), 0)::bigint
    FROM put"""
_GIVE_BACK = """
    UPDATE counted SET count = greatest(count - %(times)s, 0)
    WHERE name = %(name)s AND key = %(key)s AND cell = (
        SELECT max(cell) FROM counted
        WHERE name = %(name)s AND key = %(key)s AND count >= %(times)s)"""
_FORGET = "DELETE FROM counted WHERE name = %s AND key = %s"
_NOW = "SELECT extract(epoch FROM clock_timestamp())::double precision"
_KNOWN = "SELECT ends FROM sight WHERE key = %s AND ends > %s"
_KNOW = """INSERT INTO sight VALUES (%(key)s, %(now)s, %(ends)s)
    ON CONFLICT (key) DO UPDATE SET at = %(now)s, ends = %(ends)s"""
_SEE = """INSERT INTO sight VALUES (%(key)s, %(now)s, %(ends)s)
    ON CONFLICT (key) DO UPDATE SET
        at = CASE WHEN sight.ends > %(now)s THEN sight.at ELSE %(now)s END,
        ends = CASE WHEN sight.ends > %(now)s THEN sight.ends ELSE %(ends)s END
    RETURNING at"""


class _Count(NamedTuple):
    promise: Promise[int | None]
    name: str
    key: str
    seconds: float
    asked: float  # monotonic


class _GiveBack(NamedTuple):
    name: str
    key: str
    times: int


class _Meeting(NamedTuple):
    promise: Promise[bool | None]
    client: str
    errand: str
    patience: float
    asked: float  # monotonic


_Question = _Count | _GiveBack | _Meeting


class SharedTally:
    """Counts, and first sights, of all nodes together; None: the database does not say."""

    def __init__(
        self,
        session: Callable[[], DatabaseSession],
        bridge: Bridge,
        *,
        well: Callable[[], bool],
    ) -> None:
        """`well`: whether there is any point in asking."""
        self._make = session
        self._bridge = bridge
        self._well = well
        self._questions: queue.SimpleQueue[_Question | None] = queue.SimpleQueue()
        self._session: DatabaseSession | None = None
        self._thread: threading.Thread | None = None
        self._away_until = self._next_prune = float("-inf")

    def count(self, name: str, key: str, seconds: float) -> Promise[int | None]:
        """One more of this key in a window of so many seconds: how many there are with it."""
        promise: Promise[int | None] = self._bridge.promise()
        return self._ask(promise, _Count(promise, name, key, seconds, time.monotonic()))

    def meet(self, client: str, errand: str, patience: float) -> Promise[bool | None]:
        """What relayd.shared.firstsights says of it, in all nodes: whether it is too new."""
        promise: Promise[bool | None] = self._bridge.promise()
        return self._ask(promise, _Meeting(promise, client, errand, patience, time.monotonic()))

    def give_back(self, name: str, key: str, times: int) -> None:
        """What was counted did not happen, so often."""
        if self._thread is not None:
            self._questions.put(_GiveBack(name, key, times))

    def _ask(self, promise: Promise[Any], question: _Question) -> Promise[Any]:
        if not self._well():
            promise.callback(None)
            return promise
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="spool tally", daemon=True)
            self._thread.start()
        self._questions.put(question)
        return promise

    def stop(self) -> None:
        """Answer what was asked, then end; blocks."""
        if self._thread is not None:
            self._questions.put(None)
            self._thread.join()

    def _run(self) -> None:
        going_on = True
        while going_on:
            asked: list[_Question] = []
            item = self._questions.get()
            while item is not None and len(asked) < MOST:
                asked.append(item)
                try:
                    item = self._questions.get(block=False)
                except queue.Empty:
                    break
            else:
                going_on = item is not None
                if item is not None:
                    asked.append(item)
            self._answer(asked)
        self._close()

    def _answer(self, asked: list[_Question]) -> None:
        """All of them, whatever happens."""
        now = time.monotonic()
        late = [each for each in asked if not isinstance(each, _GiveBack)]
        fresh = [each for each in late if now - each.asked < PATIENCE]
        answers: dict[int, object] = {}
        if now >= self._away_until:
            try:
                answers = self._found(fresh, [e for e in asked if isinstance(e, _GiveBack)])
            except Exception:  # what is amiss with the database its writer says
                self._close()
                self._away_until = now + REST
        told = [(each.promise, answers.get(id(each))) for each in late]
        self._bridge.call(_tell, told)

    def _found(
        self, asked: list[_Count | _Meeting], given_back: list[_GiveBack]
    ) -> dict[int, object]:
        if self._session is None or self._session.lost:
            self._session = self._make()
            self._session.ask("SET synchronous_commit TO off")
        session = self._session
        answers: dict[int, object] = {}
        for each in given_back:  # of what was answered before
            session.ask(_GIVE_BACK, each._asdict())
        self._count(session, [each for each in asked if isinstance(each, _Count)], answers)
        for meeting in asked:
            if isinstance(meeting, _Meeting):
                answers[id(meeting)] = _too_new(session, meeting)
        if time.monotonic() >= self._next_prune:
            self._next_prune = time.monotonic() + PRUNE_EVERY
            for table in ("counted", "sight"):
                session.ask(f"DELETE FROM {table} WHERE ends < ({_NOW})")
        return answers

    def _count(
        self, session: DatabaseSession, asked: list[_Count], answers: dict[int, object]
    ) -> None:
        by_key: dict[tuple[str, str], list[_Count]] = {}
        for each in asked:
            by_key.setdefault((each.name, each.key), []).append(each)
        if not by_key:
            return
        values = (
            [name for name, _ in by_key],
            [key for _, key in by_key],
            [same[0].seconds / (CELLS - 1) for same in by_key.values()],
            [len(same) for same in by_key.values()],
        )
        for name, key, count in session.ask(_COUNT, values):
            same = by_key[name, key]
            for number, each in enumerate(same, 1):
                answers[id(each)] = count - len(same) + number

    def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()


def _too_new(session: DatabaseSession, meeting: _Meeting) -> bool:
    row = session.ask(_NOW).fetchone()
    assert row is not None
    now = float(row[0])
    client = {"key": f"known {meeting.client}", "now": now, "ends": now + KNOWN}
    known = session.ask(_KNOWN, (client["key"], now)).fetchone()
    if known is None:
        errand = f"seen {meeting.client} {meeting.errand}"
        seen = session.ask(_SEE, {"key": errand, "now": now, "ends": now + RETRIED}).fetchone()
        assert seen is not None
        if now - seen[0] < meeting.patience:
            return True
    if known is None or known[0] < now + KNOWN - _HOUR:
        session.ask(_KNOW, client)
    return False


def _tell(told: list[tuple[Promise[Any], object]]) -> None:
    for promise, value in told:
        promise.callback(value)


def forget_in(where: str, name: str, key: str) -> None:
    """Count this key anew, in all nodes; raises SpoolError."""
    try:
        session = DatabaseSession(where, "relayd forgets")
        try:
            session.ask(_FORGET, (name, key))
        finally:
            session.close()
    except Exception as error:
        raise trouble_of(error) or SpoolError(repr(error)) from error
