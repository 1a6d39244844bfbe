"""The things a caller may ask the writer to record, each with the promise it owes.

`enter` may be called once more, for the same: when it turned out that a transaction was lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from relayd import __version__
from relayd.mail.message import RecipientState, Settlement
from relayd.mail.outcome import held
from relayd.spool.condition import POSTGRESQL
from relayd.spool.errors import SpoolError
from relayd.spool.lease import Lease
from relayd.spool.postgresql.batch import Accepting, SharedBatch
from relayd.spool.postgresql.session import DatabaseSession
from relayd.spool.sqlite.bridge import Promise
from relayd.spool.sqlite.rows import EndRow, RecipientRow, columns, outcome_text, row_of
from relayd.spool.steps import CHANGED, NOBODY_ANSWERED, SCANNED, OperatorSteps
from relayd.spool.view import NEVER_ANSWERED, Rerouting

_COLUMNS = columns("recipient")
_OF_MESSAGE = f"SELECT {_COLUMNS}, owner, epoch FROM recipient WHERE message = %s"
_INSERT = f"""INSERT INTO recipient({_COLUMNS}, owner, epoch)
    VALUES ({", ".join(["%s"] * (len(RecipientRow._fields) + 2))})"""
_SAME_UNTIL = RecipientRow._fields.index("reply")  # what only says why it waits may differ
_KEYS = "unnest(%(messages)s::bigint[], %(numbers)s::integer[]) AS v(message, number)"
_THESE = f"FROM {_KEYS} WHERE r.message = v.message AND r.number = v.number"
_REMOVED = int(RecipientState.REMOVED)

PRUNED = 500  # rows of the ledger
TAKEN_OVER = "other nodes have waited for a sign of life in vain, and take the mail over"
ROOM = 7000  # octets of a notice
REROUTED = "reroute"  # ... and one that the owner hears of only if it is another node
SUSPENDING = "suspending"  # instead of the verb of a change, in a notice
TOLD = 200  # keys in one notice, which has room for 8,000 octets


class SharedWrite:
    """One request to the writer. `enter` adds it to a batch; `done` hears of the COMMIT."""

    alone = False  # whoever waits for its locks must not wait for the rest of a batch
    lasting = False  # may be left for the next run when the spool closes
    promise: Promise[Any] | None = None
    value: object = None  # what the promise is to fire with
    octets = 0  # of content
    grows = False  # it is an acceptance

    def enter(self, batch: SharedBatch, session: DatabaseSession) -> None:
        """Add it to the batch, or do it at once inside the batch's transaction."""
        raise NotImplementedError

    def done(self) -> bool:
        """It is durable; False asks for another turn before the promise fires."""
        return True


class SharedAcceptance(SharedWrite):
    """A message to store before 250."""

    grows = True

    def __init__(self, promise: Promise[Any], accepting: Accepting) -> None:
        self.promise = promise
        self.accepting = accepting
        self.value = accepting.rows.value

    @property
    def octets(self) -> int:  # type: ignore[override]
        """Of content, in the row."""
        return len(self.accepting.content or b"")

    def enter(self, batch: SharedBatch, session: DatabaseSession) -> None:
        """Add its rows; its chunks have to be there."""
        rows, _, chunks = self.accepting
        if chunks:
            found = session.ask(
                "SELECT count(*) FROM content WHERE message = %s", (rows.ident,)
            ).fetchone()
            if found is None or found[0] != chunks:
                raise LookupError("chunks of its content are missing")
        batch.accept(self.accepting)


class SharedSettlement(SharedWrite):
    """Outcomes of one delivery, and the reports they owe."""

    def __init__(
        self,
        promise: Promise[Any],
        settlements: Sequence[Settlement],
        reports: Sequence[Accepting],
    ) -> None:
        self.promise = promise
        self._settlements = settlements
        self._reports = reports

    def enter(self, batch: SharedBatch, session: DatabaseSession) -> None:
        """Outcomes always; reports only if the outcomes are news (see Store.settle)."""
        stored = self._reports
        if stored and self._settlements and not batch.has_effect(session, self._settlements):
            stored = ()
        batch.settle(self._settlements)
        for accepting in stored:
            batch.accept(accepting)
        self.value = [accepting.rows.value for accepting in stored]


