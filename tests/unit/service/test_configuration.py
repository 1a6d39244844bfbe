"""The configuration in force: read in a thread, swapped whole, one reload at a time."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred, succeed

from relayd.config import ConfigErrors, Settings, load, load_text
from relayd.service.configthread import aside
from relayd.service.configuration import Configuration, RefusedConfiguration
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
        self.now = 1000.0
        self.current = Configuration(settings(), self.reread, log, lambda: self.now)
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

    async def test_what_was_refused_is_told_since_when_and_why_until_a_good_one_is_in_force(
        self,
    ) -> None:
        self.assertIsNone(self.current.refused)
        for error, why in ((_errors(), "acept"), (ValueError("a bug"), "a bug")):
            reloaded = self.current.reload()
            self.reads[-1].errback(error)
            await reloaded
            assert self.current.refused is not None
            self.assertIn(why, self.current.refused.why)
            self.assertEqual(self.current.refused.since, 1000.0, "the first of them")
            self.now += 60
        checked = Deferred.fromCoroutine(self.current.check())
        self.reads[-1].callback(settings())
        await checked
        self.assertIsNotNone(self.current.refused, "only checked, not in force")
        reloaded = self.current.reload()
        self.reads[-1].callback(settings())
        await reloaded
        self.assertIsNone(self.current.refused)

    async def test_the_last_good_one_is_spoken_of_until_another_is_in_force(self) -> None:
        log: Any = self.log
        refused = RefusedConfiguration(900.0, "relayd.conf:1:1: acept\n    acept", last_good=17.0)
        self.current = Configuration(settings(), self.reread, log, lambda: self.now, refused)
        self.current.warn()
        (event, facts), *lines = self.log.heard[:3]
        self.assertEqual(event, "started with the last good configuration")
        self.assertIn("1970-01-01", str(facts["since"]))
        self.assertEqual([each for each, _ in lines], ["configuration refused"] * 2)
        self.assertEqual("\n".join(str(each["why"]) for _, each in lines), refused.why)
        reloaded = self.current.reload()
        self.reads[-1].errback(_errors())
        await reloaded
        assert self.current.refused is not None
        self.assertNotEqual(self.current.refused.why, refused.why, "what is wrong by now")
        self.assertEqual(
            (self.current.refused.since, self.current.refused.last_good), (900.0, 17.0)
        )
        reloaded = self.current.reload()
        self.reads[-1].callback(settings())
        await reloaded
        self.assertIsNone(self.current.refused)
        self.log.heard.clear()
        self.current.warn()
        self.assertNotIn(event, self.log.events())

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


class ShrunkTest(TestCase):
    """A table that has lost most of its entries is put in force by somebody who asks only."""

    TEXT = (
        "hostname gw.example.com\nwatch 5s\ntable t file t\ntable a aliases file a include l\n"
        "accept to <t>\nforward <a> at @example.com\n"
    )

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        (self.folder / "l").mkdir(parents=True)
        self.write("relayd.conf", self.TEXT)
        self.write("t", "".join(f"a{n}@example.com\n" for n in range(100)))
        self.write("a", "all: :include:all\nann: b@example.net\n")
        self.write("l/all", "".join(f"m{n}@example.net\n" for n in range(100)))
        self.log = Troubles()
        log: Any = self.log
        self.current = Configuration(self.load(), self.reread, log)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def load(self) -> Settings:
        return load(self.folder / "relayd.conf")

    def reread(self) -> Deferred[Settings]:
        return succeed(self.load())

    async def taken(self, *, by_itself: bool) -> str:
        return await self.current.reload(by_itself=by_itself)

    async def test_watch_leaves_what_has_lost_most_of_its_entries_and_reload_takes_it(
        self,
    ) -> None:
        for name, text, told in (
            ("t", "", "table t (t) has lost all 100 entries"),
            ("t", "# nothing yet\n", "has lost all 100 entries"),
            ("t", "a1@example.com\n" * 1, "has 1 of 100 entries left"),
            ("t", "".join(f"a{n}@example.com\n" for n in range(49)), "has 49 of 100 entries left"),
            ("l/all", "m1@example.net\n", "table a (a) has 2 of 101 names left"),
        ):
            with self.subTest(told):
                kept, before = (self.folder / name).read_text(), self.current.settings
                self.write(name, text)
                why = await self.taken(by_itself=True)
                self.assertIn(told, why)
                self.assertIn('"relayctl reload" puts it in force', why)
                self.assertIs(self.current.settings, before)
                assert self.current.refused is not None
                self.assertEqual(self.current.refused.why, why)
                self.assertEqual(await self.taken(by_itself=False), "")
                self.assertIsNone(self.current.refused)
                self.write(name, kept)
                self.assertEqual(await self.taken(by_itself=True), "", "more is no accident")

    async def test_watch_takes_what_has_lost_less(self) -> None:
        self.write("t", "".join(f"a{n}@example.com\n" for n in range(50)))
        self.assertEqual(await self.taken(by_itself=True), "")

    async def test_what_the_rules_themselves_say_is_no_accident(self) -> None:
        self.write("relayd.conf", self.TEXT.replace("table t file t", "table t { a@example.com }"))
        self.assertEqual(await self.taken(by_itself=True), "")
        self.write("relayd.conf", "hostname gw.example.com\nwatch 5s\naccept to a@example.com\n")
        self.assertEqual(await self.taken(by_itself=True), "")

    async def test_who_asks_while_files_change_by_themselves_is_heard(self) -> None:
        self.write("t", "")
        reads: list[Deferred[Settings]] = []

        def reread() -> Deferred[Settings]:
            reads.append(Deferred())
            return reads[-1]

        log: Any = self.log
        current = Configuration(self.current.settings, reread, log)
        first = current.reload(by_itself=True)
        second, third = current.reload(by_itself=True), current.reload()
        reads[0].callback(self.load())
        self.assertIn("has lost all", await first)
        reads[1].callback(self.load())
        self.assertEqual((await second, await third), ("", ""))


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
