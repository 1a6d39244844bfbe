"""The things a caller may ask the writer to record, each with the promise it owes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from relayd.mail.message import RecipientState, Settlement
from relayd.mail.outcome import held
from relayd.spool.condition import SQLITE
from relayd.spool.sqlite.batch import Batch
from relayd.spool.sqlite.bridge import Promise
from relayd.spool.sqlite.rows import (
    ROWS,
    EndRow,
    NewRows,
    RecipientRow,
    columns,
    outcome_text,
    row_of,
)
from relayd.spool.steps import CHANGED, NOBODY_ANSWERED, SCANNED, OperatorSteps
from relayd.spool.view import NEVER_ANSWERED, Rerouting

_RECIPIENT = f"SELECT {columns('recipient')} FROM recipient WHERE message = ? AND number = ?"

_OF_MESSAGE = f"SELECT {columns('recipient')} FROM recipient WHERE message = ?"
_REPLACE = f"""REPLACE INTO recipient({columns("recipient")})
    VALUES ({", ".join("?" * len(ROWS["recipient"]._fields))})"""
_SAME_UNTIL = RecipientRow._fields.index("reply")  # what only says why it waits may differ


class Write:
    """One request to the writer. `enter` adds it to a batch; `done` hears of the COMMIT."""

    grows = False  # takes up space, and so is refused while there is none
    lasting = False  # may be left for the next run when the spool closes
    promise: Promise[Any] | None = None
    value: object = None  # what the promise is to fire with
    octets = 0  # of content

    def enter(self, batch: Batch, connection: sqlite3.Connection) -> None:
        """Add it to the batch, or do it at once inside the batch's transaction."""
        raise NotImplementedError

    def done(self) -> bool:
        """It is durable; False asks for another turn before the promise fires."""
        return True

    def idents(self) -> list[int]:
        """New messages in it: they must not survive a COMMIT that failed."""
        return []


class Acceptance(Write):
    """A message to store before 250."""

    grows = True

    def __init__(self, promise: Promise[Any], rows: NewRows, octets: int) -> None:
        self.promise = promise
        self._rows = rows
        self.value = rows.value
        self.octets = octets

    def enter(self, batch: Batch, connection: sqlite3.Connection) -> None:
        """Add its rows."""
        batch.accept(self._rows)

    def idents(self) -> list[int]:
        """Its message."""
        return [self._rows.ident]


class SettlementWrite(Write):
    """Outcomes of one delivery, and the reports they owe."""

    def __init__(
        self,
        promise: Promise[Any],
        settlements: Sequence[Settlement],
        reports: list[NewRows],
        octets: int,
    ) -> None:
        self.promise = promise
        self.octets = octets
        self._settlements = settlements
        self._reports = reports

    def enter(self, batch: Batch, connection: sqlite3.Connection) -> None:
        """Outcomes always; reports only if the outcomes are news (see Store.settle)."""
        stored = self._reports
        if stored and self._settlements and not batch.has_effect(connection, self._settlements):
            stored = []
        batch.settle(self._settlements)
        for rows in stored:
            batch.accept(rows)
        self.value = [rows.value for rows in stored] if stored else []

    def idents(self) -> list[int]:
        """Reports that come without outcomes."""
        # With outcomes they share their fate: if the failed COMMIT did reach the disk, both
        # stay, and whoever repeats the call changes nothing.
        return [] if self._settlements else [rows.ident for rows in self._reports]


class SetAside(Write):
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

    def enter(self, batch: Batch, connection: sqlite3.Connection) -> None:
        """Move its rows."""
        self.value = batch.set_aside(connection, self._ident, self._reason)

    def done(self) -> bool:
        """Its file follows, and the log hears of it."""
        if self.value:
            self._after(self._ident, self._reason)
        return True


class OperatorWrite(OperatorSteps, Write):
    """An operator's retry, hold, release or remove, one small step a batch."""

    dialect = SQLITE

    def enter(self, batch: Batch, connection: sqlite3.Connection) -> None:
        """Find the next few and change them."""
        found = connection.execute(
            f"""SELECT r.message, r.number, r.attempts FROM (
                SELECT * FROM recipient WHERE (message, number) > (:message, :number)
                AND message <= :last ORDER BY message, number LIMIT {SCANNED}
            ) AS r CROSS JOIN message AS m ON m.ident = r.message
            WHERE {self._condition} LIMIT {CHANGED}""",
            {
                **self._parameters,
                "message": self._at[0],
                "number": self._at[1],
                "last": self._last,
            },
        ).fetchall()
        self._met = [(message, number) for message, number, _ in found]
        if len(found) == CHANGED:
            self._next = self._met[-1]
        else:
            self._next = self._end_of_step(connection)
        if self._verb == "remove":
            removed = int(RecipientState.REMOVED)
            for message, number, attempts in found:
                row = EndRow(message, number, batch.now, removed, attempts, None, self._note)
                batch.end((message, number), row)
        elif self._verb == "hold":
            word = held(self._note or "the operator")
            said = (str(word.reply), outcome_text(word))
            connection.executemany(
                "UPDATE recipient SET state = 1, reply = ?, outcome = ?"
                " WHERE message = ? AND number = ?",
                [(*said, *key) for key in self._met],
            )
        else:
            if self._sections:
                self._change_sections(connection)
            said_no_more = ", reply = NULL, outcome = NULL" if self._verb == "release" else ""
            connection.executemany(
                f"UPDATE recipient SET state = 0, next_attempt = ?{said_no_more}"
                " WHERE message = ? AND number = ?",
                [(batch.now, *key) for key in self._met],
            )

    def _change_sections(self, connection: sqlite3.Connection) -> None:
        for key in self._met:
            found = connection.execute(_RECIPIENT, key).fetchone()
            row = RecipientRow._make(found)
            section = self._sections.get(row.header)
            if section is None:
                continue
            known = connection.execute(
                "SELECT section FROM header WHERE message = ? ORDER BY number", (row.message,)
            ).fetchall()
            if (section,) not in known:
                new = (row.message, len(known) + 1, section)
                connection.execute("INSERT INTO header VALUES (?, ?, ?)", new)
                known.append((section,))
            changed = row.with_header(known.index((section,)) + 1)
            connection.execute(
                "UPDATE recipient SET header = ?, parity = ? WHERE message = ? AND number = ?",
                (changed.header, changed.parity, row.message, row.number),
            )

    def _end_of_step(self, connection: sqlite3.Connection) -> tuple[int, int]:
        last: tuple[int, int] | None = connection.execute(
            "SELECT message, number FROM recipient WHERE (message, number) > (?, ?)"
            f" AND message <= ? ORDER BY message, number LIMIT 1 OFFSET {SCANNED - 1}",
            (*self._at, self._last),
        ).fetchone()
        return (self._last, 1 << 40) if last is None else last