class SharedSetAside(SharedWrite):
    """A damaged message to take out of the queue."""

    def __init__(
        self,
        promise: Promise[Any] | None,
        ident: int,
        reason: str,
        after: Callable[[int, str], None],
    ) -> None:
        self.promise = promise
        self._ident = ident
        self._reason = reason
        self._after = after

    def enter(self, batch: SharedBatch, session: DatabaseSession) -> None:
        """Move its rows."""
        self.value = batch.set_aside(session, self._ident, self._reason)

    def done(self) -> bool:
        """The log hears of it."""
        if self.value:
            self._after(self._ident, self._reason)
        return True


class SharedOperatorWrite(OperatorSteps, SharedWrite):
    """An operator's retry, hold, release or remove, one small step a batch."""

    dialect = POSTGRESQL

    def enter(self, batch: SharedBatch, session: DatabaseSession) -> None:
        """Find the next few and change them."""
        message, number = self._at
        found = session.ask(
            f"""SELECT r.message, r.number, r.attempts FROM (
                SELECT * FROM recipient WHERE (message, number) > (%(message)s, %(number)s)
                AND message <= %(last)s ORDER BY message, number LIMIT {SCANNED}
            ) AS r JOIN message AS m ON m.ident = r.message
            WHERE {self._condition} ORDER BY r.message, r.number LIMIT {CHANGED}""",
            {**self._parameters, "message": message, "number": number, "last": self._last},
        ).fetchall()
        self._met = [(message, number) for message, number, _ in found]
        self._next = self._met[-1] if len(found) == CHANGED else self._end_of_step(session)
        if not found:
            return
        self._tell(batch, session)
        keyed: dict[str, object] = {
            "messages": [message for message, _ in self._met],
            "numbers": [number for _, number in self._met],
        }
        if self._verb == "remove":
            for message, number, attempts in found:
                row = EndRow(message, number, batch.now, _REMOVED, attempts, None, self._note)
                batch.end((message, number), row)
        elif self._verb == "hold":
            word = held(self._note or "the operator")
            said = {"reply": str(word.reply), "outcome": outcome_text(word)}
            session.ask(
                f"""UPDATE recipient AS r SET state = 1, reply = %(reply)s, outcome = %(outcome)s
                {_THESE}""",
                {**keyed, **said},
            )
        else:
            if self._sections:
                self._change_sections(session)
            said_no_more = ", reply = NULL, outcome = NULL" if self._verb == "release" else ""
            session.ask(
                f"""UPDATE recipient AS r SET state = 0, next_attempt = %(now)s{said_no_more}
                {_THESE}""",
                {**keyed, "now": batch.now},
            )

    def _tell(self, batch: SharedBatch, session: DatabaseSession) -> None:
        """Their owners, who may have them in memory."""
        for start in range(0, len(self._met), TOLD):
            words = [batch.ours.owner, self._verb, self._met[start : start + TOLD]]
            session.tell(json.dumps(words))

    def _change_sections(self, session: DatabaseSession) -> None:
        for message, number in self._met:
            found = session.ask(f"{_OF_MESSAGE} AND number = %s", (message, number)).fetchone()
            assert found is not None
            row = RecipientRow._make(found[:-2])
            section = self._sections.get(row.header)
            if section is None:
                continue
            (known,) = session.ask(
                "SELECT headers FROM message WHERE ident = %s", (message,)
            ).fetchone() or ((),)
            sections = list(known or ())
            if section not in sections:
                sections.append(section)
                session.ask(
                    "UPDATE message SET headers = %s::bytea[] WHERE ident = %s", (sections, message)
                )
            changed = row.with_header(sections.index(section) + 1)
            session.ask(
                """UPDATE recipient SET header = %s, parity = %s
                WHERE message = %s AND number = %s""",
                (changed.header, changed.parity, message, number),
            )

    def _end_of_step(self, session: DatabaseSession) -> tuple[int, int]:
        last = session.ask(
            f"""SELECT message, number FROM recipient WHERE (message, number) > (%s, %s)
            AND message <= %s ORDER BY message, number LIMIT 1 OFFSET {SCANNED - 1}""",
            (*self._at, self._last),
        ).fetchone()
        return (self._last, 1 << 40) if last is None else (last[0], last[1])


class SharedClientAnswered(SharedWrite):
    """The client of a message is about to hear 250."""

    def __init__(self, promise: Promise[Any], ident: int) -> None:
        self.promise = promise
        self._ident = ident

    def enter(self, batch: SharedBatch, session: DatabaseSession) -> None:
        """Its recipients are queued from now on."""
        changed = session.ask(
            """UPDATE recipient SET state = 0, next_attempt = %s, reply = NULL, outcome = NULL
            WHERE message = %s AND state = 1 AND outcome = %s""",
            (batch.now, self._ident, NOBODY_ANSWERED),
        )
        if not changed.rowcount:
            gone = "SELECT 1 FROM ledger WHERE message = %s AND ended = 1 AND note = %s LIMIT 1"
            if session.ask(gone, (self._ident, NEVER_ANSWERED)).fetchone() is not None:
                raise LookupError("another node has let it go: its client may not hear 250")


