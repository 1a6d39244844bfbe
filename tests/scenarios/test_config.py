"""The configuration as an administrator meets it: the design's example, and its complaints."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.scenarios.harness import Relayd, Scenario, run
from tests.scenarios.network import Network

EXAMPLE = Path(__file__).parent / "example"

# runs what follows with an empty /var/spool of its own
OWN_SPOOL = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /var/spool && exec "$@"', "-"]


class Example(Scenario):
    """The two blocks of the language's description, word for word."""

    def test_relayctl_finds_it_good(self) -> None:
        relay = self.relayd("", start=False)
        done = relay.ctl("check", str(EXAMPLE / "relayd.conf"))
        self.assertIn("good", done.stdout)


class ExampleRuns(Scenario):
    needs = ("netns",)

    def test_twistd_starts_from_it(self) -> None:
        """On its fixed ports and spool, so on a host of its own."""
        with Network() as net:
            host = net.host("solo", "192.0.2.1/24")
            folder = self.room("example")
            shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
            text = (EXAMPLE / "relayd.conf").read_text()
            relay = Relayd(folder, text, port=2525, address="127.0.0.1", host=host)
            relay.enter = [*host.enter, *OWN_SPOOL]
            relay.own_mounts = True
            self.addCleanup(self._end, relay)
            relay.start()
            for address in ("127.0.0.1", "::1"):
                relay.address = (address, 2525)
                with relay.session() as client:
                    client.ehlo("client.example")
                    client.mail("a@b.example")
                    answers = [
                        client.rcpt(recipient)
                        for recipient in (
                            "info@example.com",
                            "old@example.com",
                            "x@elsewhere.example",
                        )
                    ]
                codes = [code for code, _ in answers]
                # 127.0.0.1 is in the table `inside`, ::1 is not
                self.assertEqual(codes, [250, 550, 250 if address == "127.0.0.1" else 550])
                self.assertIn(b"Moved to new@example.com", answers[1][1])
            self.assertEqual(relay.stop(), 0, relay.log())


class Complaints(Scenario):
    """All errors at once, each with its place, its line and a caret; nothing is started."""

    def broken(self) -> Relayd:
        relay = self.relayd(
            "next-hop sink smtp 127.0.0.1:2626\naccept to <nobody>\nrute any via sink\n"
            "include rules.d/*.rules",
            start=False,
        )
        (relay.folder / "rules.d").mkdir()
        (relay.folder / "rules.d/10-x.rules").write_text(
            'accept from 127.0.0.1\nroute any via snik\nreject to x@example.com 250 "fine"\n'
        )
        return relay

    def assert_complaints(self, text: str, relay: Relayd) -> None:
        found = re.findall(
            r"^(\S+):(\d+):(\d+): (.+)\n(?: *\d* ?\|? ?)(.*)\n([ |]*\^.*)$", text, re.MULTILINE
        )
        places = {
            (Path(file).name, line): (int(column), source)
            for file, line, column, _, source, _ in found
        }
        lines = relay.config.read_text().splitlines()
        undefined = str(lines.index("accept to <nobody>") + 1)
        misspelt = str(lines.index("rute any via sink") + 1)
        wanted = {
            ("relayd.conf", undefined),
            ("relayd.conf", misspelt),
            ("10-x.rules", "2"),
            ("10-x.rules", "3"),
        }
        self.assertTrue(wanted <= set(places), text)
        self.assertEqual(places["relayd.conf", misspelt], (1, "rute any via sink"), text)
        self.assertIn("route", text)
        self.assertIn("sink", text)

    def test_twistd_ends_with_a_status_that_systemd_does_not_try_again(self) -> None:
        relay = self.broken()
        for option in ("--config", "-c"):
            command = [word if word != "--config" else option for word in relay.command]
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=60,
                cwd=relay.folder,
                env={**relay.environment, "PATH": "/usr/bin:/bin"},
            )
            self.assertEqual(done.returncode, os.EX_CONFIG, done.stderr)
            self.assert_complaints(done.stderr, relay)
            self.assertNotIn("Traceback", done.stderr + done.stdout)
        self.assertFalse((relay.folder / "spool").exists())

    def test_relayctl_check_says_the_same(self) -> None:
        relay = self.broken()
        done = relay.ctl("check", check=False)
        self.assertEqual(done.returncode, 1)
        self.assert_complaints(done.stderr, relay)

    def test_port_taken_is_said_plainly(self) -> None:
        first = self.relayd("accept from 127.0.0.0/8\nroute any direct\n")
        second = self.relayd(
            "accept from 127.0.0.0/8\nroute any direct\n",
            name="second",
            port=first.port,
            start=False,
        )
        done = run(second.command, check=False, environment=second.environment)
        self.assertNotEqual(done.returncode, 0)
        output = (done.stdout + done.stderr).decode()
        self.assertIn(str(first.port), output)
        self.assertTrue(first.greets())
