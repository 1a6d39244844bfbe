"""`relayctl reroute`: a dry run tells what happens, the rest goes on, and SIGKILL loses nothing.

RELAYD_DEPTH=100000 for the full number.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any

from relayd.spool.sqlite.database import in_force
from tests.scenarios.harness import Relayd, Scenario, free_port, unhurried
from tests.scenarios.injector import inject, number_of
from tests.sink import Sink, loopback_listener

COUNT = int(os.environ.get("RELAYD_DEPTH", "2000"))
IN_FLIGHT = 20  # deliveries-per-destination: sessions to one next hop at the kill


class Beside(threading.Thread):
    """Mail that comes in as long as something else lasts."""

    def __init__(self, relay: Relayd) -> None:
        super().__init__(daemon=True)
        self._relay = relay
        self._over = threading.Event()
        self._sent: list[str] = []
        self._slowest = 0.0
        self.start()

    def run(self) -> None:
        """Message after message."""
        while not self._over.wait(0.02):
            began = time.monotonic()
            content = b"Subject: beside it\r\n\r\nx\r\n"
            self._sent.append(self._relay.send("ann@example.net", ["bob@example.com"], content))
            self._slowest = max(self._slowest, unhurried(began))

    def end(self) -> tuple[list[str], float]:
        """What was sent, and how many seconds the slowest 250 took."""
        self._over.set()
        self.join()
        return self._sent, self._slowest


class Rerouted(Scenario):
    def setUp(self) -> None:
        super().setUp()
        self.dead, self.other = free_port(), free_port()

    def rules(self, route: str) -> str:
        return (
            f"next-hop dead smtp 127.0.0.1:{self.dead}\n"
            f"next-hop other smtp 127.0.0.1:{self.other}\n"
            f"accept from 127.0.0.0/8\n{route}"
        )

    def change(self, relay: Relayd, before: str, after: str) -> None:
        text = relay.config.read_text()
        self.assertIn(before, text)
        relay.config.write_text(text.replace(before, after))
        relay.ctl("reload")

    def reroute(self, relay: Relayd, *options: str) -> dict[str, Any]:
        done = relay.ctl("reroute", "--json", *options, seconds=300)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def wait_for_the_first(self, relay: Relayd) -> None:
        """Read beside relayd, for relayctl takes longer to start than all of it may last."""
        path = in_force(relay.folder / "spool" / "shard-0")
        assert path is not None
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            ended = time.monotonic() + 180
            look = "SELECT count(*) FROM recipient WHERE next_hop = 'other' LIMIT 1"
            while not database.execute(look).fetchone()[0]:
                self.assertLess(time.monotonic(), ended, "nothing was rerouted")
                time.sleep(0.002)

    def test_all_that_waits_goes_by_another_next_hop_while_other_mail_goes_on(self) -> None:
        relay = self.relayd(self.rules("route any via dead\n"))
        injected = inject(relay.port, COUNT, sessions=8)
        self.assertEqual(len(injected.acknowledged), COUNT, injected.refused)
        self.change(relay, "route any via dead", "route any via other")
        dry = self.reroute(relay, "--dry-run")
        self.assertEqual((dry["recipients"], dry["changed"]), (COUNT, {"route": COUNT}))
        self.assertEqual(len(relay.queue("--next-hop", "dead")), COUNT)
        with Sink(bind=lambda: loopback_listener(self.other)) as sink:
            beside = Beside(relay)
            began = time.monotonic()
            done = self.reroute(relay)
            seconds = unhurried(began)
            sent, slowest = beside.end()
            self.assertTrue(sent)
            self.assertLess(slowest, 5.0)
            # one of them may just have asked whether `dead` is up again
            self.assertGreaterEqual(done["changed"]["route"] + done["under_way"], COUNT)
            self.assertEqual(len(sent), len({*sent}))
            while done["under_way"]:
                done = self.reroute(relay)
            relay.wait_empty(60 + COUNT / 50)
            numbers = Counter(
                number_of(each.content) for each in sink.arrived if b"beside it" not in each.content
            )
        self.assertEqual(set(numbers), injected.acknowledged)
        self.assertEqual([n for n, times in numbers.items() if times > 1], [])
        self.assertLess(seconds, max(60 * COUNT / 100_000, 5.0))
        self.assertIn("clean", relay.ctl("audit").stdout)

    def test_killed_in_the_middle_nothing_is_lost_and_nothing_arrives_twice(self) -> None:
        relay = self.relayd(self.rules("route any via dead\n"))
        injected = inject(relay.port, COUNT, sessions=8)
        for _ in range(5):  # on a busy machine the kill may come too late to mean anything
            self.change(relay, "route any via dead", "route any via other")
            asking = subprocess.Popen(
                [
                    *(sys.executable, "-m", "relayd.ctl.relayctl"),
                    *("--config", str(relay.config), "reroute"),
                ],
                env={**os.environ, **relay.environment},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self.addCleanup(asking.wait)
            self.wait_for_the_first(relay)
            relay.kill()
            relay.start()
            left = len(relay.queue("--next-hop", "dead"))
            if left:
                break
            self.change(relay, "route any via other", "route any via dead")
            while self.reroute(relay)["under_way"]:
                pass
        self.assertGreater(left, 0, "the kill came too late to mean anything")
        self.assertLess(left, COUNT)
        self.assertEqual(left + len(relay.queue("--next-hop", "other")), COUNT)
        with Sink(bind=lambda: loopback_listener(self.other)) as sink:
            done = {"under_way": 1}
            while done["under_way"]:
                done = self.reroute(relay)
            relay.wait_empty(60 + COUNT / 50)
            numbers = Counter(number_of(each.content) for each in sink.arrived)
        self.assertEqual(set(numbers), injected.acknowledged)
        self.assertLessEqual(sum(times > 1 for times in numbers.values()), IN_FLIGHT)
        self.assertIn("clean", relay.ctl("audit").stdout)

    def test_two_workers_what_is_held_stays_and_reverse_paths_become_ours(self) -> None:
        rules = self.rules('hold to kept@example.com "look"\nroute any via dead\n')
        relay = self.relayd(rules, start=False)
        keys = relay.folder / "srs.keys"
        keys.write_text("a-key-that-is-long-enough-for-all\n")
        keys.chmod(0o600)
        text = relay.config.read_text().replace("workers 1\n", "workers 2\n")
        # a hold has to stand above what accepts
        hold = 'hold to kept@example.com "look"\n'
        text = text.replace(hold, "").replace("accept from", f"{hold}accept from")
        relay.config.write_text(text)
        relay.start()
        for _ in range(6):
            relay.send("a@b.example", ["ann@example.com", "kept@example.com"])
        self.change(
            relay,
            "route any via dead",
            "forward ann@example.com -> ann@elsewhere.example\n"
            "srs domain srs.example keys file srs.keys\nroute any via other",
        )
        dry = self.reroute(relay, "--dry-run")
        self.assertEqual(dry["changed"], {"mailbox": 6, "route": 6})
        with Sink(bind=lambda: loopback_listener(self.other)) as sink:
            while self.reroute(relay)["under_way"]:
                pass
            arrived = sink.wait(6)
            for each in arrived:
                self.assertEqual(each.recipients, ("ann@elsewhere.example",))
                self.assertTrue(re.match("SRS0=.*=b.example=a@srs.example", each.sender))
            waiting = relay.queue()
            self.assertEqual(
                {(to["state"], to["next_hop"]) for each in waiting for to in each["recipients"]},
                {("held", "other")},
            )
            relay.ctl("release", "--all")
            sink.wait(12)
            relay.wait_empty()
        relay.logged("command=reroute")
