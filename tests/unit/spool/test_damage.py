"""Damaged entries are set aside and everything behind them flows (promise 8)."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import unittest
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from relayd.mail.ident import ident_text
from relayd.mail.message import RecipientState, Settlement
from relayd.spool.errors import SpoolError
from relayd.spool.sqlite.search import Search
from tests.spooling import DONE, Harness, octets, opened, recipient

BIG = b"y" * 100_000


class DamageCase(unittest.TestCase):
    def setUp(self) -> None:
        temporary = TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)

    def sql(self, harness: Harness, statement: str, *values: Any) -> None:
        database = sqlite3.connect(harness.shard / "queue.db")
        with database:
            assert database.execute(statement, values).rowcount
        database.close()


class EntryTests(DamageCase):
    def check(self, damage: Callable[[Harness, int], None], content: bytes = b"small") -> Path:
        """The first of two messages is damaged: the second arrives, the first is set aside."""
        with opened(self.directory) as harness:
            bad, _ = harness.put(content)
            good, _ = harness.put(content)
        damage(harness, bad.ident)
        with opened(self.directory) as again:
            due = again.bridge.wait(again.spool.due("inside", 1e12, 10))
            assert [message.ident for message, _ in due] == [good.ident]
            assert octets(due[0][0].content) == content
            # (the search for orphans at start may have met the file before it was moved)
            again.bridge.until(lambda: "damaged message set aside" in again.log.events())
            facts = dict(again.log.heard)["damaged message set aside"]
            assert facts["message"] == ident_text(bad.ident)
            due = again.bridge.wait(again.spool.due("inside", 1e12, 10))
            assert [message.ident for message, _ in due] == [good.ident]
            counts = again.bridge.wait(again.spool.counts())
            assert (counts.messages, counts.damaged) == (1, 1)
            (problem,) = again.bridge.wait(again.spool.audit(0, 100)).discrepancies
            assert (problem.ident, problem.problem) == (bad.ident, "set aside as damaged")
        return again.shard / "damaged" / ident_text(bad.ident)

    def test_damaged_ones_do_not_count_among_those_asked_for(self) -> None:
        """Dispatch takes fewer than it asked for as the end of what is due."""
        with opened(self.directory) as harness:
            idents = [harness.put(BIG)[0].ident for _ in range(5)]
            for ident in idents[:3]:
                harness.spool._files.path(ident).unlink()
            due = harness.bridge.wait(harness.spool.due("inside", 1e12, 2))
            assert [message.ident for message, _ in due] == idents[3:]

    def test_one_answer_is_one_snapshot(self) -> None:
        """What is recorded while an answer is put together is neither half there nor missing."""
        with opened(self.directory) as harness:
            harness.put(b"first")

            def twice(search: Search) -> tuple[int, int]:
                before = search.counts().messages
                harness.put(b"second")
                return before, search.counts().messages

            self.assertEqual(harness.spool._reader.answer(twice), (1, 1))
            self.assertEqual(harness.spool._reader.answer(Search.counts).messages, 2)

    def test_missing_content_file(self) -> None:
        self.check(lambda harness, ident: harness.spool._files.path(ident).unlink(), BIG)

    def test_truncated_content_file(self) -> None:
        def truncate(harness: Harness, ident: int) -> None:
            path = harness.spool._files.path(ident)
            path.write_bytes(path.read_bytes()[:-1])

        aside = self.check(truncate, BIG)
        assert aside.stat().st_size == len(BIG) - 1

    def test_content_row(self) -> None:
        flip = "UPDATE content SET data = x'0102030405' WHERE message = ?"
        self.check(lambda harness, ident: self.sql(harness, flip, ident))

    def test_missing_content_row(self) -> None:
        drop = "DELETE FROM content WHERE message = ?"
        self.check(lambda harness, ident: self.sql(harness, drop, ident))

    def test_missing_message_row(self) -> None:
        with opened(self.directory) as harness:
            bad, _ = harness.put()
            good, _ = harness.put()
        self.sql(harness, "DELETE FROM message WHERE ident = ?", bad.ident)
        with opened(self.directory) as again:
            due = again.bridge.wait(again.spool.due("inside", 1e12, 10))
            assert [message.ident for message, _ in due] == [good.ident]
            again.bridge.until(lambda: bool(again.log.events()))
            assert again.bridge.wait(again.spool.counts()).queued == 1

    def test_values_that_decode_no_more(self) -> None:
        for column, value in (
            ("message.facts", "{"),
            ("message.facts", "[1]"),
            ("message.facts", 5),
            ("message.sender", "no at"),
            ("message.header_size", "x"),
            ("message.flags", 7),
            ("message.size", 10**9),
            ("recipient.mailbox", "other@corp.example"),
            ("recipient.sender", b"\xff\xfe"),
            ("recipient.outcome", "[]"),
            ("recipient.header", 3),
        ):
            table, name = column.split(".")
            key = "ident" if table == "message" else "message"
            how = "CAST(? AS TEXT)" if isinstance(value, bytes) else "?"
            with self.subTest(column, value=value):
                statement = f"UPDATE {table} SET {name} = {how} WHERE {key} = ?"

                def damage(harness: Harness, ident: int) -> None:
                    self.sql(harness, statement, value, ident)  # noqa: B023  called at once

                self.directory = self.directory / "next"
                self.directory.mkdir()
                self.check(damage)

    def test_a_state_that_no_waiting_recipient_has_is_met_by_the_sweep(self) -> None:
        for state in (3, 9):
            with opened(self.directory / str(state)) as harness:
                bad, _ = harness.put()
                harness.bridge.wait(harness.spool.close())
                statement = "UPDATE recipient SET state = ? WHERE message = ?"
                self.sql(harness, statement, state, bad.ident)
                with opened(harness.directory) as again:
                    assert again.bridge.wait(again.spool.aged(1e12, 0, 10)) == []
                    again.bridge.until(lambda: "damaged message set aside" in again.log.events())

    def test_a_file_damaged_inside_fails_before_its_end_is_sent(self) -> None:
        with opened(self.directory) as harness:
            message, _ = harness.put(BIG)
            path = harness.spool._files.path(message.ident)
            path.write_bytes(BIG[:70_000] + b"?" + BIG[70_001:])
            loaded = harness.bridge.wait(harness.spool.load(message.ident))
            assert loaded is not None
            got = b""
            with self.assertRaisesRegex(OSError, "damaged"):
                for chunk in loaded[0].content.chunks():
                    got += chunk
            assert len(got) < len(BIG)
            harness.bridge.until(lambda: "damaged message set aside" in harness.log.events())
            assert harness.bridge.wait(harness.spool.load(message.ident)) is None
            assert (harness.shard / "damaged" / ident_text(message.ident)).exists()


class DatabaseTests(DamageCase):
    COUNT = 400

    def fill(self) -> tuple[Harness, dict[int, bytes]]:
        """Mail with contents of its own, some of it settled, in a checkpointed database."""
        contents = {}
        with opened(self.directory) as harness:
            for n in range(self.COUNT):
                content = b"%d %s" % (n, bytes(random.Random(n).choices(range(256), k=2000)))
                message, records = harness.put(content, recipient("a"), recipient("b", "two"))
                contents[message.ident] = content
                if n % 4 == 0:
                    ends = [Settlement(each, RecipientState.DELIVERED, DONE) for each in records]
                    harness.bridge.wait(harness.spool.settle(ends))
                    del contents[message.ident]
        return harness, contents

    def survivors(self, contents: dict[int, bytes]) -> tuple[int, Harness]:
        """Open what is left: whatever comes back is whole; how many did."""
        with opened(self.directory) as harness:
            bridge, spool = harness.bridge, harness.spool
            # damage in the middle is met while reading: that question fails, a later one does not
            for _ in range(20):
                with contextlib.suppress(SpoolError):
                    found = bridge.wait(spool.due("inside", 1e12, 10_000))
                    break
                bridge.pump(0.1)
            for message, records in found:
                assert octets(message.content) == contents[message.ident]
                assert records[0].recipient == recipient("a")
            with contextlib.suppress(SpoolError):
                bridge.wait(spool.aged(1e12, 0, 10_000))
            for _ in range(20):
                with contextlib.suppress(SpoolError):
                    assert harness.put()[0].ident > max(contents)
                    break
                bridge.pump(0.1)
            assert spool.healthy
        return len(found), harness

    def test_no_database_at_all(self) -> None:
        harness, contents = self.fill()
        path = harness.shard / "queue.db"
        path.write_bytes(b"This is no database, and never was. " * 400)
        _, again = self.survivors(contents)
        assert "spool rebuilt" in again.log.events()
        assert (harness.shard / "damaged" / "queue.db").read_bytes()[:7] == b"This is"
        with opened(self.directory) as later:
            assert later.log.events() == []
            assert (later.shard / "queue-1.db").exists()

    def test_content_without_a_database_is_set_aside_not_removed(self) -> None:
        for name, damage in (
            ("gone", lambda path: path.unlink()),
            ("empty", lambda path: path.write_bytes(b"")),
            ("no database", lambda path: path.write_bytes(b"hello " * 1000)),
        ):
            with self.subTest(name):
                with opened(self.directory) as harness:
                    message, _ = harness.put(BIG)
                (path,) = harness.shard.glob("*.db")
                damage(path)
                kept = harness.shard / "damaged" / ident_text(message.ident)
                with opened(self.directory) as again:
                    again.bridge.until(kept.exists)
                    again.bridge.until(lambda: "orphaned content" in again.log.events())
                events = again.log.events()
                assert {"spool database is gone", "spool rebuilt"} & set(events), events

    def test_a_number_alone_makes_no_database(self) -> None:
        with opened(self.directory) as harness:
            message, _ = harness.put()
        (harness.shard / "queue-7.db").write_bytes(b"")
        (harness.shard / "queue-8.db").write_bytes(b"what is this?")
        with opened(self.directory) as again:
            due = again.bridge.wait(again.spool.due("inside", 1e12, 10))
            assert [each.ident for each, _ in due] == [message.ident]
        kept = {each.name for each in (harness.shard / "damaged").iterdir()}
        assert {"queue-7.db", "queue-8.db"} <= kept

    def test_a_lost_first_page(self) -> None:
        harness, contents = self.fill()
        path = harness.shard / "queue.db"
        data = path.read_bytes()
        path.write_bytes(b"\0" * 4096 + data[4096:])
        count, again = self.survivors(contents)
        assert count == len(contents)
        assert "spool rebuilt" in again.log.events()
        assert {each.name for each in harness.shard.glob("*.db*")} >= {"queue-1.db"}
        assert not [*harness.shard.glob("*.patched"), *harness.shard.glob("*.empty")]

    def test_a_truncated_database(self) -> None:
        harness, contents = self.fill()
        path = harness.shard / "queue.db"
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 2 // 3])
        count, again = self.survivors(contents)
        assert "spool rebuilt" in again.log.events()
        assert count > 0
        assert (harness.shard / "damaged" / "queue.db").stat().st_size == len(data) * 2 // 3

    def test_pages_overwritten_anywhere(self) -> None:
        harness, contents = self.fill()
        path = harness.shard / "queue.db"
        data = path.read_bytes()
        pages = len(data) // 4096
        for seed in range(12):
            with self.subTest(seed=seed):
                chance = random.Random(seed)
                torn = bytearray(data)
                for _ in range(3):
                    at = chance.randrange(1, pages) * 4096
                    torn[at : at + 4096] = chance.randbytes(4096)
                for old in (*harness.shard.glob("queue*"), *harness.shard.glob("damaged/*")):
                    old.unlink()
                path.write_bytes(torn)
                count, again = self.survivors(contents)
                rebuilt = "spool rebuilt" in again.log.events()
                assert count > len(contents) // 2 or not rebuilt
                lost = len(contents) - count
                with opened(self.directory) as later:
                    audit = later.bridge.wait(later.spool.audit(0, 100_000))
                # what is missing is spoken of: in the log, or by the audit
                assert not lost or rebuilt or audit.discrepancies

    def test_damage_met_while_running_is_mended_while_running(self) -> None:
        with opened(self.directory) as harness:
            message, _ = harness.put()
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = 11  # SQLITE_CORRUPT
            events: list[str] = []
            harness.spool.on_trouble = lambda reason: events.append("trouble")
            harness.spool.on_recovery = lambda: events.append("recovery")

            def question(search: Search) -> object:
                raise error

            harness.spool._reader.ask(question, None)
            harness.bridge.until(lambda: events == ["trouble", "recovery"])
            assert "spool rebuilt" in harness.log.events()
            loaded = harness.bridge.wait(harness.spool.load(message.ident))
            assert loaded is not None
            assert harness.bridge.wait(harness.spool.counts()).messages == 1
            assert harness.put()[0].ident > message.ident
