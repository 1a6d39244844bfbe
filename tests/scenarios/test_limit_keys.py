"""A limit of very many keys: memory stays as it was, and who was counted stays counted.

RELAYD_KEYS=1000000 for the full number.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

from tests.scenarios.harness import Relayd, Scenario

KEYS = int(os.environ.get("RELAYD_KEYS", "20000"))
PER_MESSAGE = 1000
MOST = 24 << 20  # octets more in one worker, however many keys there are
FILE = 240 << 20  # octets of a limit's files
RULES = """\
limit   each 1/1d per recipient
defer   when over each
discard to @example.com
"""


class LimitKeys(Scenario):
    def resident(self, relay: Relayd) -> dict[int, int]:
        """Octets, by process: the master and its workers."""
        found = {}
        for pid in [relay.pid, *self.children(relay.pid)]:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            (line,) = (each for each in lines if each.startswith("VmRSS:"))
            found[pid] = int(line.split()[1]) * 1024
        return found

    def children(self, pid: int) -> list[int]:
        """The workers."""
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(each) for each in text.split()]

    def test_memory_is_bounded_with_very_many_keys(self) -> None:
        relay = self.relayd(RULES, start=False)
        text = relay.config.read_text().replace("workers 1\n", "workers 2\n")
        relay.config.write_text(text)
        relay.start()
        self.assertEqual(self.taken(relay, 0), PER_MESSAGE)  # warm: all is loaded that will be
        self.assertEqual(self.taken(relay, 1), PER_MESSAGE)
        before = self.resident(relay)
        for part in range(2, KEYS // PER_MESSAGE):
            self.assertEqual(self.taken(relay, part), PER_MESSAGE)
        grown = {pid: now - before[pid] for pid, now in self.resident(relay).items()}
        self.assertLess(max(grown.values()), MOST, grown)
        files = [each.stat().st_blocks * 512 for each in (relay.folder / "spool/counts").rglob("*")]
        self.assertLess(sum(files), FILE)
        last = KEYS // PER_MESSAGE - 1
        again = self.taken(relay, 0) + self.taken(relay, last)
        self.assertLessEqual(again, PER_MESSAGE // 50)  # of a million some may be forgotten
        (each,) = json.loads(relay.ctl("limits", "--json").stdout)["limits"]
        self.assertLessEqual(len(each["near"]), 16_384 * 3 // 2)

    def taken(self, relay: Relayd, part: int) -> int:
        """How many recipients of one message are; all of them are thrown away."""
        names = (f"k{part}.{number}@example.com" for number in range(PER_MESSAGE))
        commands = "".join(f"RCPT TO:<{name}>\r\n" for name in names)
        client = socket.create_connection(("127.0.0.1", relay.port), 60)
        taken = 0
        with client, contextlib.suppress(ConnectionError):  # who is refused too often is cut off
            file = client.makefile("rb")
            file.readline()
            client.sendall(b"HELO client.example\r\n")
            file.readline()
            client.sendall(f"MAIL FROM:<>\r\n{commands}".encode())
            file.readline()
            for _ in range(PER_MESSAGE):
                line = file.readline()
                if line.startswith(b"421"):  # too many refusals: nobody else is taken
                    break
                taken += line.startswith(b"250")
            if taken:
                client.sendall(b"DATA\r\n")
                file.readline()
                client.sendall(b"Subject: x\r\n\r\nx\r\n.\r\n")
                reply = file.readline()
                self.assertTrue(reply.startswith(b"250"), reply)
        return taken
