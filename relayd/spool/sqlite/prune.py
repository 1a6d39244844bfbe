"""The ledger's bounds: by age, and by rows, taken back a few rows at a time."""

from __future__ import annotations

import sqlite3

from relayd.spool.sqlite.batch import Batch
from relayd.spool.sqlite.writes import Write

STEP = 500  # rows looked at in one transaction


class Prune(Write):
    """Drops the ledger's oldest messages that are over, one small step a batch."""

    lasting = True

    def __init__(self, before: int, most: int) -> None:
        self._before = before  # idents below it are too old
        self._most = most  # rows; above it the oldest go, whatever their age
        self._at = 0
        self._next = 0
        self._more = True

    def enter(self, batch: Batch, connection: sqlite3.Connection) -> None:
        """Delete one step's worth; messages still waiting keep their history."""
        kept: int = connection.execute("SELECT value FROM meta WHERE name = 'ledger'").fetchone()[0]
        before = self._before if kept <= self._most else 1 << 62
        rows = connection.execute(
            f"""SELECT message FROM ledger WHERE message > ? AND message < ?
            ORDER BY message LIMIT {STEP}""",
            (self._at, before),
        ).fetchall()
        self._more = len(rows) == STEP
        if not rows:
            return
        self._next = rows[-1][0]
        batch.ledger_rows -= connection.execute(
            """DELETE FROM ledger WHERE message > ? AND message <= ?
            AND NOT EXISTS (SELECT 1 FROM message WHERE ident = ledger.message)""",
            (self._at, self._next),
        ).rowcount
        # what still waits of so long ago is looked at one by one
        connection.execute("DELETE FROM sieve WHERE last <= ?", (self._next,))
        connection.execute("DELETE FROM ending WHERE last <= ?", (self._next,))

    def done(self) -> bool:
        """Go on while there is more."""
        self._at = self._next
        return not self._more
