"""clamd's INSTREAM."""

from __future__ import annotations

import unittest

from relayd.filters.clamd import END, MOST, START, ClamdAnswer, ClamdError, Scanned, chunk


class Clamd(unittest.TestCase):
    def test_what_is_written(self) -> None:
        octets = START + chunk(b"abc") + chunk(b"") + END
        self.assertEqual(octets, b"zINSTREAM\0\0\0\0\x03abc\0\0\0\0")

    def test_each_answer(self) -> None:
        for octets, scanned in (
            (b"stream: OK\0", Scanned()),
            (b"stream: Eicar-Test FOUND\0", Scanned("Eicar-Test")),
            (b"stream: OK", None),
        ):
            self.assertEqual(ClamdAnswer().feed(octets), scanned)

    def test_what_is_none(self) -> None:
        for octets in (
            b"INSTREAM size limit exceeded. ERROR\0",
            b"stream: x ERROR\0",
            b"\0",
            b"UNKNOWN COMMAND\0",
            b"stream: what\0",
            b"x" * (MOST + 1),
        ):
            with self.subTest(octets[:20]), self.assertRaises(ClamdError):
                ClamdAnswer().feed(octets)
