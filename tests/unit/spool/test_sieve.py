"""Sieves over the ledger: nothing is missed, whatever comes to a block after its sieve was made."""

from __future__ import annotations

import contextlib
import sqlite3
import unittest
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.address import Mailbox
from relayd.mail.message import RecipientState, Settlement
from relayd.mail.outcome import failed
from relayd.spool.sqlite.sieve import key, passes, sieve_of
from relayd.spool.view import FindFilter, QueueFilter, Rerouting
from tests.bench.find_bench import measured
from tests.golden.spools import unpack
from tests.spooling import DONE, Harness, opened, recipient, submission

NOBODY = QueueFilter(ident=1)  # a write that changes nothing
THINGS = st.sets(st.text(max_size=20), max_size=200)


class SieveTests(unittest.TestCase):
    @given(THINGS)
    def test_what_is_in_it_passes(self, things: set[str]) -> None:
        sieve = sieve_of({key(thing) for thing in things})
        self.assertTrue(passes(sieve, [key(thing) for thing in things]))

    def test_of_what_is_not_in_it_one_in_a_hundred_passes_at_most(self) -> None:
        sieve = sieve_of({key(f"ruser{n}@example.com") for n in range(3000)})
        wrong = sum(passes(sieve, [key(f"rother{n}@example.com")]) for n in range(20_000))
        self.assertLess(wrong, 200)
        self.assertEqual(len(sieve), 6000)


