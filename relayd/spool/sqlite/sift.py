"""Making the sieves that a search goes by (see relayd.spool.sqlite.sieve)."""

from __future__ import annotations

import sqlite3

from relayd.mail.message import RecipientState
from relayd.spool.sqlite.batch import Batch
from relayd.spool.sqlite.sieve import keys_of, sieve_of
from relayd.spool.sqlite.writes import Write

BLOCK = 1024  # rows of the ledger, about


class Sift(Write):
    """Makes the sieves that are missing or spoilt, one a batch."""

    lasting = True
    busy = False

    def begun(self) -> Sift:
        """It, at work from now on."""
        self.busy = True
        return self

    def enter(self, batch: Batch, connection: sqlite3.Connection) -> None:
        """Make one, if there is one to be made."""
        ask = connection.execute
        block = ask(
            """SELECT first, last FROM sieve INDEXED BY spoilt
            WHERE bits IS NULL AND last > 0 LIMIT 1"""
        ).fetchone()
        if block is None:
            first = ask("SELECT ifnull(max(last), 0) FROM sieve").fetchone()[0]
            last = ask(
                f"""SELECT message FROM ledger WHERE message > ? ORDER BY message
                LIMIT 1 OFFSET {BLOCK - 1}""",
                (first,),
            ).fetchone()
            block = None if last is None else (first, last[0])
        self.busy = block is not None
        if block is None:
            batch.sifted = first
            return
        batch.sifted = max(ask("SELECT ifnull(max(last), 0) FROM sieve").fetchone()[0], block[1])
        try:
            sieve = sieve_of(keys_of(connection, *block))
        except (ValueError, TypeError, AttributeError, sqlite3.OperationalError) as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) != sqlite3.SQLITE_ERROR:
                raise
            sieve = b""  # a row in it does not decode: every search has to look there
        ask("REPLACE INTO sieve(last, first, bits) VALUES (?, ?, ?)", (block[1], block[0], sieve))
        ask(
            f"""INSERT OR IGNORE INTO ending(state, last)
            SELECT DISTINCT state, ? FROM ledger WHERE message > ? AND message <= ?
            AND ended = 1 AND state <> {int(RecipientState.DELIVERED)}""",
            (block[1], *block),
        )

    def done(self) -> bool:
        """Go on while there is more."""
        return not self.busy