class ClientAnswered(Write):
    """The client of a message is about to hear 250."""

    def __init__(self, promise: Promise[Any], ident: int) -> None:
        self.promise = promise
        self._ident = ident

    def enter(self, batch: Batch, connection: sqlite3.Connection) -> None:
        """Its recipients are queued from now on."""
        connection.execute(
            """UPDATE recipient SET state = 0, next_attempt = ?, reply = NULL, outcome = NULL
            WHERE message = ? AND state = 1 AND outcome = ?""",
            (batch.now, self._ident, NOBODY_ANSWERED),
        )

    def idents(self) -> list[int]:
        """The message: should it fail, the client hears that it was not taken."""
        return [self._ident]


class LetGo(Write):
    """Of an earlier run: messages whose clients were not answered."""

    def __init__(self, newest: int, told: Callable[[int], None]) -> None:
        self._newest = newest
        self._told = told
        self._at = (0, -1)
        self._over = False
        self._count = 0
        self.finished = False

    def enter(self, batch: Batch, connection: sqlite3.Connection) -> None:
        """The next few of all that is on hold."""
        found = connection.execute(
            f"""SELECT message, number, attempts, outcome = ? FROM recipient INDEXED BY held
            WHERE state = 1 AND (message, number) > (?, ?) AND message <= ?
            ORDER BY message, number LIMIT {SCANNED}""",
            (NOBODY_ANSWERED, *self._at, self._newest),
        ).fetchall()
        removed = int(RecipientState.REMOVED)
        for message, number, attempts, unanswered in found:
            if unanswered:
                key = message, number
                row = EndRow(*key, batch.now, removed, attempts, None, NEVER_ANSWERED)
                batch.end(key, row)
                self._count += 1
        self._over = len(found) < SCANNED
        if found:
            self._at = found[-1][:2]

    def done(self) -> bool:
        """Go on until the end was reached."""
        self.finished = self._over
        if self._over and self._count:
            self._told(self._count)
        return self._over


class RerouteWrite(Write):
    """Another way for recipients of some messages."""

    def __init__(self, promise: Promise[Any], reroutings: Sequence[Rerouting]) -> None:
        self.promise = promise
        self._reroutings = reroutings

    def enter(self, batch: Batch, connection: sqlite3.Connection) -> None:
        """Their rows, and what the ledger says of where they go."""
        self.value = [
            each.message for each in self._reroutings if self._enter(each, batch, connection)
        ]

    def _enter(self, rerouting: Rerouting, batch: Batch, connection: sqlite3.Connection) -> bool:
        ident = rerouting.message
        found = connection.execute(
            "SELECT sender FROM message WHERE ident = ?", (ident,)
        ).fetchone()
        if found is None:
            return False
        (sender,) = found
        waiting = {row[1]: row for row in connection.execute(_OF_MESSAGE, (ident,))}
        for record in rerouting.before:
            row = waiting.get(record.number, ())
            if row[:_SAME_UNTIL] != row_of(record, sender)[:_SAME_UNTIL]:
                return False
        rows = [row_of(record, sender) for record in rerouting.after]
        connection.executemany(_REPLACE, rows)
        changed = len(rerouting.changed)
        connection.executemany(
            """UPDATE ledger SET mailbox = ?, original = ?, next_hop = ?, note = ?
            WHERE message = ? AND number = ? AND ended = 0""",
            [(*_way(row), row.message, row.number) for row in rows[:changed]],
        )
        connection.executemany(
            """INSERT INTO ledger(mailbox, original, next_hop, note,
            message, number, ended, at, state) VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?)""",
            [(*_way(row), row.message, row.number, batch.now, row.state) for row in rows[changed:]],
        )
        batch.ledger_rows += len(rows) - changed
        batch.spoil(connection, ident)
        removed = int(RecipientState.REMOVED)
        for record, note in rerouting.ended:
            key = (record.message, record.number)
            batch.end(key, EndRow(*key, batch.now, removed, record.attempts, None, note))
        return True


def _way(row: RecipientRow) -> tuple[str, str | None, str, str | None]:
    return row.mailbox, row.original, row.next_hop, row.sender
