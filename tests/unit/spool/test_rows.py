"""Rows are told apart by name: their order stands in one place, and is that of the tables."""

from __future__ import annotations

import contextlib
import sqlite3
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from relayd.mail.message import RecipientState, Settlement
from relayd.mail.outcome import failed
from relayd.spool.envelopes import accepted
from relayd.spool.sqlite import salvage, schema
from relayd.spool.sqlite.rows import ROWS, facts_of, outcome_of, outcome_text
from relayd.spool.sqlite.schema import TABLES
from relayd.spool.view import QueueFilter
from tests.spooling import LATER, Harness, opened, plain, recipient

BIG = b"x" * 100_000
KEPT = [*ROWS, "damaged", *(f"damaged_{name}" for name in TABLES)]


class RowTests(unittest.TestCase):
    def setUp(self) -> None:
        temporary = TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name) / "spool"
        self.database = self.directory / "shard-0" / "queue.db"

    def names(self) -> dict[str, list[str]]:
        """The columns of each table, as SQLite has them."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            return {
                table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
                for table in ROWS
            }

    def alter(self, *tables: str) -> None:
        """Another relayd has added a column to each."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            for table in tables:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN later TEXT DEFAULT 'more'")

    def test_the_order_that_is_written_down_is_that_of_the_tables(self) -> None:
        with opened(self.directory):
            pass
        self.assertEqual(self.names(), {table: [*row._fields] for table, row in ROWS.items()})

    def test_what_is_written_stands_in_the_column_of_its_name(self) -> None:
        with opened(self.directory) as harness:
            other = recipient("other", original=recipient("was").mailbox, path=None, header=1)
            message, records = harness.put(b"abc", other, headers=(b"X: y\r\n\r\n",))
            again = Settlement(records[0], RecipientState.QUEUED, LATER, 7e9, warned=True)
            harness.bridge.wait(harness.spool.settle([again]))
            (gone,) = harness.put()[1]
            harness.bridge.wait(
                harness.spool.settle(
                    [Settlement(gone, RecipientState.FAILED, failed("5.1.1", "no"))]
                )
            )
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            connection.row_factory = sqlite3.Row
            (kept,) = map(dict, connection.execute("SELECT * FROM message"))
            (queued,) = map(dict, connection.execute("SELECT * FROM recipient"))
            (section,) = map(dict, connection.execute("SELECT * FROM header"))
            accepted_row, _, end = map(dict, connection.execute("SELECT * FROM ledger"))
        self.check(
            kept, ident=message.ident, sender="sender@source.example", size=3, header_size=10
        )
        self.check(
            queued,
            message=message.ident,
            number=0,
            destination="inside",
            mailbox="other@corp.example",
            original="was@corp.example",
            next_hop="inside",
            sender="",
            header=1,
            state=0,
            attempts=1,
            next_attempt=7e9,
            warned=1,
            reply="451 4.4.2 try again",
        )
        self.check(section, message=message.ident, number=1, section=b"X: y\r\n\r\n")
        self.check(
            accepted_row,
            ended=0,
            mailbox="other@corp.example",
            original="was@corp.example",
            next_hop="inside",
            size=3,
            sender="sender@source.example",
            facts=kept["facts"],
            note="",
        )
        self.check(end, ended=1, state=3, attempts=1, mailbox=None, facts=None, note="")

    def check(self, row: dict[str, Any], **wanted: object) -> None:
        self.assertEqual({name: row[name] for name in wanted}, wanted)

    def test_a_column_that_nobody_knows_makes_no_mail_damaged(self) -> None:
        with opened(self.directory) as harness:
            harness.put()
            harness.put(BIG, recipient("a"), recipient("b"))
            before = self.waiting(harness)
            harness.close()
            self.alter(*KEPT)
            harness.reopen()
            self.assertEqual(self.waiting(harness), before)
            self.live(harness)

    def test_a_column_that_nobody_knows_is_no_obstacle_to_a_rebuild(self) -> None:
        with opened(self.directory) as harness:
            harness.put()
            harness.put(BIG, recipient("a"), recipient("b"))
            damaged, _ = harness.put()
            harness.bridge.wait(harness.spool.set_aside(damaged.ident, "looked odd"))
        before = {table: self.rows(self.database, table) for table in KEPT}
        self.alter(*KEPT)
        new = self.directory / "new.db"
        with contextlib.closing(schema.connect(new, cache=1 << 20)) as fresh:
            schema.prepare(fresh, now=0.0)
            saved = salvage.carry_over(self.database, fresh)
        self.assertEqual((saved["message"], saved["recipient"], saved["ledger"]), (2, 3, 4))
        self.assertEqual({table: self.rows(new, table) for table in KEPT}, before)

    def rows(self, database: Path, table: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            return connection.execute(f"SELECT * FROM {table}").fetchall()

    def waiting(self, harness: Harness) -> list[Any]:
        return plain(harness.bridge.wait(harness.spool.aged(1e12, 0, 100)))

    def live(self, harness: Harness) -> None:
        """All that is ever written and read."""
        spool, wait = harness.spool, harness.bridge.wait
        message, (one, two) = harness.put(b"abc", recipient("one"), recipient("two"))
        wait(spool.settle([Settlement(one, RecipientState.QUEUED, LATER, 7e9)]))
        wait(spool.settle([Settlement(two, RecipientState.FAILED, failed("5.1.1", "no"))]))
        found = wait(spool.load(message.ident))
        assert found is not None
        self.assertEqual([record.last for record in found[1]], [LATER])
        wait(spool.hold(QueueFilter(message.ident)))
        wait(spool.release(QueueFilter(message.ident)))
        self.assertEqual(wait(spool.remove(QueueFilter(message.ident), "gone")), 1)
        history = wait(spool.history(message.ident))
        assert history is not None
        self.assertEqual(
            [entry.state for entry in history.entries],
            [RecipientState.REMOVED, RecipientState.FAILED],
        )
        self.assertEqual(str(next(accepted(harness.shard, 0.0)).recipient), "user@corp.example")
        self.assertEqual(harness.log.heard, [])
        other, _ = harness.put()
        self.assertTrue(wait(spool.set_aside(other.ident, "looked odd")))
        (left,) = wait(spool.audit(0, 1000)).discrepancies
        self.assertEqual((left.ident, left.problem), (other.ident, "set aside as damaged"))


class StoredValueTests(unittest.TestCase):
    def test_what_an_earlier_relayd_did_not_know_yet_has_its_default(self) -> None:
        found = facts_of("", '[["8BITMIME"],["192.0.2.7",40001],"c0ffee",[["accept","r:1","x"]]]')
        self.assertEqual((found.envelope.body, found.envelope.require_tls), ("8BITMIME", False))
        self.assertEqual((found.client.port, found.client.protocol), (40001, "SMTP"))
        self.assertEqual((found.trail[0].rule, found.trail[0].note), ("x", ""))

    def test_an_outcome_comes_back_as_it_was(self) -> None:
        self.assertEqual(outcome_of(outcome_text(LATER)), LATER)
        self.assertEqual(
            outcome_text(LATER),
            '[[451,4,2,["try","again"]],"mx.example","192.0.2.9:25","destination",false,"","busy"]',
        )
