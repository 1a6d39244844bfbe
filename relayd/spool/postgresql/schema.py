"""The tables of a spool in PostgreSQL: made once, under a lock, and versioned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from relayd import __version__
from relayd.spool.errors import SpoolError

if TYPE_CHECKING:
    from psycopg import Connection

Link: TypeAlias = "Connection[tuple[Any, ...]]"

VERSION = 3
BESIDE = VERSION - 1  # the oldest relayd, by its version, that goes on beside these tables
LOCKS = 0x72656C61  # our advisory locks: with the number of a node, whose writer holds it,
WHOLE = -1  # ... or with this one, while the tables are made
MAX_NODES = 192  # of 256 in an identifier (see mail.ident); the others: see spool.away

# As in a folder (see spool.sqlite.schema), but for three things. Content up to a megabyte is in
# the row, uncompressed and out of the way of whoever does not ask for it. Header sections are in
# the row, too. And each recipient names the node that sends to it, and since which of its epochs.
# Texts are compared octet by octet, whatever the language of the database.
_MESSAGE = """
    ident bigint NOT NULL,
    received double precision NOT NULL,
    sender text COLLATE "C" NOT NULL,
    size bigint NOT NULL,
    header_size bigint NOT NULL,
    flags integer NOT NULL,
    facts text COLLATE "C" NOT NULL,
    content_parity bigint NOT NULL,
    parity bigint NOT NULL,
    headers bytea[],            -- rewritten header sections; Recipient.header counts from 1
    content bytea,              -- NULL: in chunks
    chunks integer NOT NULL     -- rows of `content`; 0: it is here
    """
_RECIPIENT = """
    message bigint NOT NULL,
    number integer NOT NULL,
    destination text COLLATE "C" NOT NULL,
    mailbox text COLLATE "C" NOT NULL,
    original text COLLATE "C",
    next_hop text COLLATE "C" NOT NULL,
    sender text COLLATE "C",
    orcpt text COLLATE "C" NOT NULL,
    notify text COLLATE "C" NOT NULL,
    header integer NOT NULL,
    parity bigint NOT NULL,
    state integer NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    next_attempt double precision NOT NULL,
    warned integer NOT NULL DEFAULT 0,
    reply text COLLATE "C",
    outcome text COLLATE "C",
    owner integer NOT NULL,
    epoch bigint NOT NULL"""
_CONTENT = "message bigint NOT NULL, number integer NOT NULL, data bytea NOT NULL"

# rows come and go at the same pace: dead ones are cleared away by their number, not by a share
_BUSY = "WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)"

STATEMENTS = (
    "CREATE SCHEMA IF NOT EXISTS relayd",
    "SET LOCAL search_path TO relayd",
    "CREATE TABLE meta(name text PRIMARY KEY, value text NOT NULL)",
    """CREATE TABLE node(
        id integer PRIMARY KEY,     -- also the shard in the identifiers that it gives
        name text NOT NULL UNIQUE,
        epoch bigint NOT NULL,      -- grows with each start, and when others take its mail over
        beat timestamptz NOT NULL)""",
    # One row a transaction: that it is there proves the COMMIT. Its sums are what waits.
    f"""CREATE TABLE batch(
        node integer NOT NULL,
        serial bigint NOT NULL,
        messages bigint NOT NULL,   -- more, or fewer
        octets bigint NOT NULL,
        PRIMARY KEY (node, serial)) {_BUSY}""",
    f"CREATE TABLE message({_MESSAGE}, PRIMARY KEY (ident)) {_BUSY}",
    f"CREATE TABLE recipient({_RECIPIENT}, PRIMARY KEY (message, number)) {_BUSY}",
    f"CREATE TABLE content({_CONTENT}, PRIMARY KEY (message, number)) {_BUSY}",
    "ALTER TABLE message ALTER COLUMN content SET STORAGE EXTERNAL",
    "ALTER TABLE content ALTER COLUMN data SET STORAGE EXTERNAL",
    """CREATE TABLE ledger(
        message bigint NOT NULL,
        number integer NOT NULL,
        ended integer NOT NULL DEFAULT 0,
        at double precision NOT NULL,
        state integer NOT NULL,
        mailbox text COLLATE "C",
        original text COLLATE "C",
        next_hop text COLLATE "C",
        size bigint,
        sender text COLLATE "C",
        facts text COLLATE "C",
        attempts integer,
        outcome text COLLATE "C",
        note text COLLATE "C",
        PRIMARY KEY (message, number, ended))""",
    """CREATE TABLE damaged(
        message bigint PRIMARY KEY,
        at double precision NOT NULL,
        reason text NOT NULL)""",
    f"CREATE TABLE damaged_message({_MESSAGE})",
    f"CREATE TABLE damaged_recipient({_RECIPIENT})",
    f"CREATE TABLE damaged_content({_CONTENT})",
    """CREATE INDEX queued ON recipient(owner, destination, next_attempt, message)
        WHERE state = 0""",
    "CREATE INDEX held ON recipient(message, number) WHERE state = 1",
)

# What a later version has added: columns that may be empty, and tables, so that a node of the
# version before goes on beside it until it is brought up to date, too.
LATER: dict[int, tuple[str, ...]] = {
    2: (
        # what operators have told to wait, in all nodes; as JSON
        """CREATE TABLE suspension(
            kind text NOT NULL,
            whom text NOT NULL,
            document text NOT NULL,
            PRIMARY KEY (kind, whom))""",
        # what a node has delivered although another one had taken it over: perhaps twice
        """CREATE TABLE late(
            message bigint NOT NULL,
            number integer NOT NULL,
            node integer NOT NULL,
            at double precision NOT NULL,
            PRIMARY KEY (message, number, node))""",
        "ALTER TABLE node ADD COLUMN written_by text",  # the version of its relayd
        "ALTER TABLE node ADD COLUMN rules text",  # the hash of its rule set,
        "ALTER TABLE node ADD COLUMN rules_since timestamptz",  # ... and for how long
    ),
    3: (
        # what the limits of rules have counted, in cells of their windows (see spool.tally)
        f"""CREATE TABLE counted(
            name text COLLATE "C" NOT NULL,
            key text COLLATE "C" NOT NULL,
            cell bigint NOT NULL,
            count integer NOT NULL,
            ends double precision NOT NULL,     -- when it counts no more
            PRIMARY KEY (name, key, cell)) {_BUSY[:-1]}, fillfactor = 50)""",
        "CREATE INDEX counted_ends ON counted(ends)",
        # clients that were seen first, and those that are known to come back
        f"""CREATE TABLE sight(
            key text COLLATE "C" PRIMARY KEY,
            at double precision NOT NULL,
            ends double precision NOT NULL) {_BUSY}""",
        "CREATE INDEX sight_ends ON sight(ends)",
    ),
}
_PATIENCE = 2  # seconds for which an upgrade waits for others' locks, and they behind it
_TRIES = 30


def create(connection: Link) -> bool:
    """Make the tables, unless they are there: whether they were made. Raises psycopg.Error.

    Two that do it at once are none the worse for it: the second waits, and finds them.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS, WHOLE))
        if _version(connection) is not None:
            return False
        for statement in STATEMENTS:
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES ('written_by', %s)", (__version__,))
        _bring_up(connection, 1)
    return True


