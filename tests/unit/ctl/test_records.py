"""Comma-separated values: read back as they were, and no formula of a stranger's."""

from __future__ import annotations

import contextlib
import csv
import io
import unittest

from relayd.ctl.records import FOUND, QUEUED, queued_recipients, write_head, write_rows
from relayd.ops.answers import FoundAnswer, QueuedAnswer, QueuedRecipientAnswer

HOSTILE = (
    '=HYPERLINK("http://x","y")',
    "+1",
    "-1",
    "@SUM(A1)",
    "\tx",
    "\rx",
    'a,"b"\nc',
    "\x1b[2J",
)


class Records(unittest.TestCase):
    def test_the_columns_are_those_of_the_answers(self) -> None:
        self.assertEqual(set(FoundAnswer.__annotations__) - set(FOUND), {"number"})
        queued = {*QueuedAnswer.__annotations__, *QueuedRecipientAnswer.__annotations__}
        self.assertEqual(queued - set(QUEUED), {"recipients", "number"})

    def test_words_of_strangers_are_text_in_a_spreadsheet(self) -> None:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            write_head(["subject", "received_at", "ended_at", "size"])
            write_rows(
                [
                    {"subject": each, "received_at": 1e9, "ended_at": 0.0, "size": 7}
                    for each in HOSTILE
                ],
                ("subject", "received_at", "ended_at", "size"),
            )
        head, *rows = csv.reader(io.StringIO(out.getvalue()))
        self.assertEqual(head, ["subject", "received_at", "ended_at", "size"])
        for row, said in zip(rows, HOSTILE, strict=True):
            self.assertEqual(row[1:], ["2001-09-09T01:46:40Z", "", "7"])
            self.assertNotIn(row[0][:1], "=+-@\t\r")
            self.assertTrue(row[0].isprintable())
            if said.isprintable() and said[0] in "=+-@":
                self.assertEqual(row[0], f"'{said}")

    def test_a_message_has_a_row_for_each_recipient(self) -> None:
        message = {"id": "X", "size": 1, "recipients": [{"mailbox": "a"}, {"mailbox": "b"}]}
        rows = [*queued_recipients([message])]
        self.assertEqual([(row["id"], row["mailbox"]) for row in rows], [("X", "a"), ("X", "b")])


if __name__ == "__main__":
    unittest.main()