class SharedLetGo(SharedWrite):
    """Of this node's earlier runs: messages whose clients were not answered."""

    def __init__(self, newest: int, told: Callable[[int], None]) -> None:
        self._newest = newest
        self._told = told
        self._at = self._next = (0, -1)
        self._over = False
        self._count = self._met = 0

    def enter(self, batch: SharedBatch, session: DatabaseSession) -> None:
        """The next few of all that is on hold."""
        found = session.ask(
            f"""SELECT message, number, attempts, outcome IS NOT DISTINCT FROM %s AND owner = %s
            FROM recipient WHERE state = 1 AND (message, number) > (%s, %s) AND message <= %s
            ORDER BY message, number LIMIT {SCANNED}""",
            (NOBODY_ANSWERED, batch.ours.owner, *self._at, self._newest),
        ).fetchall()
        self._met = 0
        for message, number, attempts, unanswered in found:
            if unanswered:
                key = message, number
                batch.end(key, EndRow(*key, batch.now, _REMOVED, attempts, None, NEVER_ANSWERED))
                self._met += 1
        self._over = len(found) < SCANNED
        if found:
            self._next = (found[-1][0], found[-1][1])

    def done(self) -> bool:
        """Go on until the end was reached."""
        self._at = self._next
        self._count += self._met
        if self._over and self._count:
            self._told(self._count)
        return self._over


class SharedReroute(SharedWrite):
    """Another way for recipients of some messages."""

    def __init__(self, promise: Promise[Any], reroutings: Sequence[Rerouting]) -> None:
        self.promise = promise
        self._reroutings = reroutings

    def enter(self, batch: SharedBatch, session: DatabaseSession) -> None:
        """Their rows, and what the ledger says of where they go."""
        self.value = [
            each.message for each in self._reroutings if self._enter(each, batch, session)
        ]

    def _enter(self, rerouting: Rerouting, batch: SharedBatch, session: DatabaseSession) -> bool:
        ident = rerouting.message
        found = session.ask("SELECT sender FROM message WHERE ident = %s", (ident,)).fetchone()
        if found is None:
            return False
        (sender,) = found
        waiting = {row[1]: row for row in session.ask(_OF_MESSAGE, (ident,))}
        for record in rerouting.before:
            row = waiting.get(record.number, ())
            if row[:_SAME_UNTIL] != row_of(record, sender)[:_SAME_UNTIL]:
                return False
        rows = [row_of(record, sender) for record in rerouting.after]
        changed = len(rerouting.changed)
        if not waiting:
            return False
        owned = next(iter(waiting.values()))[-2:]  # all of a message are one node's
        for n, row in enumerate(rows):
            key = (row.message, row.number)
            if n < changed:
                session.ask("DELETE FROM recipient WHERE message = %s AND number = %s", key)
                session.ask(
                    """UPDATE ledger SET mailbox = %s, original = %s, next_hop = %s, note = %s
                    WHERE message = %s AND number = %s AND ended = 0""",
                    (*_way(row), *key),
                )
            else:
                session.ask(
                    """INSERT INTO ledger(mailbox, original, next_hop, note,
                    message, number, ended, at, state)
                    VALUES (%s, %s, %s, %s, %s, %s, 0, %s, %s)""",
                    (*_way(row), *key, batch.now, row.state),
                )
            session.ask(_INSERT, (*row, *owned))
        if owned[0] != batch.ours.owner:  # who has it in memory as it was
            keys = [(record.message, record.number) for record in rerouting.before]
            for start in range(0, len(keys), TOLD):
                words = [batch.ours.owner, REROUTED, keys[start : start + TOLD]]
                session.tell(json.dumps(words))
        for record, note in rerouting.ended:
            key = (record.message, record.number)
            batch.end(key, EndRow(*key, batch.now, _REMOVED, record.attempts, None, note))
        return True


def _way(row: RecipientRow) -> tuple[str, str | None, str, str | None]:
    return row.mailbox, row.original, row.next_hop, row.sender


