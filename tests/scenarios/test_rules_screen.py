"""The screen Rules of a relayd with two workers: what is activated is in force in all of them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.scenarios.harness import wait_until
from tests.scenarios.test_console import RULES, ConsoleScenario, Visitor
from tests.sink import Sink

VERSION = re.compile(r'name="version" value="([0-9a-f]+)"')
FILE = "rules.d/10-site.rules"
REFUSING = RULES.replace("accept", 'refuse to late@example.com "550 5.1.1 gone"\naccept', 1)


class RulesScreen(ConsoleScenario):
    def prepare(self) -> None:
        """The rules in a file of their own, which may be changed at the console."""
        sink = Sink()
        sink.__enter__()
        self.addCleanup(sink.__exit__, None, None, None)
        conf = self.relay.config
        self.site = conf.parent / FILE
        self.site.parent.mkdir()
        self.text = f"next-hop out smtp 127.0.0.1:{sink.port}\n{RULES}"
        self.site.write_text(self.text)
        kept = [
            line
            for line in conf.read_text().splitlines()
            if not line.startswith(("next-hop", "accept", "route"))
        ]
        conf.write_text("\n".join([*kept, "console may edit", "include rules.d/*.rules", ""]))

    def setUp(self) -> None:
        super().setUp()
        self.ada = self.visitor("socket")

    def press(self, visitor: Visitor, command: str, text: str, **said: str) -> tuple[int, str]:
        form = {"token": visitor.token, "command": command, "file": FILE, "since": "86400",
                "text": text.replace("\n", "\r\n"), **said}  # fmt: skip
        answer = visitor.ask("/rules", form)
        return answer.status, answer.text

    def version(self, visitor: Visitor) -> str:
        found = VERSION.search(visitor.ask(f"/rules?file={FILE}").text)
        assert found is not None
        return found[1]

    def replies(self, to: str) -> set[int]:
        """What several connections hear: they are spread over the workers."""
        found = set()
        for _ in range(8):
            with self.relay.session() as session:
                session.ehlo("client.example")
                session.mail("ann@sender.example")
                found.add(session.rcpt(to)[0])
        return found

    def test_check_replay_activate_and_go_back_in_two_workers(self) -> None:
        self.relay.send("ann@sender.example", ["late@example.com"])
        visitor, version = self.ada, self.version(self.ada)
        text = self.text.replace("accept", 'reject to late@example.com 550 "gone"\naccept', 1)
        status, said = self.press(visitor, "check", text.replace("reject", "rejcet"))
        self.assertIn("rejcet to late@example.com", said)
        self.assertIn("\n    ^^^^^^", said)
        status, said = self.press(visitor, "replay", text, version=version)
        self.assertEqual(status, 200, said)
        self.assertIn("1 recipient would be refused", said)
        self.assertIn("late@example.com", said)
        self.assertEqual(self.site.read_text(), self.text)  # nothing is activated yet
        self.assertEqual(self.replies("late@example.com"), {250})
        status, said = self.press(visitor, "activate", text, version=version)
        self.assertEqual(status, 303, said)
        self.assertEqual(self.site.read_text(), text)
        self.assertEqual(self.replies("late@example.com"), {550})
        # another administrator, who still has the text of before
        status, said = self.press(visitor, "activate", self.text + "# mine\n", version=version)
        self.assertEqual(status, 409)
        self.assertIn("since you have opened it", said)
        status, said = self.press(visitor, "back", "", version=self.version(visitor))
        self.assertEqual(status, 303, said)
        self.assertEqual(self.site.read_text(), self.text)
        self.assertEqual(self.replies("late@example.com"), {250})
        wait_until(lambda: "rules back" in self.relay.log(400), "it is in the log")
        log = self.relay.log(400)
        for command in ("rules replay", "rules activate", "rules back"):
            self.assertRegex(log, f'command="{command}" by="console:uid=\\d+" file={FILE}')

    def test_what_was_activated_is_there_after_a_kill_and_so_is_the_way_back(self) -> None:
        version = self.version(self.ada)
        text = self.text + "# another line\n"
        self.assertEqual(self.press(self.ada, "activate", text, version=version)[0], 303)
        self.relay.kill()
        self.relay.start()
        self.ada = self.visitor("socket")
        page = self.ada.ask(f"/rules?file={FILE}").text
        self.assertIn("# another line", page)
        status, said = self.press(self.ada, "back", "", version=self.version(self.ada))
        self.assertEqual(status, 303, said)
        self.assertEqual(self.site.read_text(), self.text)
        left = [each.name for each in Path(self.site.parent).iterdir()]
        self.assertEqual(left, ["10-site.rules"])
