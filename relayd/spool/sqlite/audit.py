"""Proving from the ledger that every acceptance has exactly one fate (promise 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relayd.spool.view import Audit, Discrepancy

Ask = Callable[[str, tuple[int, int]], Any]
"""Runs a statement with ? where its values go; gives a cursor."""

_FATES = """
    SELECT a.message, a.number, e.state,
        EXISTS (SELECT 1 FROM recipient AS r JOIN message AS m ON m.ident = r.message
            WHERE r.message = a.message AND r.number = a.number),
        EXISTS (SELECT 1 FROM damaged AS d WHERE d.message = a.message)
    FROM ledger AS a LEFT JOIN ledger AS e
        ON e.message = a.message AND e.number = a.number AND e.ended = 1
    WHERE a.message > ? AND a.message <= ? AND a.ended = 0
    ORDER BY a.message, a.number"""
_NEVER_ACCEPTED = """
    SELECT r.message, r.number FROM {} AS r WHERE r.message > ? AND r.message <= ? AND {}
        NOT EXISTS (SELECT 1 FROM ledger AS a
            WHERE a.message = r.message AND a.number = r.number AND a.ended = 0)"""


def audit(ask: Ask, after: int, limit: int) -> Audit:
    """Look at about `limit` ledger rows: is each recipient ended, waiting or set aside, once?"""
    end = ask(
        "SELECT message FROM ledger WHERE message > ? ORDER BY message LIMIT 1 OFFSET ?",
        (after, limit - 1),
    ).fetchone()
    last = (1 << 62) if end is None else end[0]
    rows = ask(_FATES, (after, last)).fetchall()
    problems = []
    for message, number, ended, waits, aside in rows:
        if ended is None and not waits:
            why = "set aside as damaged" if aside else "neither waiting nor ended"
            problems.append(Discrepancy(message, number, why))
        elif ended is not None and waits:
            problems.append(Discrepancy(message, number, "ended and still waiting"))
    for table, only, why in (
        ("recipient", "", "waiting, but never accepted"),
        ("ledger", "r.ended = 1 AND ", "ended, but never accepted"),
    ):
        unknown = ask(_NEVER_ACCEPTED.format(table, only), (after, last)).fetchall()
        problems += [Discrepancy(message, number, why) for message, number in unknown]
    return Audit(len(rows), problems, None if end is None else last)
