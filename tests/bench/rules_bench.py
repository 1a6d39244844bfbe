"""What many rules cost: 100,000 aliases and 1,000 rules to load, and a message under them.

    python -m tests.bench.rules_bench [MESSAGES]

A message is taken in by the real session, core, reception and rules over a spool in memory, so its
cost is that of intake alone: delivery, which no rule touches, would only make the ratio smaller.
Few rules and many take turns in the same process, and the quickest of their turns count.
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd.config import load
from relayd.rules.evaluate import evaluate
from relayd.rules.header import edit_header
from relayd.rules.ruleset import Ruleset
from relayd.spool.memory import MemorySpool
from tests.unit.intake.scene import Peer, Scene, message
from tests.unit.ops.test_control import Bridge

ALIASES = 100_000
RULES = 1_000
TURNS = 15
CONTENT = ("Subject: test", "", *["A line of an ordinary message."] * 40)

_HEAD = """\
hostname gw.example.com
table people aliases file people
table ours { example.com, example.org }
next-hop inside smtp 192.0.2.1:25
reject from 192.0.2.66
accept to <ours>
"""
_TAIL = """\
forward <people> at @example.com
route to @example.org via inside
route any direct
"""


def few(folder: Path) -> Path:
    """Ten statements and one alias in each thousand."""
    return _written(folder, range(0, ALIASES, 1000), 2)


def many(folder: Path) -> Path:
    """As many as the issue asks for."""
    return _written(folder, range(ALIASES), RULES - 8)


def _written(folder: Path, aliases: range, forwards: int) -> Path:
    folder.mkdir()
    (folder / "people").write_text("".join(f"user{n}: someone{n}@example.net\n" for n in aliases))
    lines = [f"forward info{n}@example.com -> office{n}@example.org\n" for n in range(forwards)]
    path = folder / "relayd.conf"
    path.write_text(_HEAD + "".join(lines) + _TAIL)
    return path


def load_time(path: Path) -> tuple[float, Ruleset]:
    """The quickest of three loads, in seconds of CPU, and its rules."""
    best = 1e9
    for _ in range(3):
        began = time.process_time()
        settings = load(path)
        best = min(best, time.process_time() - began)
    return best, settings.ruleset


class Taker:
    """Takes in messages under one rule set."""

    def __init__(self, ruleset: Ruleset) -> None:
        self.ruleset = ruleset
        self.best = 1e9  # seconds of CPU for one message
        self._scene = Scene()
        self._spool = MemorySpool(Bridge(), clock=self._scene.clock.seconds)
        self._spool.open()
        self._scene.change(
            rules=lambda: ruleset, decide=evaluate, edit=edit_header, spool=self._spool
        )
        self._peer: Peer = self._scene.greeted()

    def turn(self, count: int) -> None:
        """So many messages, a tenth of them to aliases."""
        peer = self._peer
        names = [f"user{n * 1000}" if n % 10 == 0 else f"anybody{n}" for n in range(100)]
        began = time.process_time()
        for number in range(count):
            peer.say(*message(f"{names[number % 100]}@example.com"))
            said = peer.say(*CONTENT, ".")
            assert said[-1].startswith("250"), said
        self.best = min(self.best, (time.process_time() - began) / count)


def main(count: int) -> int:
    """Measure and tell; the exit status says whether the targets are met."""
    with TemporaryDirectory() as name:
        _, small = load_time(few(Path(name) / "few"))
        seconds, large = load_time(many(Path(name) / "many"))
    gc.collect()
    gc.freeze()
    takers = (Taker(small), Taker(large))
    for taker in takers:
        taker.turn(count)
        taker.best = 1e9
    for turn in range(TURNS):
        for taker in takers if turn % 2 else takers[::-1]:
            taker.turn(count)
    low, high = (taker.best * 1e6 for taker in takers)
    ratio = high / low
    print(f"{ALIASES:,} aliases and {RULES:,} rules load in {seconds:.2f} s")
    print(f"a message takes {low:.1f} us with ten rules, {high:.1f} us with many: {ratio:.3f}")
    return 0 if seconds < 2 and ratio <= 1.05 else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 300))
