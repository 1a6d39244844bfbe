"""A node as the database knows it: its number, its epoch, and that there is one only."""

from __future__ import annotations

import time

from relayd.spool.errors import SpoolError, SpoolLocked
from relayd.spool.lease import USUAL
from relayd.spool.postgresql.batch import Ownership
from relayd.spool.postgresql.schema import LOCKS, MAX_NODES, WHOLE
from relayd.spool.postgresql.session import DatabaseSession

ENDING = 10.0  # seconds in which even a busy server notices that an earlier process has ended

_NUMBER = """
    SELECT min(n) FROM generate_series(0, %s) AS n
    WHERE NOT EXISTS (SELECT 1 FROM node WHERE id = n)"""
_HOLDER = """
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
    AND classid = %s AND objid = %s AND database =
        (SELECT oid FROM pg_database WHERE datname = current_database())"""


def begin(session: DatabaseSession, name: str) -> Ownership:
    """Be this node from now on, in a new epoch; what it owned before is its own still.

    Raises SpoolLocked while another process is it, SpoolError if there are too many nodes.
    """
    with session.link.transaction():
        session.ask("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS, WHOLE))
        found = session.ask("SELECT id FROM node WHERE name = %s", (name,)).fetchone()
        if found is None:
            found = session.ask(_NUMBER, (MAX_NODES - 1,)).fetchone()
            if found is None or found[0] is None:
                raise SpoolError(f"{MAX_NODES} nodes share this spool, which is as many as can")
            session.ask("INSERT INTO node VALUES (%s, %s, 0, now())", (found[0], name))
    number = int(found[0])
    deadline = time.monotonic() + ENDING
    while not hold(session, number):
        if time.monotonic() > deadline:
            raise SpoolLocked(
                f"another process is node {name} of this spool: each needs a name of its own"
            )
        time.sleep(0.05)
    row = session.ask(
        "UPDATE node SET epoch = epoch + 1, beat = now() WHERE id = %s RETURNING epoch",
        (number,),
    ).fetchone()
    assert row is not None
    return Ownership(number, int(row[0]))


def leave(session: DatabaseSession, ours: Ownership) -> None:
    """Be no node any more, in order: others need not wait to take over what it had."""
    session.ask(
        "UPDATE node SET beat = '-infinity' WHERE id = %s AND epoch = %s", (ours.owner, ours.epoch)
    )


def lease_of(session: DatabaseSession) -> float:
    """Seconds of silence after which a node's mail is taken over; the same for all nodes."""
    row = session.ask("SELECT value FROM meta WHERE name = 'lease'").fetchone()
    return USUAL if row is None else float(row[0])


def hold(session: DatabaseSession, number: int) -> bool:
    """Hold the lock of a node's writer until the session ends; False: another session has it.

    Who holds it knows that every earlier transaction of this node's writer is over.
    """
    row = session.ask("SELECT pg_try_advisory_lock(%s, %s)", (LOCKS, number)).fetchone()
    return bool(row and row[0])


def end_session(session: DatabaseSession, number: int, pid: int) -> None:
    """End the session of ours that the server has not yet noticed to be gone, if it is that one."""
    holder = session.ask(_HOLDER, (LOCKS, number)).fetchone()
    if holder is not None and holder[0] == pid:
        session.ask("SELECT pg_terminate_backend(%s)", (pid,))


def epoch_of(session: DatabaseSession, number: int) -> int:
    """The epoch that the database knows; a later one than ours: our mail was taken over."""
    row = session.ask("SELECT epoch FROM node WHERE id = %s", (number,)).fetchone()
    return -1 if row is None else int(row[0])


def last_serial(session: DatabaseSession, number: int) -> int:
    """The number of the node's last transaction that is in the database."""
    row = session.ask(
        "SELECT coalesce(max(serial), 0) FROM batch WHERE node = %s", (number,)
    ).fetchone()
    return 0 if row is None else int(row[0])


def last_ident(session: DatabaseSession) -> int:
    """The highest identifier ever given, as far as anything remembers it."""
    row = session.ask(
        """SELECT greatest(
            (SELECT ident FROM message ORDER BY ident DESC LIMIT 1),
            (SELECT message FROM ledger ORDER BY message DESC LIMIT 1),
            (SELECT message FROM damaged ORDER BY message DESC LIMIT 1),
            (SELECT message FROM content ORDER BY message DESC LIMIT 1), 0)"""
    ).fetchone()
    return 0 if row is None else int(row[0])
