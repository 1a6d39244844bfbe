"""Quarantine: what rules hold is seen, learnt from, released or discarded, over all workers."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from tests.ports import free_port
from tests.scenarios.harness import Relayd, Scenario, wait_until
from tests.sink import Sink

RULES = """\
hold    to @example.com when field Subject "unclaimed" "spam?"
header  add X-Gateway "gw" when to bob@example.com
accept  to @example.com
route   any via out
expect  to ann@example.com when field Subject "unclaimed" -> hold
expect  to ann@example.com -> ann@example.com via out
"""
HEAD = (
    b"From: x@sender.example\r\nX-Spam-Training: ham\r\n  (says the sender)\r\n"
    b"Subject: unclaimed\r\n\r\n"
)
TO = ["ann@example.com", "bob@example.com"]


class Held(Scenario):
    def gateway(self, workers: int, port: int) -> Relayd:
        """With so many workers; its next hop need not be there."""
        relay = self.relayd(f"next-hop out smtp 127.0.0.1:{port}\n{RULES}", start=False)
        text = relay.config.read_text().replace("workers 1\n", f"workers {workers}\n")
        relay.config.write_text(text)
        return relay.start()

    def held(self, relay: Relayd) -> list[dict[str, Any]]:
        """As programs see it."""
        lines = relay.ctl("held", "--json").stdout.splitlines()
        return [json.loads(line) for line in lines]

    def send(self, relay: Relayd, sessions: int, body: bytes = b"x\r\n") -> list[str]:
        """As many messages, each over a session of its own; the IDs of what is held."""
        for _ in range(sessions):
            relay.send("x@sender.example", TO, HEAD + body)
        held = self.held(relay)
        self.assertEqual(len(held), sessions)
        return [each["id"] for each in held]

    def test_two_workers_show_release_and_discard(self) -> None:
        with Sink() as sink:
            relay = self.gateway(2, sink.port)
            plain, learnt, discarded, *more = self.send(relay, 8)
            told = relay.ctl("held").stdout
            self.assertEqual(told.count("Held by rule"), 16)
            self.assertIn('hold to @example.com "spam?" when field Subject', told)
            self.assertIn("    field subject unclaimed\n", told)
            first = self.held(relay)[0]
            self.assertEqual((first["sender"], first["size"] > 0), ("x@sender.example", True))
            self.assertLess(abs(first["since"] - time.time()), 600)
            shown = relay.ctl("held", "show", plain).stdout
            self.assertIn("fact  field subject unclaimed", shown)
            self.assertRegex(shown, r'relayd\.conf:\d+ +hold to @example\.com "spam\?"')
            self.assertIn("2 recipients released", relay.ctl("held", "release", plain).stdout)
            relay.ctl("held", "release", "--training", "spam", learnt)
            relay.ctl("held", "discard", discarded, "--note", "as it says")
            again = relay.ctl("held", "release", discarded, check=False)
            self.assertEqual((again.returncode, again.stdout), (1, "0 recipients released\n"))
            self.assertEqual([each["id"] for each in self.held(relay)], more)
            arrived = [each.content for each in sink.wait(4)]
            taught = [each for each in arrived if each.startswith(b"X-Spam-Training: spam\r\n")]
            self.assertEqual(len(taught), 2)
            for each in taught:
                self.assertEqual(each.count(b"X-Spam-Training"), 1)
                self.assertNotIn(b"says the sender", each)
            self.assertEqual(sum(b"\r\nX-Gateway: gw\r\n" in each for each in taught), 1)
            self.assertEqual(sum(b"(says the sender)" in each for each in arrived), 2)
            self.assertIn("as it says", relay.ctl("show", discarded).stdout)
            self.assertIn("command=release", relay.log())
            relay.ctl("held", "release", *more)
            sink.wait(14)
            relay.wait_empty()
            self.assertIn("clean", relay.ctl("audit").stdout)

    def test_who_holds_whom_is_told_and_released_by_recipient_or_by_rule(self) -> None:
        with Sink() as sink:
            rules = RULES.replace(
                'hold    to @example.com when field Subject "unclaimed" "spam?"',
                'hold    to ann@example.com when field Subject "unclaimed" "spam?"\n'
                'hold    to bob@example.com when field Subject "unclaimed" "for Bob"',
            )
            relay = self.relayd(f"next-hop out smtp 127.0.0.1:{sink.port}\n{rules}", start=False)
            text = relay.config.read_text().replace("workers 1\n", "workers 2\n")
            relay.config.write_text(text)
            relay.start()
            for _ in range(4):
                relay.send("x@sender.example", [*TO, "carl@example.com"], HEAD + b"x\r\n")
            held = self.held(relay)
            self.assertEqual(len(held), 4)
            ident = held[0]["id"]
            for each in held:
                first, second = each["recipients"]
                self.assertIn('hold to ann@example.com "spam?"', first["why"])
                self.assertNotIn("Bob", first["why"])
                self.assertIn('hold to bob@example.com "for Bob"', second["why"])
                self.assertNotIn("spam?", second["why"])
            for command in ("show", "why"):
                told = relay.ctl(command, ident).stdout
                self.assertEqual(told.count("    held by rule relayd.conf:"), 2, told)
            named = relay.ctl("held", "list", "--recipient", "bob@example.com").stdout
            self.assertEqual((named.count("for Bob"), named.count("spam?")), (4, 0))
            nobody = relay.ctl("held", "release", check=False)
            self.assertIn("nothing named", nobody.stderr)
            done = relay.ctl("held", "release", "--recipient", "ann@example.com", ident).stdout
            self.assertEqual(done, "1 recipient released\n")
            place = str(first["why"]).split("rule ")[1].split()[0]
            done = relay.ctl("held", "release", "--rule", place).stdout
            self.assertEqual(done, "3 recipients released\n")
            done = relay.ctl("held", "discard", "--rule", "for Bob", "--note", "no").stdout
            self.assertEqual(done, "4 recipients discarded\n")
            self.assertEqual(self.held(relay), [])
            arrived = [to for each in sink.wait(8) for to in each.recipients]
            self.assertEqual(arrived.count("ann@example.com"), 4)
            relay.wait_empty()
            self.assertIn("clean", relay.ctl("audit").stdout)

    def test_what_was_released_with_a_field_has_it_after_a_kill_too(self) -> None:
        port = free_port()
        relay = self.gateway(2, port)
        body = b"line of it\r\n" * 20_000  # in a file
        (ident,) = self.send(relay, 1, body)
        relay.ctl("held", "release", "--training", "ham", ident)
        relay.kill()
        wait_until(lambda: not relay.greets(), "it is gone")
        relay.start()
        with Sink(bind=lambda: socket.create_server(("127.0.0.1", port))) as sink:
            arrived = [each.content for each in sink.wait(2)]
            for each in arrived:
                self.assertTrue(each.startswith(b"X-Spam-Training: ham\r\n"), each[:200])
                self.assertEqual(each.count(b"X-Spam-Training"), 1)
                self.assertTrue(each.endswith(b"\r\n\r\n" + body))
            relay.wait_empty()
            self.assertIn("clean", relay.ctl("audit").stdout)
