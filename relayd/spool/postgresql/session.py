"""A connection to the database: how it is made, and what its errors mean to the spool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from relayd.spool.errors import SpoolAway, SpoolError, SpoolFull
from relayd.spool.postgresql import schema

if TYPE_CHECKING:
    from psycopg import Connection, Cursor
    from psycopg.errors import Diagnostic

    from relayd.spool.postgresql.copyrows import CopyRows

T = TypeVar("T")

Values = Sequence[object] | Mapping[str, object] | None
"""What stands in a statement for its %s, or for its names."""

CHANNEL = "relayd_changed"
CONNECT = 5  # seconds
SILENCE = 15  # seconds without an answer after which a connection counts as lost

# Warnings are heard whatever the role is set to (see commit).
# A node that has lost its power is soon known to be gone. Plans do not depend on what the server
# believes about tables that are empty now, and long a minute later; what it then thinks costs a lot
# it must not compile, which takes a hundred times as long as to do it.
_SETTINGS = """
    SET search_path TO relayd;
    SET client_encoding TO UTF8;
    SET client_min_messages TO warning;
    SET tcp_keepalives_idle TO 15;
    SET tcp_keepalives_interval TO 3;
    SET tcp_keepalives_count TO 3;
    SET jit TO off;
    SET enable_seqscan TO off;
    SET enable_hashjoin TO off;
    SET enable_mergejoin TO off"""
_WEAK = ("off", "local", "remote_write")  # words of synchronous_commit that promise too little

# SQLSTATE classes and codes that speak against the database, not against one request
_STORE = ("08", "25", "28", "3D", "3F", "42", "53", "54", "55", "57", "58", "F0", "XX")
_FULL = ("53100", "53200")
_AGAIN = "40"  # serialization failures and deadlocks: nothing was done, the same may do now


class UnsureError(Exception):
    """A COMMIT of which nobody knows what became of it; the text says why."""


def missing() -> SpoolError:
    """The driver is not there."""
    return SpoolError(
        "a spool in PostgreSQL needs psycopg: install python3-psycopg (Debian) or "
        "relayd[postgresql] (PyPI)"
    )


def trouble_of(error: Exception) -> SpoolError | None:
    """The trouble of the whole store that the error means; None: it is the request's own."""
    if isinstance(error, SpoolError):
        return error
    if isinstance(error, UnsureError):
        return SpoolError(f"database: {error}")
    if isinstance(error, (OSError, MemoryError)):
        return SpoolError(f"database: {error!r}")
    import psycopg

    if not isinstance(error, psycopg.Error):
        return None
    state = error.sqlstate or ""
    words = f"database: {plain(error)}"
    if state in _FULL:
        return SpoolFull(words)
    lost = not state and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    return SpoolError(words) if lost or state.startswith(_STORE) else None


def to_be_repeated(error: Exception) -> bool:
    """Nothing was done, because of what others did at the same time."""
    return str(getattr(error, "sqlstate", None) or "").startswith(_AGAIN)


def plain(error: Exception) -> str:
    """An error's first line, which says what is wrong; what it may come from is in the others."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def create_in(where: str) -> bool:
    """Make the spool in a database, as schema.create does; raises SpoolError."""
    return _in(where, schema.create)


def upgrade_in(where: str) -> int | None:
    """Bring it up to date, as schema.upgrade does; raises SpoolError."""
    return _in(where, schema.upgrade)


def _in(where: str, change: Callable[[schema.Link], T]) -> T:
    try:
        import psycopg
    except ImportError:
        raise missing() from None
    try:
        with psycopg.connect(where, autocommit=True) as connection:
            return change(connection)
    except psycopg.Error as error:
        raise SpoolError(f"database: {plain(error)}") from None


class DatabaseSession:
    """One connection, used by one thread at a time."""

    def __init__(self, where: str, name: str, *, read_only: bool = False) -> None:
        """`where` as libpq has it; raises SpoolError, also if there is no spool."""
        try:
            import psycopg
        except ImportError:
            raise missing() from None
        self._warnings: list[str] = []
        self._in_order = False
        try:
            self.link: Connection[tuple[Any, ...]] = psycopg.connect(
                where,
                autocommit=True,
                connect_timeout=CONNECT,
                tcp_user_timeout=SILENCE * 1000,
                keepalives_idle=SILENCE,
                keepalives_interval=3,
                keepalives_count=3,
                application_name=name,
            )
        except psycopg.Error as error:
            raise SpoolAway(f"database: {plain(error)}") from None
        try:
            schema.require(self.link)
            for setting in _SETTINGS.split(";"):
                self.link.execute(setting.encode())
            row = self.link.execute("SHOW synchronous_commit").fetchone()
            if row is not None and row[0] in _WEAK:
                self.link.execute("SET synchronous_commit TO on")
            if read_only:
                self.link.execute("SET default_transaction_read_only TO on")
            self.link.add_notice_handler(self._noticed)
        except BaseException as error:
            self.link.close()
            if isinstance(error, psycopg.Error):
                raise SpoolError(f"database: {plain(error)}") from None
            raise

    def _noticed(self, said: Diagnostic) -> None:
        if said.severity_nonlocalized == "WARNING":
            self._warnings.append(said.message_primary or "a warning")

    def ask(self, text: str, values: Values = None) -> Cursor[tuple[Any, ...]]:
        """Run one statement."""
        return self.link.execute(text.encode(), values)

    def copy(self, rows: CopyRows, data: bytes) -> None:
        """Send rows."""
        with self.link.cursor() as cursor, cursor.copy(rows.statement.encode()) as copying:
            copying.write(data)

    def end_idle_transactions(self, seconds: float) -> None:
        """Let the server end what is left open by a process that is frozen, and its locks."""
        self.ask(f"SET idle_in_transaction_session_timeout TO {int(seconds * 1000)}")

    def listen(self, told: Callable[[str], None]) -> None:
        """Let it hear, whenever this session does something, of what others `tell`."""
        self.link.add_notify_handler(lambda notice: told(notice.payload))
        self.ask(f"LISTEN {CHANNEL}")

    def tell(self, words: str) -> None:
        """All who `listen`, once the transaction is committed."""
        self.ask("SELECT pg_notify(%s, %s)", (CHANNEL, words))

    def begin(self) -> None:
        """Begin a transaction."""
        self.link.execute("BEGIN")

    def commit(self) -> None:
        """End it, for good when this returns. UnsureError: who knows; else nothing was written.

        A warning counts as not knowing: it is how the server says that it has not waited for the
        other machine on which the transaction was to be.
        """
        self._warnings.clear()
        try:
            done = self.link.execute("COMMIT").statusmessage
        except Exception as error:
            if self.lost:
                raise UnsureError(plain(error)) from error
            raise
        if done != "COMMIT":
            raise SpoolError(f"database: COMMIT ended as {done}")
        if self._warnings:
            raise UnsureError(", ".join(self._warnings))

    def rollback(self) -> None:
        """End it without effect, if there is one."""
        if not self.lost:
            self.link.execute("ROLLBACK")

    @property
    def lost(self) -> bool:
        """There is no connection any more."""
        return self.link.closed or self.link.broken

    def close(self) -> None:
        """Let go of it."""
        self.link.close()
