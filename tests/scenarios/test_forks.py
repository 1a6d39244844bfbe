"""A relayd by fork is to be what one by exec is, as far as the kernel can tell."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tests.scenarios.harness import Relayd, Scenario, wait_until

RULES = "accept from 127.0.0.0/8\n"
SIGNALS = ("SigBlk", "SigIgn", "SigCgt")


def _seen(relay: Relayd) -> dict[str, object]:
    process = Path(f"/proc/{relay.pid}")
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    files = []
    for each in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a session of a moment ago
            target = str(each.readlink()).replace(str(relay.folder), "")
            files.append(target if "/" in target else target.split(":")[0])
    if not relay.by_exec:
        files.remove("socket")  # to who forks its workers
    return {
        "signals": [status[each] for each in SIGNALS],
        "threads": status["Threads"],
        "open": sorted(files),
        "folder": (process / "cwd").readlink() == relay.folder,
        "leads": (os.getpgid(relay.pid), os.getsid(relay.pid)) == (relay.pid, relay.pid),
        "environment": sorted((process / "environ").read_bytes().split(b"\0")),
        "limits": (process / "limits").read_text(),
    }  # fmt: skip


class Forks(Scenario):
    def test_a_relayd_by_fork_is_as_one_by_exec(self) -> None:
        forked = self.relayd(RULES, name="forked")
        other = self.relayd(RULES, name="other", start=False)
        other.by_exec = True
        other.start()
        with contextlib.suppress(AssertionError):  # which says less than the next line
            wait_until(lambda: _seen(forked) == _seen(other), "they are alike", 10.0)
        self.assertEqual(_seen(forked), _seen(other))
        self.assertEqual([forked.stop(), other.stop()], [0, 0])

    def test_how_it_ended_is_told(self) -> None:
        relay = self.relayd(RULES)
        assert relay.process is not None
        self.assertIsNone(relay.process.status)
        relay.kill()
        self.assertEqual(relay.process.status, -9)
