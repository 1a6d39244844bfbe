"""A spool in PostgreSQL as one end of `relayctl spool copy`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from relayd.spool.copy import STEP, MovedMessage, bounded, mark_of
from relayd.spool.errors import SpoolError
from relayd.spool.postgresql import node
from relayd.spool.postgresql.batch import LEDGER, MESSAGE, WHOLE, Ownership
from relayd.spool.postgresql.content import CHUNK
from relayd.spool.postgresql.schema import LOCKS
from relayd.spool.postgresql.schema import WHOLE as ALL_NODES
from relayd.spool.postgresql.session import DatabaseSession
from relayd.spool.sqlite.rows import IN_FILE, LedgerRow, MessageRow, RecipientRow, Row, columns

NAME = "copy"  # the node that has what was moved until the others take it over
_NEXT = f"""SELECT {columns("message")}, headers, chunks FROM message WHERE ident > %s
    ORDER BY ident LIMIT {STEP}"""
_DROP = (
    "DELETE FROM recipient WHERE message = ANY(%s)",
    "DELETE FROM ledger WHERE message = ANY(%s)",
    "DELETE FROM content WHERE message = ANY(%s)",
    "DELETE FROM message WHERE ident = ANY(%s)",
)


class DatabaseEnd:
    """All of a spool; see relayd.spool.copy.MovingEnd.

    Mail may go there while nodes have it open: they take it over as that of a node that has left.
    It can only come from there while none of them has.
    """

    def __init__(self, where: str, *, alone: bool = False) -> None:
        """`alone`: keep all nodes away. Raises SpoolError."""
        self._session = DatabaseSession(where, "relayctl spool copy")
        try:
            self._ours: Ownership = node.begin(self._session, NAME)
            if alone:
                self._keep_away()
            self._serial = node.last_serial(self._session, self._ours.owner)
        except BaseException:
            self._session.close()
            raise

    def _keep_away(self) -> None:
        self._session.ask("SELECT pg_advisory_lock(%s, %s)", (LOCKS, ALL_NODES))
        for number, name in self._session.ask("SELECT id, name FROM node").fetchall():
            if number != self._ours.owner and not node.hold(self._session, number):
                raise SpoolError(f"node {name} has the spool open: stop it first")

    def waiting(self) -> Iterator[list[MovedMessage]]:
        """See MovingEnd."""
        after = 0
        while rows := self._session.ask(_NEXT, (after,)).fetchall():
            told = {row[0]: row[-2:] for row in rows}
            step = [
                self._moved(row, *told[row.ident])
                for row in bounded(MessageRow._make(row[:-2]) for row in rows)
            ]
            after = step[-1].row.ident
            yield step

    def _rows(self, table: str, ident: int, order: str) -> list[Row]:
        text = f"SELECT {columns(table)} FROM {table} WHERE message = %s ORDER BY {order}"
        return self._session.ask(text, (ident,)).fetchall()

    def _moved(self, row: MessageRow, headers: list[bytes] | None, chunks: int) -> MovedMessage:
        ident = row.ident
        return MovedMessage(
            row,
            [*map(RecipientRow._make, self._rows("recipient", ident, "number"))],
            headers or [],
            [*map(LedgerRow._make, self._rows("ledger", ident, "number, ended"))],
            lambda: self._pieces(ident, chunks),
        )

    def _pieces(self, ident: int, chunks: int) -> Iterator[bytes]:
        if not chunks:
            found = self._session.ask("SELECT content FROM message WHERE ident = %s", (ident,))
            yield from (data for (data,) in found if data is not None)
        for number in range(chunks):
            row = self._session.ask(
                "SELECT data FROM content WHERE message = %s AND number = %s", (ident, number)
            ).fetchone()
            if row is not None:
                yield row[0]

    def marks(self, idents: Sequence[int]) -> dict[int, Row | None]:
        """See MovingEnd."""
        ledgers: dict[int, list[LedgerRow]] = {}
        found = self._session.ask(
            f"SELECT {columns('ledger')} FROM ledger WHERE message = ANY(%s)", ([*idents],)
        )
        for row in map(LedgerRow._make, found):
            ledgers.setdefault(row.message, []).append(row)
        return {ident: mark_of(ledger) for ident, ledger in ledgers.items()}

    def take(self, messages: Sequence[MovedMessage]) -> None:
        """See MovingEnd."""
        rows: list[Row] = []
        recipients: list[Row] = []
        ledger: list[Row] = []
        self._session.begin()
        for each in messages:
            content, chunks = None, 0
            if each.row.flags & IN_FILE and each.row.size > CHUNK:
                chunks = self._send(each)
            else:
                content = each.content()
            rows.append((*each.row, each.headers, content, chunks))
            recipients += [(*row, *self._ours) for row in each.recipients]
            ledger += each.ledger
        for copying, told in ((MESSAGE, rows), (WHOLE, recipients), (LEDGER, ledger)):
            if told:
                self._session.copy(copying, copying.data(told))
        self._end(len(messages), sum(each.row.size for each in messages))

    def _send(self, moved: MovedMessage) -> int:
        """Large content, as this store has it; in how many chunks."""
        self._session.ask("DELETE FROM content WHERE message = %s", (moved.row.ident,))
        number, data = 0, b""
        for piece in moved.pieces():
            data += piece
            while len(data) >= CHUNK:
                self._chunk(moved.row.ident, number, data[:CHUNK])
                number, data = number + 1, data[CHUNK:]
        if data:
            self._chunk(moved.row.ident, number, data)
            number += 1
        return number

    def _chunk(self, ident: int, number: int, data: bytes) -> None:
        text = "INSERT INTO content(message, number, data) VALUES (%s, %s, %s)"
        self._session.ask(text, (ident, number, data))

    def drop(self, messages: Sequence[MovedMessage]) -> None:
        """See MovingEnd."""
        idents = [each.row.ident for each in messages]
        self._session.begin()
        for statement in _DROP:
            self._session.ask(statement, (idents,))
        self._end(-len(messages), -sum(each.row.size for each in messages))

    def _end(self, messages: int, octets: int) -> None:
        self._serial += 1
        self._session.ask(
            "INSERT INTO batch(node, serial, messages, octets) VALUES (%s, %s, %s, %s)",
            (self._ours.owner, self._serial, messages, octets),
        )
        self._session.commit()

    def close(self) -> None:
        """Let go of it; what is here is others' from now on."""
        with suppress(Exception):  # others will find out in time
            self._session.rollback()
            # whichever epoch it is by now: after a lease they have begun to take over
            gone = "UPDATE node SET beat = '-infinity' WHERE id = %s"
            self._session.ask(gone, (self._ours.owner,))
        self._session.close()
