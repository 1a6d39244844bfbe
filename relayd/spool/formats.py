"""The formats of queue.db: how an older one is brought up to date, and ours back to an older one.

A spool is brought up to date by itself when it is opened, in one transaction. A step has to be as
quick with a million messages waiting (ALTER TABLE ADD COLUMN is, UPDATE of all rows is not), and
has to lead to the tables that schema.prepare makes: salvage.py counts on their order.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

VERSION = 3  # of the format that this relayd writes
OLDEST = 1  # that it still reads, and can export


@dataclass(frozen=True, slots=True)
class FormatStep:
    """From one format to the next, and back."""

    up: tuple[str, ...]
    down: tuple[str, ...]


STEPS: Mapping[int, FormatStep] = {
    # 2: meta says which relayd was the last to write; the number is SQLite's user_version alone
    1: FormatStep(
        up=(
            "DELETE FROM meta WHERE name = 'schema_version'",
            "INSERT OR REPLACE INTO meta VALUES ('written_by', '')",
        ),
        down=(
            "INSERT OR REPLACE INTO meta VALUES ('schema_version', 1)",
            "DELETE FROM meta WHERE name = 'written_by'",
        ),
    ),
    # 3: what `relayctl find` passes over the ledger by (relayd.spool.sqlite.sieve), made later
    2: FormatStep(
        up=(
            "CREATE TABLE sieve(last INTEGER PRIMARY KEY, first INTEGER NOT NULL, bits BLOB)",
            "CREATE INDEX spoilt ON sieve(last) WHERE bits IS NULL",
            """CREATE TABLE ending(state INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (state, last)) WITHOUT ROWID""",
        ),
        down=("DROP TABLE ending", "DROP TABLE sieve"),
    ),
}
"""By the format that the step starts from."""


def format_of(connection: sqlite3.Connection) -> int:
    """The format of a database; 0: an empty one. Raises sqlite3.Error."""
    number: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return number


def convert(connection: sqlite3.Connection, wanted: int) -> None:
    """To this format, up or down, in one transaction; raises sqlite3.Error."""
    found = format_of(connection)
    if found == wanted:
        return
    steps = (
        [STEPS[number].up for number in range(found, wanted)]
        if found < wanted
        else [STEPS[number].down for number in range(found - 1, wanted - 1, -1)]
    )
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statements in steps:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {wanted}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def written_by(connection: sqlite3.Connection) -> str:
    """The version of the relayd that wrote this database last, or empty."""
    try:
        row = connection.execute("SELECT value FROM meta WHERE name = 'written_by'").fetchone()
    except sqlite3.Error:
        return ""
    return str(row[0]) if row else ""
