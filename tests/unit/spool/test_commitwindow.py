"""Who only holds a connection open is not waited for."""

from __future__ import annotations

import time
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from relayd.spool.sqlite.commitwindow import WINDOW, CommitWindow
from relayd.spool.sqlite.threadqueue import ThreadQueue
from tests.spooling import opened


class CompanyTest(unittest.TestCase):
    """Some sessions come and go, others stay."""

    def setUp(self) -> None:
        self.now = 1000.0
        self.company = CommitWindow(lambda: self.now)

    def pass_time(self) -> None:
        """Long enough that what was before it is not lately any more."""
        for _ in range(2):
            self.now += WINDOW * 1.01
            self.company.is_complete()

    def test_alone_there_is_nobody_to_wait_for(self) -> None:
        self.company.expect(1)
        self.company.expect(-1)  # it asks for its COMMIT
        self.assertTrue(self.company.is_complete())

    def test_another_is_waited_for(self) -> None:
        self.company.expect(2)
        self.company.expect(-1)
        self.assertFalse(self.company.is_complete())
        self.company.expect(-1)
        self.assertTrue(self.company.is_complete())

    def test_those_who_stay_are_not(self) -> None:
        self.company.expect(5)
        self.assertFalse(self.company.is_complete())
        self.pass_time()
        self.assertTrue(self.company.is_complete())

    def test_one_who_comes_beside_them_is(self) -> None:
        self.company.expect(5)
        self.pass_time()
        self.company.expect(2)
        self.company.expect(-1)
        self.assertFalse(self.company.is_complete())
        self.company.expect(-1)
        self.assertTrue(self.company.is_complete())

    def test_when_they_leave_they_are_forgotten(self) -> None:
        self.company.expect(5)
        self.pass_time()
        self.company.expect(-5)
        self.company.expect(3)
        self.assertFalse(self.company.is_complete())

    def test_many_who_take_turns_are_no_idlers(self) -> None:
        self.company.expect(10)
        for _ in range(20):
            self.now += WINDOW / 5
            self.company.expect(-3)
            self.company.expect(3)
            self.assertFalse(self.company.is_complete())


class SpoolTest(unittest.TestCase):
    """What a spool makes of it."""

    def test_a_message_is_urgent_beside_those_who_only_stay(self) -> None:
        urgent: list[bool] = []
        put = ThreadQueue.put

        def putting(inbox: ThreadQueue[Any], entry: object, **how: bool) -> None:
            urgent.append(how.get("urgent", False))
            put(inbox, entry, **how)

        with (
            TemporaryDirectory() as directory,
            opened(Path(directory)) as harness,
            patch.object(ThreadQueue, "put", putting),
        ):
            harness.put()
            harness.spool.expect(2)
            harness.put()
            self.assertEqual(urgent, [True, False])
            deadline = time.monotonic() + 60
            while not urgent[-1] and time.monotonic() < deadline:
                time.sleep(WINDOW)
                harness.put()
            self.assertTrue(urgent[-1])
