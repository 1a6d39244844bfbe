"""Opening the database, and what must happen before it is trusted again after trouble."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Sequence

from relayd.spool.disk.reserve import Reserve
from relayd.spool.disk.trouble import SpoolCorrupt, trouble_of
from relayd.spool.errors import SpoolError, SpoolFull, SpoolGone
from relayd.spool.sqlite import schema
from relayd.spool.sqlite.batch import Batch
from relayd.spool.sqlite.database import Database
from relayd.spool.sqlite.reader import Reader

CACHE = 16 << 20
PAUSE = 0.5  # seconds between attempts to mend the store, doubled up to
LONGEST_PAUSE = 5.0


class Mender:
    """Reopens a store that failed; called in the writer's thread."""

    def __init__(
        self,
        database: Database,
        reader: Reader,
        reserve: Reserve,
        *,
        clock: Callable[[], float],
        notice: Callable[..., None],
    ) -> None:
        self._database = database
        self._reader = reader
        self._reserve = reserve
        self._clock = clock
        self._notice = notice
        self._pause = PAUSE

    def now(self) -> float:
        """Seconds on a clock that nobody sets."""
        return time.monotonic()

    def pause(self) -> float:
        """How long to wait before the next attempt, in seconds."""
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE)
        return pause

    def opened(self) -> sqlite3.Connection:
        """A connection to a database that looks well, for the writer; raises SpoolError."""
        connection = None
        try:
            connection = self._database.connect(cache=CACHE)
            schema.prepare(connection, now=self._clock())
            schema.look(connection)
            connection.execute(schema.FORGET)
            self._database.note_files()
        except Exception as error:
            if connection is not None:
                connection.close()
            raise trouble_of(error) or SpoolError(f"database: {error}") from error
        return connection

    def rebuilt(self, error: SpoolCorrupt) -> sqlite3.Connection:
        """A connection to a new database with all that could be read of the old one."""
        try:
            self._database.rebuild(now=self._clock(), reason=error.reason, notice=self._notice)
        except (sqlite3.Error, OSError) as again:
            raise trouble_of(again) or SpoolError(f"database: {again}") from again
        return self.opened()

    def mend(
        self, failed: sqlite3.Connection | None, error: SpoolError, doubtful: Sequence[int]
    ) -> sqlite3.Connection:
        """A connection that has passed a real transaction; raises SpoolError.

        The transaction drops the messages of failed batches, which may or may not have reached
        the disk: their senders were told that they were not accepted.
        """
        if isinstance(error, SpoolFull):
            self._reserve.give()
        if isinstance(error, SpoolGone) and failed is not None:
            self._rescue(failed)
        with self._reader.away():
            if failed is not None:
                with contextlib.suppress(sqlite3.Error):
                    failed.close()
            damaged = error if isinstance(error, SpoolCorrupt) else None
            connection = self.opened() if damaged is None else self.rebuilt(damaged)
            try:
                self._prove(connection, doubtful)
            except Exception as again:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
                raise trouble_of(again) or SpoolError(f"database: {again}") from again
        self._pause = PAUSE
        return connection

    def _rescue(self, connection: sqlite3.Connection) -> None:
        """Raises SpoolGone while `connection` is all there is and no copy of it can be made."""
        if not self._database.gone():
            return  # it was put back
        try:
            self._database.rescue(connection, self._notice)
        except (sqlite3.Error, OSError) as error:
            trouble = trouble_of(error)
            if isinstance(error, OSError) or isinstance(trouble, SpoolFull):
                raise SpoolGone(f"the database was taken away: {error}") from error
            raise trouble or SpoolError(f"database: {error}") from error

    def _prove(self, connection: sqlite3.Connection, doubtful: Sequence[int]) -> None:
        # The log may hold pages that the kernel believes written and the disk never got (a
        # failed fsync forgets them): copy all of it into the database with fresh writes, so
        # that nothing new is ever appended behind a hole.
        if schema.checkpoint(connection, "TRUNCATE"):
            raise SpoolError("database: the log could not be copied back")
        batch = Batch(self._clock())
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'probe'")
        batch.purge(connection, doubtful)
        batch.write(connection)
        connection.execute("COMMIT")
