"""The console as relayd builds it: its places, its users, its certificate, and who is missing."""

from __future__ import annotations

import subprocess
import sys

from twisted.internet.defer import Deferred

from relayd.config import Settings, load
from relayd.login import users
from relayd.login.scram import Verifier
from relayd.service.configuration import Configuration
from relayd.service.console import ConsoleService
from tests.certs import Authority
from tests.ports import free_port
from tests.support import TestCase
from tests.unit.web.scene import PASSWORD, PEOPLE, Scene, reactor


class ConsoleTests(Scene, TestCase):
    def settings(self, *places: str) -> Settings:
        Authority().issue("127.0.0.1").write(self.folder, "tls")
        (self.folder / "tls.key").chmod(0o600)
        lines: list[str] = []
        for name, seat in PEOPLE.items():
            lines = users.with_user(lines, name, Verifier.of(PASSWORD, iterations=4096), seat)
        users.write(self.folder / "people", lines)
        conf = self.folder / "relayd.conf"
        conf.write_text(
            "hostname gw.example.com\ncertificate tls.pem key tls.key\n"
            "table people users file people\n"
            + "".join(f"console listen {place}\n" for place in places)
        )
        return load(conf)

    def start(self, *places: str) -> ConsoleService:
        settings = self.settings(*places)
        configuration = Configuration(settings, Deferred, self.journal)
        service = ConsoleService(reactor, configuration, self.journal, self.tokens)
        service.start(self.commands, self.guesses)

        async def stop() -> None:
            service.stop()
            for port in service.ports():
                stopped = port.stopListening()
                if isinstance(stopped, Deferred):
                    await stopped

        self.addCleanup(lambda: Deferred.fromCoroutine(stop()))
        return service

    async def test_who_is_in_the_users_file_logs_in_with_what_the_file_says_he_may(self) -> None:
        self.start(f"unix:{self.folder}/own auth people", f"unix:{self.folder}/bare")
        browser = self.browser("own")
        self.assertEqual((await browser.log_in("olga")).status, 303)
        self.assertIn(">olga (operator)", (await browser.ask("/trace")).text)
        self.assertEqual((await self.browser("own").log_in("tom")).status, 403)  # no code
        bare = await self.browser("bare").ask("/trace")
        self.assertIn("(admin)", bare.text)
        self.assertEqual((await self.browser("bare").ask("/login")).status, 404)

    def test_a_place_that_cannot_be_had_is_said_and_stops_nothing(self) -> None:
        other = reactor.listenTCP(0, self.sites["people"], interface="127.0.0.1")
        self.addCleanup(other.stopListening)
        taken = other.getHost().port
        service = self.start(
            f"127.0.0.1:{taken} auth people", "unix:/nowhere/at/all", f"unix:{self.folder}/own",
            f"127.0.0.1:{free_port()} auth people",
        )  # fmt: skip
        self.assertEqual(len(service.ports()), 2)
        first, second = service.missing
        self.assertIn(f"console 127.0.0.1:{taken}: ", first)
        self.assertIn("console unix:/nowhere/at/all: ", second)
        events = [event for event, _ in self.journal.troubles]
        self.assertEqual(events.count("console not listening"), 2)

    def test_nothing_of_it_is_loaded_where_nobody_has_said_console(self) -> None:
        script = (
            "import sys, relayd.service.app\n"
            "sys.exit([each for each in sys.modules if each.startswith('relayd.web')] or 0)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
