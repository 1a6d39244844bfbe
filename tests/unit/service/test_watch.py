"""Watching files: two equal looks, one reload; what was refused waits for its next change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from relayd.config import Settings, load
from relayd.service.watch import ConfigurationWatch, Look
from tests.spooling import Troubles
from tests.support import TestCase


class WatchTest(TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        (self.folder / "rules.d").mkdir(parents=True)
        self.write("relayd.conf", "watch 5s\ninclude rules.d/*.rules\n")
        self.write("rules.d/1.rules", "table ours file ours\naccept to <ours>\n")
        self.write("rules.d/ours", "example.com\n")
        self.settings = load(self.folder / "relayd.conf")
        self.reloads = 0
        self.complaint = ""
        self.answer: Deferred[str] | None = None
        self.clock = Clock()
        self.log = Troubles()
        log: Any = self.log
        self.asked: Deferred[None] = succeed(None)  # whoever looks waits for it
        self.watch = ConfigurationWatch(
            self.clock, lambda: self.settings, self.reload, log, self.aside
        )
        self.watch.start()
        self.addCleanup(self.watch.stop)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def aside(self, look: Callable[[], Look]) -> Deferred[Look]:
        asked, self.asked = self.asked, succeed(None)
        return asked.addCallback(lambda _: look())

    def reload(self) -> Deferred[str]:
        self.reloads += 1
        if not self.complaint:
            self.settings = load(self.folder / "relayd.conf")
        return self.answer or succeed(self.complaint)

    def looks(self, count: int) -> None:
        for _ in range(count):
            self.clock.advance(5)

    def test_nothing_changed(self) -> None:
        self.looks(10)
        self.assertEqual(self.reloads, 0)

    def test_a_changed_table_is_taken_up_once(self) -> None:
        before = self.settings.ruleset.hash
        self.write("rules.d/ours", "example.com\nexample.org\n")
        self.looks(1)
        self.assertEqual(self.reloads, 0, "perhaps it is still being written")
        self.looks(5)
        self.assertEqual(self.reloads, 1)
        self.assertNotEqual(self.settings.ruleset.hash, before)
        self.assertIn("ours", str(self.log.heard[0][1]["files"]))

    def test_a_file_that_keeps_changing_waits(self) -> None:
        for number in range(5):
            self.write("rules.d/ours", "example.com\n" * (number + 2))
            self.looks(1)
        self.assertEqual(self.reloads, 0)
        self.looks(1)
        self.assertEqual(self.reloads, 1)

    def test_a_new_rule_file_is_found_by_its_pattern(self) -> None:
        self.write("rules.d/2.rules", "reject from 192.0.2.66\n")
        self.looks(3)
        self.assertEqual(self.reloads, 1)
        self.write("rules.d/2.rules", "reject from 192.0.2.67, 192.0.2.68\n")
        self.looks(3)
        self.assertEqual(self.reloads, 2)

    def test_a_refused_set_is_tried_again_only_when_it_changes(self) -> None:
        self.complaint = "no"
        (self.folder / "rules.d/ours").unlink()
        self.looks(20)
        self.assertEqual(self.reloads, 1)
        self.complaint = ""
        self.write("rules.d/ours", "example.com\nexample.net\n")
        self.looks(3)
        self.assertEqual(self.reloads, 2)

    def test_what_changes_during_a_reload_is_found_after_it(self) -> None:
        self.answer = Deferred()
        self.write("rules.d/ours", "example.com\nexample.org\n")
        self.looks(4)
        self.assertEqual(self.reloads, 1, "one at a time")
        self.write("rules.d/ours", "example.com\nexample.org\nexample.net\n")
        answer, self.answer = self.answer, None
        answer.callback("")
        self.looks(3)
        self.assertEqual(self.reloads, 2)

    def test_files_are_looked_at_aside_and_not_twice_at_once(self) -> None:
        """Thousands of them on a slow disk keep no session waiting."""
        asked = self.asked = Deferred()
        self.write("rules.d/ours", "example.com\nexample.org\n")
        self.looks(20)
        self.assertEqual((self.reloads, self.clock.getDelayedCalls()), (0, []))
        asked.callback(None)
        self.looks(3)
        self.assertEqual(self.reloads, 1)

    def test_a_look_that_fails_is_told_and_there_is_a_next_one(self) -> None:
        asked = self.asked = Deferred()
        self.write("rules.d/ours", "example.com\nexample.org\n")
        self.looks(1)
        asked.errback(OSError("no thread"))
        self.assertEqual(self.log.heard[0], ("watch", {"why": "no thread"}))
        self.looks(3)
        self.assertEqual(self.reloads, 1)

    def test_stopped_while_it_looks(self) -> None:
        asked = self.asked = Deferred()
        self.looks(1)
        self.watch.stop()
        asked.callback(None)
        self.assertEqual((self.reloads, self.clock.getDelayedCalls()), (0, []))

    def test_stopped_while_it_is_read(self) -> None:
        self.answer = Deferred()
        self.write("rules.d/ours", "example.com\nexample.org\n")
        self.looks(4)
        self.watch.stop()
        self.answer.callback("")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_off_looks_at_nothing_at_the_start_either(self) -> None:
        self.watch.stop()
        self.settings = replace(self.settings, watch=0.0)
        self.asked = Deferred().addCallback(lambda _: self.fail("it has looked"))
        self.watch.start()
        self.assertTrue(self.clock.getDelayedCalls())
        self.looks(10)

    def test_off_reads_nothing(self) -> None:
        self.settings = replace(self.settings, watch=0.0)
        self.write("rules.d/ours", "example.com\nexample.org\n")
        self.looks(10)
        self.assertEqual(self.reloads, 0)

    def test_once_it_is_on_the_files_are_read_once_more(self) -> None:
        """Nobody has looked at them meanwhile."""
        self.settings = replace(self.settings, watch=0.0)
        self.looks(10)
        self.write("rules.d/ours", "example.com\nexample.org\n")
        self.settings = replace(self.settings, watch=5.0)
        self.looks(10)
        self.assertEqual(self.reloads, 1)

    def test_the_setting(self) -> None:
        self.assertEqual(self.settings.watch, 5.0)
        self.write("relayd.conf", "watch off\njournal off\njournal-size 2MiB\n")
        settings: Settings = load(self.folder / "relayd.conf")
        self.assertEqual((settings.watch, settings.journal, settings.journal_size), (0, 0, 2 << 20))
