"""What the reader asks the tables, and how rows become messages again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from zlib import crc32

from relayd.mail.content import BytesContent, Content
from relayd.mail.envelope import ALL_DIRECT, is_direct
from relayd.mail.ident import MAX_SHARDS, make_ident
from relayd.spool.condition import ALL, POSTGRESQL, condition, found_by
from relayd.spool.postgresql.content import LocalFiles
from relayd.spool.postgresql.session import DatabaseSession, Values
from relayd.spool.postgresql.state import state_of
from relayd.spool.sqlite.audit import audit
from relayd.spool.sqlite.find import SLACK
from relayd.spool.sqlite.matching import found_in
from relayd.spool.sqlite.rows import (
    IN_FILE,
    LedgerRow,
    MessageRow,
    RecipientRow,
    UndecodableError,
    columns,
    envelopes_of,
    fold,
    history_of,
    message_of,
    record_of,
)
from relayd.spool.sqlite.search import LISTED, OLDEST, QUEUED, QUEUES
from relayd.spool.view import (
    Accepted,
    Audit,
    Backlog,
    Counts,
    Envelopes,
    FindFilter,
    FoundPage,
    FoundRecipient,
    History,
    Page,
    QueueFilter,
)

if TYPE_CHECKING:
    from psycopg import Cursor

LATE = 60.0  # seconds from the time that a message says it is due to the COMMIT that shows it
LOOKED = 2000  # messages in the ledger that one answer of `find` looks at

_MESSAGE = f"SELECT {columns('message')} FROM message"
_RECIPIENTS = f"SELECT {columns('recipient')} FROM recipient"
_LEDGER = f"SELECT {columns('ledger')} FROM ledger"

# as view.Page has it: nothing of ours touches the rows one by one
_ROWS = """
    SELECT coalesce(json_agg(row ORDER BY ident)::text, '[]'), count(*), max(ident) FROM (
        SELECT m.ident AS ident, json_build_array(m.ident, m.received, m.size, m.sender,
            json_agg(json_build_array(r.number, r.mailbox, coalesce(r.original, r.mailbox),
                r.next_hop, r.destination, r.state, r.attempts, r.next_attempt,
                coalesce(r.reply, '')) ORDER BY r.number)) AS row
        FROM message AS m JOIN recipient AS r ON r.message = m.ident
        WHERE m.ident > %(after)s AND m.ident <= %(last)s AND {}
        GROUP BY m.ident ORDER BY m.ident LIMIT %(limit)s) AS page"""


class SharedSearch:
    """Queries over one session; what turns out damaged is left out and noted in `damaged`.

    `positions`: by destination the next_attempt before which nothing waits, as an earlier answer
    has found. Scans begin there: what was delivered since is in the index until a vacuum, which
    a transaction that somebody holds open keeps from its work.
    """

    def __init__(
        self,
        session: DatabaseSession,
        files: LocalFiles,
        owner: int,
        positions: dict[str, float],
        now: float,
    ) -> None:
        self._ask = session.ask
        self._session = session
        self._files = files
        self._owner = owner
        self._positions = positions
        self._now = now
        self.damaged: list[tuple[int, str]] = []

    # of this node alone

    def destinations(self) -> list[tuple[str, float]]:
        """Skips from one destination to the next: one seek each, however much waits there."""
        found = []
        for name in self._queues(self._owner):
            at = self._ask(
                """SELECT next_attempt FROM recipient WHERE owner = %s AND state = 0
                AND destination = %s AND next_attempt >= %s ORDER BY next_attempt LIMIT 1""",
                (self._owner, name, self._position(name)),
            ).fetchone()
            if at is not None:
                found.append((name, at[0]))
        return found

    def _queues(self, owner: int) -> Iterable[str]:
        rows = self._ask(
            """WITH RECURSIVE each(name) AS (
                (SELECT destination FROM recipient WHERE owner = %(owner)s AND state = 0
                    ORDER BY destination LIMIT 1)
                UNION ALL
                SELECT (SELECT destination FROM recipient WHERE owner = %(owner)s AND state = 0
                    AND destination > each.name ORDER BY destination LIMIT 1)
                FROM each WHERE each.name IS NOT NULL
            )
            SELECT name FROM each WHERE name IS NOT NULL""",
            {"owner": owner},
        ).fetchall()
        return [name for (name,) in rows]

    def _position(self, destination: str) -> float:
        return self._positions.get(destination, -math.inf)

    def due(
        self, destination: str, now: float, limit: int, *, longest: float = math.inf
    ) -> list[Accepted]:
        """See Store.due."""
        damaged = len(self.damaged)
        keys = self._due(
            destination,
            "next_attempt >= %s AND next_attempt <= %s",
            (self._position(destination), now),
            limit,
        )
        if keys:
            self._positions[destination] = min(keys[0][2], self._now) - LATE
        if longest < math.inf:
            keys += self._due(destination, "next_attempt > %s", (now + longest,), limit)
        found: dict[int, set[int]] = {}
        for message, number, _ in keys:
            if message not in found and len(found) == limit:
                break
            found.setdefault(message, set()).add(number)
        rows = self._recipients(found)
        whole = self._messages(
            {
                ident: [row for row in rows.get(ident, ()) if row.number in numbers]
                for ident, numbers in found.items()
            }
        )
        if len(whole) < len(found) == limit:
            # fewer than asked for means that there are no more: damaged ones must not count
            del self.damaged[damaged:]
            return self.due(destination, now, 2 * limit, longest=longest)[:limit]
        return whole

    def _due(
        self, destination: str, term: str, values: tuple[float, ...], limit: int
    ) -> list[tuple[int, int, float]]:
        """The keys of `limit` messages at least, if there are so many, and all of each."""
        most = 2 * limit + 100
        while True:
            rows = self._ask(
                f"""SELECT message, number, next_attempt FROM recipient
                WHERE owner = %s AND state = 0 AND destination = %s AND {term}
                ORDER BY next_attempt, message LIMIT %s""",
                (self._owner, destination, *values, most),
            ).fetchall()
            if len(rows) < most or len({row[0] for row in rows}) > limit:
                return [(row[0], row[1], row[2]) for row in rows]
            most *= 4

    def earliest(self, destination: str, after: float) -> float | None:
        """See Store.earliest."""
        row = self._ask(
            """SELECT next_attempt FROM recipient
            WHERE owner = %s AND state = 0 AND destination = %s AND next_attempt > %s
            ORDER BY next_attempt LIMIT 1""",
            (self._owner, destination, after),
        ).fetchone()
        return None if row is None else row[0]

    def aged(
        self, received_before: float, after: int, limit: int, newest: int, unwarned: bool
    ) -> list[Accepted]:
        """See Store.aged; `newest` bounds the idents worth looking at."""
        only = " AND r.state = 0 AND r.warned = 0" if unwarned else ""
        idents = self._ask(
            f"""SELECT ident FROM message AS m
            WHERE ident > %s AND ident <= %s AND received <= %s AND EXISTS
                (SELECT 1 FROM recipient AS r WHERE r.message = m.ident AND r.owner = %s{only})
            ORDER BY ident LIMIT %s""",
            (after, newest, received_before, self._owner, limit),
        ).fetchall()
        return self._messages(self._recipients([ident for (ident,) in idents]))

    # of all

    def load(self, ident: int) -> Accepted | None:
        """See Store.load."""
        messages = self._messages(self._recipients([ident]))
        return messages[0] if messages else None

    def _recipients(self, idents: Iterable[int]) -> dict[int, list[RecipientRow]]:
        """By message, each with at least one, in the order of the idents that are given."""
        wanted = list(idents)
        found: dict[int, list[RecipientRow]] = {ident: [] for ident in wanted}
        for row in self._ask(
            f"{_RECIPIENTS} WHERE message = ANY(%s) ORDER BY message, number", (wanted,)
        ):
            found[row[0]].append(RecipientRow._make(row))
        return {ident: rows for ident, rows in found.items() if rows}

    def _messages(self, found: dict[int, list[RecipientRow]]) -> list[Accepted]:
        told = {
            row[0]: row
            for row in self._ask(
                f"""SELECT {columns("message")}, headers, chunks,
                    CASE WHEN flags & {IN_FILE} = 0 THEN content END
                FROM message WHERE ident = ANY(%s)""",
                (list(found),),
            )
        }
        result = []
        for ident, rows in found.items():
            try:
                result.append(self._message(told.get(ident), rows))
            except UndecodableError as error:
                self.damaged.append((ident, str(error)))
        return result

    def _message(self, told: tuple[Any, ...] | None, rows: list[RecipientRow]) -> Accepted:
        if told is None:
            raise UndecodableError("message row is missing")
        *values, headers, chunks, data = told
        try:
            row = MessageRow._make(values)
            sections = tuple(headers or ())
            message = message_of(row, self._content(row, chunks, data), sections)
            records = tuple(record_of(each, message.envelope) for each in rows)
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise UndecodableError(f"row does not decode ({error})") from error
        if any(record.recipient.header > len(sections) for record in records):
            raise UndecodableError("header section is missing")
        return message, records

    def _content(self, row: MessageRow, chunks: int, data: bytes | None) -> Content:
        if row.flags & IN_FILE:
            found = self._files.fetched(
                self._session, row.ident, row.size, row.content_parity, chunks
            )
            if found is None:
                raise UndecodableError("content is missing or damaged")
            return found
        if data is None or len(data) != row.size or crc32(data) != row.content_parity:
            raise UndecodableError("content is missing or damaged")
        return BytesContent(data)

    def history(self, ident: int) -> History | None:
        """See Store.history."""
        rows = self._ask(f"{_LEDGER} WHERE message = %s ORDER BY number, ended", (ident,))
        return history_of(ident, [*map(LedgerRow._make, rows)])

    def listing(self, wanted: QueueFilter, after: int, limit: int) -> Page:
        """See Store.listing. Looks at a bounded part of the queue and says how far it came."""
        terms, parameters = condition(wanted, POSTGRESQL)
        if wanted.ident:
            after, limit = wanted.ident - 1, 1
        narrow = terms != ALL
        end = self._ask(
            "SELECT ident FROM message WHERE ident > %s ORDER BY ident LIMIT 1 OFFSET %s",
            (after, (LISTED if narrow else limit) - 1),
        ).fetchone()
        last = (1 << 62) if end is None else end[0]
        if wanted.ident:
            last = wanted.ident
        rows, count, listed = self._one(
            _ROWS.format(terms), {**parameters, "after": after, "last": last, "limit": limit}
        )
        if wanted.ident:
            return Page(rows, count, None)
        return Page(rows, count, listed if count == limit else None if end is None else last)

    def _one(self, text: str, values: Values = None) -> tuple[Any, ...]:
        row = self._ask(text, values).fetchone()
        assert row is not None
        return row

    def find(self, wanted: FindFilter, before: int, limit: int) -> FoundPage:
        """See Store.find. Looks at a bounded part of the ledger and says how far it came."""
        floor = make_ident(max(int((wanted.since - SLACK) * 1e6), 0), 0)
        if wanted.until:
            before = min(before, make_ident(int((wanted.until + SLACK) * 1e6), MAX_SHARDS - 1))
        last = self._ask(
            f"""SELECT message FROM ledger WHERE message < %s AND message >= %s
            AND number = 0 AND ended = 0 ORDER BY message DESC LIMIT 1 OFFSET {LOOKED - 1}""",
            (before, floor),
        ).fetchone()
        first = floor if last is None else last[0]
        terms, parameters = _looked_for(wanted)
        idents = [
            ident
            for (ident,) in self._ask(
                f"""SELECT DISTINCT a.message FROM ledger AS a JOIN ledger AS f
                    ON f.message = a.message AND f.number = 0 AND f.ended = 0
                WHERE a.message >= %(first)s AND a.message < %(before)s AND a.ended = 0
                AND {terms} ORDER BY a.message DESC""",
                {**parameters, "first": first, "before": before},
            )
        ]
        found: list[FoundRecipient] = []
        step = min(limit, 200)
        for at in range(0, len(idents), step):
            for ident, history, waiting in self._lives(idents[at : at + step]):
                if len(found) >= limit:
                    return FoundPage(found, ident + 1)
                found += found_in(wanted, history, waiting)
        return FoundPage(found, None if last is None else first)

    def _lives(self, idents: list[int]) -> Iterable[tuple[int, History, dict[int, Any]]]:
        rows: dict[int, list[LedgerRow]] = {}
        for row in self._ask(
            f"{_LEDGER} WHERE message = ANY(%s) ORDER BY message, number, ended", (idents,)
        ):
            rows.setdefault(row[0], []).append(LedgerRow._make(row))
        waiting = self._recipients(idents)
        for ident in idents:
            try:
                history = history_of(ident, rows.get(ident, []))
                if history is not None:
                    yield (
                        ident,
                        history,
                        {
                            row.number: record_of(row, history.envelope)
                            for row in waiting.get(ident, ())
                        },
                    )
            except UndecodableError:
                continue

    def envelopes(
        self, wanted: QueueFilter, after: int, limit: int
    ) -> tuple[list[Envelopes], int | None]:
        """See Store.envelopes."""
        if wanted.ident:
            after, limit = wanted.ident - 1, 1
        messages = self._ask(
            f"{_MESSAGE} WHERE ident > %s ORDER BY ident LIMIT %s", (after, limit)
        ).fetchall()
        if wanted.ident:
            messages = [row for row in messages if row[0] == wanted.ident]
        if not messages:
            return [], None
        last = messages[-1][0]
        terms, parameters = condition(wanted, POSTGRESQL)
        meant: dict[int, set[int]] = {}
        for ident, number in self._ask(
            f"""SELECT r.message, r.number FROM message AS m
            JOIN recipient AS r ON r.message = m.ident
            WHERE m.ident > %(after)s AND m.ident <= %(last)s AND {terms}""",
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
        rows = self._recipients([row.ident]).get(row.ident, ())
        told = self._ask(
            """SELECT a.number, a.mailbox, coalesce(e.note, '') FROM ledger AS a
            LEFT JOIN ledger AS e
                ON e.message = a.message AND e.number = a.number AND e.ended = 1
            WHERE a.message = %s AND a.ended = 0 ORDER BY a.number""",
            (row.ident,),
        ).fetchall()
        return envelopes_of(row, rows, told, meant)

    def counts(self) -> Counts:
        """See Store.counts; walks the two narrow indexes only."""
        messages, octets = self._tally()
        destinations = dict(
            self._ask(
                """SELECT destination, count(*) FROM recipient
                WHERE state = 0 GROUP BY destination"""
            ).fetchall()
        )
        (held,) = self._one("SELECT count(*) FROM recipient WHERE state = 1")
        (damaged,) = self._one("SELECT count(*) FROM damaged")
        return Counts(messages, octets, sum(destinations.values()), held, destinations, damaged)

    def _tally(self) -> tuple[int, int]:
        messages, octets = self._one(
            """SELECT coalesce(sum(messages), 0)::bigint, coalesce(sum(octets), 0)::bigint
            FROM batch"""
        )
        return messages, octets

    def backlog(self) -> Backlog:
        """See Store.backlog."""
        oldest = self._ask(
            f"""SELECT r.destination, min(m.received)
            FROM (SELECT ident, received FROM message ORDER BY ident LIMIT {OLDEST}) AS m
            JOIN recipient AS r ON r.message = m.ident GROUP BY r.destination"""
        ).fetchall()
        return Backlog(*self._tally(), self._with_others(dict(oldest)))

    def _with_others(self, oldest: dict[str, float]) -> dict[str, float]:
        """Queues of which nothing is among the messages that wait longest, as well.

        Those of domains count as one: of them all, the oldest. Only the narrow index is walked.
        """
        known = frozenset(oldest)
        any_direct = any(map(is_direct, known))
        for (owner,) in self._ask("SELECT id FROM node").fetchall():
            after = ""
            for _ in range(QUEUES):
                found = self._ask(
                    """SELECT destination FROM recipient WHERE owner = %s AND state = 0
                    AND destination >= %s ORDER BY destination LIMIT 1""",
                    (owner, after),
                ).fetchone()
                if found is None:
                    break
                (queue,) = found
                first, after = ALL_DIRECT if is_direct(queue) else (queue, f"{queue}\x01")
                if any_direct if is_direct(queue) else queue in known:
                    continue
                for (received,) in self._ask(
                    f"""SELECT received FROM message WHERE ident = (SELECT min(message) FROM (
                        SELECT message FROM recipient WHERE owner = %s AND state = 0
                        AND destination >= %s AND destination < %s LIMIT {QUEUED}) AS q)""",
                    (owner, first, after),
                ):
                    oldest[queue] = min(received, oldest.get(queue, received))
        return oldest

    def cluster(self, lease: float) -> dict[str, Any]:
        """See relayd.spool.postgresql.state."""
        return state_of(self._session, self._owner, lease)

    def audit(self, after: int, limit: int) -> Audit:
        """See Store.audit."""

        def ask(text: str, values: tuple[int, int]) -> Cursor[tuple[Any, ...]]:
            return self._ask(text.replace("?", "%s"), values)

        return audit(ask, after, limit)


def _looked_for(wanted: FindFilter) -> tuple[str, dict[str, Any]]:
    """What a column can tell of a filter; the rest is seen when the message is read."""
    terms, parameters = found_by(wanted, POSTGRESQL)
    for name in ("envid", "client", "login"):
        if getattr(wanted, name):  # as it stands in the text: JSON
            parameters[name] = fold(json.dumps(getattr(wanted, name)))
            terms.append(f"strpos(lower(f.facts), %({name})s) > 0")
    return " AND ".join(terms) or ALL, parameters
