"""The journal's bounds, and what comes back of what was seen."""

from __future__ import annotations

import json
import unittest
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from relayd.mail.address import Mailbox
from relayd.mail.message import RecipientState
from relayd.mail.plan import Destination, Plan, Step, Verdict
from relayd.mail.reply import Reply
from relayd.spool.envelopes import Dropped, Seen, accepted, noted, shard_folders
from relayd.spool.refusedlog import FOLDER, RefusedLog
from tests.spooling import CLIENT, SENDER, opened, recipient

DENIED = Reply.of(550, "5.7.1", "Relaying denied")
PLAN = Plan(Verdict.REFUSE, DENIED, (), (Step("reject", "rules.d/1:2", "reject any"),))
DAY = 86400.0
NOW = 1_800_000_000.0


class JournalTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.shard = Path(folder.name)
        self.now = NOW
        self.due: list[Callable[[], None]] = []

    def journal(self, period: float = 7 * DAY, most: int = 1 << 20) -> RefusedLog:
        journal = RefusedLog(
            self.shard / FOLDER,
            clock=lambda: self.now,
            later=lambda delay, flush: self.due.append(flush),
            period=period,
            most=most,
        )
        self.addCleanup(journal.close)
        return journal

    def note(self, journal: RefusedLog, name: str, count: int = 1) -> None:
        for number in range(count):
            to = Mailbox(f"{name}{number}", "example.com")
            journal.note(CLIENT, SENDER, to, PLAN, "c0ffee")

    def read(self, since: float = 0.0) -> list[Seen | Dropped]:
        return list(noted(self.shard, since))

    def octets(self) -> int:
        return sum(path.stat().st_size for path in (self.shard / FOLDER).iterdir())

    def test_what_was_noted_comes_back(self) -> None:
        journal = self.journal()
        self.note(journal, "a")
        journal.note(CLIENT, None, Mailbox('"odd @\n', "example.com"), PLAN, "c0ffee")
        self.assertEqual(self.read(), [], "written a little later, many at once")
        self.assertEqual(len(self.due), 1)
        self.due.pop()()
        first, second = self.read()
        wanted = Seen(NOW, CLIENT, SENDER, Mailbox("a0", "example.com"), Verdict.REFUSE, (),
                      "550 5.7.1 Relaying denied", "rules.d/1:2")  # fmt: skip
        self.assertEqual(first, wanted)
        assert isinstance(second, Seen)
        self.assertEqual((second.sender, second.recipient.local), (None, '"odd @\n'))
        self.assertEqual(self.read(NOW + 1), [])

    def test_a_recipient_without_a_delivery_of_its_own(self) -> None:
        journal = self.journal()
        way = Destination(Mailbox("alice", "example.net"), "inside", None)
        plan = Plan(Verdict.ACCEPT, DENIED, (way,), ())
        journal.note(CLIENT, SENDER, Mailbox("sales", "example.com"), plan, "c0ffee")
        journal.flush()
        (seen,) = self.read()
        assert isinstance(seen, Seen)
        self.assertEqual((seen.verdict, seen.reply), (Verdict.ACCEPT, ""))
        self.assertEqual(seen.destinations, ((way.mailbox, "inside", None),))

    def test_the_same_again_is_noted_once_an_hour(self) -> None:
        journal = self.journal()
        for _ in range(100):
            self.note(journal, "same")
        self.now += 3601
        self.note(journal, "same")
        journal.flush()
        self.assertEqual(len(self.read()), 2)

    def test_a_flood_is_counted_and_leaves_room_for_what_comes_later(self) -> None:
        journal = self.journal(most=1 << 20)
        self.note(journal, "before")
        self.note(journal, "flood", 20_000)
        self.assertLess(journal.dropped, 20_000)
        self.assertGreater(journal.dropped, 18_000)
        self.now += DAY
        self.note(journal, "after")
        journal.flush()
        seen = self.read()
        self.assertLess(self.octets(), 1 << 20)
        self.assertEqual(str(getattr(seen[0], "recipient", "")), "before0@example.com")
        self.assertEqual(str(getattr(seen[-1], "recipient", "")), "after0@example.com")
        self.assertEqual(seen[-2], Dropped(self.now, journal.dropped))

    def test_a_flood_that_never_ends_fills_no_disk(self) -> None:
        journal = self.journal(most=1 << 17)
        for _ in range(30):
            self.note(journal, f"flood{self.now}", 500)
            self.now += DAY / 2
        journal.flush()
        self.assertLessEqual(self.octets(), 1 << 17)
        self.assertGreater(self.octets(), 1 << 15)

    def test_off_notes_nothing_and_forgets(self) -> None:
        journal = self.journal()
        self.note(journal, "a")
        journal.flush()
        journal.apply(0.0, 1 << 20)
        self.note(journal, "b")
        journal.flush()
        self.assertEqual(self.read(), [])
        journal.apply(DAY, 1 << 20)
        self.note(journal, "c")
        journal.flush()
        self.assertEqual(len(self.read()), 1)

    def test_a_disk_in_trouble_costs_entries_only(self) -> None:
        journal = self.journal()
        (self.shard / FOLDER).write_text("not a folder")
        self.note(journal, "a", 3)
        journal.flush()
        self.assertEqual(journal.dropped, 3)
        (self.shard / FOLDER).unlink()
        self.note(journal, "b")
        journal.flush()
        self.assertEqual(self.read()[0], Dropped(NOW, 3))

    def test_lines_that_make_no_sense_are_left_out(self) -> None:
        journal = self.journal()
        self.note(journal, "a")
        journal.close()
        path = next((self.shard / FOLDER).iterdir())
        whole = path.read_bytes()
        path.write_bytes(b'[\n{}\n"x"\n\xff\n' + whole + whole[:40])
        self.assertEqual(len(self.read()), 1)


