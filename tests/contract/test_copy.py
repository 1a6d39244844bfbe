"""What waits moves between a folder and a database: identical, resumable, nothing twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from relayd.mail.message import RecipientState, Settlement
from relayd.spool.copy import FolderEnd, MovedMessage, MovingEnd, copy
from relayd.spool.errors import SpoolError
from relayd.spool.postgresql.moving import DatabaseEnd
from relayd.spool.sqlite.store import Spool
from relayd.spool.view import QueueFilter
from tests.contract.test_postgresql import BIG, Case
from tests.spooling import DONE, LATER, recipient, submission


def told(end: MovingEnd) -> dict[int, tuple[Any, ...]]:
    """All that waits there, octet for octet."""
    return {each.row.ident: (*each[:-1], each.content()) for step in end.waiting() for each in step}


class Copying(Case):
    def setUp(self) -> None:
        super().setUp()
        place = TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.folder = Path(place.name) / "spool"

    def filled(self, count: int) -> set[int]:
        """A folder with mail of each kind; the identifiers of what waits."""
        spool = Spool(self.folder, self.bridge)
        spool.open()
        idents = set()
        for n in range(count):
            to = tuple(recipient(f"r{n}-{each}") for each in range(n % 3 + 1))
            size = (10, 3000, 70_000, 1 << 20)[n % 4] if n % 50 else len(BIG)
            headers = (b"Subject: other\r\n\r\n",) if n % 7 == 0 else ()
            draft = spool.create()
            draft.write(BIG[:size] if n < 100 else b"short %d" % n)
            message, records = self.bridge.wait(draft.commit(submission(*to, headers=headers)))
            idents.add(message.ident)
            if n % 5 == 0:
                self.bridge.wait(
                    spool.settle([Settlement(records[0], RecipientState.QUEUED, LATER, 2e9, True)])
                )
            if n % 3 == 2:  # one of three has ended
                self.bridge.wait(
                    spool.settle([Settlement(records[2], RecipientState.DELIVERED, DONE)])
                )
            if n % 11 == 0:
                self.bridge.wait(spool.hold(QueueFilter(ident=message.ident), "ann"))
        self.bridge.wait(spool.close())
        return idents

    def ends(self, *, back: bool = False) -> tuple[MovingEnd, MovingEnd]:
        folder = FolderEnd(self.folder, make=back)
        try:
            database = DatabaseEnd(self.where, alone=back)
        except BaseException:
            folder.close()
            raise
        return (database, folder) if back else (folder, database)

    def copied(self, *, back: bool = False) -> int:
        source, target = self.ends(back=back)
        try:
            done = copy(source, target)
        finally:
            source.close()
            target.close()
        assert done.damaged == 0
        return done.messages

    def all_of(self, *, database: bool) -> dict[int, tuple[Any, ...]]:
        end: MovingEnd = DatabaseEnd(self.where) if database else FolderEnd(self.folder)
        try:
            return told(end)
        finally:
            end.close()

    def test_there_and_back_it_is_identical(self) -> None:
        idents = self.filled(60)
        before = self.all_of(database=False)
        assert set(before) == idents
        assert self.copied() == len(idents)
        assert self.all_of(database=True) == before
        assert self.all_of(database=False) == {}
        spool = self.node()
        self.accounted_for(spool)
        counts = self.bridge.wait(spool.counts())
        assert (counts.messages, counts.octets) == (
            len(idents),
            sum(row.size for row, *_ in before.values()),
        )
        with self.assertRaisesRegex(SpoolError, "node gw1 has the spool open"):
            self.ends(back=True)
        self.bridge.wait(spool.close())
        assert self.copied(back=True) == len(idents)
        assert self.all_of(database=False) == before
        assert self.all_of(database=True) == {}
        folder = Spool(self.folder, self.bridge)
        folder.open()
        counts = self.bridge.wait(folder.counts())
        assert counts.messages == len(idents)
        assert self.bridge.wait(folder.audit(0, 10_000)).discrepancies == []
        self.bridge.wait(folder.close())

    def test_what_was_taken_before_it_was_interrupted_is_not_taken_twice(self) -> None:
        idents = self.filled(30)

        class DiedError(Exception):
            pass

        source, target = self.ends()

        def die(messages: list[MovedMessage]) -> None:
            raise DiedError

        source.drop = die  # type: ignore[method-assign,assignment]
        with self.assertRaises(DiedError):
            copy(source, target)
        source.close()
        target.close()
        # it is in both; meanwhile some of it has ended, and a node has the rest
        spool = self.node()
        ended = sorted(idents)[3:9]
        for ident in ended:
            assert self.bridge.wait(spool.remove(QueueFilter(ident=ident)))
        assert self.copied() == len(idents)
        assert self.all_of(database=False) == {}
        assert set(self.all_of(database=True)) == idents - set(ended)
        self.accounted_for(spool)

    def test_nodes_that_have_it_open_send_what_comes(self) -> None:
        spool = self.node()
        idents = self.filled(10)
        assert self.copied() == len(idents)

        destination = self.sql("SELECT DISTINCT destination FROM recipient")[0][0]
        found = lambda: self.bridge.wait(spool.due(destination, 3e9, 999))  # noqa: E731
        self.bridge.until(lambda: bool(found()))
        assert {message.ident for message, _ in found()} <= idents

    def test_it_may_be_killed_at_any_time(self) -> None:
        idents = self.filled(250)
        before = self.all_of(database=False)
        command = [sys.executable, "-m", "relayd.ctl.relayctl", "spool", "copy"]
        for back in (False, True):
            places = [str(self.folder), self.where]
            for attempt in range(30):
                process = subprocess.Popen(
                    [*command, *(reversed(places) if back else places)],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
                try:
                    _, said = process.communicate(timeout=0.5 + 0.15 * attempt)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
                    continue
                if process.returncode == 0:
                    break
                assert b"another process is node copy" in said, said
                time.sleep(0.1)
            else:
                raise AssertionError("it never came to its end")
            assert set(self.all_of(database=not back)) == idents
            assert self.all_of(database=not back) == before
            assert self.all_of(database=back) == {}

    def test_damaged_content_stays_where_it_is(self) -> None:
        idents = self.filled(8)
        end = FolderEnd(self.folder)
        path = next(iter((self.folder / "shard-0" / "content").glob("*/*")))
        path.write_bytes(b"?" + path.read_bytes()[1:])
        database = DatabaseEnd(self.where)
        done = copy(end, database)
        assert (done.messages, done.damaged) == (len(idents) - 1, 1)
        assert len(next(iter(end.waiting()))) == 1
        end.close()
        database.close()
