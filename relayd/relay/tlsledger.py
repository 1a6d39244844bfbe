"""The day's TLS results of all workers, in one small database of the spool."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from hashlib import blake2b
from pathlib import Path

from relayd.report.tlsrpt import TlsReportRow
from relayd.tls.flaw import Failure, Policy

NAME = "tls-results.db"  # in the spool
MOST_ROWS = 100_000  # beyond, failures are counted without their details
MOST_OCTETS = 64 << 20  # of what domains publish; beyond, they are counted without it
MOST_WHY = 200  # characters of why a session failed
DAYS = 7  # what was not asked for by then is forgotten
_NOTHING = "[[], []]"  # published
_PATIENCE = 20.0  # seconds for other processes

Key = tuple[str, Policy, Failure | None]
"""The day (UTC, 2026-11-22), and what happened on it."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS result (
    day TEXT, domain TEXT, kind TEXT, policy TEXT, flaw TEXT, detail TEXT, sessions INTEGER,
    PRIMARY KEY (day, domain, kind, policy, flaw, detail)
) WITHOUT ROWID
"""
_PUBLISHED = """
CREATE TABLE IF NOT EXISTS published (digest TEXT PRIMARY KEY, octets INTEGER, text TEXT)
"""  # each text once; `result.policy` is its digest (in older databases the text itself)
_ADD = """
INSERT INTO result VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET sessions = sessions + excluded.sessions
"""
_TEXTS = """
SELECT DISTINCT policy, text FROM result LEFT JOIN published ON policy = digest
WHERE day = ? AND domain = ?
"""


class TlsLedger:
    """Opened for each use: rarely, and by several processes. All methods raise OSError."""

    def __init__(self, spool: Path) -> None:
        self._path = spool / NAME

    def add(self, counts: Mapping[Key, int]) -> None:
        """So many sessions more, in one transaction."""
        with closing(self._open()) as database, _Told(self._path), database:
            (rows,) = database.execute("SELECT count(*) FROM result").fetchone()
            question = "SELECT coalesce(sum(octets), 0) FROM published"
            (octets,) = database.execute(question).fetchone()
            digests: dict[Policy, str] = {}
            for (day, policy, failure), sessions in counts.items():
                published = digests.get(policy)
                if published is None:
                    published, more = _publish(database, policy, MOST_OCTETS - octets)
                    digests[policy] = published
                    octets += more
                flaw, detail = "", ""
                if failure is not None:
                    flaw = failure.flaw.value
                    known = (failure.host, failure.address, failure.sender, failure.why[:MOST_WHY])
                    detail = json.dumps(known if rows < MOST_ROWS else [""] * 4)
                row = (day, policy.domain, policy.kind, published, flaw, detail, sessions)
                database.execute(_ADD, row)

    def domains(self, before: str) -> list[tuple[str, str]]:
        """Days before this one, with the domains that there is something to tell."""
        with closing(self._open()) as database, _Told(self._path):
            question = "SELECT DISTINCT day, domain FROM result WHERE day < ? ORDER BY day, domain"
            return list(database.execute(question, (before,)))

    def domains_of(self, day: str) -> list[str]:
        """Those that there is something to tell of this day."""
        with closing(self._open()) as database, _Told(self._path):
            question = "SELECT DISTINCT domain FROM result WHERE day = ? ORDER BY domain"
            return [domain for (domain,) in database.execute(question, (day,))]

    def rows(self, day: str, domain: str) -> tuple[TlsReportRow, ...]:
        """All that is known of a domain's day."""
        with closing(self._open()) as database, _Told(self._path):
            question = (
                "SELECT kind, policy, flaw, detail, sessions FROM result"
                " WHERE day = ? AND domain = ? ORDER BY kind, policy, flaw, detail"
            )
            asked = (day, domain)
            published = {
                digest: _lists(text or digest) for digest, text in database.execute(_TEXTS, asked)
            }
            return tuple(
                _row(kind, published[digest], *others)
                for kind, digest, *others in database.execute(question, asked)
            )

    def forget(self, days: Iterable[tuple[str, str]], before: str = "") -> None:
        """These days of these domains have been told, or never will be; and all older days."""
        with closing(self._open()) as database, _Told(self._path), database:
            database.executemany("DELETE FROM result WHERE day = ? AND domain = ?", days)
            database.execute("DELETE FROM result WHERE day < ?", (before,))
            database.execute(
                "DELETE FROM published WHERE digest NOT IN (SELECT policy FROM result)"
            )

    def _open(self) -> sqlite3.Connection:
        with _Told(self._path):
            database = sqlite3.connect(self._path, timeout=_PATIENCE)
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(_SCHEMA)
            database.execute(_PUBLISHED)
            return database


class _Told:
    """SQLite's errors as OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            raise OSError(0, str(error), str(self._path)) from error


def _publish(database: sqlite3.Connection, policy: Policy, room: int) -> tuple[str, int]:
    """What stands for what the policy publishes, and how many octets more are kept for it."""
    text = json.dumps([policy.strings, policy.mx])
    digest = blake2b(text.encode(), digest_size=16).hexdigest()
    known = database.execute("SELECT 1 FROM published WHERE digest = ?", (digest,)).fetchone()
    if known:
        return digest, 0
    if len(text) > room:
        return _NOTHING, 0
    database.execute("INSERT INTO published VALUES (?, ?, ?)", (digest, len(text), text))
    return digest, len(text)


def _lists(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    strings, mx = json.loads(text)
    return tuple(strings), tuple(mx)


def _row(
    kind: str,
    published: tuple[tuple[str, ...], tuple[str, ...]],
    flaw: str,
    detail: str,
    sessions: int,
) -> TlsReportRow:
    host, address, sender, why = json.loads(detail) if detail else ("", "", "", "")
    return TlsReportRow(kind, *published, flaw, host, address, sender, why, sessions)
