"""What rules cost: loading many, and a recipient among many beside one among few.

    python -m tests.bench.rules_bench

Both rule sets are measured in turns in one process, so that the ratio means something on a busy
machine. MESSAGE is the CPU time that a whole message costs a relay of this design; the issue's
bound (5 % more with 1,000 rules and 100,000 aliases than with ten rules) is against that.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd import config
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.rules.evaluate import Facts, evaluate
from relayd.rules.ruleset import Ruleset

ALIASES, RULES, ROUNDS, CALLS = 100_000, 1_000, 9, 2_000
MESSAGE = 800.0  # microseconds
HEAD = """\
hostname gw.example.com
next-hop a smtp 127.0.0.1:2626
table ours { example.com, example.org }
table inside { 10.0.0.0/8 }
accept from <inside>
"""
TAIL = """\
accept to <ours>
forward info@example.com -> alice@example.net, bob@example.org
route to @lists.example.com via a
route any direct
"""


def many() -> str:
    """A thousand rules of every stage, and the table of aliases."""
    share = RULES // 5
    kinds = (
        'reject to old{n}@example.com 550 5.1.6 "Moved"',
        "reject from 192.0.{n}.0/24",
        "rewrite recipient @old{n}.example -> @new{n}.example",
        "forward f{n}@example.com -> g{n}@example.net",
        "route to @r{n}.example via a",
    )
    text = "".join(f"{kind.format(n=n)}\n" for kind in kinds for n in range(share))
    return (
        f"{HEAD}{text}table people aliases file aliases\nforward <people> at @example.com\n{TAIL}"
    )


def cost(ruleset: Ruleset, facts: Facts) -> float:
    """Microseconds of CPU for one evaluation."""
    began = time.process_time()
    for _ in range(CALLS):
        evaluate(ruleset, facts)
    return (time.process_time() - began) / CALLS * 1e6


def main() -> None:
    """Measure and print."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        lines = (f"user{n}: person{n}@mail{n % 50}.example.net\n" for n in range(ALIASES))
        (folder / "aliases").write_text("".join(lines))
        few = config.load_text(HEAD + TAIL, folder).ruleset
        began = time.perf_counter()
        full = config.load_text(many(), folder).ruleset
        print(
            f"{ALIASES:,} aliases and {RULES:,} rules loaded in {time.perf_counter() - began:.2f} s"
        )
    client, sender = Client("203.0.113.9"), Mailbox("a", "partner.example")
    for local in ("info", "somebody"):
        facts = Facts(client, sender, Mailbox(local, "example.com"))
        pairs = [(cost(few, facts), cost(full, facts)) for _ in range(ROUNDS)]
        small, large = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
        share = (large - small) / MESSAGE * 100
        print(f"{local}@: {small:.1f} us, with all {large:.1f} us: {share:+.1f} % of a message")


if __name__ == "__main__":
    main()
