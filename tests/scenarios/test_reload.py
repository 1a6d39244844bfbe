"""New rules under load: nothing is refused, nothing lost, and no message sees half of each set."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from relayd.config import load as load_settings
from tests.scenarios.harness import Relayd, Scenario, wait_until
from tests.sink import Sink

RULES = """\
table people aliases file people
accept to @example.com
forward first@example.com  -> first{0}@example.net
forward second@example.com -> second{0}@example.net
forward <people> at @example.com
next-hop sink smtp 127.0.0.1:{1}
route any via sink
expect to user77@example.com -> someone77@example.net
"""
PEOPLE = "".join(f"user{n}: someone{n}@example.net\n" for n in range(100_000))
SENDERS = 3
RELOADS = 4


class Load:
    """Clients that send pairs, message after message, until told to stop."""

    def __init__(self, relay: Relayd) -> None:
        self._relay = relay
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(SENDERS)]
        self.accepted = 0
        self.trouble: list[str] = []
        self.longest = 0.0  # seconds that a NOOP took
        self._lock = threading.Lock()

    def __enter__(self) -> Load:
        for thread in [*self._threads, threading.Thread(target=self._ask)]:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self) -> None:
        try:
            with self._relay.session() as client:
                client.ehlo("client.example")
                while not self._stop.wait(0.005):  # the reloads are to have a processor, too
                    refused = client.sendmail(
                        "a@b.example",
                        ["first@example.com", "second@example.com"],
                        b"Subject: x\r\n\r\n.\r\n",
                    )
                    with self._lock:
                        self.accepted += 1
                        if refused:
                            self.trouble.append(repr(refused))
        except Exception as error:
            self.trouble.append(repr(error))

    def _ask(self) -> None:
        with self._relay.session() as client:
            while not self._stop.is_set():
                began = time.monotonic()
                client.noop()
                self.longest = max(self.longest, time.monotonic() - began)
                time.sleep(0.01)


class ReloadTest(Scenario):
    def test_under_load(self) -> None:
        with Sink() as sink:
            relay = self.relayd("", start=False)
            settings = relay.config.read_text()

            def configure(number: int) -> None:
                fresh = Path(f"{relay.config}.new")
                fresh.write_text(settings + RULES.format(number, sink.port))
                fresh.rename(relay.config)

            (relay.folder / "people").write_text(PEOPLE)
            configure(0)
            relay.start()
            with Load(relay) as load:
                wait_until(lambda: load.accepted > 10 or load.trouble, "mail flows")
                longest = []
                for number in range(1, RELOADS + 1):
                    configure(number)
                    load.longest = 0.0
                    relay.ctl("reload")
                    longest.append(load.longest)
                began = time.monotonic()
                load_settings(relay.config)
                reading = time.monotonic() - began
                before = load.accepted
                wait_until(lambda: load.accepted > before + 10 or load.trouble, "mail flows on")
            self.assertEqual(load.trouble, [])
            relay.wait_empty(60)
            arrived = [pair for message in sink.arrived for pair in message.recipients]
            firsts = sorted(each for each in arrived if each.startswith("first"))
            seconds = sorted(each for each in arrived if each.startswith("second"))
            self.assertEqual(len(firsts), load.accepted)
            self.assertEqual(
                [each.replace("first", "second") for each in firsts],
                seconds,
                "both recipients of every message by the same set",
            )
            self.assertIn(f"first{RELOADS}@example.net", firsts, "the last set is in force")
            # had the reactor read the set itself, a NOOP would have waited as long as that takes,
            # each time; beside other tests it may happen to wait for them
            self.assertLess(min(longest), max(0.1, reading / 2))

    def test_watched_files_are_taken_up_by_themselves(self) -> None:
        relay = self.relayd(
            "table ours file ours\naccept to <ours>\nroute any direct\n",
            settings="watch 1s",
            start=False,
        )
        ours = relay.folder / "ours"
        ours.write_text("example.com\n")
        relay.start()

        def code(recipient: str) -> int:
            with relay.session() as client:
                client.ehlo("client.example")
                client.mail("a@b.example")
                return client.rcpt(recipient)[0]

        self.assertEqual(code("x@example.org"), 550)
        ours.write_text("example.com\nexample.org\n")
        wait_until(lambda: all(code("x@example.org") == 250 for _ in range(8)), "it is taken up")
        ours.write_text("no such entry here\n")
        wait_until(lambda: "reload refused" in relay.log(), "the complaint")
        time.sleep(3)
        self.assertEqual(relay.log(1000).count("reload refused"), 1, "said once")
        self.assertEqual(code("x@example.org"), 250)

    def test_a_table_that_has_become_empty_waits_for_somebody_to_ask(self) -> None:
        relay = self.relayd(
            "table ours file ours\naccept to <ours>\nroute any direct\n",
            settings="watch 1s",
            start=False,
        )
        ours = relay.folder / "ours"
        ours.write_text("".join(f"user{n}@example.com\n" for n in range(20)))
        relay.start()
        ours.write_text("")
        wait_until(lambda: "reload refused" in relay.log(), "it is noticed")
        told = relay.ctl("status").stdout
        self.assertIn("REFUSED", told)
        self.assertIn("table ours (ours) has lost all 20 entries", told)
        with relay.session() as client:
            client.ehlo("client.example")
            client.mail("a@b.example")
            self.assertEqual(client.rcpt("user1@example.com")[0], 250, "the old ones hold")
        relay.ctl("reload")
        self.assertNotIn("REFUSED", relay.ctl("status").stdout)
        with relay.session() as client:
            client.ehlo("client.example")
            client.mail("a@b.example")
            self.assertEqual(client.rcpt("user1@example.com")[0], 550)

    def test_status_shows_what_was_refused_and_reload_warns_as_check_does(self) -> None:
        relay = self.relayd("accept from 127.0.0.0/8\nroute any direct\n")
        good = relay.config.read_text()
        relay.config.write_text(f"{good}acept to @example.com\n")
        self.assertEqual(relay.ctl("reload", check=False).returncode, 1)
        told = relay.ctl("status").stdout
        self.assertRegex(told, r"REFUSED +what is on disk, since 20\d\d-\S+ \S+ \S+ \(\d+s ago\)")
        self.assertIn('unknown verb "acept"; did you mean "accept"?', told)
        self.assertIn("^^^^^", told)
        relay.config.write_text(f"{good}accept from 0.0.0.0/1, 128.0.0.0/1\n")
        checked, reloaded = relay.ctl("check"), relay.ctl("reload")
        self.assertIn("an open relay", checked.stderr)
        self.assertIn("    accept from 0.0.0.0/1, 128.0.0.0/1\n    ^^^^^^\n", checked.stderr)
        self.assertEqual(checked.stderr, reloaded.stderr)
        self.assertIn("read: 1 file, 3 rules, 0 tables, 0 tests", checked.stdout)
        told = relay.ctl("status").stdout
        self.assertNotIn("REFUSED", told)
        self.assertIn("an open relay", told)
