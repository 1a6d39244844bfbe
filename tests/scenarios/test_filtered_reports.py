"""`ask NAME sender null`: reports of our own are shown to filters before they leave."""

from __future__ import annotations

import re
import threading
import time
from functools import partial

import dkim

from relayd.intake.ownreports import AT_A_TIME
from tests.scenarios.filterdaemons import Opendkim
from tests.scenarios.filterpeers import Milter, add, body
from tests.scenarios.harness import Relayd, Scenario, wait_until
from tests.sink import Asked, Sink

ANN = "ann@sender.example"
CONTENT = b"From: ann@sender.example\r\nSubject: x\r\n\r\nx\r\n"

STORM = 200  # reports


class Busy:
    """A milter's answers; how many messages are at their end at the same time."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, letter: bytes, data: bytes) -> tuple[bytes, bytes]:
        """It takes a while at the end of each."""
        if letter == b"E":
            with self._lock:
                self.now += 1
                self.most = max(self.most, self.now)
            time.sleep(0.05)
            with self._lock:
                self.now -= 1
        return b"c", b""


def held_of(relay: Relayd) -> int:
    """How many wait for somebody to see them."""
    return relay.ctl("held").stdout.count("ask f sender null")


def refusing(asked: Asked) -> str | None:
    """Everybody but the sender is unknown at the next hop."""
    if asked.stage == "rcpt" and asked.argument != ANN:
        return "550 5.1.1 no such mailbox"
    return None


class ReportsCase(Scenario):
    def setUp(self) -> None:
        super().setUp()
        self.sink = Sink(refusing)
        self.addCleanup(self.sink.stop)

    def relay(
        self,
        definition: str,
        ask: str = "ask f sender null",
        workers: int = 1,
        name: str = "relayd",
    ) -> Relayd:
        relay = self.relayd(
            f"{definition}\n{ask}\naccept to @example.com\nroute any via out\n"
            f"next-hop out smtp 127.0.0.1:{self.sink.port}\n",
            hostname="gw.example.org",
            name=name,
            start=False,
        )
        text = relay.config.read_text().replace("workers 1\n", f"workers {workers}\n")
        relay.config.write_text(text)
        return relay.start()

    def fail_one(self, relay: Relayd) -> None:
        relay.send(ANN, ["nobody@example.com"], CONTENT)

    def report(self, count: int = 1) -> bytes:
        arrived = self.sink.wait(count)[count - 1]
        self.assertEqual((arrived.sender, arrived.recipients), ("", (ANN,)))
        return arrived.content

    def wait_held(self, relay: Relayd) -> str:
        """The report that is held: what is said of it."""
        wait_until(lambda: "sender null" in relay.ctl("held").stdout, "it is held")
        return relay.ctl("held").stdout


class FilteredReports(ReportsCase):
    def test_a_milters_field_is_in_the_report_and_nothing_else_changes(self) -> None:
        milter = Milter(self, edits=lambda fields, content: [add("X-Seen", "yes")])
        relay = self.relay(f"milter f {milter.where}", workers=2)
        for count in (1, 2, 3):
            self.fail_one(relay)
            seen = self.report(count)
            self.assertIn(b"X-Seen: yes\r\n", seen)
            self.assertIn(b"no such mailbox", seen)
        events = [letter for heard in milter.heard for letter, _ in heard.events]
        self.assertEqual(events.count(b"E"), 3)  # no message of strangers was shown
        senders = [
            data for heard in milter.heard for letter, data in heard.events if letter == b"M"
        ]
        self.assertEqual({each.split(b"\0")[0] for each in senders}, {b"<>"})
        relay.wait_empty()
        self.assertIn("clean", relay.ctl("audit").stdout)

    def test_who_does_not_say_sender_null_sees_no_report(self) -> None:
        milter = Milter(self, edits=lambda fields, content: [add("X-Seen", "yes")])
        relay = self.relay(
            f"milter f {milter.where}", "ask f to @example.com\nask f when not sender @x.example"
        )
        self.fail_one(relay)
        header = self.report().partition(b"\r\n\r\n")[0]
        self.assertNotIn(b"X-Seen", header)

    def test_a_dead_filter_keeps_it_until_it_is_back_also_over_a_kill(self) -> None:
        path = str(self.folder / "milter")
        relay = self.relay(f"milter f unix:{path}")
        self.fail_one(relay)
        said = self.wait_held(relay)
        self.assertIn("ask f sender null", said)
        relay.kill()
        wait_until(lambda: not relay.greets(), "it is gone")
        Milter(self, path=path, edits=lambda fields, content: [add("X-Seen", "yes")])
        relay.start()
        self.assertIn(b"X-Seen: yes\r\n", self.report())
        relay.wait_empty()
        self.assertIn("clean", relay.ctl("audit").stdout)

    def test_of_a_storm_all_are_shown_some_at_a_time_and_none_is_lost_over_a_kill(self) -> None:
        path = str(self.folder / "milter")
        relay = self.relay(f"reports strangers any\nmilter f unix:{path}")
        with relay.session() as client:
            for number in range(STORM):
                client.sendmail(ANN, [f"nobody-{number}@example.com"], CONTENT)
        wait_until(lambda: held_of(relay) == STORM, "all reports are held", 180)
        self.assertEqual(self.sink.arrived, [])
        busy = Busy()
        Milter(self, path=path, answers=busy, edits=lambda fields, content: [add("X-Seen", "y")])
        relay.kill()
        wait_until(lambda: not relay.greets(), "it is gone")
        relay.start()
        self.sink.wait(STORM // 4)
        relay.kill()
        wait_until(lambda: not relay.greets(), "it is gone again")
        relay.start()
        wait_until(lambda: len(self.about()) == STORM, "all reports arrive", 180)
        relay.wait_empty()
        self.assertTrue(all(b"X-Seen: y\r\n" in each.content for each in self.sink.arrived))
        self.assertTrue(1 < busy.most <= AT_A_TIME, busy.most)
        self.assertIn("clean", relay.ctl("audit").stdout)

    def about(self) -> set[bytes]:
        """Whom the reports that have come are about."""
        found = (re.search(rb"rfc822; ?(nobody-\d+@)", each.content) for each in self.sink.arrived)
        return {each[1] for each in found if each is not None}

    def test_the_failure_word_counts(self) -> None:
        for word, arrives in (("accept", True), ("hold", False), ("reject", False)):
            with self.subTest(word):
                relay = self.relay(f"milter f unix:/nowhere on failure {word}", name=word)
                before = len(self.sink.arrived)
                self.fail_one(relay)
                if arrives:
                    self.report(before + 1)
                    relay.wait_empty()
                else:
                    wait_until(partial(self.held_by_it, relay), "it is held")
                relay.kill()

    def held_by_it(self, relay: Relayd) -> bool:
        return "f: no connection" in relay.ctl("held").stdout

    def test_a_report_that_is_refused_stays_held_and_can_be_released(self) -> None:
        milter = Milter(self, answers=lambda letter, data: (b"r" if letter == b"E" else b"c", b""))
        relay = self.relay(f"milter f {milter.where}")
        self.fail_one(relay)
        wait_until(lambda: "Held by milter f" in relay.ctl("held").stdout, "it is held")
        self.assertEqual(self.sink.arrived, [])
        relay.ctl("held", "release", "--rule", "milter f")
        self.report()

    def test_a_body_is_not_replaced_and_the_report_leaves_as_it_was(self) -> None:
        milter = Milter(self, edits=lambda fields, content: [body(b"gone\r\n"), add("X-Seen", "y")])
        relay = self.relay(f"milter f {milter.where}")
        self.fail_one(relay)
        seen = self.report()
        self.assertIn(b"no such mailbox", seen)
        self.assertNotIn(b"X-Seen", seen)
        relay.logged("nothing but the header")

    def test_rules_that_ask_nobody_any_more_let_it_go(self) -> None:
        relay = self.relay("milter f unix:/nowhere")
        self.fail_one(relay)
        self.wait_held(relay)
        text = relay.config.read_text().replace("ask f sender null\n", "")
        relay.config.write_text(text)
        relay.kill()
        wait_until(lambda: not relay.greets(), "it is gone")
        relay.start()
        self.report()


class SignedReports(ReportsCase):
    needs = ("opendkim",)

    def test_opendkim_signs_a_report_that_then_verifies(self) -> None:
        daemon = Opendkim(self)
        conf = daemon.folder / "conf"
        conf.write_text(conf.read_text() + "SubDomains yes\n")
        daemon.stop()
        daemon.start()
        relay = self.relay(f"milter f {daemon.where}")
        self.fail_one(relay)
        seen = self.report()
        self.assertIn(b"DKIM-Signature: ", seen)
        self.assertTrue(dkim.verify(seen, dnsfunc=lambda name, timeout=5: daemon.record), seen)
