"""No statement of everyday work walks through a table: a million waiting messages cost nothing."""

from __future__ import annotations

import re
import sqlite3
import unittest
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from relayd.mail.message import RecipientState, Settlement
from relayd.mail.outcome import failed
from relayd.spool.view import NewMessage, QueueFilter
from tests.spooling import LATER, Harness, opened, recipient, submission

BIG = b"x" * 100_000
# what is meant to walk: listings and counts, over what they list and count
ALLOWED = re.compile(
    r"SCAN (v|each|r|\(subquery-\d+\)|recipient USING COVERING INDEX \w+|damaged)( |$)"
)
# no table, but the rows that an INSERT brings along (the second since SQLite 3.46)
BROUGHT_ALONG = re.compile(r"SCAN (CONSTANT ROW|\d+-ROW VALUES CLAUSE)$|SCAN \d+ CONSTANT ROWS$")


class Watched(sqlite3.Connection):
    """Keeps the plan of every statement it runs."""

    plans: dict[str, list[str]]

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        cursor = super().execute(statement, *values)
        if statement.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH"):
            self._explain(statement, values)
        return cursor

    def executemany(self, statement: str, values: Any) -> sqlite3.Cursor:
        rows = list(values)
        self._explain(statement, rows[:1])
        return super().executemany(statement, rows)

    def _explain(self, statement: str, values: Any) -> None:
        if statement not in Watched.plans:
            rows = super().execute(f"EXPLAIN QUERY PLAN {statement}", *values)
            Watched.plans[statement] = [row[3] for row in rows]


class PlanTests(unittest.TestCase):
    def setUp(self) -> None:
        temporary = TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        Watched.plans = {}
        connect = sqlite3.connect

        def watched(*args: Any, **options: Any) -> sqlite3.Connection:
            return connect(*args, factory=Watched, **options)

        patching = patch("relayd.spool.sqlite.schema.sqlite3.connect", watched)
        patching.start()
        self.addCleanup(patching.stop)

    def test_everyday_work_is_done_by_key(self) -> None:
        with opened(self.directory) as harness:
            harness.put()
            Watched.plans.clear()
            self.work(harness)
        assert len(Watched.plans) > 35
        self.assertEqual(list(self.walks()), [])

    def walks(self) -> Iterator[tuple[str, str]]:
        for statement, plan in Watched.plans.items():
            if " meta " in statement:
                continue
            for step in plan:
                bounded = "LIMIT" in statement and "USING" in step
                meant = ALLOWED.match(step) or BROUGHT_ALONG.match(step)
                if "SCAN" in step and not (meant or bounded):
                    yield statement, step

    def work(self, harness: Harness) -> None:
        spool, wait = harness.spool, harness.bridge.wait
        message, records = harness.put(BIG, *(recipient(f"u{n}") for n in range(100)))
        harness.put(b"x", headers=(b"y",))
        wait(spool.settle([Settlement(records[0], RecipientState.QUEUED, LATER, 5.0)]))
        ends = [
            Settlement(record, RecipientState.FAILED, failed("5.1.1", "no")) for record in records
        ]
        new = NewMessage(spool.new_ident(), b"r", submission(sender=None))
        wait(spool.settle(ends, [new]))
        wait(spool.destinations())
        wait(spool.due("inside", 1e12, 10))
        wait(spool.earliest("inside", 0.0))
        wait(spool.aged(1e12, 0, 10))
        wait(spool.aged(1e12, 0, 10, unwarned=True))
        wait(spool.load(new.ident))
        wait(spool.history(message.ident))
        wait(spool.listing(QueueFilter(), 0, 10))
        wait(spool.counts())
        wait(spool.audit(0, 100))
        for verb in (spool.retry, spool.hold, spool.release):
            wait(verb(QueueFilter(recipient="u")))
        wait(spool.set_aside(new.ident, "for the test"))
        wait(spool.remove(QueueFilter()))
