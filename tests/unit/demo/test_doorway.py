"""The demonstration's way to the console, and the configuration that it runs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred
from twisted.web.client import Agent, HTTPConnectionPool, readBody

from relayd.config import load
from relayd.demo.__main__ import configuration
from relayd.demo.doorway import Doorway
from tests.support import TestCase
from tests.unit.web.scene import Scene

reactor: Any = the_reactor


class DoorwayTests(Scene, TestCase):
    async def test_a_browser_reaches_the_console(self) -> None:
        port = reactor.listenTCP(0, Doorway(self.folder / "admin"), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        agent = Agent(reactor, pool=HTTPConnectionPool(reactor, persistent=False))
        heard = await agent.request(
            b"GET", f"http://127.0.0.1:{port.getHost().port}/queue".encode()
        )
        body = await readBody(heard)
        self.assertEqual(heard.code, 200)
        self.assertIn(b"<h1>Queue</h1>", body)
        nothing: Deferred[None] = Deferred()  # both ends are to be gone
        reactor.callLater(0, nothing.callback, None)
        await nothing

    def test_what_it_runs_is_the_default_with_a_console_and_one_mailbox_that_is_held(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "relayd.conf").write_text(configuration(folder))
            settings = load(folder / "relayd.conf")
        self.assertEqual([str(each.place.path) for each in settings.console_places],
                         [f"{folder}/console.sock"])  # fmt: skip
        self.assertEqual(settings.spool, folder / "spool")
