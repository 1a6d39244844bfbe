"""Standard output that nobody reads: the mail goes on, and the missing lines are counted."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

from tests.ports import free_port
from tests.scenarios.harness import Relayd, Scenario, unhurried, wait_until
from tests.scenarios.test_see import samples, scrape, total
from tests.sink import Sink

RULES = """\
accept from 127.0.0.1 to @example.com
next-hop sink smtp 127.0.0.1:{0}
route any via sink
"""
_REFUSED = b"RCPT TO:<" + b"x" * 600 + b"@nowhere.example>\r\n"


class UnreadLog(Scenario):
    def start(self, workers: int = 1) -> tuple[Relayd, int]:
        """A relayd with a pipe for standard output and error, and the end that nobody reads."""
        self.sink = Sink()
        self.addCleanup(self.sink.stop)
        name = f"relayd-{workers}"
        relay = self.relayd(RULES.format(self.sink.port), name=name, start=False)
        self.place = f"127.0.0.1:{free_port()}"
        text = relay.config.read_text() + f"metrics listen {self.place}\n"
        relay.config.write_text(re.sub("(?m)^workers .*$", f"workers {workers}", text))
        ours, theirs = os.pipe()
        self.relayd_process = subprocess.Popen(
            relay.command,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            cwd=relay.folder,
            env={**os.environ, **relay.environment},
        )
        os.close(theirs)
        self.addCleanup(self._gone)
        wait_until(relay.greets, "it greets")
        return relay, ours

    def _gone(self) -> None:
        self.relayd_process.kill()
        self.relayd_process.wait(60)

    def cpu(self) -> float:
        """Seconds of CPU that the process has used."""
        fields = (
            Path(f"/proc/{self.relayd_process.pid}/stat").read_text().rpartition(")")[2].split()
        )
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def flood(self, relay: Relayd, workers: int) -> None:
        """Make each worker log some 4 MB."""
        for _ in range(900 * workers):
            with socket.create_connection(relay.address, timeout=60) as client:
                client.recv(65536)  # the greeting, which is to be waited for
                client.sendall(b"EHLO client.example\r\n" + _REFUSED * 5 + b"QUIT\r\n")
                while client.recv(65536):
                    pass

    def send(self, relay: Relayd, number: int) -> None:
        began = time.monotonic()
        with relay.session() as client:
            for _ in range(number):
                client.sendmail("a@b.test", ["c@example.com"], "Subject: x\r\n\r\n")
        self.assertLess(unhurried(began), 20)

    def check(self, workers: int) -> None:
        relay, ours = self.start(workers)
        self.flood(relay, workers)
        self.send(relay, 20)
        self.sink.wait(20)
        self.assertRegex(relay.ctl("status").stdout, r"LOG DROPPED +[0-9,]+ lines: whoever reads")
        lost = json.loads(relay.ctl("status", "--json").stdout)["log_dropped"]
        self.assertGreater(lost, 0)
        _, figures = scrape(self.place)
        self.assertGreaterEqual(total(samples(figures), "relayd_log_dropped_total"), lost)
        text: list[bytes] = []

        def read() -> None:
            while data := os.read(ours, 1 << 16):
                text.append(data)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        wait_until(
            lambda: re.search(rb'event="log lines dropped" lines=[0-9]+\n', b"".join(text)),
            "the count is told",
        )
        self.send(relay, 1)
        self.relayd_process.terminate()
        self.relayd_process.wait(60)
        reader.join(60)
        said = b"".join(text)
        # what was logged after the reader came back is whole again, up to the last line
        self.assertIn(b"event=stopped", said[-2000:])

    def test_mail_flows_and_the_count_is_told(self) -> None:
        self.check(1)

    def test_of_two_workers_likewise(self) -> None:
        self.check(2)

    def test_it_stops_in_good_order_all_the_same(self) -> None:
        for workers in (1, 2):
            with self.subTest(workers=workers):
                relay, ours = self.start(workers)
                self.flood(relay, workers)
                began = time.monotonic()
                self.relayd_process.terminate()
                self.relayd_process.wait(60)
                self.assertLess(unhurried(began), 10)
                os.close(ours)

    def test_a_reader_who_has_gone_stops_nothing(self) -> None:
        relay, ours = self.start()
        os.close(ours)
        self.flood(relay, 1)
        self.send(relay, 50)
        self.sink.wait(50)
        before = self.cpu()
        time.sleep(2)
        self.assertLess(self.cpu() - before, 0.5, "it goes on and on about a line")
