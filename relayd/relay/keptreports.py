"""Reports that were kept from strangers, of all workers: in one small database of the spool."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from relayd.report.backscatter import SHOWN, KeptReport, KeptShare, KeptSummary
from relayd.spool.disk.content import sync_directory

FOLDER = "backscatter"  # in the spool
NAME = "kept.db"
MOST_ROWS = 10_000  # not yet told; beyond, they are counted without sender and client
FIRST = 3600.0  # seconds from the first one kept to the digest
EVERY = 86_400.0  # ... and from one digest to the next, at least
LOOKED_AT = 7 * 86_400.0  # ... that they can be looked at afterwards
_PATIENCE = 20.0  # seconds for other processes
_MOST_TEXT = 500  # characters of what a peer may have chosen

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kept (
    told REAL,              -- 0: not yet; below: it was under way when we died
    sender TEXT, client TEXT, kind TEXT, status TEXT,
    reports INTEGER, recipients INTEGER, first REAL, last REAL,
    message INTEGER, recipient TEXT, reply TEXT, -- of the last one
    PRIMARY KEY (told, sender, client, kind, status)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS happened (name TEXT PRIMARY KEY, at REAL) WITHOUT ROWID;
"""
_ADD = """
INSERT INTO kept VALUES (0, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET reports = reports + 1, recipients = recipients + excluded.recipients,
    last = max(last, excluded.last), first = min(first, excluded.first),
    message = excluded.message, recipient = excluded.recipient, reply = excluded.reply
"""
_SHARES = """
SELECT {name}, sum(reports) AS many, sum(recipients), max(message), {reply} FROM kept
WHERE told = ? GROUP BY 1 ORDER BY many DESC, 1 LIMIT ?
"""
_REASON = "trim(kind || ' ' || status)"


class KeptReports:
    """Opened for each use: seldom, and by several processes. All methods raise OSError.

    What `add` was told is on stable storage when it returns. Times are seconds since the epoch.
    """

    def __init__(self, spool: Path) -> None:
        self._path = spool / FOLDER / NAME

    @property
    def some(self) -> bool:
        """Whether there ever were any."""
        return self._path.exists()

    @property
    def changed(self) -> int:
        """When something was changed last, in nanoseconds; 0: there never were any."""
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return 0

    def add(self, kept: Sequence[KeptReport]) -> None:
        """These as well, in one transaction."""
        with self._database() as database:
            question = "SELECT count(*) FROM kept WHERE told = 0"
            (rows,) = database.execute(question).fetchone()
            for each in kept:
                sender, client = each.sender[:_MOST_TEXT], each.client
                if rows >= MOST_ROWS:
                    sender = client = ""
                text = (each.recipient[:_MOST_TEXT], each.reply[:_MOST_TEXT])
                database.execute(
                    _ADD,
                    (sender, client, each.kind, _status(each.reply), each.recipients, each.at,
                     each.at, each.message, *text),
                )  # fmt: skip
                rows += 1

    def due(self, now: float) -> bool:
        """Whether it is time for a digest."""
        with self._database() as database:
            told, first = database.execute("SELECT min(told), min(first) FROM kept WHERE told <= 0"
                                           ).fetchone()  # fmt: skip
            if told is None:
                return False
            at = dict(database.execute("SELECT name, at FROM happened"))
        if told < 0 or at.get("asked", 0) >= first:
            return True
        last = at.get("digest", 0.0)
        # a clock that was set back must not keep it for ever
        return bool(now >= first + FIRST and not 0 <= now - last < EVERY)

    def ask(self, now: float) -> bool:
        """Somebody wants the digest now; whether there is something to tell."""
        with self._database() as database:
            (some,) = database.execute("SELECT count(*) FROM kept WHERE told = 0").fetchone()
            if some:
                (last,) = database.execute("SELECT max(last) FROM kept WHERE told = 0").fetchone()
                database.execute("REPLACE INTO happened VALUES ('asked', ?)", (max(now, last),))
        return bool(some)

    def claim(self, now: float) -> tuple[KeptSummary, ...]:
        """What the postmaster is to be told, until `told`: also what was claimed and never told."""
        with self._database() as database:
            database.execute("UPDATE kept SET told = ? WHERE told = 0", (-now,))
            claimed = database.execute(
                "SELECT DISTINCT told FROM kept WHERE told < 0 ORDER BY told DESC"
            ).fetchall()
            return tuple(_summary(database, told) for (told,) in claimed)

    def told(self, kept: Sequence[KeptSummary], now: float) -> None:
        """He has been told of these; old ones are forgotten."""
        with self._database() as database:
            for each in kept:
                database.execute("UPDATE kept SET told = -told WHERE told = ?", (each.told_at,))
            database.execute("REPLACE INTO happened VALUES ('digest', ?)", (now,))
            database.execute("DELETE FROM kept WHERE told > 0 AND told < ?", (now - LOOKED_AT,))

    def summaries(self) -> tuple[KeptSummary, ...]:
        """All that is there, what was not told yet first, then the latest."""
        with self._database() as database:
            times = database.execute(
                "SELECT DISTINCT told FROM kept ORDER BY told > 0, abs(told) DESC"
            ).fetchall()
            return tuple(_summary(database, told) for (told,) in times)

    def waiting(self) -> int:
        """How many reports the postmaster has not been told of."""
        with self._database() as database:
            question = "SELECT coalesce(sum(reports), 0) FROM kept WHERE told <= 0"
            (reports,) = database.execute(question).fetchone()
        return int(reports)

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        if not self._path.parent.is_dir():
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            sync_directory(self._path.parent.parent)
        database = None
        try:
            database = sqlite3.connect(self._path, timeout=_PATIENCE)
            database.execute("PRAGMA synchronous = FULL")
            database.executescript(_SCHEMA)
            with database:
                yield database
        except sqlite3.Error as error:
            raise OSError(0, str(error), str(self._path)) from error
        finally:
            if database is not None:
                database.close()


def _status(reply: str) -> str:
    """Code and enhanced status: what comes behind is different for each recipient."""
    words = reply.split(" ", 2)
    return " ".join(words[:2] if words[1:] and words[1][:1].isdigit() else words[:1])


def _summary(database: sqlite3.Connection, told: float) -> KeptSummary:
    ask = database.execute
    reports, recipients, first, last, *numbers = ask(
        f"""SELECT sum(reports), sum(recipients), min(first), max(last), count(DISTINCT sender),
        count(DISTINCT client), count(DISTINCT {_REASON}) FROM kept WHERE told = ?""",
        (told,),
    ).fetchone()
    shares = []
    # SQLite takes what else is selected from the row of the one max()
    for name, reply in (("sender", "''"), ("client", "''"), (_REASON, "reply")):
        rows = ask(_SHARES.format(name=name, reply=reply), (told, SHOWN))
        shares.append(
            tuple(KeptShare(found or "(others)", *rest) for found, *rest in rows.fetchall())
        )
    senders, clients, reasons = shares
    all_senders, all_clients, all_reasons = numbers
    return KeptSummary(
        *(reports, recipients, first, last),
        *(senders, clients, reasons),
        *(all_senders, all_clients, all_reasons),
        told,
    )
