"""Replay beside a running relayd: what was accepted, and what was refused, under other rules."""

from __future__ import annotations

import json

from tests.scenarios.harness import Scenario, wait_until
from tests.sink import Sink

RULES = """\
next-hop sink smtp 127.0.0.1:{}
accept to @example.com
forward info@example.com -> alice@example.net, bob@example.net
route any via sink
"""


class ReplayTest(Scenario):
    def test_beside_the_daemon_and_without_it(self) -> None:
        with Sink() as sink:
            rules = RULES.format(sink.port)
            relay = self.relayd(rules)
            for _ in range(3):
                relay.send("a@b.example", ["info@example.com", "carol@example.com"])
            with relay.session() as client:
                client.ehlo("client.example")
                client.mail("a@b.example")
                self.assertEqual(client.rcpt("dave@example.org")[0], 550)
            sink.wait(3)
        new = relay.folder / "new.conf"
        text = relay.config.read_text()
        new.write_text(text)
        same = relay.ctl("replay", str(new))
        wait_until(
            lambda: "7 envelopes" in relay.ctl("replay", str(new)).stdout,
            f"the refusal is in the journal\n{same.stdout}{same.stderr}",
        )
        self.assertIn("nothing changes", same.stdout)
        fresh = text.replace("accept to", "reject to carol@example.com\naccept to @example.org\n"
                             "accept to").replace(", bob@", ", eve@")  # fmt: skip
        new.write_text(fresh)
        for running in (True, False):
            if not running:
                relay.stop()
            done = relay.ctl("replay", str(new), "--json", check=False)
            self.assertEqual(done.returncode, 1, done.stderr)
            found = json.loads(done.stdout)
            self.assertEqual(
                {each["recipient"]: (each["kind"], each["count"]) for each in found["changes"]},
                {
                    "info@example.com": ("mailbox", 3),
                    "carol@example.com": ("refused", 3),
                    "dave@example.org": ("accepted", 1),
                },
            )
        text = relay.ctl("replay", str(new), check=False).stdout
        self.assertIn("1 recipient goes to other mailboxes, 1 would be refused, 1 would be", text)
        self.assertIn("by    new.conf:", text)
        self.assertEqual(relay.ctl("replay", "/nowhere.conf", check=False).returncode, 2)
