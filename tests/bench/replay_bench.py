"""How long `relayctl replay` takes over 100,000 envelopes that a spool remembers.

python -m tests.bench.replay_bench [ENVELOPES]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd.ctl import relayctl
from relayd.mail.address import Mailbox
from relayd.mail.content import BytesContent
from relayd.mail.envelope import Recipient
from relayd.mail.ident import make_ident
from relayd.mail.message import Submission
from relayd.spool.sqlite import schema
from relayd.spool.sqlite.batch import Batch
from relayd.spool.sqlite.rows import accept_rows
from tests.spooling import SENDER, submission

RULES = """\
hostname gw.example
spool spool
next-hop inside smtp 192.0.2.1:25
table people aliases file people
accept to @corp.example
forward <people> at @corp.example
route to @corp.example via inside
"""


def fill(spool: Path, count: int) -> None:
    """A spool whose ledger remembers so many recipients of the last days."""
    shard = spool / "shard-0"
    shard.mkdir(parents=True)
    connection = schema.connect(shard / "queue.db", cache=1 << 20)
    schema.prepare(connection, now=time.time())
    start = time.time() - 6 * 86400
    connection.execute("BEGIN")
    batch = Batch(start)
    for number in range(count):
        at = start + number * 5 * 86400 / count
        mailbox = Mailbox(f"user{number % 20_000}", "corp.example")
        made: Submission = submission(Recipient(mailbox, mailbox, "inside", SENDER))
        batch.accept(accept_rows(make_ident(int(at * 1e6), 0), at, made, BytesContent(b""), 0, b""))
    batch.write(connection)
    connection.execute("COMMIT")
    connection.close()


def main(count: int) -> None:
    """Fill, then replay under rules that send one recipient elsewhere."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder / "spool", count)
        (folder / "people").write_text("".join(f"alias{n}: user{n}\n" for n in range(100_000)))
        (folder / "relayd.conf").write_text(RULES)
        text = RULES.replace("route to", "route to user7@corp.example direct\nroute to")
        (folder / "new.conf").write_text(text)
        began = time.perf_counter()
        status = relayctl.main(["-c", f"{folder}/relayd.conf", "replay", f"{folder}/new.conf"])
        seconds = time.perf_counter() - began
        print(f"\nexit status {status}; {count:,} envelopes in {seconds:.1f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
