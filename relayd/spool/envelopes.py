"""Envelopes that relayd has seen, read from a spool's files beside a running relayd or without."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.client import Client
from relayd.mail.envelope import NOBODY
from relayd.mail.ident import make_ident
from relayd.mail.message import RecipientState
from relayd.mail.plan import FACT, Verdict
from relayd.mail.value import dataclass
from relayd.spool.errors import SpoolError
from relayd.spool.refusedlog import FOLDER, SUFFIX, NotedEntry, begun
from relayd.spool.sqlite.database import in_force
from relayd.spool.sqlite.rows import UndecodableError, client_of, mailbox_of, path_of, raw

_COPY = raw(NOBODY)  # as whom a copy was named that a `copy` rule sent

_PAGE = 2000  # ledger rows in one look: no look holds up the daemon's checkpoints for long


class _Acceptance(NamedTuple):
    """What the ledger's row about an acceptance says that is asked for here."""

    message: int
    at: float
    state: int
    mailbox: str
    original: str | None
    next_hop: str
    sender: str
    facts: str
    note: str | None

    @property
    def named(self) -> str:
        """The mailbox as the client named it, raw."""
        return self.original or self.mailbox


# The rows of a message are read whole: a page ends where a message ends (see _messages).
_LEDGER = f"""
    SELECT {", ".join(_Acceptance._fields)} FROM ledger
    WHERE message > ? AND ended = 0 ORDER BY message, number LIMIT ?"""
_MESSAGE = f"""
    SELECT {", ".join(_Acceptance._fields)} FROM ledger
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
    facts: Mapping[str, str] = field(default_factory=dict)  # that rules looked at: JSON, by name


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


class Happened(NamedTuple):
    """A row of the ledger: a recipient was accepted, or has ended. Mailboxes are raw."""

    message: int
    number: int
    ended: int
    at: float
    state: int  # RecipientState
    mailbox: str | None
    size: int | None  # these three with recipient 0 of what was accepted
    sender: str | None
    facts: str | None
    attempts: int | None  # these two at the end
    outcome: str | None


_HAPPENED = """
    SELECT l.message, l.number, l.ended, l.at, l.state, a.mailbox, l.size, l.sender, l.facts,
        l.attempts, l.outcome
    FROM ledger AS l LEFT JOIN ledger AS a
        ON a.message = l.message AND a.number = l.number AND a.ended = 0
    WHERE (l.message, l.number, l.ended) > (?, ?, ?) AND l.at >= ?
    ORDER BY l.message, l.number, l.ended LIMIT ?"""


def happened(shard: Path, since: float) -> Iterator[Happened]:
    """All that the ledger has written since then, by message; raises SpoolError."""
    path = in_force(shard)
    if path is None:
        return
    with contextlib.closing(_connected(path)) as connection:
        after = (0, 0, 0)
        try:
            while True:
                rows = connection.execute(_HAPPENED, (*after, since, _PAGE)).fetchall()
                yield from map(Happened._make, rows)
                if len(rows) < _PAGE:
                    return
                after = rows[-1][:3]
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
    line = NotedEntry(*entry)
    verdict = Verdict(line.verdict)
    return Seen(
        float(line.at),
        client_of(line.client),
        path_of(line.sender),
        mailbox_of(line.recipient),
        verdict,
        tuple((mailbox_of(mailbox), str(hop), path_of(path)) for mailbox, hop, path in line.ways),
        reply=str(line.reply) if verdict is Verdict.REFUSE else "",
        place=str(line.place),
        facts={str(name): str(value) for name, value in line.facts.items()},
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


def _messages(connection: sqlite3.Connection, after: int) -> Iterator[list[_Acceptance]]:
    """The ledger's rows about acceptance, message by message."""
    while True:
        rows = [*map(_Acceptance._make, connection.execute(_LEDGER, (after, _PAGE)))]
        if not rows:
            return
        last = rows[-1].message
        if len(rows) == _PAGE:  # the last message may go on behind the page
            while rows and rows[-1].message == last:
                rows.pop()
            rows += map(_Acceptance._make, connection.execute(_MESSAGE, (last,)))
        for _, of_one in groupby(rows, lambda row: row.message):
            yield [*of_one]
        after = last


def _recipients(rows: list[_Acceptance]) -> Iterator[Seen]:
    """One message's recipients as the client named them."""
    first = rows[0]
    try:
        _, values, _, trail, *_ = json.loads(first.facts)
        facts = {step[1]: step[3] for step in trail if step[0] == FACT}
        client = client_of(values)
        sender = path_of(first.sender)
    except (ValueError, TypeError, LookupError, UndecodableError):
        return  # damaged, or its first row has grown too old
    if not client.address:
        return
    if len(rows) == 1:
        yield _seen(client, sender, rows, facts)
        return
    named: dict[str, list[_Acceptance]] = {}
    for row in rows:
        if row.original != _COPY:
            named.setdefault(row.named, []).append(row)
    all_of_it = frozenset((mailbox_of(row.mailbox).key, row.next_hop) for row in rows)
    for same in named.values():
        yield _seen(client, sender, same, facts, all_of_it if len(named) > 1 else frozenset())


def _seen(
    client: Client,
    sender: ReversePath,
    rows: list[_Acceptance],
    facts: Mapping[str, str],
    elsewhere: frozenset[tuple[str, str]] = frozenset(),
) -> Seen:
    first = rows[0]
    state = RecipientState(first.state)
    return Seen(
        first.at,
        client,
        sender,
        mailbox_of(first.named),
        _VERDICT.get(state, Verdict.ACCEPT),
        ()
        if state is RecipientState.DISCARDED
        else tuple(
            (
                mailbox_of(row.mailbox),
                row.next_hop,
                sender if row.note is None else path_of(row.note),
            )
            for row in rows
        ),
        elsewhere=elsewhere,
        facts=facts,
    )