class SharedSuspending(SharedWrite):
    """What operators have told to wait, in all nodes: some more of it, or less."""

    def __init__(
        self,
        promise: Promise[Any],
        begun: Sequence[Mapping[str, object]] = (),
        ended: tuple[str, str] | None = None,
    ) -> None:
        """`ended`: kind and whom; of no kind: all."""
        self.promise = promise
        self._begun = begun
        self._ended = ended

    def enter(self, batch: SharedBatch, session: DatabaseSession) -> None:
        """The rows, and a word to the others; who does not hear it sees the rows soon."""
        for each in self._begun:
            document = json.dumps(each)
            session.ask(
                """INSERT INTO suspension VALUES (%s, %s, %s)
                ON CONFLICT (kind, whom) DO UPDATE SET document = %s""",
                (each["kind"], each["whom"], document, document),
            )
        gone: list[Any] = []
        if self._ended is not None:
            kind, whom = self._ended
            found = session.ask(
                """DELETE FROM suspension WHERE %s = '' OR (kind = %s AND whom = %s)
                RETURNING document""",
                (kind, kind, whom),
            ).fetchall()
            gone = [json.loads(document) for (document,) in found]
        self.value = gone
        ended = [(each["kind"], each["whom"]) for each in gone]
        words = json.dumps([batch.ours.owner, SUSPENDING, [[*self._begun], ended]])
        if (self._begun or gone) and len(words) <= ROOM:
            session.tell(words)


class Beat(SharedWrite):
    """A sign of life of the node; what has piled up in `batch` becomes one row."""

    lasting = True
    alone = True

    def __init__(
        self,
        lease: Lease,
        look: Callable[[DatabaseSession, int], None] = lambda *_: None,
        rules: str = "",
    ) -> None:
        """`look`: at those of others. `rules`: the hash of those in force here."""
        self._lease = lease
        self._look = look
        self._rules = rules
        self._began = 0.0

    def enter(self, batch: SharedBatch, session: DatabaseSession) -> None:
        """Of the row of a node nobody but that node writes, while it lives."""
        owner, epoch = batch.ours
        self._began = self._lease.now()
        alive = """UPDATE node SET beat = clock_timestamp(), written_by = %s, rules = %s,
                rules_since = CASE WHEN rules = %s THEN rules_since ELSE now() END
            WHERE id = %s AND epoch = %s"""
        words = __version__, self._rules, self._rules
        if session.ask(alive, (*words, owner, epoch)).rowcount != 1:
            raise SpoolError(TAKEN_OVER)
        self._look(session, owner)
        found = session.ask(
            """WITH gone AS (DELETE FROM batch WHERE node = %s AND serial < %s
                RETURNING messages, octets)
            SELECT coalesce(sum(messages), 0)::bigint, coalesce(sum(octets), 0)::bigint
            FROM gone""",
            (owner, batch.serial),
        ).fetchone()
        if found is not None:
            batch.add(*found)

    def done(self) -> bool:
        """The lease is renewed: since when it was asked for."""
        self._lease.renewed(self._began)
        return True


class ClearChunks(SharedWrite):
    """Chunks that an earlier run of this node sent for messages which it never accepted."""

    lasting = True

    def __init__(self, newest: int) -> None:
        self._newest = newest

    def enter(self, batch: SharedBatch, session: DatabaseSession) -> None:
        """Of this node alone: those of others may be on their way."""
        session.ask(
            """DELETE FROM content AS c WHERE c.message <= %s AND (c.message & 255) = %s
            AND NOT EXISTS (SELECT 1 FROM message AS m WHERE m.ident = c.message)""",
            (self._newest, batch.ours.owner),
        )


class SharedPrune(SharedWrite):
    """Drops what the ledger has of messages that are over and old, one small step a batch."""

    lasting = True

    def __init__(self, before: int) -> None:
        self._before = before  # idents below it are too old
        self._at = self._next = 0
        self._more = True

    def enter(self, batch: SharedBatch, session: DatabaseSession) -> None:
        """Delete one step's worth; messages still waiting keep their history."""
        rows = session.ask(
            f"""SELECT message FROM ledger WHERE message > %s AND message < %s
            ORDER BY message LIMIT {PRUNED}""",
            (self._at, self._before),
        ).fetchall()
        self._more = len(rows) == PRUNED
        if rows:
            self._next = rows[-1][0]
            session.ask(
                """DELETE FROM ledger AS l WHERE l.message > %s AND l.message <= %s
                AND NOT EXISTS (SELECT 1 FROM message AS m WHERE m.ident = l.message)""",
                (self._at, self._next),
            )
            session.ask("DELETE FROM late WHERE message <= %s", (self._next,))

    def done(self) -> bool:
        """Go on while there is more."""
        self._at = self._next
        return not self._more