def upgrade(connection: Link) -> int | None:
    """Bring the tables up to date while nodes use them: which version they had; None: no tables.

    Raises psycopg.Error. All of it or nothing; and nobody waits for long behind what it locks.
    """
    from psycopg.errors import LockNotAvailable

    for attempt in range(_TRIES):
        try:
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS, WHOLE))
                found = _version(connection)
                if found is not None and found < VERSION:
                    connection.execute("SET LOCAL search_path TO relayd")
                    connection.execute(f"SET LOCAL lock_timeout TO '{_PATIENCE}s'")
                    _bring_up(connection, found)
                return found
        except LockNotAvailable:
            if attempt + 1 == _TRIES:
                raise
    raise AssertionError


def _bring_up(connection: Link, found: int) -> None:
    for version in range(found + 1, VERSION + 1):
        for statement in LATER[version]:
            connection.execute(statement.encode())
    known = {"version": VERSION, "beside": BESIDE}
    for name, value in known.items():
        connection.execute(
            "INSERT INTO meta VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = %s",
            (name, str(value), str(value)),
        )


def require(connection: Link) -> None:
    """Raises SpoolError unless the tables are there and this relayd knows them."""
    found = _version(connection)
    if found is None:
        raise SpoolError('there is no spool in this database: "relayctl spool create" makes it')
    if found < VERSION:
        raise SpoolError(
            f"the spool is in version {found}, and this relayd needs {VERSION}: "
            '"relayctl spool upgrade" makes it so, beside nodes that have it open'
        )
    row = connection.execute("SELECT value FROM relayd.meta WHERE name = 'beside'").fetchone()
    if found > VERSION and (row is None or int(row[0]) > VERSION):
        raise SpoolError(
            f"the spool is of a newer relayd, in version {found}; this one knows up to {VERSION}: "
            "bring this node up to date, too"
        )


def _version(connection: Link) -> int | None:
    there = connection.execute("SELECT to_regclass('relayd.meta') IS NOT NULL").fetchone()
    if there is None or not there[0]:
        return None
    row = connection.execute("SELECT value FROM relayd.meta WHERE name = 'version'").fetchone()
    return None if row is None else int(row[0])
