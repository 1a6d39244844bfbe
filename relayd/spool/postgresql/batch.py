"""What one transaction writes: acceptances by COPY, ends by one statement for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from relayd.mail.message import RecipientState, Settlement
from relayd.spool.postgresql.copyrows import (
    BYTEA,
    BYTEAS,
    FLOAT8,
    INT4,
    INT8,
    OPTIONAL_INT4,
    OPTIONAL_INT8,
    TEXT,
    CopyRows,
)
from relayd.spool.postgresql.session import DatabaseSession
from relayd.spool.sqlite.rows import EndRow, NewRows, Row, outcome_text

if TYPE_CHECKING:
    from psycopg import Cursor

Key = tuple[int, int]
"""A recipient: message, number."""

MESSAGE = CopyRows(
    "message",
    {
        "ident": INT8,
        "received": FLOAT8,
        "sender": TEXT,
        "size": INT8,
        "header_size": INT8,
        "flags": INT4,
        "facts": TEXT,
        "content_parity": INT8,
        "parity": INT8,
        "headers": BYTEAS,
        "content": BYTEA,
        "chunks": INT4,
    },
)
_FIXED = {
    "message": INT8,
    "number": INT4,
    "destination": TEXT,
    "mailbox": TEXT,
    "original": TEXT,
    "next_hop": TEXT,
    "sender": TEXT,
    "orcpt": TEXT,
    "notify": TEXT,
    "header": INT4,
    "parity": INT8,
    "state": INT4,
}
_OWNED = {"owner": INT4, "epoch": INT8}
_RECIPIENT = CopyRows("recipient", {**_FIXED, "next_attempt": FLOAT8, **_OWNED})
WHOLE = CopyRows(  # a RecipientRow
    "recipient",
    {
        **_FIXED,
        "attempts": INT4,
        "next_attempt": FLOAT8,
        "warned": INT4,
        "reply": TEXT,
        "outcome": TEXT,
        **_OWNED,
    },
)
LEDGER = CopyRows(  # a LedgerRow
    "ledger",
    {
        "message": INT8,
        "number": INT4,
        "ended": INT4,
        "at": FLOAT8,
        "state": INT4,
        "mailbox": TEXT,
        "original": TEXT,
        "next_hop": TEXT,
        "size": OPTIONAL_INT8,
        "sender": TEXT,
        "facts": TEXT,
        "attempts": OPTIONAL_INT4,
        "outcome": TEXT,
        "note": TEXT,
    },
)

_DELIVERED = int(RecipientState.DELIVERED)
_KEYS = "unnest(%(messages)s::bigint[], %(numbers)s::integer[]) AS v(message, number)"
_SAME = "r.message = v.message AND r.number = v.number"
_OURS = "r.owner = %(owner)s AND r.epoch <= %(epoch)s"

_WAITING = f"""SELECT r.message, r.number, r.warned FROM {_KEYS}
    JOIN recipient AS r ON {_SAME} WHERE {_OURS}"""
# of those who wait; all that it says has just been stored
_ACCEPT = """
    INSERT INTO ledger(message, number, ended, at, state, mailbox, original, next_hop, note,
        size, sender, facts)
    SELECT r.message, r.number, 0, m.received, r.state, r.mailbox, r.original, r.next_hop, r.sender,
        CASE r.number WHEN 0 THEN m.size END, CASE r.number WHEN 0 THEN m.sender END,
        CASE r.number WHEN 0 THEN m.facts END
    FROM message AS m JOIN recipient AS r ON r.message = m.ident WHERE m.ident = ANY(%s)"""
# A postponement leaves an operator's hold alone; HELD itself holds.
_POSTPONE = f"""
    UPDATE recipient AS r SET state = greatest(r.state, v.state), attempts = v.attempts,
        next_attempt = v.next_attempt, warned = greatest(r.warned, v.warned),
        reply = coalesce(v.reply, r.reply), outcome = coalesce(v.outcome, r.outcome)
    FROM unnest(%(messages)s::bigint[], %(numbers)s::integer[], %(states)s::integer[],
        %(attempts)s::integer[], %(next_attempts)s::double precision[], %(warned)s::integer[],
        %(replies)s::text[], %(outcomes)s::text[])
        AS v(message, number, state, attempts, next_attempt, warned, reply, outcome)
    WHERE {_SAME} AND {_OURS}"""
# Who waited is crossed off and entered into the ledger in one step; who did not is neither.
_END = f"""
    WITH gone AS (DELETE FROM recipient AS r
        USING unnest(%(messages)s::bigint[], %(numbers)s::integer[],
            %(ats)s::double precision[], %(states)s::integer[], %(attempts)s::integer[],
            %(outcomes)s::text[], %(notes)s::text[])
            AS v(message, number, at, state, attempts, outcome, note)
        WHERE {_SAME} AND {{}}
        RETURNING v.message, v.number, v.at, v.state, v.attempts, v.outcome, v.note),
    told AS (INSERT INTO ledger(message, number, ended, at, state, attempts, outcome, note)
        SELECT message, number, 1, at, state, attempts, outcome, note FROM gone
        ON CONFLICT DO NOTHING)
    SELECT message, number FROM gone"""
# ... who did not, but is another node's, or has ended there: it may have arrived twice
_LATE = f"""
    WITH told AS (
        SELECT v.message, v.number, v.state FROM unnest(%(messages)s::bigint[],
            %(numbers)s::integer[], %(states)s::integer[]) AS v(message, number, state)
        WHERE EXISTS (SELECT 1 FROM recipient AS r WHERE {_SAME} AND NOT ({_OURS}))
        OR EXISTS (SELECT 1 FROM ledger AS l WHERE l.message = v.message AND l.number = v.number
            AND l.ended = 1)),
    kept AS (INSERT INTO late(message, number, node, at)
        SELECT message, number, %(owner)s, %(now)s FROM told WHERE state = {_DELIVERED}
        ON CONFLICT DO NOTHING)
    SELECT count(*) FROM told"""
_FORGET = """
    DELETE FROM message AS m WHERE m.ident = ANY(%s)
    AND NOT EXISTS (SELECT 1 FROM recipient AS r WHERE r.message = m.ident)
    RETURNING m.ident, m.size, m.chunks"""
_DROP_CHUNKS = "DELETE FROM content WHERE message = ANY(%s)"
_BATCH = "INSERT INTO batch(node, serial, messages, octets) VALUES (%s, %s, %s, %s)"


class Ownership(NamedTuple):
    """A node, and since when: what is of an epoch after this one is not its any more."""

    owner: int
    epoch: int


class MovedError(Exception):
    """What a report is about has changed hands since it was entered: nothing of it is to stay."""


class Accepting(NamedTuple):
    """A message to store, and where its content is."""

    rows: NewRows
    content: bytes | None
    chunks: int = 0


class SharedBatch:
    """Collects the rows of one transaction, then writes them in an order that keeps promise 3."""

    def __init__(self, now: float, ours: Ownership, serial: int) -> None:
        self.now = now
        self.serial = serial
        self.ours = ours
        self.earliest = now  # of what is tried again
        self.fenced = 0  # settled here, but another node's by now: see SharedBatch.write
        self._accepting: list[Accepting] = []
        self._ends: dict[Key, EndRow] = {}  # of ours, by their deliveries
        self._taken: dict[Key, EndRow] = {}  # of anybody's, by an operator
        self._postponed: dict[Key, Settlement] = {}
        self._news: set[Key] = set()  # of the ends, those on whose account there is a report
        self._messages = 0
        self._octets = 0

    def accept(self, accepting: Accepting) -> None:
        """A message is to be stored."""
        self._accepting.append(accepting)

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Recipients got an outcome; the first end of each counts."""
        for settlement in settlements:
            record = settlement.record
            key = (record.message, record.number)
            if self._has_ended(key):
                continue
            if settlement.state.waiting:
                self._postponed[key] = settlement
                self.earliest = min(self.earliest, settlement.next_attempt)
                continue
            attempts = record.attempts + settlement.attempted
            said = outcome_text(settlement.outcome)
            self._ends[key] = EndRow(
                *key, self.now, int(settlement.state), attempts, said, settlement.note
            )

    def end(self, key: Key, row: EndRow) -> None:
        """A recipient ends, whoever owns it; `row` is what the ledger says of it."""
        if not self._has_ended(key):
            self._taken[key] = row

    def _has_ended(self, key: Key) -> bool:
        return key in self._ends or key in self._taken

    def add(self, messages: int, octets: int) -> None:
        """So much more waits that this transaction writes by itself; or (negative) less."""
        self._messages += messages
        self._octets += octets

    def has_effect(self, session: DatabaseSession, settlements: Sequence[Settlement]) -> bool:
        """Whether any of these is news that owes a report: an end, or a first warning.

        To be asked before `settle` is told of them. That one is postponed once more is no news.
        Where some have failed it is they who count: after a change of hands two deliveries of the
        same may end here, and what the second one says of others makes no new report on them.
        """
        settlements = [
            each for each in settlements if each.state is RecipientState.FAILED
        ] or settlements
        keys = [(each.record.message, each.record.number) for each in settlements]
        found = session.ask(_WAITING, self._keyed([key for key in keys if key not in self._ends]))
        waiting = {(message, number): warned for message, number, warned in found}
        news = False
        for key, settlement in zip(keys, settlements, strict=True):
            if key not in waiting or self._has_ended(key):
                continue
            before = self._postponed.get(key)
            warned = waiting[key] or (before is not None and before.warned)
            if not settlement.state.waiting:
                self._news.add(key)
                news = True
            elif settlement.warned and not warned:
                news = True
        return news

    def write(self, session: DatabaseSession) -> None:
        """Everything collected; inside a transaction that the caller began.

        An outcome for a recipient that another node has taken over meanwhile changes nothing.
        Raises MovedError where a report about it has been entered before that.
        """
        if self._accepting:
            self._write_accepted(session)
        if self._postponed:
            self._write_postponed(session)
        if self._ends:
            ended = self._write_ends(session, self._ends, _OURS)
            if not self._news <= ended:
                raise MovedError
            if len(ended) < len(self._ends):
                late = {key: row.state for key, row in self._ends.items() if key not in ended}
                states = [*late.values()]
                row = session.ask(
                    _LATE, {**self._keyed(late), "states": states, "now": self.now}
                ).fetchone()
                self.fenced += 0 if row is None else row[0]
        if self._taken:
            self._write_ends(session, self._taken, "true")
        if self._ends or self._taken:
            self._forget(session)
        session.ask(_BATCH, (self.ours.owner, self.serial, self._messages, self._octets))

    def _keyed(self, keys: Iterable[Key]) -> dict[str, object]:
        listed = list(keys)
        return {
            "messages": [message for message, _ in listed],
            "numbers": [number for _, number in listed],
            "owner": self.ours.owner,
            "epoch": self.ours.epoch,
        }

    def _write_accepted(self, session: DatabaseSession) -> None:
        messages: list[Row] = []
        recipients: list[Row] = []
        held: list[Row] = []
        ended: list[Row] = []
        for rows, content, chunks in self._accepting:
            if rows.message is not None:
                sections = [section for _, _, section in rows.headers]
                messages.append((*rows.message, sections, content, chunks))
                self.add(1, rows.message.size)
            recipients += [(*row, *self.ours) for row in rows.recipients]
            held += [(*row, *self.ours) for row in rows.held]
            ended += rows.ended
        for copying, told in (
            (MESSAGE, messages),
            (_RECIPIENT, recipients),
            (WHOLE, held),
            (LEDGER, ended),
        ):
            if told:
                session.copy(copying, copying.data(told))
        if messages:
            session.ask(_ACCEPT, ([row[0] for row in messages],))

    def _write_postponed(self, session: DatabaseSession) -> None:
        each = list(self._postponed.values())
        outcomes = [settlement.outcome for settlement in each]
        session.ask(
            _POSTPONE,
            {
                **self._keyed(self._postponed),
                "states": [int(settlement.state) for settlement in each],
                "attempts": [one.record.attempts + one.attempted for one in each],
                "next_attempts": [float(settlement.next_attempt) for settlement in each],
                "warned": [int(settlement.warned) for settlement in each],
                "replies": [None if said is None else str(said.reply) for said in outcomes],
                "outcomes": [outcome_text(said) for said in outcomes],
            },
        )

    def _write_ends(
        self, session: DatabaseSession, ends: dict[Key, EndRow], whose: str
    ) -> set[Key]:
        rows = list(ends.values())
        written = session.ask(
            _END.format(whose),
            {
                **self._keyed(ends),
                "ats": [row.at for row in rows],
                "states": [row.state for row in rows],
                "attempts": [row.attempts for row in rows],
                "outcomes": [row.outcome for row in rows],
                "notes": [row.note for row in rows],
            },
        )
        return set(written.fetchall())

    def _forget(self, session: DatabaseSession) -> None:
        """Those messages of which no recipient waits any more."""
        idents = list({message for message, _ in (*self._ends, *self._taken)})
        gone = session.ask(_FORGET, (idents,)).fetchall()
        for _, size, _ in gone:
            self.add(-1, -size)
        if chunked := [ident for ident, _, chunks in gone if chunks]:
            session.ask(_DROP_CHUNKS, (chunked,))

    def set_aside(self, session: DatabaseSession, message: int, reason: str) -> bool:
        """Move all rows of a damaged message to tables that nothing reads; if there are any."""
        moved = 0
        for table, column in (("recipient", "message"), ("content", "message")):
            moved += _moved(session, table, column, message).rowcount
        sizes = _moved(session, "message", "ident", message, "SELECT size FROM gone").fetchall()
        for (size,) in sizes:
            self.add(-1, -size)
        moved += len(sizes)
        if moved:
            session.ask(
                "INSERT INTO damaged VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                (message, self.now, reason),
            )
        return bool(moved)


def _moved(
    session: DatabaseSession,
    table: str,
    column: str,
    message: int,
    then: str = "SELECT 1 FROM gone",
) -> Cursor[tuple[Any, ...]]:
    return session.ask(
        f"""WITH gone AS (DELETE FROM {table} WHERE {column} = %s RETURNING *),
            kept AS (INSERT INTO damaged_{table} SELECT * FROM gone)
        {then}""",
        (message,),
    )
