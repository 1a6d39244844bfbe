"""`relayctl digest`: its counts are the ledger's and the journal's, in bounded memory."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from relayd.ctl import relayctl
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.message import RecipientState, Settlement
from relayd.mail.plan import Verdict
from relayd.ops import digest
from relayd.ops.answers import DigestAnswer
from relayd.ops.digest import Digest, Most, digest_lines
from relayd.spool.envelopes import Dropped, Happened, Seen, happened, shard_folders
from tests.spooling import CLIENT, DONE, SENDER, opened, recipient
from tests.support import TestCase
from tests.unit.ops.test_answers import wrong

BODY = b"Subject: hello\r\n\r\nbody\r\n"


class DigestOfASpool(TestCase):
    def setUp(self) -> None:
        place = TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.folder = Path(place.name)
        self.config = self.folder / "relayd.conf"
        self.config.write_text(f"hostname gw.example\nspool {self.folder / 'spool'}\naccept any\n")

    def ctl(self, *arguments: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = relayctl.main(["--config", str(self.config), "digest", *arguments])
        return status, out.getvalue(), err.getvalue()

    def fill(self, harness: Any) -> None:  # noqa: ANN401
        """Three messages with five recipients, of which four end in four ways."""
        _, first = harness.put(BODY, recipient("a"), recipient("b"))
        _, second = harness.put(BODY, recipient("a"), recipient("c"))
        harness.put(BODY, recipient("d"))
        failed = DONE.but(reply=DONE.reply.parse("550 5.1.1 nobody of that name"))
        ends = [
            Settlement(first[0], RecipientState.DELIVERED, DONE),
            Settlement(first[1], RecipientState.FAILED, failed),
            Settlement(second[0], RecipientState.EXPIRED, failed),
            Settlement(second[1], RecipientState.REMOVED),
        ]
        harness.bridge.wait(harness.spool.settle(ends))

    def test_its_counts_are_the_ledgers(self) -> None:
        with opened(self.folder / "spool") as harness:
            self.fill(harness)
            status, out, err = self.ctl("--json")
        self.assertEqual((status, err), (0, ""))
        found = json.loads(out)
        self.assertEqual(list(wrong(found, DigestAnswer)), [])
        rows = [
            row for shard in shard_folders(self.folder / "spool") for row in happened(shard, 0.0)
        ]
        ended = Counter(RecipientState(row.state).name.lower() for row in rows if row.ended)
        self.assertEqual(sum(ended.values()), 4)
        for name in ("delivered", "failed", "expired", "removed"):
            self.assertEqual(found[name], ended[name], name)
        self.assertEqual((found["messages"], found["recipients"]), (3, 5))
        self.assertEqual(found["octets"], 3 * len(BODY))
        self.assertEqual(found["senders"], [
            {"name": str(SENDER), "count": 3, "octets": 3 * len(BODY)}])  # fmt: skip
        self.assertEqual([each["name"] for each in found["clients"]], [CLIENT.address])
        self.assertEqual(
            [(each["name"], each["count"]) for each in found["mailboxes"]],
            [("a@corp.example", 2), ("b@corp.example", 1), ("c@corp.example", 1),
             ("d@corp.example", 1)],
        )  # fmt: skip
        self.assertEqual(found["domains"][0]["count"], 5)
        self.assertEqual(found["failures"], [
            {"name": "550 5.1.1 nobody of that name", "count": 2, "octets": 0}])  # fmt: skip
        for name in ("messages", "recipients", "delivered"):
            self.assertEqual(sum(each[name] for each in found["hours"]), found[name], name)

    def test_without_a_running_relayd_since_a_time_and_with_few_names(self) -> None:
        with opened(self.folder / "spool") as harness:
            self.fill(harness)
        status, out, _ = self.ctl("--top", "1")
        self.assertEqual(status, 0)
        self.assertIn("        3  messages accepted", out)
        self.assertIn("        2           a@corp.example", out)
        self.assertNotIn("b@corp.example", out)
        self.assertIn("        0  messages accepted", self.ctl("--since", "0s")[1])

    def test_what_cannot_be_done_says_so(self) -> None:
        status, _, err = self.ctl()
        self.assertEqual(status, 1)
        self.assertIn("no spool in ", err)
        self.config.write_text("acept any\n")
        self.assertIn("--spool", self.ctl()[2])


class DigestOfRefusals(TestCase):
    def test_refused_by_reason_and_what_was_only_counted(self) -> None:
        found = Digest(0.0, 1e10)
        client, mailbox = Client("203.0.113.9"), Mailbox("x", "example.com")
        for reply in ("550 5.7.1 no", "550 5.7.1 no", "451 4.3.0 later \x1b[2J"):
            found.feed_journal(
                Seen(1e9, client, SENDER, mailbox, Verdict.REFUSE, reply=reply, place="x:1")
            )
        found.feed_journal(Seen(1e9, client, SENDER, mailbox, Verdict.ACCEPT))
        found.feed_journal(Dropped(1e9, 7))
        answer = found.answer(10)
        self.assertEqual(list(wrong(answer, DigestAnswer)), [])
        self.assertEqual((answer["refused"], answer["not_noted"]), (3, 7))
        self.assertEqual([each["count"] for each in answer["refusals"]], [2, 1])
        text = "\n".join(digest_lines(answer))
        self.assertIn("        3  recipients refused, and 7 too many to be noted", text)
        self.assertNotIn("\x1b", text)

    def test_memory_is_bounded_and_those_met_most_stay(self) -> None:
        with patch.object(digest, "MOST", 10):
            most = Most()
            for number in range(1000):
                most.add(f"seldom{number}")
                most.add("often", 5)
            self.assertLessEqual(len(most._counts), 21)
            self.assertEqual(most.top(1), [{"name": "often", "count": 1000, "octets": 5000}])

    def test_time_is_bounded(self) -> None:
        found = Digest(0.0, 1e10)
        began = time.process_time()
        for number in range(20_000):
            found.feed(Happened(number, 0, 0, 1e9, 0, f"u{number}@x.example", 9, "a@b", "", None,
                                None))  # fmt: skip
        self.assertLess(time.process_time() - began, 2.0)
        self.assertEqual(found.answer(1)["recipients"], 20_000)