class SiftTests(unittest.TestCase):
    """Blocks of three rows, sifted with the next batch."""

    def setUp(self) -> None:
        for name, value in (("sift.BLOCK", 3), ("store.SIFT_EVERY", 0.0), ("find.LOOKED", 2)):
            patching = patch(f"relayd.spool.sqlite.{name}", value)
            patching.start()
            self.addCleanup(patching.stop)
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.directory = Path(folder.name)

    def found(self, harness: Harness, **wanted: Any) -> list[str]:
        found: list[str] = []
        before: int | None = 1 << 62
        while before is not None:
            page = harness.bridge.wait(harness.spool.find(FindFilter(**wanted), before, 100))
            found, before = found + [each.mailbox for each in page.found], page.before
        return found

    def sieves(self) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.directory / "shard-0" / "queue.db")) as looks:
            return looks.execute("SELECT last, bits FROM sieve").fetchall()

    def sifted(self, harness: Harness) -> None:
        """Until there is a sieve for all but the last few rows, and none is spoilt."""

        def done() -> bool:
            harness.bridge.wait(harness.spool.remove(NOBODY))
            sieves = self.sieves()
            with contextlib.closing(
                sqlite3.connect(self.directory / "shard-0" / "queue.db")
            ) as looks:
                last = max((last for last, _ in sieves), default=0)
                rest = looks.execute(
                    "SELECT count(*) FROM ledger WHERE message > ?", (last,)
                ).fetchone()[0]
            return rest < 3 and all(bits for _, bits in sieves)

        harness.bridge.until(done)

    def fill(self, harness: Harness) -> None:
        for n in range(20):
            sender = Mailbox(f"s{n}", "source.example")
            _, (record,) = harness.put(b"x", recipient(f"user{n}"), sender=sender)
            harness.bridge.wait(
                harness.spool.settle([Settlement(record, RecipientState.DELIVERED, DONE)])
            )

    def test_what_is_finished_is_found_through_sieves(self) -> None:
        with opened(self.directory) as harness:
            self.fill(harness)
            self.sifted(harness)
            self.assertGreater(len(self.sieves()), 8)
            self.assertEqual(
                self.found(harness, sender="s7@source.example"), ["user7@corp.example"]
            )
            self.assertEqual(self.found(harness, recipient="user0@corp.example"),
                             ["user0@corp.example"])  # fmt: skip
            self.assertEqual(len(self.found(harness, recipient="@corp.example")), 20)
            self.assertEqual(self.found(harness, sender="nobody@source.example"), [])

    def test_a_message_that_took_long_is_found_beside_younger_ones(self) -> None:
        with opened(self.directory) as harness:
            slow = harness.spool.create()
            slow.write(b"x")
            self.fill(harness)
            self.sifted(harness)
            late = submission(recipient("late"), sender=Mailbox("slow", "source.example"))
            harness.bridge.wait(slow.commit(late))
            for _ in range(2):  # while its block is spoilt, and when it has been made anew
                found = self.found(harness, sender="slow@source.example")
                self.assertEqual(found, ["late@corp.example"])
                self.sifted(harness)

    def test_a_message_that_took_long_is_found_after_a_restart_too(self) -> None:
        with opened(self.directory) as harness:
            slow = harness.spool.new_ident()
            self.fill(harness)
            self.sifted(harness)
            spool = harness.reopen()
            draft = spool.create()
            draft.ident = slow
            draft.write(b"x")
            late = submission(recipient("late"), sender=Mailbox("slow", "source.example"))
            harness.bridge.wait(draft.commit(late))
            found = self.found(harness, sender="slow@source.example")
            self.assertEqual(found, ["late@corp.example"])

    def test_how_it_ended_is_found_though_it_ended_late(self) -> None:
        with opened(self.directory) as harness:
            _, (record,) = harness.put(b"x", recipient("long"))
            self.fill(harness)
            self.sifted(harness)
            failures = frozenset({RecipientState.FAILED})
            self.assertEqual(self.found(harness, states=failures), [])
            end = Settlement(record, RecipientState.FAILED, failed("5.1.1", "no"))
            harness.bridge.wait(harness.spool.settle([end]))
            self.assertEqual(self.found(harness, states=failures), ["long@corp.example"])

    def test_who_was_added_by_a_reroute_is_found(self) -> None:
        with opened(self.directory) as harness:
            message, (record,) = harness.put(b"x", recipient("before"))
            self.fill(harness)
            self.sifted(harness)
            after = replace(record, recipient=recipient("after"))
            also = replace(record, recipient=recipient("also"), number=1)
            harness.bridge.wait(
                harness.spool.reroute([Rerouting(message.ident, ((record, after),), (also,))])
            )
            for name in ("after", "also"):
                found = self.found(harness, recipient=f"{name}@corp.example")
                self.assertEqual(found, [f"{name}@corp.example"])

    def test_a_row_that_does_not_decode_hides_nothing_else(self) -> None:
        with opened(self.directory) as harness:
            self.fill(harness)
        path = self.directory / "shard-0" / "queue.db"
        with contextlib.closing(sqlite3.connect(path)) as hurt:
            hurt.execute("DELETE FROM sieve")
            hurt.execute(
                "UPDATE ledger SET facts = '[[' WHERE message ="
                " (SELECT message FROM ledger ORDER BY message LIMIT 1 OFFSET 8)"
            )
            hurt.commit()
        with opened(self.directory) as harness:
            harness.bridge.wait(harness.spool.remove(NOBODY))
            self.assertEqual(len(self.found(harness)), 20)
            found = self.found(harness, sender="s5@source.example")
            self.assertEqual(found, ["user5@corp.example"])
            self.assertEqual(len(self.found(harness, login="joe")), 19)
            self.assertEqual(harness.log.heard, [])

    def test_what_is_pruned_takes_its_sieves_along(self) -> None:
        with opened(self.directory) as harness:
            self.fill(harness)
            self.sifted(harness)
            harness.spool.apply(
                memory_threshold=65536, floor_bytes=0, floor_inodes=0, ledger_days=-1.0
            )

            def gone() -> bool:
                harness.bridge.wait(harness.spool.remove(NOBODY))
                return not self.sieves()

            harness.bridge.until(gone)
            self.assertEqual(self.found(harness), [])

    def test_an_old_ledger_is_brought_up_to_date_in_place(self) -> None:
        for number in (1, 2):
            with self.subTest(format=number):
                folder = self.directory / str(number)
                folder.mkdir()
                with opened(unpack(number, folder)) as harness:
                    found = self.found(harness, recipient="@up.example")
                    self.assertIn("yes@up.example", found)
                    states = frozenset({RecipientState.REMOVED})
                    self.assertEqual(self.found(harness, states=states), ["removed@example.com"])


class CostTests(unittest.TestCase):
    def test_each_key_is_found_through_sieves_in_little_time_and_room(self) -> None:
        """Scaled: `python -m tests.bench.find_bench` has a million."""
        with TemporaryDirectory() as folder:
            costs = measured(Path(folder), 10_000)
        for number, (name, seconds) in enumerate(costs.seconds.items()):
            self.assertLess(seconds, 0.2, name)
            expected = 1 if number < 9 else 0 if number > 11 else None
            if expected is not None:
                self.assertEqual(costs.found[name], expected, name)
        self.assertLess(costs.sieves, 0.05 * costs.ledger)
