"""Mail of nodes that are gone goes to those that are there: in steps, each of them fenced.

Whether a node is gone is told by no clock but one's own: its last sign of life is the same for a
whole lease, however the clocks of machines are set; or it has left in order, and said so. While the
database is away nobody can show one, and whoever is back first must not take the others for gone:
silence counts only while one looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from relayd.mail.message import RecipientState
from relayd.spool.lease import Lease
from relayd.spool.postgresql.batch import SharedBatch
from relayd.spool.postgresql.session import DatabaseSession
from relayd.spool.postgresql.writes import SharedWrite
from relayd.spool.sqlite.rows import EndRow
from relayd.spool.steps import NOBODY_ANSWERED, SCANNED
from relayd.spool.view import NEVER_ANSWERED

TAKEN = 500  # messages in one step
AWAY = 1 / 2  # of a lease without a look, after which one has heard nobody's silence

_REMOVED = int(RecipientState.REMOVED)
_NODES = """
    SELECT n.id, n.name, n.beat::text, n.beat = '-infinity',
        EXISTS (SELECT 1 FROM recipient AS r WHERE r.owner = n.id AND r.state = 0)
    FROM node AS n WHERE n.id <> %s"""
# whoever shows a sign of life, or begins anew, ends it; and no outcome of an earlier epoch counts
_FENCE = """
    UPDATE node SET epoch = epoch + 1 WHERE id =
    (SELECT id FROM node WHERE id = %s AND beat = %s::timestamptz FOR UPDATE SKIP LOCKED)"""
_NEXT = f"""
    SELECT destination, next_attempt, message FROM recipient WHERE owner = %s AND state = 0
    AND (destination, next_attempt, message) > (%s, %s, %s)
    ORDER BY destination, next_attempt, message LIMIT {TAKEN}"""
_MOVE = """
    UPDATE recipient SET owner = %s, epoch = %s WHERE message = ANY(%s) AND owner = %s
    RETURNING message, number"""


class Neighbours:
    """The other nodes, by what this one has seen of them; in the writer's thread."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._looked = float("-inf")
        self._seen: dict[int, tuple[str, float]] = {}  # the sign of life, and since when
        self._emptied: dict[int, str] = {}  # after which sign of life all was taken over
        self._gone: list[tuple[int, str, str]] = []
        self.others: tuple[str, ...] = ()  # the names of those that are there

    def look(self, session: DatabaseSession, ours: int) -> None:
        """What the database has of them now."""
        found = session.ask(_NODES, (ours,)).fetchall()
        now = self._lease.now()
        if now - self._looked > AWAY * self._lease.seconds:
            self._seen = {number: (beat, now) for number, (beat, _) in self._seen.items()}
        self._looked = now
        self._gone = []
        alive = []
        for number, name, beat, left, waiting in found:
            seen = self._seen.get(number)
            if seen is None or seen[0] != beat:
                seen = self._seen[number] = beat, now
            silent = left or now - seen[1] > self._lease.seconds
            if not silent:
                alive.append(name)
            if silent and (waiting or self._emptied.get(number) != beat):
                self._gone.append((number, name, beat))
        self.others = tuple(alive)

    def gone(self) -> Iterator[tuple[int, str, str]]:
        """Those whose mail is to be taken over, each told once: number, name, sign of life."""
        gone, self._gone = self._gone, []
        yield from gone

    def emptied(self, number: int, beat: str) -> None:
        """Nothing is left of what that node had."""
        self._emptied[number] = beat


class TakeOver(SharedWrite):
    """All mail of a node that is gone, some messages a batch, whole ones only.

    Several nodes may be at it together; who meets another in a step leaves the rest to it.
    """

    lasting = True
    alone = True

    def __init__(
        self,
        neighbours: Neighbours,
        gone: tuple[int, str, str],
        report: Callable[[str, list[tuple[int, int]]], None],
        notice: Callable[[str, int], None],
    ) -> None:
        self._neighbours = neighbours
        self._number, self._name, self._beat = gone
        self._report = report
        self._notice = notice
        self._at: tuple[object, ...] = ("", float("-inf"), 0)
        self._held_at = (0, -1)
        self._steps: tuple[tuple[object, ...], tuple[int, int]] = (self._at, self._held_at)
        self._queued = True  # what is queued goes first, then what is on hold
        self._over = self._back = False
        self._met: list[tuple[int, int]] = []
        self._count = 0

    def enter(self, batch: SharedBatch, session: DatabaseSession) -> None:
        """The next few."""
        self._met, self._over = [], False
        self._steps = self._at, self._held_at
        fenced = session.ask(_FENCE, (self._number, self._beat))
        if fenced.rowcount != 1:
            self._over = self._back = True
        elif self._queued:
            self._take_queued(batch, session)
        else:
            self._take_held(batch, session)

    def _take_queued(self, batch: SharedBatch, session: DatabaseSession) -> None:
        found = session.ask(_NEXT, (self._number, *self._at)).fetchall()
        if found:
            self._steps = tuple(found[-1]), self._held_at
            self._move(batch, session, list({message for _, _, message in found}))

    def _take_held(self, batch: SharedBatch, session: DatabaseSession) -> None:
        """What no client was answered about is let go, as that node would do when it began."""
        found = session.ask(
            f"""SELECT message, number, attempts, outcome IS NOT DISTINCT FROM %s, owner
            FROM recipient WHERE state = 1 AND (message, number) > (%s, %s)
            ORDER BY message, number LIMIT {SCANNED}""",
            (NOBODY_ANSWERED, *self._held_at),
        ).fetchall()
        kept = set()
        for message, number, attempts, unanswered, owner in found:
            key = message, number
            if owner == self._number and unanswered:
                batch.end(key, EndRow(*key, batch.now, _REMOVED, attempts, None, NEVER_ANSWERED))
            elif owner == self._number:
                kept.add(message)
        if kept:
            self._move(batch, session, list(kept))
        self._over = len(found) < SCANNED
        if found:
            self._steps = self._at, (found[-1][0], found[-1][1])

    def _move(self, batch: SharedBatch, session: DatabaseSession, messages: list[int]) -> None:
        self._met = session.ask(_MOVE, (*batch.ours, messages, self._number)).fetchall()
        batch.earliest = float("-inf")  # it may wait before where scans begin

    def done(self) -> bool:
        """Go on until nothing is left, or the node is back."""
        if self._queued and self._steps[0] == self._at:
            self._queued = False
        self._at, self._held_at = self._steps
        self._count += len(self._met)
        if self._met:
            self._report("take over", [(message, number) for message, number in self._met])
        if self._over:
            if not self._back:
                self._neighbours.emptied(self._number, self._beat)
            if self._count:
                self._notice(self._name, self._count)
        return self._over
