"""Content that goes to a file and is still in memory: bounded, sent from there once, and let go."""

from __future__ import annotations

import gc
import random
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from relayd.spool.disk.content import WARM_MOST, Room
from relayd.spool.disk.draft import MANY
from tests.spooling import octets, opened, submission

BIG = bytes(random.Random(4).choices(b"abc.\r\n", k=300_000))


class WarmTests(unittest.TestCase):
    def setUp(self) -> None:
        temporary = TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name) / "spool"

    def test_the_first_reading_is_from_memory_and_the_next_from_the_file(self) -> None:
        with opened(self.directory) as harness:
            draft = harness.spool.create()
            for at in range(0, len(BIG), 7000):
                draft.write(BIG[at : at + 7000])
            message, _ = harness.bridge.wait(draft.commit(submission()))
            content = message.content
            assert harness.spool._files.path(message.ident).read_bytes() == BIG
            assert content.tail(2) == BIG[-2:]
            assert content.tail(9000) == BIG[-9000:]
            with patch.object(Path, "open", side_effect=AssertionError):
                assert BIG.startswith(next(iter(content.chunks())))  # a look does not count
                assert octets(content) == BIG
            with (
                self.assertRaises(AssertionError),
                patch.object(Path, "open", side_effect=AssertionError),
            ):
                octets(content)
            assert octets(content) == BIG
            assert content.tail(2) == BIG[-2:]

    def test_it_is_pure_as_long_as_it_is_what_came_in(self) -> None:
        with opened(self.directory) as harness:
            for vouched in (True, False):
                draft = harness.spool.create(pure=vouched)
                draft.write(BIG)
                message, _ = harness.bridge.wait(draft.commit(submission()))
                assert message.content.pure is vouched
                octets(message.content)
                assert not message.content.pure  # from here on it is what a file says
                loaded = harness.bridge.wait(harness.spool.load(message.ident))
                assert loaded is not None
                assert not loaded[0].content.pure

    def test_what_never_left_memory_is_as_pure_as_it_came_in(self) -> None:
        with opened(self.directory) as harness:
            for vouched in (True, False):
                draft = harness.spool.create(pure=vouched)
                draft.write(b"Subject: small\r\n\r\n")
                message, _ = harness.bridge.wait(draft.commit(submission()))
                assert message.content.pure is vouched
                loaded = harness.bridge.wait(harness.spool.load(message.ident))
                assert loaded is not None
                assert not loaded[0].content.pure  # it is what a table says

    def test_a_reading_may_begin_anywhere(self) -> None:
        for start in (0, 1, 69_999, 70_000, 70_001, len(BIG) - 1, len(BIG)):
            with opened(self.directory) as harness:
                draft = harness.spool.create()
                for at in range(0, len(BIG), 70_000):
                    draft.write(BIG[at : at + 70_000])
                message, _ = harness.bridge.wait(draft.commit(submission()))
                for _ in range(2):
                    assert b"".join(message.content.chunks(start)) == BIG[start:]

    def test_without_room_it_goes_to_the_file_as_it_arrives(self) -> None:
        with opened(self.directory) as harness:
            harness.spool._files.room = Room(250_000)
            for _ in range(2):
                draft = harness.spool.create()
                draft.write(BIG[:200_000])
                path = harness.spool._files.path(draft.ident)
                assert not path.exists()
                draft.write(BIG[200_000:])
                assert path.exists()
                message, _ = harness.bridge.wait(draft.commit(submission()))
                assert octets(message.content) == BIG

    def test_room_comes_back_with_the_end_of_the_content(self) -> None:
        room = Room(1_000_000)
        with opened(self.directory) as harness:
            harness.spool._files.room = room
            for way in ("sent", "rolled back", "forgotten", "too big"):
                draft = harness.spool.create()
                draft.write(BIG)
                assert not room.take(800_000)
                if way == "sent":
                    message, _ = harness.bridge.wait(draft.commit(submission()))
                    octets(message.content)
                elif way == "rolled back":
                    draft.rollback()
                elif way == "too big":
                    draft.write(b"x" * WARM_MOST)
                    draft.rollback()
                del draft
                gc.collect()
                assert room.take(1_000_000), way
                room.give_back(1_000_000)

    def test_many_small_pieces_are_joined(self) -> None:
        with opened(self.directory) as harness:
            draft = harness.spool.create()
            for at in range(0, 100_000, 10):
                draft.write(BIG[at : at + 10])
                assert len(draft._pieces) <= MANY
            message, _ = harness.bridge.wait(draft.commit(submission()))
            assert octets(message.content) == BIG[:100_000]
