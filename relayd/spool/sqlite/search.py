"""What the reader asks the tables, and how rows become messages again."""

from __future__ import annotations

import math
import sqlite3
from zlib import crc32

from relayd.mail.content import BytesContent, Content
from relayd.mail.envelope import ALL_DIRECT, is_direct
from relayd.mail.ident import MAX_SHARDS, make_ident
from relayd.spool.condition import ALL, SQLITE, condition
from relayd.spool.disk.content import ContentFiles
from relayd.spool.disk.orphans import Fate, fates
from relayd.spool.sqlite.audit import audit
from relayd.spool.sqlite.find import find
from relayd.spool.sqlite.rows import (
    IN_FILE,
    LedgerRow,
    MessageRow,
    RecipientRow,
    UndecodableError,
    columns,
    envelopes_of,
    history_of,
    message_of,
    record_of,
)
from relayd.spool.view import (
    Accepted,
    Audit,
    Backlog,
    Counts,
    Envelopes,
    FindFilter,
    FoundPage,
    History,
    Page,
    QueueFilter,
)

OLDEST = 500  # messages among which the oldest of each destination are looked for first
QUEUES = 100  # of next hops that have a name, of which more is known than that
QUEUED = 10_000  # recipients of one of them that are looked at
LISTED = 20000  # recipients that one page of a filtered listing looks at

# All of a page in one step of SQLite, which holds up no other thread: as view.Page has it.
_ROWS = """
    SELECT '[' || ifnull(group_concat(row), '') || ']', count(*), max(ident) FROM (
        SELECT m.ident AS ident, json_array(m.ident, m.received, m.size, m.sender,
            json_group_array(json_array(r.number, r.mailbox, ifnull(r.original, r.mailbox),
                r.next_hop, r.destination, r.state, r.attempts, r.next_attempt,
                ifnull(r.reply, '')))) AS row
        FROM message AS m CROSS JOIN recipient AS r ON r.message = m.ident
        WHERE m.ident > :after AND m.ident <= :last AND {}
        GROUP BY m.ident ORDER BY m.ident LIMIT :limit)"""


_MESSAGE = f"SELECT {columns('message')} FROM message"
_RECIPIENTS = f"SELECT {columns('recipient')} FROM recipient"
_LEDGER = f"SELECT {columns('ledger')} FROM ledger"


