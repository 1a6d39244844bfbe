"""The console in Debian's Chromium: how it looks, what it logs, whom it shuts out.

RELAYD_PICTURES names a folder that keeps what was drawn.
"""

from __future__ import annotations

import atexit
import functools
import os
import tempfile
from collections.abc import Iterator
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

from relayd.login import users
from relayd.login.roles import Role
from relayd.login.scram import Verifier
from relayd.login.users import Seat
from relayd.web.pages import SCREENS
from tests.certs import Authority
from tests.hostile import hostile
from tests.ports import free_port
from tests.scenarios.browser import Chromium, Page
from tests.scenarios.harness import Relayd, Scenario, wait_until
from tests.sink import Asked, Sink

PASSWORD = "correct horse"
RULES = """\
accept  to @example.com
accept  to @busy.example
route   any via out
"""
# what has the focus, and whether one sees it
FOCUS = """(() => {
  const it = document.activeElement, drawn = getComputedStyle(it);
  const seen = drawn.outlineStyle !== 'none' && parseFloat(drawn.outlineWidth) >= 2;
  const words = (it.getAttribute('aria-label') || it.innerText || it.value || '').trim();
  return [it.tagName.toLowerCase(), words, it.name || '', seen];
})()"""
STOPS = "document.querySelectorAll('a[href],input,select,button,[tabindex]').length"


def letter(number: int) -> bytes:
    """With a text, a table and a picture's octets in it."""
    message = EmailMessage()
    message["From"] = "Ann <ann@sender.example>"
    message["To"] = "info@example.com"
    message["Subject"] = f"Order {number} \u2013 <b>three</b> boxes"
    message["Message-ID"] = f"<{number}@sender.example>"
    message.set_content("Good morning,\n\n<script>alert(1)</script> is how it began.\n")
    message.add_attachment("a,b\n1,2\n", subtype="csv", filename="a <b>.csv")
    message.add_attachment(bytes(range(256)) * 40, "image", "png", filename="Größe.png")
    return message.as_bytes(policy=SMTP)


def answer(asked: Asked) -> str | None:
    """The next hop's, which is too busy for some, and says so in words of strangers."""
    number = asked.argument.partition("@")[0].strip("<").removeprefix("h")
    if asked.stage == "rcpt" and number.isdecimal():
        words = hostile()[int(number)].encode("ascii", "replace").decode()[:400]
        return "451 4.3.2 " + "".join(each if each.isprintable() else "?" for each in words)
    busy = asked.stage == "rcpt" and asked.argument.endswith("@busy.example")
    return "451 4.3.2 too busy <now>, come again" if busy else None


@functools.cache
def chromium() -> Chromium:
    """One for all tests: it takes a while to start."""
    profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    started = Chromium(Path(profile.name))
    atexit.register(profile.cleanup)
    atexit.register(started.close)
    return started


