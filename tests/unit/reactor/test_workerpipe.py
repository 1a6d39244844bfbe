"""The socket between master and worker: words, and the end of the other side."""

from __future__ import annotations

import socket
import unittest
from typing import Any

from relayd.reactor.workerpipe import WorkerPipe


class Readers:
    """A reactor, as far as a channel uses it."""

    def __init__(self) -> None:
        self.readers: list[WorkerPipe] = []

    def addReader(self, reader: WorkerPipe) -> None:
        self.readers.append(reader)


class Channels(unittest.TestCase):
    def setUp(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.addCleanup(self.theirs.close)
        self.heard: list[bytes] = []
        self.closed = 0
        reactor: Any = Readers()
        self.channel = WorkerPipe(reactor, ours, self.heard.append, self.close)
        self.assertEqual(reactor.readers, [self.channel])

    def close(self) -> None:
        self.closed += 1

    def test_words_both_ways(self) -> None:
        self.theirs.send(b"ready\n")
        self.assertIsNone(self.channel.doRead())
        self.assertEqual(self.heard, [b"ready\n"])
        self.channel.send(b"drain\n")
        self.assertEqual(self.theirs.recv(100), b"drain\n")

    def test_nothing_to_read_is_nothing(self) -> None:
        self.assertIsNone(self.channel.doRead())
        self.assertEqual(self.heard, [])

    def test_the_other_side_hangs_up(self) -> None:
        self.theirs.close()
        failure = self.channel.doRead()
        assert failure is not None
        self.channel.connectionLost(failure)
        self.assertEqual(self.closed, 1)

    def test_speaking_to_nobody_is_silence(self) -> None:
        self.theirs.close()
        self.channel.send(b"drain\n")
        self.channel.hang_up()

    def test_hanging_up_is_heard_and_what_comes_back_too(self) -> None:
        self.channel.hang_up()
        self.assertEqual(self.theirs.recv(100), b"")
        self.theirs.send(b"last words\n")
        self.assertIsNone(self.channel.doRead())
        self.assertEqual(self.heard, [b"last words\n"])
