"""The tables of queue.db, and how a connection to them is opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from relayd import __version__
from relayd.spool import formats
from relayd.spool.errors import SpoolError

PAGE_SIZE = 4096
WAL_KEPT = 16 << 20  # octets of write-ahead log kept allocated, also a reserve on a full disk
BUSY_SECONDS = 5  # how long somebody's sqlite3 shell may hold the write lock

# Content has a table of its own: listings and searches then never walk through it.
# Mailboxes are stored raw, `local@domain` with the local part unquoted (see rows.py).
# `parity` is a CRC-32 over what must not change silently: SQLite itself notices no flipped bit
# inside a value.
TABLES = {
    "message": """
        CREATE TABLE message(
            ident INTEGER PRIMARY KEY,
            received REAL NOT NULL,
            sender TEXT NOT NULL,       -- raw reverse-path, '' is the null one
            size INTEGER NOT NULL,
            header_size INTEGER NOT NULL,
            flags INTEGER NOT NULL,     -- 1 eight-bit, 2 UTF-8 header, 4 content in a file
            facts TEXT NOT NULL,        -- JSON: envelope parameters, client, rules, trail
            content_parity INTEGER NOT NULL,
            parity INTEGER NOT NULL
        )""",
    "recipient": """
        CREATE TABLE recipient(
            message INTEGER NOT NULL,
            number INTEGER NOT NULL,
            destination TEXT NOT NULL,
            mailbox TEXT NOT NULL,
            original TEXT,              -- NULL: as mailbox
            next_hop TEXT NOT NULL,
            sender TEXT,                -- NULL: as the message's
            orcpt TEXT NOT NULL,
            notify TEXT NOT NULL,
            header INTEGER NOT NULL,
            parity INTEGER NOT NULL,    -- of the columns above
            state INTEGER NOT NULL,
            attempts INTEGER NOT NULL,
            next_attempt REAL NOT NULL,
            warned INTEGER NOT NULL,
            reply TEXT,                 -- the last outcome's reply, to show
            outcome TEXT,               -- JSON: the last outcome
            PRIMARY KEY (message, number)
        ) WITHOUT ROWID""",
    "content": "CREATE TABLE content(message INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    "header": """
        CREATE TABLE header(
            message INTEGER NOT NULL,
            number INTEGER NOT NULL,
            section BLOB NOT NULL,
            PRIMARY KEY (message, number)
        ) WITHOUT ROWID""",
}

# Append-only, but for pruning by age. One row per recipient at acceptance and one at its end.
LEDGER = """
    CREATE TABLE ledger(
        message INTEGER NOT NULL,
        number INTEGER NOT NULL,
        ended INTEGER NOT NULL,         -- 0: accepted, 1: ended
        at REAL NOT NULL,
        state INTEGER NOT NULL,         -- at acceptance: as accepted; at the end: the end state
        mailbox TEXT,
        original TEXT,
        next_hop TEXT,
        size INTEGER,                   -- these three with recipient 0 only: the message's
        sender TEXT,
        facts TEXT,
        attempts INTEGER,               -- these two at the end only
        outcome TEXT,
        note TEXT,                      -- at acceptance: the reverse-path, NULL: the message's
        PRIMARY KEY (message, number, ended)
    ) WITHOUT ROWID"""

# of the writer's connection alone, and in no file. Each statement lets go of Python's lock several
# times, so a step that follows from another had better be SQLite's
FORGET = """
    CREATE TEMP TRIGGER forget AFTER DELETE ON message BEGIN
        DELETE FROM content WHERE message = OLD.ident;
        DELETE FROM header WHERE message = OLD.ident;
    END"""

DAMAGED = """
    CREATE TABLE damaged(message INTEGER PRIMARY KEY, at REAL NOT NULL, reason TEXT NOT NULL)"""

# see relayd.spool.sqlite.sieve. `bits` NULL: to be made anew; empty: it cannot be made
SIEVE = formats.STEPS[2].up

META = "CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID"

# `state` is in them so that SQLite need not look at the row to see that it is what WHERE says
INDEXES = (
    """CREATE INDEX queued ON recipient(destination, next_attempt, message, state)
    WHERE state = 0""",
    """CREATE INDEX held ON recipient(message, state) WHERE state = 1""",
)


def connect(path: Path, *, cache: int, read_only: bool = False) -> sqlite3.Connection:
    """A connection with our settings; `cache` in octets. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        path,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,  # one thread at a time, but a recovery closes the reader's
        cached_statements=512,  # see batch.RunStatement
    )
    try:
        for pragma in (
            f"page_size = {PAGE_SIZE}",
            "journal_mode = WAL",
            "synchronous = FULL",  # the promise: 250 means safe
            "wal_autocheckpoint = 0",  # the writer chooses its moment
            f"journal_size_limit = {WAL_KEPT}",
            f"cache_size = {-cache // 1024}",
            "temp_store = MEMORY",
            # Debian builds SQLite to overwrite what is deleted: twice the writing
            "secure_delete = OFF",
            "trusted_schema = OFF",
            "cell_size_check = ON",
            f"query_only = {'ON' if read_only else 'OFF'}",
        ):
            connection.execute(f"PRAGMA {pragma}").close()
    except BaseException:
        connection.close()
        raise
    return connection


