"""What one transaction writes: as few statements for many messages as for one."""

from __future__ import annotations

import unittest
from itertools import groupby, permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

from relayd.mail.content import BytesContent
from relayd.mail.ident import make_ident
from relayd.mail.message import RecipientState, Settlement, Submission
from relayd.spool.sqlite import schema
from relayd.spool.sqlite.batch import Batch
from relayd.spool.sqlite.rows import NewRows, accept_rows
from tests.spooling import DONE, recipient, submission

NOW = 1_700_000_000.0
CONTENT = b"Subject: x\r\n\r\nbody\r\n"


class BatchTests(unittest.TestCase):
    def setUp(self) -> None:
        temporary = TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.connection = schema.connect(Path(temporary.name, "queue.db"), cache=1 << 20)
        self.addCleanup(self.connection.close)
        schema.prepare(self.connection, now=NOW)
        self.connection.execute(schema.FORGET)
        self.last = int(NOW * 1e6)

    def rows(self, mail: Submission, *, in_file: bool = False) -> NewRows:
        self.last += 1
        data = None if in_file else CONTENT
        content = BytesContent(CONTENT)
        return accept_rows(make_ident(self.last, 0), NOW, mail, content, crc32(CONTENT), data)

    def written(self, accepted: list[NewRows], ended: list[NewRows]) -> tuple[Batch, int]:
        """One transaction, and how many statements it took."""
        batch = Batch(NOW + 1, sifted=0)
        batch.settle(
            [
                Settlement(record, RecipientState.DELIVERED, DONE)
                for rows in ended
                for record in rows.value[1]
            ]
        )
        for rows in accepted:
            batch.accept(rows)
        statements: list[str] = []
        self.connection.execute("BEGIN")
        self.connection.set_trace_callback(statements.append)
        batch.write(self.connection)
        self.connection.set_trace_callback(None)
        self.connection.execute("COMMIT")
        # what a trigger does is told in the words of the statement that sets it off
        return batch, len(list(groupby(statements)))

    def tally(self) -> dict[str, int]:
        return dict(self.connection.execute("SELECT name, value FROM meta"))

    def test_as_many_statements_for_any_number_of_messages_up_to_24(self) -> None:
        expected = None
        for count in (1, 2, 5, 9, 13, 17, 21, 23, 24):
            ended = [self.rows(submission()) for _ in range(count)]
            self.written(ended, [])
            accepted = [self.rows(submission()) for _ in range(count)]
            _, statements = self.written(accepted, ended)
            with self.subTest(count):
                expected = expected or statements
                self.assertEqual(statements, expected)

    def test_the_ledger_says_of_each_recipient_what_was_stored_of_him(self) -> None:
        to = {
            RecipientState.DISCARDED: recipient("gone"),
            RecipientState.QUEUED: recipient("ann", original=recipient("alias").mailbox, path=None),
            RecipientState.HELD: recipient("bob", hop="outside"),
        }
        told = {
            RecipientState.DISCARDED: ("gone@corp.example", None, "inside", None),
            RecipientState.QUEUED: ("ann@corp.example", "alias@corp.example", "inside", ""),
            RecipientState.HELD: ("bob@corp.example", None, "outside", None),
        }
        for states in permutations(to):
            rows = self.rows(submission(*[to[state] for state in states], states=states))
            self.written([rows], [])
            (facts,) = self.facts(rows)
            for number, (state, ledger) in enumerate(zip(states, self.ledger(rows), strict=True)):
                of_message = (len(CONTENT), "sender@source.example", facts)
                first = of_message if number == 0 else (None, None, None)
                expected = (rows.ident, number, 0, NOW, int(state), *told[state], *first)
                with self.subTest(states=states, number=number):
                    self.assertEqual(ledger, expected)
        self.assertEqual(self.tally()["ledger"], self.count("ledger"))

    def ledger(self, rows: NewRows) -> list[tuple[object, ...]]:
        """Its recipients as they were accepted."""
        return self.connection.execute(
            """SELECT message, number, ended, at, state, mailbox, original, next_hop, note,
            size, sender, facts FROM ledger WHERE message = ? AND NOT ended ORDER BY number""",
            (rows.ident,),
        ).fetchall()

    def facts(self, rows: NewRows) -> tuple[str]:
        found: tuple[str] = self.connection.execute(
            "SELECT facts FROM message WHERE ident = ?", (rows.ident,)
        ).fetchone()
        return found

    def test_what_is_over_leaves_the_tally_and_its_files_are_named(self) -> None:
        messages = [self.rows(submission(), in_file=n % 2 == 0) for n in range(5)]
        stays = self.rows(submission(recipient("ann"), recipient("bob")), in_file=True)
        self.written([*messages, stays], [])
        half = Settlement(stays.value[1][0], RecipientState.DELIVERED, DONE)
        batch = Batch(NOW + 1, sifted=0)
        batch.settle([half])
        self.connection.execute("BEGIN")
        batch.write(self.connection)
        self.connection.execute("COMMIT")
        self.assertEqual(batch.files_to_remove, [])
        batch, _ = self.written([], messages)
        files = [rows.ident for n, rows in enumerate(messages) if n % 2 == 0]
        self.assertEqual(sorted(batch.files_to_remove), files)
        tally = self.tally()
        self.assertEqual((tally["messages"], tally["octets"]), (1, len(CONTENT)))
        self.assertEqual(tally["ledger"], self.count("ledger"))

    def count(self, table: str) -> int:
        (found,) = self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert isinstance(found, int)
        return found
