"""Envelopes that relayd has seen, read from a spool's files beside a running relayd or without."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.client import Client
from relayd.mail.ident import make_ident
from relayd.mail.message import RecipientState
from relayd.mail.plan import Verdict
from relayd.spool.errors import SpoolError
from relayd.spool.refusedlog import FOLDER, SUFFIX, begun
from relayd.spool.sqlite.database import in_force
from relayd.spool.sqlite.rows import UndecodableError, mailbox_of, path_of

_PAGE = 2000  # ledger rows in one look: no look holds up the daemon's checkpoints for long

# The rows of a message are read whole: a page ends where a message ends (see _pages).
_LEDGER = """
    SELECT message, at, state, mailbox, original, next_hop, sender, facts, note FROM ledger
    WHERE message > ? AND ended = 0 ORDER BY message, number LIMIT ?"""
_MESSAGE = """
    SELECT message, at, state, mailbox, original, next_hop, sender, facts, note FROM ledger
    WHERE message = ? AND ended = 0 ORDER BY number"""

_VERDICT = {RecipientState.HELD: Verdict.HOLD, RecipientState.DISCARDED: Verdict.DISCARD}


@dataclass(frozen=True, slots=True)
class Seen:
    """One recipient as a client named it, and what was decided then."""

    at: float  # seconds since the epoch
    client: Client
    sender: ReversePath
    recipient: Mailbox
    verdict: Verdict
    destinations: tuple[tuple[Mailbox, str, ReversePath], ...] = ()  # mailbox, next hop, sender
    reply: str = ""  # of a refusal
    place: str = ""  # of the rule that refused
    elsewhere: frozenset[tuple[str, str]] = frozenset()
    # ^ mailbox and next hop of what else the message was for: a delivery that two recipients led
    # to is the first one's alone in the ledger


@dataclass(frozen=True, slots=True)
class Dropped:
    """So many refusals were too many to be noted."""

    at: float
    count: int


def shard_folders(spool: Path) -> list[Path]:
    """The shards of a spool."""
    return sorted(path for path in spool.glob("shard-*") if in_force(path) is not None)


def accepted(shard: Path, since: float) -> Iterator[Seen]:
    """What the ledger knows, in the order of arrival; raises SpoolError.

    Without reports of our own: nobody sent them to us.
    """
    path = in_force(shard)
    if path is None:
        return
    with contextlib.closing(_connected(path)) as connection:
        try:
            for message in _messages(connection, make_ident(max(0, int(since * 1e6)), 0)):
                yield from _recipients(message)
        except sqlite3.Error as error:
            raise SpoolError(f"{path}: {error}") from error


def noted(shard: Path, since: float) -> Iterator[Seen | Dropped]:
    """What the journal knows, in the order of arrival; lines that make no sense are left out."""
    segments = sorted((shard / FOLDER).glob(f"*{SUFFIX}"))
    for path, following in zip_longest(segments, segments[1:]):
        if following is not None and begun(following) < since:
            continue
        try:
            with path.open("rb") as lines:
                for line in lines:
                    with contextlib.suppress(ValueError, TypeError, LookupError, UndecodableError):
                        entry = json.loads(line)
                        if entry[0] >= since:
                            yield _note(entry)
        except OSError:
            continue  # it has just become too old


def _note(entry: Sequence[Any]) -> Seen | Dropped:
    if len(entry) == 2:
        return Dropped(float(entry[0]), int(entry[1]))
    at, sender, recipient, client, reply, place, _, verdict, ways = entry
    return Seen(
        float(at),
        Client(*client),
        path_of(sender),
        mailbox_of(recipient),
        Verdict(verdict),
        tuple((mailbox_of(mailbox), str(hop), path_of(path)) for mailbox, hop, path in ways),
        reply=str(reply) if verdict == Verdict.REFUSE.value else "",
        place=str(place),
    )


def _connected(path: Path) -> sqlite3.Connection:
    """A connection that can change nothing, and leaves no file behind where nobody runs."""
    log = path.with_name(path.name + "-wal")
    try:
        # without a log nobody has it open, and the database file alone says all
        alone = not log.exists() or (log.stat().st_size == 0 and not os.access(log, os.W_OK))
        uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
        connection = sqlite3.connect(uri, uri=True, timeout=5, isolation_level=None)
        connection.execute("SELECT 1 FROM ledger LIMIT 1").fetchall()
    except (sqlite3.Error, OSError) as error:
        raise SpoolError(f"{path}: {error}") from error
    return connection


def _messages(connection: sqlite3.Connection, after: int) -> Iterator[list[tuple[Any, ...]]]:
    """The ledger's rows about acceptance, message by message."""
    while True:
        rows = connection.execute(_LEDGER, (after, _PAGE)).fetchall()
        if not rows:
            return
        last = rows[-1][0]
        if len(rows) == _PAGE:  # the last message may go on behind the page
            while rows and rows[-1][0] == last:
                rows.pop()
            rows += connection.execute(_MESSAGE, (last,)).fetchall()
        start = 0
        for at in range(1, len(rows) + 1):
            if at == len(rows) or rows[at][0] != rows[start][0]:
                yield rows[start:at]
                start = at
        after = last


def _recipients(rows: list[tuple[Any, ...]]) -> Iterator[Seen]:
    """One message's recipients as the client named them."""
    _, at, _, _, _, _, sender_text, facts, _ = rows[0]
    try:
        client = Client(*json.loads(facts)[1])
        sender = path_of(sender_text)
    except (ValueError, TypeError, UndecodableError):
        return  # damaged, or its first row has grown too old
    if not client.address:
        return
    if len(rows) == 1:
        yield _seen(at, client, sender, rows)
        return
    named: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        named.setdefault(row[4] or row[3], []).append(row)
    all_of_it = frozenset((mailbox_of(row[3]).key, row[5]) for row in rows)
    for same in named.values():
        yield _seen(at, client, sender, same, all_of_it if len(named) > 1 else frozenset())


def _seen(
    at: float,
    client: Client,
    sender: ReversePath,
    rows: list[tuple[Any, ...]],
    elsewhere: frozenset[tuple[str, str]] = frozenset(),
) -> Seen:
    state = RecipientState(rows[0][2])
    return Seen(
        at,
        client,
        sender,
        mailbox_of(rows[0][4] or rows[0][3]),
        _VERDICT.get(state, Verdict.ACCEPT),
        ()
        if state is RecipientState.DISCARDED
        else tuple(
            (mailbox_of(row[3]), row[5], sender if row[8] is None else path_of(row[8]))
            for row in rows
        ),
        elsewhere=elsewhere,
    )