def refuse_newer(connection: sqlite3.Connection) -> int:
    """The format of the database; raises SpoolError if only a newer relayd can read it."""
    found = formats.format_of(connection)
    if found > formats.VERSION:
        by = formats.written_by(connection)
        raise SpoolError(
            f"the spool was written by a newer relayd{f' ({by})' if by else ''} in format {found}, "
            f"this one knows up to {formats.VERSION}: install that version again, and there "
            f'"relayctl spool export --format {formats.VERSION}", or drain it'
        )
    return found


def prepare(connection: sqlite3.Connection, *, now: float) -> None:
    """Make the tables in an empty database, bring an older one up to date, refuse a newer one."""
    if refuse_newer(connection) == 0:
        _make(connection, now)
    formats.convert(connection, formats.VERSION)
    if formats.written_by(connection) != __version__:
        connection.execute("UPDATE meta SET value = ? WHERE name = 'written_by'", (__version__,))


def _make(connection: sqlite3.Connection, now: float) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in (META, *TABLES.values(), LEDGER, DAMAGED, *INDEXES):
        connection.execute(statement)
    for name in TABLES:
        connection.execute(f"CREATE TABLE damaged_{name} AS SELECT * FROM {name} WHERE 0")
    for statement in SIEVE:
        connection.execute(statement)
    connection.executemany(
        "INSERT INTO meta VALUES (?, ?)",
        [
            ("written_by", __version__),
            ("created", now),
            ("messages", 0),
            ("octets", 0),
            ("ledger", 0),  # rows
            ("probe", 0),
            ("rebuilt", 0),  # the last ident before the database was last rebuilt
        ],
    )
    connection.execute(f"PRAGMA user_version = {formats.VERSION}")
    connection.execute("COMMIT")


def look(connection: sqlite3.Connection) -> None:
    """A glance at each table from both ends; whatever the depth, a few pages. Raises on damage."""
    for table, key in (
        ("message", "ident"),
        ("recipient", "message, number"),
        ("content", "message"),
        ("header", "message, number"),
        ("ledger", "message, number, ended"),
    ):
        for order in ("ASC", "DESC"):
            down = ", ".join(f"{column} {order}" for column in key.split(", "))
            connection.execute(f"SELECT {key} FROM {table} ORDER BY {down} LIMIT 1").fetchall()
    if connection.execute("SELECT count(*) FROM meta").fetchone()[0] == 0:
        raise sqlite3.DatabaseError("meta is empty")


def last_ident(connection: sqlite3.Connection) -> int:
    """The highest identifier ever given, as far as anything remembers it."""
    found = connection.execute(
        """SELECT max(ifnull((SELECT max(ident) FROM message), 0),
            ifnull((SELECT max(message) FROM ledger), 0),
            ifnull((SELECT max(message) FROM damaged), 0),
            (SELECT value FROM meta WHERE name = 'rebuilt'))"""
    ).fetchone()
    ident: int = found[0]
    return ident


def checkpoint(connection: sqlite3.Connection, mode: str = "PASSIVE") -> int:
    """Copy the log back into the database file; octets of it left over. Raises sqlite3.Error."""
    busy: int
    frames: int
    copied: int
    found = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    busy, frames, copied = found
    return max(frames - copied, busy) * PAGE_SIZE
