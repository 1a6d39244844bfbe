"""The configuration in force: read in a thread, swapped whole, one reload at a time."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred

from relayd.config import ConfigErrors, Settings, load_text
from relayd.service.configthread import aside
from relayd.service.configuration import Configuration
from tests.spooling import Troubles
from tests.support import TestCase

reactor: Any = the_reactor


def settings(rule: str = "accept any", running: Settings | None = None) -> Settings:
    fixed = running.fixed if running else None
    return load_text(f"hostname gw.example\n{rule}\n", Path("/"), fixed=fixed)


class CurrentTest(TestCase):
    def setUp(self) -> None:
        self.log = Troubles()
        log: Any = self.log
        self.reads: list[Deferred[Settings]] = []
        self.current = Configuration(settings(), self.reread, log)
        self.swapped: list[Settings] = []
        self.current.on_change(self.swapped.append)

    def reread(self) -> Deferred[Settings]:
        self.reads.append(Deferred())
        return self.reads[-1]

    async def test_the_old_set_holds_until_the_new_one_is_read_whole(self) -> None:
        old = self.current.settings
        reloaded = self.current.reload()
        self.assertIs(self.current.settings, old)
        fresh = settings("accept to a@example.com")
        self.reads[0].callback(fresh)
        self.assertEqual(await reloaded, "")
        self.assertIs(self.current.settings, fresh)
        self.assertEqual(self.swapped, [fresh])

    async def test_who_asks_meanwhile_shares_the_next_reload(self) -> None:
        first = self.current.reload()
        others = [self.current.reload() for _ in range(3)]
        self.assertEqual(len(self.reads), 1)
        self.reads[0].callback(settings())
        self.assertEqual(await first, "")
        self.assertEqual(len(self.reads), 2, "what changed since the first began counts")
        self.assertFalse(any(other.called for other in others))
        self.reads[1].callback(settings())
        self.assertEqual([await other for other in others], ["", "", ""])
        self.assertEqual(len(self.reads), 2)

    async def test_a_bad_set_never_goes_live(self) -> None:
        old = self.current.settings
        for error in (_errors(), ValueError("a bug")):
            reloaded = self.current.reload()
            self.reads[-1].errback(error)
            self.assertIn("bug" if isinstance(error, ValueError) else "acept", await reloaded)
            self.assertIs(self.current.settings, old)
        self.assertEqual(self.log.events(), ["reload refused", "reload refused"])
        self.assertEqual(self.swapped, [])

    async def test_what_takes_a_restart_is_said_at_each_reload_until_there_is_one(self) -> None:
        before = self.current.settings.fixed
        for rule in ("accept any\nlisten 127.0.0.1:25", "accept any\nlisten 127.0.0.1:25", ""):
            reloaded = self.current.reload()
            self.reads[-1].callback(settings(rule, self.current.settings))
            self.assertEqual(await reloaded, "")
            self.assertEqual(self.current.restart, ["listen"] if rule else [])
            self.assertEqual(self.current.settings.fixed, before)
        waiting = [dict(fields) for event, fields in self.log.heard if event == "restart needed"]
        self.assertEqual(waiting, [{"setting": "listen"}] * 2)

    async def test_each_reload_answers_though_a_callback_raises(self) -> None:
        heard: list[Settings] = []

        def broken(fresh: Settings) -> None:
            raise ZeroDivisionError("a bug")

        self.current.on_change(broken)
        self.current.on_change(heard.append)
        for number in range(100):
            reloaded = self.current.reload()
            self.reads[-1].callback(settings(f"accept to a{number}@example.com"))
            self.assertIn("fault", await reloaded)
        self.assertEqual((len(heard), len(self.swapped)), (100, 100), "the others are told")
        self.assertEqual(self.log.events().count("bug"), 100)

    async def test_check_changes_nothing(self) -> None:
        checked = Deferred.fromCoroutine(self.current.check())
        self.reads[0].errback(_errors())
        self.assertIn("acept", await checked)
        self.assertEqual(self.log.heard, [])

    async def test_what_a_good_configuration_is_warned_of_is_told_by_check_and_reload(self) -> None:
        self.assertEqual(len(self.current.said()["warnings"]), 1)  # `accept any`
        checked = Deferred.fromCoroutine(self.current.check())
        self.reads[0].callback(settings("accept to a@example.com"))
        self.assertEqual(await checked, "")
        self.assertNotIn("warnings", self.current.said())
        reloaded = self.current.reload()
        self.reads[1].callback(settings())
        self.assertEqual(await reloaded, "")
        warning = self.current.said()["warnings"][0]
        self.assertIn("an open relay", warning)
        self.assertIn("\n    accept any\n    ^", warning, "with its place")


class AsideTest(TestCase):
    async def test_it_is_read_in_another_thread(self) -> None:
        def read() -> tuple[int, bool]:
            return threading.get_ident(), gc.isenabled()

        thread, collecting = await aside(reactor, read)()
        self.assertNotEqual(thread, threading.get_ident())
        self.assertFalse(collecting)
        self.assertTrue(gc.isenabled())

    async def test_an_error_comes_back(self) -> None:
        def read() -> None:
            raise _errors()

        with self.assertRaises(ConfigErrors):
            await aside(reactor, read)()
        self.assertTrue(gc.isenabled())


def _errors() -> ConfigErrors:
    try:
        settings("acept any")
    except ConfigErrors as errors:
        return errors
    raise AssertionError
