"""Twisted's own events are lines of our log: one format, and nothing said over again."""

from __future__ import annotations

import re
import sys
import threading
import unittest
from types import SimpleNamespace

from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure

from relayd.ops.maillog import LineLog
from relayd.ops.twistedlog import TwistedLog, take_last_words

_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (notice|trouble) event=.+\n")


class TwistedLogTests(unittest.TestCase):
    def setUp(self) -> None:
        self.written: list[str] = []
        self.observer = self.made(journal=False)
        self.log = Logger(observer=LogPublisher(self.observer))

    def made(self, *, journal: bool) -> TwistedLog:
        log = LineLog(
            lambda lines: None, clock=lambda: 1e9, later=lambda flush: None, journal=journal
        )
        return TwistedLog(log.line, lambda lines: self.written.append(lines.decode()))

    def test_every_line_has_the_form_of_ours(self) -> None:
        self.log.warn("too\nmany {what}", what="files")
        self.log.failure("x", Failure(ValueError("a=b")))
        self.log.info("Received SIGTERM, shutting down.")
        self.assertEqual(len(self.written), 3)
        for line in self.written:
            self.assertTrue(_LINE.fullmatch(line), line)
        self.assertIn('trouble event="too\\nmany files"', self.written[0])
        self.assertIn("error=\"ValueError('a=b')\"", self.written[1])
        self.assertIn('notice event="Received SIGTERM', self.written[2])

    def test_where_an_error_was_raised_is_not_cut_off(self) -> None:
        def deep(left: int) -> None:
            if left:
                deep(left - 1)
            raise RuntimeError("x" * 10)

        try:
            deep(50)
        except RuntimeError:
            self.log.failure("bug")
        self.assertRegex(self.written[0], r'at="[^"]*test_twistedlog.py:\d+ deep"')

    def test_what_our_own_lines_say_is_not_repeated(self) -> None:
        for text in ("SessionFactory starting on 25", "(TCP Port 25 Closed)", "Log opened."):
            self.log.info(text)
        self.assertEqual(self.written, [])

    def test_the_journal_is_told_the_level(self) -> None:
        log = Logger(observer=LogPublisher(self.made(journal=True)))
        log.error("no room")
        log.info("Received SIGINT, shutting down.")
        self.assertEqual(self.written[0], '<4>trouble event="no room"\n')
        self.assertTrue(self.written[1].startswith('<5>notice event="Received SIGINT'))


class LastWords(unittest.TestCase):
    def setUp(self) -> None:
        for module in (sys, threading):
            self.addCleanup(setattr, module, "excepthook", module.excepthook)
        self.addCleanup(setattr, sys, "unraisablehook", sys.unraisablehook)
        self.written: list[str] = []
        log = LineLog(lambda lines: None, clock=lambda: 1e9, later=lambda flush: None)
        take_last_words(log.line, lambda lines: self.written.append(lines.decode()))

    def heard(self, error: Exception, where: object) -> str:
        """What is written when Python has nobody to raise this to."""
        told = SimpleNamespace(exc_value=error, exc_traceback=None, err_msg=None, object=where)
        sys.unraisablehook(told)
        return self.written.pop()

    def test_an_error_in_a_destructor_is_an_unhandled_one(self) -> None:
        said = self.heard(ValueError("no"), "x")
        self.assertIn('trouble event="unhandled error"', said)

    def test_a_second_signal_that_comes_while_the_first_one_ends_us_is_none(self) -> None:
        said = self.heard(OSError("Signal 15 ignored due to race condition"), None)
        self.assertIn('notice event="Signal 15 ignored due to race condition"', said)
