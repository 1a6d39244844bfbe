"""Filters of every version, over IPv6, at every door, and while the rules change."""

from __future__ import annotations

import json
import re
import smtplib
import threading

from tests.scenarios.filterpeers import Milter, add, body
from tests.scenarios.harness import Relayd, Scenario, wait_until
from tests.sink import Sink

LETTER = b"From: ann@example.org\r\nSubject: x\r\n\r\nbody\r\n"
SEEN = b"X-Seen: yes"


class DoorCase(Scenario):
    def setUp(self) -> None:
        super().setUp()
        self.sink = Sink()
        self.addCleanup(self.sink.stop)

    def relay(self, rules: str, workers: int = 1, name: str = "relayd", listen: str = "") -> Relayd:
        relay = self.relayd(
            f"{rules}\naccept to @example.com\nroute any via out\n"
            f"next-hop out smtp 127.0.0.1:{self.sink.port}\n",
            start=False,
            name=name,
        )
        text = relay.config.read_text().replace("workers 1\n", f"workers {workers}\n")
        text = re.sub(r"^listen .*$", rf"\g<0>{listen}", text, flags=re.MULTILINE)
        relay.config.write_text(text)
        return relay.start()

    def send(self, relay: Relayd, count: int = 1) -> None:
        for _ in range(count):
            relay.send("ann@example.org", ["info@example.com"], LETTER)


class Versions(DoorCase):
    def test_milters_of_each_version_edit_over_a_session_of_several_messages(self) -> None:
        arrived = 0
        for version in (2, 3, 4, 5, 6):
            with self.subTest(version):
                milter = Milter(
                    self,
                    version=version,
                    edits=lambda fields, content: [add("X-Seen", "yes"), body(b"new\r\n")],
                )
                relay = self.relay(f"milter f {milter.where}\nask f", name=f"v{version}")
                with smtplib.SMTP(*relay.address, timeout=60) as client:
                    for _ in range(3):
                        client.sendmail("ann@example.org", ["info@example.com"], LETTER)
                arrived += 3
                for each in self.sink.wait(arrived)[-3:]:
                    self.assertIn(SEEN, each.content)
                    self.assertTrue(each.content.endswith(b"\r\n\r\nnew\r\n"))
                letters = {letter for heard in milter.heard for letter, _ in heard.events}
                self.assertEqual(b"T" in letters, version > 3)  # DATA came with version 4
                relay.kill()

    def test_a_version_that_nobody_knows_is_trouble_and_the_failure_word_counts(self) -> None:
        milter = Milter(self, version=1)
        relay = self.relay(f"milter f {milter.where} on failure accept\nask f")
        self.send(relay)
        self.sink.wait(1)
        wait_until(lambda: "event=filter" in relay.log(), "it is told")

    def test_over_tcp_with_ipv6_also_a_policy_service(self) -> None:
        milter = Milter(self, v6=True, edits=lambda fields, content: [add("X-Seen", "yes")])
        relay = self.relay(f"milter f {milter.where}\nask f", workers=2)
        self.send(relay, 4)
        for each in self.sink.wait(4):
            self.assertIn(SEEN, each.content)
        self.assertIn(milter.where, relay.ctl("filters").stdout)


class Doors(DoorCase):
    def test_xclient_is_a_new_client_for_milters(self) -> None:
        milter = Milter(self, edits=lambda fields, content: [add("X-Seen", "yes")])
        relay = self.relay(f"milter f {milter.where}\nask f", listen=" xclient 127.0.0.0/8")
        with relay.session() as client:
            client.ehlo("gate.example")
            for address in ("192.0.2.7", "2001:db8::7"):
                word = address if ":" not in address else f"IPV6:{address}"
                code, _ = client.docmd("XCLIENT", f"ADDR={word} NAME=a.example")
                self.assertEqual(code, 220)
                client.ehlo("client.example")
                client.sendmail("ann@example.org", ["info@example.com"], LETTER)
        for each in self.sink.wait(2):
            self.assertIn(SEEN, each.content)
        told = [data for heard in milter.heard for letter, data in heard.events if letter == b"C"]
        self.assertTrue(any(b"192.0.2.7" in each for each in told), told)
        self.assertTrue(any(b"2001:db8::7" in each for each in told), told)

    def test_two_workers_tell_a_dead_filter_once(self) -> None:
        relay = self.relay("milter f unix:/nowhere on failure accept\nask f", workers=2)
        self.send(relay, 12)
        self.sink.wait(12)
        self.assertEqual(relay.logged("event=filter ").count("event=filter "), 1)
        (told,) = json.loads(relay.ctl("filters", "--json").stdout)["filters"]
        self.assertGreaterEqual(told["trouble"], 12)


class Reloads(DoorCase):
    def hanging(self, change: str, workers: int = 1) -> tuple[bytes, Relayd]:
        """What arrives of a message over which a filter thinks while the rules are changed."""
        over = threading.Event()
        self.addCleanup(over.set)

        def thinks(letter: bytes) -> float:
            if letter == b"E":
                over.wait(60)
            return 0.0

        milter = Milter(self, edits=lambda fields, content: [add("X-Seen", "yes")], pause=thinks)
        definition = f"milter f {milter.where}\nask f"
        relay = self.relay(definition, workers)
        sent = threading.Thread(target=self.send, args=(relay,))
        sent.start()
        wait_until(
            lambda: any(letter == b"E" for heard in milter.heard for letter, _ in heard.events),
            "the filter thinks",
        )
        text = relay.config.read_text()
        self.assertIn(definition, text)
        relay.config.write_text(text.replace(definition, change.replace("WHERE", milter.where)))
        relay.ctl("reload")
        if "ask" in change:
            over.set()
        self.send(relay)  # by the new rules, and while it thinks where they ask nobody
        over.set()
        sent.join(60)
        (late,) = [each.content for each in self.sink.wait(2) if SEEN in each.content][:1]
        relay.wait_empty()
        self.assertIn("clean", relay.ctl("audit").stdout)
        return late, relay

    def test_rules_that_ask_nobody_any_more_change_nothing_of_a_message_on_its_way(self) -> None:
        late, relay = self.hanging("", workers=2)
        self.assertIn(SEEN, late)
        self.assertNotIn("event=filter ", relay.log())

    def test_another_time_limit_for_a_filter_that_thinks(self) -> None:
        self.hanging("milter f WHERE timeout 9s on failure accept\nask f")