class AcceptedTest(unittest.TestCase):
    """What the ledger tells of envelopes, beside the running spool."""

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def seen(self, since: float = 0.0) -> list[Seen]:
        return [each for shard in shard_folders(self.folder) for each in accepted(shard, since)]

    def test_an_envelope_comes_back_by_what_the_client_named(self) -> None:
        info = Mailbox("info", "example.com")
        rewritten = Mailbox("SRS0=x=y=source.example=sender", "gw.example")
        parts = [
            recipient("alice", original=info),
            recipient("bob", original=info, path=rewritten),
            recipient("carol", hop="direct"),
        ]
        with opened(self.folder) as harness:
            harness.put(b"a: b\r\n\r\n", *parts)
            harness.put(b"a: b\r\n\r\n", recipient("dave"), state=RecipientState.HELD)
            harness.put(b"a: b\r\n\r\n", recipient("erin"), state=RecipientState.DISCARDED)
            first, second, held, discarded = self.seen()
        self.assertEqual((first.client, first.sender, first.recipient), (CLIENT, SENDER, info))
        self.assertEqual(
            first.destinations,
            (
                (parts[0].mailbox, "inside", SENDER),
                (parts[1].mailbox, "inside", rewritten),
            ),
        )
        self.assertEqual(second.destinations, ((parts[2].mailbox, "direct", SENDER),))
        self.assertEqual(
            [each.verdict for each in (second, held, discarded)],
            [Verdict.ACCEPT, Verdict.HOLD, Verdict.DISCARD],
        )
        self.assertEqual(discarded.destinations, ())
        files = sorted(path.name for path in (self.folder / "shard-0").iterdir())
        self.assertEqual(len(self.seen()), 4, "and when nobody runs")
        self.assertEqual(sorted(path.name for path in (self.folder / "shard-0").iterdir()), files)
        self.assertEqual(self.seen(first.at + 3600), [])

    def test_messages_longer_than_a_page(self) -> None:
        from relayd.spool import envelopes

        page: Any = envelopes._PAGE
        envelopes._PAGE = 3
        self.addCleanup(setattr, envelopes, "_PAGE", page)
        with opened(self.folder) as harness:
            for count in (1, 2, 7, 3, 1):
                harness.put(b"a: b\r\n\r\n", *(recipient(f"u{n}") for n in range(count)))
            self.assertEqual(len(self.seen()), 14)

    def test_our_own_reports_are_not_among_them(self) -> None:
        from dataclasses import replace

        from tests.spooling import submission

        with opened(self.folder) as harness:
            draft = harness.spool.create()
            draft.write(b"a: b\r\n\r\n")
            own = replace(submission(recipient()), client=replace(CLIENT, address=""))
            harness.bridge.wait(draft.commit(own))
            self.assertEqual(self.seen(), [])

    def test_the_line_is_json(self) -> None:
        journal = RefusedLog(self.folder / FOLDER, clock=lambda: NOW, later=lambda *_: None,
                          period=DAY, most=1 << 20)  # fmt: skip
        journal.note(CLIENT, SENDER, Mailbox("a", "b.example"), PLAN, "c0ffee")
        journal.close()
        line = next((self.folder / FOLDER).iterdir()).read_text()
        self.assertEqual(json.loads(line)[2], "a@b.example")
