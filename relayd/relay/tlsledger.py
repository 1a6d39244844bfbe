"""The day's TLS results of all workers, in one small database of the spool."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

from relayd.report.tlsrpt import TlsReportRow
from relayd.tls.flaw import Failure, Policy

NAME = "tls-results.db"  # in the spool
MOST_ROWS = 100_000  # beyond, failures are counted without their details
DAYS = 7  # what was not asked for by then is forgotten
_PATIENCE = 20.0  # seconds for other processes

Key = tuple[str, Policy, Failure | None]
"""The day (UTC, 2026-11-22), and what happened on it."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS result (
    day TEXT, domain TEXT, kind TEXT, policy TEXT, flaw TEXT, detail TEXT, sessions INTEGER,
    PRIMARY KEY (day, domain, kind, policy, flaw, detail)
) WITHOUT ROWID
"""
_ADD = """
INSERT INTO result VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET sessions = sessions + excluded.sessions
"""


class TlsLedger:
    """Opened for each use: rarely, and by several processes. All methods raise OSError."""

    def __init__(self, spool: Path) -> None:
        self._path = spool / NAME

    def add(self, counts: Mapping[Key, int]) -> None:
        """So many sessions more, in one transaction."""
        with closing(self._open()) as database, _Told(self._path), database:
            (rows,) = database.execute("SELECT count(*) FROM result").fetchone()
            for (day, policy, failure), sessions in counts.items():
                published = json.dumps([policy.strings, policy.mx])
                flaw, detail = "", ""
                if failure is not None:
                    flaw = failure.flaw.value
                    known = (failure.host, failure.address, failure.sender, failure.why[:200])
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
            return tuple(_row(*each) for each in database.execute(question, (day, domain)))

    def forget(self, days: Iterable[tuple[str, str]], before: str = "") -> None:
        """These days of these domains have been told, or never will be; and all older days."""
        with closing(self._open()) as database, _Told(self._path), database:
            database.executemany("DELETE FROM result WHERE day = ? AND domain = ?", days)
            database.execute("DELETE FROM result WHERE day < ?", (before,))

    def _open(self) -> sqlite3.Connection:
        with _Told(self._path):
            database = sqlite3.connect(self._path, timeout=_PATIENCE)
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(_SCHEMA)
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


def _row(kind: str, policy: str, flaw: str, detail: str, sessions: int) -> TlsReportRow:
    strings, mx = json.loads(policy)
    host, address, sender, why = json.loads(detail) if detail else ("", "", "", "")
    return TlsReportRow(kind, tuple(strings), tuple(mx), flaw, host, address, sender, why, sessions)
