"""What one transaction writes: acceptances and settlements of many callers in few statements.

Each step of a statement lets go of Python's lock, and a busy reactor may keep it for
milliseconds. So rows go in runs, up to 64 to one statement, instead of one by one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain

from relayd.mail.message import RecipientState, Settlement
from relayd.spool.sqlite.rows import (
    MAY_BE_SAME,
    NEW_RECIPIENT,
    ROWS,
    SAME,
    EndRow,
    NewRows,
    Row,
    columns,
    outcome_text,
)

_RUNS = (64, 48, 32, *range(24, 0, -1))  # rows; few steps for any number
_MOST = _RUNS[0]
_LONGEST = [next((run for run in _RUNS if run <= rows), 0) for rows in range(_MOST + 1)]

Key = tuple[int, int]
"""A recipient: message, number."""


class RunStatement:
    """A statement with `{}` where the rows go, made for runs of a few fixed lengths.

    Few texts, so that SQLite's compiled statements are found in the connection's cache.
    """

    def __init__(self, text: str, columns: int) -> None:
        row = f"({', '.join('?' * columns)})"
        self._texts = {length: text.format(", ".join([row] * length)) for length in _RUNS}

    def execute(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> list[Row]:
        """Run it over all rows; what it selects."""
        found: list[Row] = []
        at, count = 0, len(rows)
        while at < count:
            length = _LONGEST[min(count - at, _MOST)]
            run = list(chain.from_iterable(rows[at : at + length]))
            found += connection.execute(self._texts[length], run).fetchall()
            at += length
        return found


def _insertion(table: str) -> RunStatement:
    text = f"INSERT INTO {table}({columns(table)}) VALUES {{}}"
    return RunStatement(text, len(ROWS[table]._fields))


_MESSAGE = _insertion("message")
_CONTENT = _insertion("content")
_HEADER = _insertion("header")
_LEDGER = _insertion("ledger")
_HELD = _insertion("recipient")
# a value costs as much to hand over as to store, and to say that there is none costs more: what is
# alike in all new rows is not given, and the ledger's are made of those that are there
_GIVEN = ", ".join(
    f"nullif(v.column{n}, {SAME})" if name in MAY_BE_SAME else f"v.column{n}"
    for n, name in enumerate(NEW_RECIPIENT, 1)
)
_RECIPIENT = RunStatement(
    f"""INSERT INTO recipient({", ".join(NEW_RECIPIENT)}, attempts, warned)
    SELECT {_GIVEN}, 0, 0 FROM (VALUES {{}}) AS v""",
    len(NEW_RECIPIENT),
)
_ACCEPTED = RunStatement(
    """INSERT INTO ledger(message, number, ended, at, state, mailbox, original, next_hop, note,
        size, sender, facts)
    SELECT r.message, r.number, 0, m.received, r.state, r.mailbox, r.original, r.next_hop, r.sender,
        iif(r.number, NULL, m.size), iif(r.number, NULL, m.sender), iif(r.number, NULL, m.facts)
    FROM (VALUES {}) AS v CROSS JOIN message AS m ON m.ident = v.column1
    CROSS JOIN recipient AS r ON r.message = m.ident""",
    1,
)

# A postponement leaves an operator's hold alone; HELD itself holds.
_POSTPONE = """
    UPDATE recipient SET state = max(state, ?), attempts = ?, next_attempt = ?,
        warned = max(warned, ?), reply = ifnull(?, reply), outcome = ifnull(?, outcome)
    WHERE message = ? AND number = ?"""
_WAITING = RunStatement(
    """SELECT r.message, r.number, r.warned FROM (VALUES {}) AS v
    CROSS JOIN recipient AS r ON r.message = v.column1 AND r.number = v.column2""",
    2,
)
_END = RunStatement(
    f"""INSERT OR IGNORE INTO ledger({", ".join(EndRow._fields)}, ended)
    SELECT v.*, 1 FROM (VALUES {{}}) AS v
    CROSS JOIN recipient AS r ON r.message = v.column1 AND r.number = v.column2""",
    len(EndRow._fields),
)
# the SELECT around VALUES lets SQLite look each pair up; without it, it walks the whole table
_CROSS_OFF = RunStatement(
    """DELETE FROM recipient WHERE (message, number) IN
    (SELECT v.column1, v.column2 FROM (VALUES {}) AS v)""",
    2,
)
# each row that a statement returns costs two turns of Python's lock
_GONE = "count(*), total(size), group_concat(iif(flags & 4, ident, NULL))"
_OVER = """FROM message WHERE ident IN (VALUES {})
    AND NOT EXISTS (SELECT 1 FROM recipient WHERE recipient.message = message.ident)"""
_COUNT_OVER = RunStatement(f"SELECT {_GONE} {_OVER}", 1)
_FORGET = RunStatement(f"DELETE {_OVER}", 1)  # with its content: see schema.FORGET
_MESSAGE_TABLES = (
    ("recipient", "message"),
    ("content", "message"),
    ("header", "message"),
    ("message", "ident"),
)
# of a damaged message any part may be missing
_DROP = tuple(
    RunStatement(f"DELETE FROM {table} WHERE {column} IN (VALUES {{}})", 1)
    for table, column in _MESSAGE_TABLES
)
_COUNT_DROPPED = RunStatement(
    "SELECT count(*), total(size), NULL FROM message WHERE ident IN (VALUES {})", 1
)
# see relayd.spool.sqlite.sieve
_BLOCK = "(SELECT last FROM sieve WHERE last >= ? ORDER BY last LIMIT 1)"
_SPOIL = f"UPDATE sieve SET bits = NULL WHERE last = {_BLOCK}"
_DELIVERED = int(RecipientState.DELIVERED)
_ENDING = f"INSERT OR IGNORE INTO ending(last, state) SELECT last, ? FROM {_BLOCK}"
UNKNOWN = 1 << 62  # later than any message: each is asked about
_PURGE_LEDGER = RunStatement("DELETE FROM ledger WHERE message IN (VALUES {})", 1)


class Batch:
    """Collects the rows of one transaction, then writes them in an order that keeps promise 3."""

    def __init__(self, now: float, sifted: int = UNKNOWN) -> None:
        self.now = now
        self.sifted = sifted  # no message that is later has a sieve
        self.files_to_remove: list[int] = []  # after COMMIT
        self._message: list[Row] = []  # the rows of what was accepted, by table
        self._content: list[Row] = []
        self._recipient: list[Row] = []
        self._held: list[Row] = []
        self._header: list[Row] = []
        self._ledger: list[Row] = []  # ... of those who end at once
        self._accepted: list[Row] = []  # messages
        self._ends: dict[Key, EndRow] = {}
        self._postponed: dict[Key, Settlement] = {}
        self._messages = 0
        self._octets = 0
        self.ledger_rows = 0  # more or fewer

    def accept(self, rows: NewRows) -> None:
        """A message is to be stored."""
        if rows.message is not None:
            self._message.append(rows.message)
            self._messages += 1
            self._octets += rows.message.size
        if rows.content is not None:
            self._content.append(rows.content)
        self._recipient += rows.recipients
        self._held += rows.held
        self._header += rows.headers
        self._ledger += rows.ended
        self._accepted.append((rows.ident,))

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Recipients got an outcome; the first end of each counts."""
        now = self.now
        outcome, text = None, None  # most share the outcome of the one before
        for settlement in settlements:
            record = settlement.record
            key = (record.message, record.number)
            if not settlement.state.waiting:
                if settlement.outcome is not outcome:
                    outcome = settlement.outcome
                    text = outcome_text(outcome)
                attempts = record.attempts + settlement.attempted
                state = int(settlement.state)
                end = EndRow(*key, now, state, attempts, text, settlement.note)
                self._ends.setdefault(key, end)
            elif key not in self._ends:
                self._postponed[key] = settlement

    def end(self, key: Key, row: EndRow) -> None:
        """A recipient ends; `row` is what the ledger says of it."""
        self._ends.setdefault(key, row)

    def add(self, messages: int, octets: int, ledger_rows: int) -> None:
        """So much more is there that its transaction writes by itself."""
        self._messages += messages
        self._octets += octets
        self.ledger_rows += ledger_rows

    def has_effect(self, connection: sqlite3.Connection, settlements: Sequence[Settlement]) -> bool:
        """Whether any of these is news that owes a report: an end, or a first warning.

        To be asked before `settle` is told of them. That one is postponed once more is no news.
        """
        keys = [(each.record.message, each.record.number) for each in settlements]
        open_keys = [key for key in keys if key not in self._ends]
        waiting = {
            (message, number): warned
            for message, number, warned in _WAITING.execute(connection, open_keys)
        }
        for key, settlement in zip(keys, settlements, strict=True):
            if key not in waiting or key in self._ends:
                continue
            before = self._postponed.get(key)
            warned = waiting[key] or (before is not None and before.warned)
            if not settlement.state.waiting or (settlement.warned and not warned):
                return True
        return False

    def write(self, connection: sqlite3.Connection) -> None:
        """Everything collected; inside a transaction that the caller began."""
        if self._accepted:
            self._write_accepted(connection)
        if self._postponed:
            self._write_postponed(connection)
        if self._ends:
            self._write_ends(connection)
        self._write_tally(connection)

    def _write_accepted(self, connection: sqlite3.Connection) -> None:
        _MESSAGE.execute(connection, self._message)
        _CONTENT.execute(connection, self._content)
        _RECIPIENT.execute(connection, self._recipient)
        if self._held:
            _HELD.execute(connection, self._held)
        if self._header:
            _HEADER.execute(connection, self._header)
        _ACCEPTED.execute(connection, self._accepted)
        if self._ledger:
            _LEDGER.execute(connection, self._ledger)
        self.ledger_rows += len(self._recipient) + len(self._held) + len(self._ledger)
        if min(self._accepted)[0] <= self.sifted:
            for (message,) in self._accepted:
                self.spoil(connection, message)

    def spoil(self, connection: sqlite3.Connection, message: int) -> None:
        """Something new is to be found of a message, of which there may be a sieve already."""
        if message <= self.sifted:
            connection.execute(_SPOIL, (message,))

    def _write_postponed(self, connection: sqlite3.Connection) -> None:
        rows = []
        for (message, number), each in self._postponed.items():
            outcome = each.outcome
            rows.append(
                (
                    int(each.state),
                    each.record.attempts + each.attempted,
                    each.next_attempt,
                    int(each.warned),
                    None if outcome is None else str(outcome.reply),
                    outcome_text(outcome),
                    message,
                    number,
                )
            )
        connection.executemany(_POSTPONE, rows)

    def _write_ends(self, connection: sqlite3.Connection) -> None:
        changes = connection.total_changes
        _END.execute(connection, list(self._ends.values()))
        self.ledger_rows += connection.total_changes - changes
        for end in self._ends.values():
            if end.state != _DELIVERED and end.message <= self.sifted:
                connection.execute(_ENDING, (end.state, end.message))
        _CROSS_OFF.execute(connection, list(self._ends))
        # those messages of which no recipient waits any more
        messages = list({(message,) for message, _ in self._ends})
        self._take_off(_COUNT_OVER.execute(connection, messages))
        _FORGET.execute(connection, messages)

    def purge(self, connection: sqlite3.Connection, messages: Sequence[int]) -> None:
        """Drop messages that were never accepted, with all that speaks of them."""
        rows = [(message,) for message in messages]
        self._drop(connection, rows)
        changes = connection.total_changes
        _PURGE_LEDGER.execute(connection, rows)
        self.ledger_rows -= connection.total_changes - changes
        self.files_to_remove += messages

    def set_aside(self, connection: sqlite3.Connection, message: int, reason: str) -> bool:
        """Move all rows of a damaged message to tables that nothing reads; if there are any."""
        moved = 0
        for table, column in _MESSAGE_TABLES:
            moved += connection.execute(
                f"""INSERT INTO damaged_{table}({columns(table)})
                SELECT {columns(table)} FROM {table} WHERE {column} = ?""",
                (message,),
            ).rowcount
        if moved:
            connection.execute(
                "INSERT OR IGNORE INTO damaged(message, at, reason) VALUES (?, ?, ?)",
                (message, self.now, reason),
            )
            self._drop(connection, [(message,)])
        return bool(moved)

    def _drop(self, connection: sqlite3.Connection, rows: list[Row]) -> None:
        self._take_off(_COUNT_DROPPED.execute(connection, rows))
        for statement in _DROP:
            statement.execute(connection, rows)

    def _take_off(self, gone: list[Row]) -> None:
        for messages, octets, files in gone:
            self._messages -= messages
            self._octets -= int(octets)
            if files is not None:
                self.files_to_remove += map(int, files.split(","))

    def _write_tally(self, connection: sqlite3.Connection) -> None:
        if self._messages or self._octets or self.ledger_rows:
            connection.execute(
                """UPDATE meta SET value = value
                + CASE name WHEN 'messages' THEN ? WHEN 'octets' THEN ? ELSE ? END
                WHERE name IN ('messages', 'octets', 'ledger')""",
                (self._messages, self._octets, self.ledger_rows),
            )