class Search:
    """Queries over one connection; what turns out damaged is left out and noted in `damaged`."""

    def __init__(self, connection: sqlite3.Connection, files: ContentFiles) -> None:
        self._connection = connection
        self._files = files
        self.damaged: list[tuple[int, str]] = []

    def destinations(self) -> list[tuple[str, float]]:
        """Skips from one destination to the next: one seek each, however much waits there."""
        rows = self._connection.execute(
            """WITH RECURSIVE each(name) AS (
                SELECT * FROM (SELECT destination FROM recipient INDEXED BY queued
                    WHERE state = 0 ORDER BY destination LIMIT 1)
                UNION ALL
                SELECT (SELECT destination FROM recipient INDEXED BY queued
                    WHERE state = 0 AND destination > name ORDER BY destination LIMIT 1)
                FROM each WHERE name IS NOT NULL
            )
            SELECT name, (SELECT next_attempt FROM recipient INDEXED BY queued
                WHERE state = 0 AND destination = name ORDER BY next_attempt LIMIT 1)
            FROM each WHERE name IS NOT NULL"""
        )
        return rows.fetchall()

    def due(
        self, destination: str, now: float, limit: int, *, longest: float = math.inf
    ) -> list[Accepted]:
        """See Store.due."""
        found: dict[int, list[tuple[int, int]]] = {}
        for term, when in (("next_attempt <= ?", now), ("next_attempt > ?", now + longest)):
            cursor = self._connection.execute(
                f"""SELECT message, number FROM recipient INDEXED BY queued
                WHERE state = 0 AND destination = ? AND {term}
                ORDER BY next_attempt, message""",
                (destination, when),
            )
            for message, number in cursor:
                rows = found.get(message)
                if rows is None:
                    if len(found) == limit:
                        break
                    rows = found[message] = []
                rows.append((message, number))
            cursor.close()
        damaged = len(self.damaged)
        whole = self._messages({ident: self._recipients(keys) for ident, keys in found.items()})
        if len(whole) < len(found) == limit:
            # fewer than asked for means that there are no more: damaged ones must not count
            del self.damaged[damaged:]
            return self.due(destination, now, 2 * limit, longest=longest)[:limit]
        return whole

    def earliest(self, destination: str, after: float) -> float | None:
        """See Store.earliest."""
        row = self._connection.execute(
            """SELECT next_attempt FROM recipient INDEXED BY queued
            WHERE state = 0 AND destination = ? AND next_attempt > ?
            ORDER BY next_attempt LIMIT 1""",
            (destination, after),
        ).fetchone()
        return None if row is None else row[0]

    def _recipients(self, keys: list[tuple[int, int]]) -> list[RecipientRow]:
        if len(keys) == 1:
            text = f"{_RECIPIENTS} WHERE message = ? AND number = ?"
            return [*map(RecipientRow._make, self._connection.execute(text, keys[0]))]
        numbers = {number for _, number in keys}
        message, _ = keys[0]
        return [row for row in self._all_recipients(message) if row.number in numbers]

    def aged(
        self, received_before: float, after: int, limit: int, newest: int, unwarned: bool
    ) -> list[Accepted]:
        """See Store.aged; `newest` bounds the idents worth looking at."""
        only = " AND r.state = 0 AND NOT r.warned" if unwarned else ""
        idents = self._connection.execute(
            f"""SELECT ident FROM message AS m
            WHERE ident > ? AND ident <= ? AND received <= ? AND EXISTS
                (SELECT 1 FROM recipient AS r WHERE r.message = m.ident{only})
            ORDER BY ident LIMIT ?""",
            (after, newest, received_before, limit),
        ).fetchall()
        return self._messages({ident: self._all_recipients(ident) for (ident,) in idents})

    def load(self, ident: int) -> Accepted | None:
        """See Store.load."""
        rows = self._all_recipients(ident)
        messages = self._messages({ident: rows}) if rows else []
        return messages[0] if messages else None

    def _all_recipients(self, ident: int) -> list[RecipientRow]:
        rows = self._connection.execute(
            f"{_RECIPIENTS} WHERE message = ? ORDER BY number", (ident,)
        )
        return [*map(RecipientRow._make, rows)]

    def _messages(self, found: dict[int, list[RecipientRow]]) -> list[Accepted]:
        result = []
        for ident, rows in found.items():
            try:
                result.append(self._message(ident, rows))
            except UndecodableError as error:
                self.damaged.append((ident, str(error)))
        return result

    def _message(self, ident: int, rows: list[RecipientRow]) -> Accepted:
        try:
            found = self._connection.execute(f"{_MESSAGE} WHERE ident = ?", (ident,)).fetchone()
            if found is None:
                raise UndecodableError("message row is missing")
            row = MessageRow._make(found)
            content = self._content(row)
            headers = self._connection.execute(
                "SELECT section FROM header WHERE message = ? ORDER BY number", (ident,)
            ).fetchall()
            message = message_of(row, content, tuple(section for (section,) in headers))
            records = tuple(record_of(each, message.envelope) for each in rows)
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise UndecodableError(f"row does not decode ({error})") from error
        if any(record.recipient.header > len(headers) for record in records):
            raise UndecodableError("header section is missing")
        return message, records

    def _content(self, message: MessageRow) -> Content:
        ident, size, parity = message.ident, message.size, message.content_parity
        if message.flags & IN_FILE:
            if not self._files.whole(ident, size):
                raise UndecodableError("content file is missing or truncated")
            return self._files.content(ident, size, parity)
        row = self._connection.execute(
            "SELECT data FROM content WHERE message = ?", (ident,)
        ).fetchone()
        (data,) = row or (None,)
        if data is None or len(data) != size or crc32(data) != parity:
            raise UndecodableError("content is missing or damaged")
        return BytesContent(data)

    def history(self, ident: int) -> History | None:
        """See Store.history."""
        rows = self._connection.execute(
            f"{_LEDGER} WHERE message = ? ORDER BY number, ended", (ident,)
        )
        return history_of(ident, [*map(LedgerRow._make, rows)])

    def listing(self, wanted: QueueFilter, after: int, limit: int) -> Page:
        """See Store.listing. Looks at a bounded part of the queue and says how far it came."""
        terms, parameters = condition(wanted, SQLITE)
        if wanted.ident:
            after, limit = wanted.ident - 1, 1
        narrow = terms != ALL
        end = self._connection.execute(
            "SELECT ident FROM message WHERE ident > ? ORDER BY ident LIMIT 1 OFFSET ?",
            (after, (LISTED if narrow else limit) - 1),
        ).fetchone()
        last = (1 << 62) if end is None else end[0]
        if wanted.ident:
            last = wanted.ident
        rows, count, listed = self._connection.execute(
            _ROWS.format(terms), {**parameters, "after": after, "last": last, "limit": limit}
        ).fetchone()
        if wanted.ident:
            return Page(rows, count, None)
        return Page(rows, count, listed if count == limit else None if end is None else last)

    def find(self, wanted: FindFilter, before: int, limit: int) -> FoundPage:
        """See Store.find."""
        return find(self._connection, wanted, before, limit)

    def envelopes(
        self, wanted: QueueFilter, after: int, limit: int
    ) -> tuple[list[Envelopes], int | None]:
        """See Store.envelopes."""
        ask = self._connection.execute
        if wanted.ident:
            after, limit = wanted.ident - 1, 1
        messages = ask(
            f"{_MESSAGE} WHERE ident > ? ORDER BY ident LIMIT ?", (after, limit)
        ).fetchall()
        if wanted.ident:
            messages = [row for row in messages if row[0] == wanted.ident]
        if not messages:
            return [], None
        last = messages[-1][0]
        terms, parameters = condition(wanted, SQLITE)
        meant: dict[int, set[int]] = {}
        for ident, number in ask(
            f"""SELECT r.message, r.number FROM message AS m
            CROSS JOIN recipient AS r ON r.message = m.ident
            WHERE m.ident > :after AND m.ident <= :last AND {terms}""",
            {**parameters, "after": after, "last": last},
        ):
            meant.setdefault(ident, set()).add(number)
        found = []
        for row in map(MessageRow._make, messages):
            if row.ident in meant:
                try:
                    found.append(self._envelopes(row, frozenset(meant[row.ident])))
                except UndecodableError as error:
                    self.damaged.append((row.ident, str(error)))
        return found, None if len(messages) < limit or wanted.ident else last

    def _envelopes(self, row: MessageRow, meant: frozenset[int]) -> Envelopes:
        rows = self._all_recipients(row.ident)
        told = self._connection.execute(
            """SELECT a.number, a.mailbox, ifnull(e.note, '') FROM ledger AS a
            LEFT JOIN ledger AS e
                ON e.message = a.message AND e.number = a.number AND e.ended = 1
            WHERE a.message = ? AND a.ended = 0""",
            (row.ident,),
        ).fetchall()
        return envelopes_of(row, rows, told, meant)

    def counts(self) -> Counts:
        """See Store.counts; walks the two narrow indexes only."""
        ask = self._connection.execute
        tally = dict(ask("SELECT name, value FROM meta WHERE name IN ('messages', 'octets')"))
        destinations = dict(
            ask(
                """SELECT destination, count(*) FROM recipient INDEXED BY queued
                WHERE state = 0 GROUP BY destination"""
            ).fetchall()
        )
        held = ask("SELECT count(*) FROM recipient INDEXED BY held WHERE state = 1").fetchone()[0]
        damaged = ask("SELECT count(*) FROM damaged").fetchone()[0]
        return Counts(
            tally["messages"],
            tally["octets"],
            sum(destinations.values()),
            held,
            destinations,
            damaged,
        )

    def backlog(self) -> Backlog:
        """See Store.backlog."""
        ask = self._connection.execute
        tally = dict(ask("SELECT name, value FROM meta WHERE name IN ('messages', 'octets')"))
        oldest = ask(
            f"""SELECT r.destination, min(m.received)
            FROM (SELECT ident, received FROM message ORDER BY ident LIMIT {OLDEST}) AS m
            CROSS JOIN recipient AS r ON r.message = m.ident GROUP BY r.destination"""
        ).fetchall()
        return Backlog(tally["messages"], tally["octets"], self._with_others(dict(oldest)))

    def _with_others(self, oldest: dict[str, float]) -> dict[str, float]:
        """Queues of which nothing is among the messages that wait longest, as well.

        Those of domains count as one: of them all, the oldest. Only the narrow index is walked.
        """
        ask = self._connection.execute
        any_direct = any(map(is_direct, oldest))
        after = ""
        for _ in range(QUEUES):
            found = ask(
                """SELECT destination FROM recipient INDEXED BY queued
                WHERE state = 0 AND destination >= ? ORDER BY destination LIMIT 1""",
                (after,),
            ).fetchone()
            if found is None:
                break
            (queue,) = found
            first, after = ALL_DIRECT if is_direct(queue) else (queue, f"{queue}\x01")
            if any_direct if is_direct(queue) else queue in oldest:
                continue
            for (received,) in ask(
                f"""SELECT received FROM message WHERE ident = (SELECT min(message) FROM (
                    SELECT message FROM recipient INDEXED BY queued
                    WHERE state = 0 AND destination >= ? AND destination < ? LIMIT {QUEUED}))""",
                (first, after),
            ):
                oldest[queue] = received
        return oldest

    def fates(self, idents: list[int]) -> dict[int, Fate]:
        """What is to become of these content files (see orphans)."""
        return fates(self._connection, idents)

    def audit(self, after: int, limit: int) -> Audit:
        """See Store.audit."""
        return audit(self._connection.execute, after, limit)


SLACK = 3600.0  # seconds that a clock may have been set back without delaying `aged`


def newest_by(received_before: float) -> int:
    """The highest ident a message received before then can have, unless the clock was far ahead."""
    return make_ident(int((received_before + SLACK) * 1e6), MAX_SHARDS - 1)
