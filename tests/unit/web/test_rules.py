"""The screen Rules: check, replay, activate, go back; nobody overwrites what he has not seen."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from typing import Any

from relayd.config import editing, load
from relayd.config.editing import MOST
from relayd.service.configthread import aside
from relayd.service.configuration import Configuration
from relayd.service.console import rules_desk
from tests.support import TestCase
from tests.unit.web.scene import Browser, Heard, Scene, reactor
from tests.unit.web.test_pages import read

CONF = """\
hostname gw.example.com
spool    ../spool
console  may edit
console  listen unix:/run/relayd/console.sock
include  rules.d/*.rules
include  customers/*.rules scoped
"""
SITE = """\
next-hop inside smtp 127.0.0.1:2526
next-hop other smtp 127.0.0.1:2527

accept to info@example.com
route any via inside
"""
OTHER = SITE.replace("route any via inside", "route any via other")
WRONG = SITE.replace("via inside", "vai inside")
FILE = "rules.d/10-site.rules"


class RulesScene(Scene, TestCase):
    def setUp(self) -> None:
        super().setUp()
        conf = self.folder / "conf"
        (conf / "rules.d").mkdir(parents=True)
        (conf / "customers").mkdir()
        self.conf = conf / "relayd.conf"
        self.conf.write_text(CONF)
        self.site = conf / FILE
        self.site.write_text(SITE)
        self.site.chmod(0o640)
        self.configuration = Configuration(
            load(self.conf), aside(reactor, lambda: load(self.conf)), self.journal
        )
        self.commands._rules = rules_desk(
            reactor, self.configuration, self.conf, self.reload, self.journal
        )
        self.console._edits = True

    async def reload(self) -> str:
        return await self.configuration.reload()

    def form(self, browser: Browser, command: str, text: str = "", **said: str) -> dict[str, str]:
        # browsers end lines so
        return {"token": browser.token, "command": command, "file": FILE,
                "text": text.replace("\n", "\r\n"), "since": "86400", **said}  # fmt: skip

    async def opened(self, name: str = "ada", **said: str) -> tuple[Browser, str]:
        """An administrator before the file, and the version that he sees."""
        browser = self.browser()
        await browser.log_in(name)
        heard = await browser.ask(f"/rules?file={FILE}")
        self.assertEqual(heard.status, 200, heard.text)
        return browser, heard.text.partition('name="version" value="')[2].partition('"')[0]

    def events(self) -> list[tuple[str, str]]:
        return [
            (facts["command"], facts["by"])
            for event, facts in self.journal.notices
            if event == "operator"
        ]

    async def call(self, path: str, role: str = "admin", **said: object) -> Heard:
        token = getattr(self, f"_{role}", "") or self.token_of(role, role)
        setattr(self, f"_{role}", token)
        return await self.browser().ask(
            f"/api/1{path}", body=json.dumps(said).encode() if said else None,
            kind="application/json", authorization=f"Bearer {token}",
        )  # fmt: skip


class RulesScreen(RulesScene):
    async def test_it_is_off_unless_the_configuration_says_may_edit(self) -> None:
        self.console._edits = False
        self.commands._rules = None
        browser = self.browser()
        await browser.log_in("ada")
        page = await browser.ask("/health")
        self.assertNotIn('href="/rules"', page.text)
        self.assertEqual((await browser.ask("/rules")).status, 404)
        for path in ("/rules", "/rules/check"):
            heard = await browser.ask(path, self.form(browser, "activate", OTHER))
            self.assertEqual(heard.status, 404)
        heard = await self.call("/rules/activate", file=FILE, text=OTHER, version="x")
        self.assertEqual((heard.status, "console may edit" in heard.text), (404, True))
        self.assertEqual(self.site.read_text(), SITE)

    async def test_the_files_in_force_and_one_of_them_as_it_is(self) -> None:
        browser, _ = await self.opened()
        heard = await browser.ask("/rules")
        self.assertIn('href="/rules"', heard.text)
        for name in ("relayd.conf", FILE):
            self.assertIn(name, read(heard.text).text)
        self.site.write_text("# <b>&amp;</textarea>\n\t\n" + SITE)
        heard = await browser.ask(f"/rules?file={FILE}")
        self.assertIn(self.site.read_text(), read(heard.text).text)

    async def test_a_complaint_as_one_types_with_its_caret_at_its_place(self) -> None:
        browser, _ = await self.opened()
        heard = await browser.ask("/rules/check", self.form(browser, "", WRONG))
        said = read(heard.text).text
        self.assertEqual(heard.status, 200)
        self.assertIn("line 5, column 11: ", said)
        self.assertIn("    route any vai inside\n              ^^^", said)
        self.assertNotIn("<html", heard.text)  # a piece of the page
        heard = await browser.ask("/rules/check", self.form(browser, "", OTHER))
        self.assertIn("This is good.", heard.text)
        heard = await browser.ask("/rules", self.form(browser, "check", WRONG))  # without scripts
        self.assertIn("              ^^^", read(heard.text).text)
        self.assertIn("vai inside", heard.text)
        # an expect that fails is a complaint, and one of a file that this one does not fit
        text = SITE + "expect from 203.0.113.9 to info@example.com -> reject 550\n"
        heard = await browser.ask("/rules/check", self.form(browser, "", text))
        self.assertIn("line 6", heard.text)
        self.assertEqual(self.site.read_text(), SITE)
        self.assertEqual(self.events(), [])

    async def test_activate_writes_puts_in_force_and_back_takes_it_back(self) -> None:
        browser, version = await self.opened()
        before = self.configuration.settings.ruleset.hash
        heard = await browser.ask("/rules", self.form(browser, "activate", OTHER, version=version))
        self.assertEqual(
            (heard.status, heard.field("location")),
            (303, "/rules?file=rules.d%2F10-site.rules&done=activate"), heard.text,
        )  # fmt: skip
        self.assertEqual(self.site.read_text(), OTHER)
        self.assertEqual(stat.S_IMODE(self.site.stat().st_mode), 0o640)
        self.assertEqual([each.name for each in self.site.parent.iterdir()], ["10-site.rules"])
        kept_in = next(self.folder.rglob(editing.FOLDER))
        modes = {stat.S_IMODE(each.stat().st_mode) for each in (kept_in, *kept_in.iterdir())}
        self.assertEqual(modes, {0o700})  # others may pass through a spool with a drop folder
        after = self.configuration.settings.ruleset.hash
        self.assertNotEqual(after, before)
        heard = await browser.ask(heard.field("location"))
        self.assertIn("It is in force.", heard.text)
        version = heard.text.partition('name="version" value="')[2].partition('"')[0]
        kept = heard.text.partition('name="kept" value="')[2].partition('"')[0]
        self.assertTrue(kept.isdecimal(), heard.text)
        heard = await browser.ask(f"/rules?file={FILE}&kept={kept}")
        self.assertIn("route any via inside", heard.text)
        heard = await browser.ask("/rules", self.form(browser, "back", kept=kept, version=version))
        self.assertEqual(heard.status, 303, heard.text)
        self.assertEqual(self.site.read_text(), SITE)
        self.assertEqual(self.configuration.settings.ruleset.hash, before)
        self.assertEqual(
            self.events(), [("rules activate", "console:ada"), ("rules back", "console:ada")]
        )

    async def test_two_administrators_do_not_overwrite_each_other(self) -> None:
        (ada, seen_by_ada), (eve, seen_by_eve) = await self.opened(), await self.opened()
        heard = await eve.ask("/rules", self.form(eve, "activate", OTHER, version=seen_by_eve))
        self.assertEqual(heard.status, 303)
        mine = SITE + "# of mine\n"
        for _ in range(2):  # pressing it again helps as little
            heard = await ada.ask("/rules", self.form(ada, "activate", mine, version=seen_by_ada))
            self.assertEqual(heard.status, 409)
            said = read(heard.text).text
            self.assertIn("has been changed by console:ada since you have opened it", said)
            self.assertIn("nothing was done", said)
            self.assertIn("# of mine", said)  # what was written is not lost
            found = heard.text.partition('name="version" value="')[2].partition('"')[0]
            self.assertEqual(found, seen_by_ada)
        heard = await ada.ask("/rules", self.form(ada, "back", version=seen_by_ada))
        self.assertEqual(heard.status, 409)
        self.assertEqual(self.site.read_text(), OTHER)
        # nor anybody with an editor
        ada, version = await self.opened()
        self.site.write_text(OTHER + "# by hand\n")
        heard = await ada.ask("/rules", self.form(ada, "activate", mine, version=version))
        self.assertEqual(heard.status, 409)
        self.assertIn("# by hand", self.site.read_text())
        heard = await ada.ask("/rules", self.form(ada, "activate", mine))
        self.assertEqual(heard.status, 400)

    async def test_an_editor_that_saves_while_it_is_checked_is_not_overwritten(self) -> None:
        """Nor does one who takes the file away for a moment, as some do when they save."""
        desk: Any = self.commands._rules
        checked, here = desk._checked, self.site.with_suffix(".bak")

        async def slowly(*asked: Any) -> Any:  # noqa: ANN401
            found = await checked(*asked)
            steps.pop()()
            return found

        desk._checked = slowly
        steps: list[Callable[[], object]] = []
        for step, said in (
            (lambda: self.site.write_text(SITE[:40]), "has been changed meanwhile"),
            (lambda: self.site.rename(here), "No such file or directory"),
        ):
            steps.append(step)
            browser, version = await self.opened()
            form = self.form(browser, "activate", OTHER, version=version)
            heard = await browser.ask("/rules", form)
            if here.exists():
                here.rename(self.site)
            else:
                self.assertEqual((heard.status, self.site.read_text()), (409, SITE[:40]))
                self.site.write_text(SITE)
            self.assertIn(heard.status, (400, 409), heard.text)
            self.assertIn(said, heard.text)
            self.assertEqual(self.site.read_text(), SITE)
        answer = json.loads((await self.call("/rules")).text)
        self.assertEqual({each["by"] for each in answer["files"]}, {""}, "nobody has changed it")

    async def test_nobody_is_waited_for_at_the_other_end_of_a_pipe(self) -> None:
        self.site.unlink()
        os.mkfifo(self.site)
        heard = await self.call(f"/rules/text?file={FILE}")
        self.assertEqual(heard.status, 400)
        self.assertIn("no regular file", heard.text)

    async def test_what_is_wrong_is_never_written_nor_what_a_browser_would_change(self) -> None:
        browser, version = await self.opened()
        for text, status in (
            (WRONG, 409), (SITE + "# \u202e\n", 400), (SITE + "\0\n", 400),
            (SITE + "#" * MOST, 400),
        ):  # fmt: skip
            form = self.form(browser, "activate", text, version=version)
            heard = await browser.ask("/rules", form)
            self.assertEqual(heard.status, status, repr(text[-9:]))
            self.assertEqual(self.site.read_text(), SITE)
        self.site.write_bytes(b"# gr\xfc\xdfe\n" + SITE.encode())
        heard = await browser.ask(f"/rules?file={FILE}")
        self.assertIn("not UTF-8", heard.text)
        self.assertEqual(self.events(), [])

    async def test_lines_that_end_with_cr_lf_still_do(self) -> None:
        self.site.write_bytes(SITE.replace("\n", "\r\n").encode())
        browser, version = await self.opened()
        heard = await browser.ask("/rules", self.form(browser, "activate", OTHER, version=version))
        self.assertEqual(heard.status, 303)
        self.assertEqual(self.site.read_bytes(), OTHER.replace("\n", "\r\n").encode())

    async def test_where_the_reload_refuses_the_file_is_again_as_it_was(self) -> None:
        browser, version = await self.opened()
        answers = ["another file has become wrong", ""]

        async def reload() -> str:
            complaint = answers.pop(0)
            self.refused = bool(complaint)
            return complaint

        desk: Any = self.commands._rules
        desk._reload, desk._refused = reload, lambda: self.refused
        heard = await browser.ask("/rules", self.form(browser, "activate", OTHER, version=version))
        self.assertEqual((heard.status, answers), (409, []))
        self.assertIn("another file has become wrong", heard.text)
        self.assertEqual(self.site.read_text(), SITE)
        self.assertEqual([command for command, _ in self.events()],
                         ["rules activate", "rules undone"])  # fmt: skip

    async def test_a_scoped_file_with_a_mistake_is_not_activated_either(self) -> None:
        customer = self.conf.parent / "customers" / "example.net.rules"
        good = "forward info@example.net -> bob@example.com\n"
        customer.write_text(good)
        self.assertEqual(await self.reload(), "")
        browser, _ = await self.opened()
        form = self.form(browser, "check", "forwrad info@example.net -> x@example.com\n")
        form["file"] = "customers/example.net.rules"
        heard = await browser.ask("/rules", form)
        self.assertIn("line 1, column 1: ", read(heard.text).text)
        self.assertEqual(customer.read_text(), good)

    async def test_only_administrators_see_and_change_them_and_by_our_own_forms(self) -> None:
        for name in ("viv", "olga"):
            browser = self.browser()
            await browser.log_in(name)
            page = await browser.ask("/queue")
            self.assertNotIn('href="/rules"', page.text)
            await browser.ask("/health")
            browser.token = browser.token or page.token
            for path in ("/rules", f"/rules?file={FILE}"):
                self.assertEqual((await browser.ask(path)).status, 403)
            for path, command in (("/rules", "activate"), ("/rules", "replay"), ("/rules", "check"),
                                  ("/rules", "back"), ("/rules/check", "")):  # fmt: skip
                form = self.form(browser, command, OTHER, version="x")
                self.assertEqual((await browser.ask(path, form)).status, 403, command)
        browser, version = await self.opened()
        form = self.form(browser, "activate", OTHER, version=version)
        heard = await browser.ask("/rules", form, origin="https://evil.example")
        self.assertEqual(heard.status, 403)
        heard = await browser.ask("/rules", form, sec_fetch_site="cross-site")
        self.assertEqual(heard.status, 403)
        self.assertEqual((await browser.ask("/rules", {**form, "token": "x"})).status, 403)
        self.assertEqual((await browser.ask("/rules/check", {**form, "token": ""})).status, 403)
        for role in ("viewer", "operator"):
            for path in ("/rules/check", "/rules/replay", "/rules/activate", "/rules/back"):
                heard = await self.call(path, role, file=FILE)
                self.assertEqual(heard.status, 403)
            self.assertEqual((await self.call(f"/rules/text?file={FILE}", role)).status, 403)
        self.assertEqual(self.site.read_text(), SITE)

    async def test_no_other_file_is_looked_at(self) -> None:
        (self.folder / "secret").write_text("secret words\n")
        browser, version = await self.opened()
        for name in ("../secret", "../../secret", "/etc/passwd", str(self.folder / "secret"),
                     "rules.d/../../../secret", "rules.d/10-site.rules\0", ""):  # fmt: skip
            form = {**self.form(browser, "activate", OTHER, version=version), "file": name}
            heard = await browser.ask("/rules", form)
            self.assertEqual(heard.status, 400, name)
            self.assertNotIn("secret words", heard.text)
            heard = await self.call(f"/rules/text?file={name}".replace("\0", "%00"))
            self.assertEqual(heard.status, 400)
        for kept in ("../../x", "0" * 16, "x"):
            heard = await self.call(f"/rules/text?file={FILE}&kept={kept}")
            self.assertEqual(heard.status, 400)

    async def test_the_api_does_the_same_and_says_it_twice_alike(self) -> None:
        found = json.loads((await self.call("/rules")).text)
        self.assertEqual([each["file"] for each in found["files"]], ["relayd.conf", FILE])
        there = json.loads((await self.call(f"/rules/text?file={FILE}")).text)
        self.assertEqual((there["text"], there["kept"]), (SITE, []))
        found = json.loads((await self.call("/rules/check", file=FILE, text=WRONG)).text)
        (problem,) = found["problems"]
        self.assertEqual((problem["file"], problem["line"], problem["column"], problem["width"]),
                         (FILE, 5, 11, 3))  # fmt: skip
        heard = await self.call("/rules/activate", file=FILE, text=WRONG, version=there["version"])
        self.assertEqual((heard.status, heard.field("content-type")),
                         (409, "application/problem+json"))  # fmt: skip
        first, again = [
            await self.call("/rules/activate", file=FILE, text=OTHER, version=there["version"])
            for _ in range(2)
        ]
        self.assertEqual((first.status, again.status), (200, 200))
        found = json.loads(first.text)
        self.assertEqual(found, json.loads(again.text))
        heard = await self.call("/rules/activate", file=FILE, text=SITE, version=there["version"])
        self.assertEqual(heard.status, 409)
        heard = await self.call("/rules/back", file=FILE, version=found["version"])
        self.assertEqual(heard.status, 200, heard.text)
        self.assertEqual(self.site.read_text(), SITE)
        self.assertEqual(self.events()[-1], ("rules back", "token:admin"))