class InChromium(Scenario):
    needs = ("chromium", "axe")
    chromium: Chromium
    url: str
    idents: list[str]

    def setUp(self) -> None:
        super().setUp()
        self.chromium = chromium()
        self.chromium.begin_anew()
        sink = Sink(answer)
        sink.__enter__()
        self.addCleanup(sink.__exit__, None, None, None)
        self.relay = self.gateway(sink.port)
        self.idents = [
            self.relay.send("ann@sender.example", [to], letter(number))
            for number, to in enumerate(
                ["info@example.com", "slow@busy.example", "late@busy.example", "last@busy.example"]
            )
        ]
        for each in self.idents:
            self.relay.settled(each)
        wait_until(lambda: "too busy" in self.relay.ctl("queue").stdout, "some waits")

    def gateway(self, port: int) -> Relayd:
        place = free_port()
        self.url = f"https://localhost:{place}"
        relay = self.relayd(
            f"next-hop out smtp 127.0.0.1:{port}\ntable people users file people\n{RULES}",
            settings=f"console listen 127.0.0.1:{place} auth people\n"
            "console may edit\ncertificate tls.pem key tls.key\nretry 1h\n",
            start=False,
        )
        folder = relay.config.parent
        Authority().issue("localhost").write(folder, "tls")
        (folder / "tls.key").chmod(0o600)
        verifier = Verifier.of(PASSWORD, iterations=4096)
        users.write(folder / "people", users.with_user([], "ada", verifier, Seat(Role.ADMIN)))
        return relay.start()

    def paths(self) -> Iterator[tuple[str, str]]:
        """Each screen, and what stands behind it, with something in it."""
        asked = {"/trace": "?sender=ann", "/explain": "?recipient=info@example.com"}
        for path, name in SCREENS.items():
            yield name.lower(), path + asked.get(path, "")
        yield "message", f"/message/{self.idents[1]}"
        yield "finished", f"/message/{self.idents[0]}"
        yield "file", "/rules?file=relayd.conf"

    def log_in(self, page: Page) -> None:
        """By keyboard, as everything here."""
        page.open(f"{self.url}/login")
        self.go_to(page, "name")
        page.write("ada")
        self.go_to(page, "password")
        page.write(PASSWORD)
        self.assertIn("Log out", self.press_button(page, "Log in"))

    def go_to(self, page: Page, what: str) -> None:
        """With Tab, to what has this name or these words; the focus is seen at every stop."""
        for _ in range(int(page.value(STOPS)) + 2):
            page.press("Tab")
            tag, words, name, seen = page.value(FOCUS)
            if tag != "body":
                self.assertTrue(seen, f"no focus is seen at {tag} {words or name}")
            if what in (words, name):
                return
        raise AssertionError(f"no way by Tab to {what}: {page.value('document.body.innerText')}")

    def press_button(self, page: Page, what: str) -> str:
        """By keyboard; the text of the page that comes."""
        self.go_to(page, what)
        page.press("Enter", loads=True)
        return str(page.value("document.body.innerText"))

    def keep(self, page: Page, name: str) -> None:
        if folder := os.environ.get("RELAYD_PICTURES"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            Path(folder, f"{name}.png").write_bytes(page.picture())


class Looks(InChromium):
    def test_every_screen_light_and_dark_narrow_and_wide_with_and_without_scripts(self) -> None:
        page = self.chromium.page()
        page.looks(1600)
        page.open(f"{self.url}/login")
        self.keep(page, "login")
        self.assertEqual(page.violations(), [])
        self.log_in(page)
        for name, path in self.paths():
            for width, dark in ((1600, False), (400, True), (400, False), (1600, True)):
                page.looks(width, dark=dark)
                page.open(self.url + path)
                shown = f"{name}-{width}-{'dark' if dark else 'light'}"
                with self.subTest(shown):
                    self.keep(page, shown)
                    wide = page.value("document.documentElement.scrollWidth")
                    self.assertLessEqual(wide, width, "it is wider than the screen")
                    if (width, dark) in ((1600, False), (400, True)):
                        self.assertEqual(page.violations(), [])
                if (width, dark) == (1600, False):
                    whole = page.value("document.querySelector('main').innerText")
            page.looks(1600, scripts=False)
            page.open(self.url + path)
            with self.subTest(name, scripts=False):
                without = page.value("document.querySelector('main').innerText")
                lines = {*without.splitlines()} | {""}
                # ages and the moment change from one page to the next
                missing = [
                    each for each in whole.splitlines()
                    if each not in lines and not any(figure in each for figure in "0123456789")
                ]  # fmt: skip
                self.assertLessEqual(
                    {*missing}, {"Accepted Refused Delivered Deferred Bounced per second"}
                )
        self.assertEqual(page.complaints(), [])

    def test_the_keyboard_alone_does_every_action(self) -> None:
        page = self.chromium.page()
        page.looks(1600)
        self.log_in(page)
        page.open(f"{self.url}/queue")
        page.press("Tab")
        self.keep(page, "skip")
        self.assertEqual(page.value(FOCUS)[1], "Skip to the content")
        page.press("Enter")
        page.press("Tab")
        self.assertTrue(
            page.value("document.querySelector('main').contains(document.activeElement)")
        )
        for button, told in (("Hold", "held"), ("Release", "released"), ("Retry now", "due now")):
            page.open(f"{self.url}/queue")
            self.go_to(page, f"Choose {self.idents[1]}")
            page.press(" ")
            self.assertIn(f"1 recipient {told}", self.press_button(page, button))
        page.open(f"{self.url}/message/{self.idents[2]}")
        self.assertIn("Remove 1 message?", self.press_button(page, "Remove"))
        self.assertEqual(page.violations(), [])
        self.keep(page, "remove")
        self.press_button(page, "Remove")
        self.assertNotIn(self.idents[2], self.relay.ctl("queue").stdout)
        other = "next-hop other smtp 127.0.0.1:1\nroute to @busy.example via other\n"
        text = self.relay.config.read_text()
        self.relay.config.write_text(text.replace("route   any", f"{other}route   any"))
        page.open(f"{self.url}/health")
        told = self.press_button(page, "Put what is on disk in force")
        self.assertIn("The configuration is in force.", told)
        page.open(f"{self.url}/queue")
        self.go_to(page, f"Choose {self.idents[3]}")
        page.press(" ")
        self.assertIn("1 recipient sent another way", self.press_button(page, "Reroute"))
        self.go_to(page, "whom")
        page.write("other")
        self.go_to(page, "seconds")
        page.press("ArrowDown")
        self.assertEqual(page.value("document.activeElement.value"), "3600")
        self.assertIn("1 suspension suspended", self.press_button(page, "Suspend"))
        self.assertIn("other", self.relay.ctl("suspended").stdout)
        told = self.press_button(page, "Resume destination other")
        self.assertIn("1 suspension resumed", told)
        self.go_to(page, "recipient")
        page.write("last@busy.example")
        self.assertNotIn("slow@busy.example", self.press_button(page, "Show"))
        page.open(f"{self.url}/explain")
        self.go_to(page, "recipient")
        page.write("last@busy.example")
        self.assertIn("other", self.press_button(page, "Explain"))
        page.open(f"{self.url}/trace")
        self.go_to(page, "recipient")
        page.write("info@example.com")
        self.assertIn("delivered", self.press_button(page, "Find"))
        self.assertIn("Log in", self.press_button(page, "Log out"))
        self.assertEqual(page.complaints(), [])

    def test_the_keyboard_alone_changes_the_rules_and_hears_of_mistakes_while_it_types(
        self,
    ) -> None:
        page = self.chromium.page()
        page.looks(1600)
        self.log_in(page)
        page.open(f"{self.url}/rules")
        self.go_to(page, "relayd.conf")
        page.press("Enter", loads=True)
        before = self.relay.config.read_text()
        said = "document.querySelector('#said').innerText"
        self.go_to(page, "text")
        page.write("x")
        wait_until(lambda: "line 1, column 1" in page.value(said), "it complains")
        self.assertIn("\n    ^", page.value(said))
        self.keep(page, "rules-complaint")
        self.assertEqual(page.violations(), [])
        page.press("Backspace")
        page.write("# by keyboard\n")
        wait_until(lambda: "This is good." in page.value(said), "it is content")
        self.assertIn("nothing changes", self.press_button(page, "Replay"))
        self.assertEqual(page.violations(), [])
        self.keep(page, "rules-replay")
        self.assertEqual(self.relay.config.read_text(), before)
        self.assertIn("It is in force.", self.press_button(page, "Activate"))
        self.assertEqual(self.relay.config.read_text(), f"# by keyboard\n{before}")
        self.assertEqual(page.violations(), [])
        page.looks(400, dark=True)
        self.keep(page, "rules-400-dark")
        back = page.value("document.querySelector('button[value=back]').ariaLabel")
        self.assertIn("in force again", self.press_button(page, back))
        self.assertEqual(self.relay.config.read_text(), before)
        self.assertEqual(page.complaints(), [])
