"""What `relayctl find` costs: CPU by each key over so many finished recipients, and what it takes.

python -m tests.bench.find_bench --recipients 1000000
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from relayd.mail.address import Mailbox
from relayd.mail.content import BytesContent
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.ident import make_ident
from relayd.mail.message import RecipientState, Settlement
from relayd.spool.sqlite import schema
from relayd.spool.sqlite.batch import Batch
from relayd.spool.sqlite.find import find
from relayd.spool.sqlite.rows import accept_rows
from relayd.spool.sqlite.sift import Sift
from relayd.spool.view import FindFilter
from tests.spooling import CLIENT, DONE, recipient, submission

BATCH = 500
PAGE = 100  # recipients that a search is read for

# of the first message of all, and thus found last; then what many have, and what nobody has
KEYS: tuple[dict[str, Any], ...] = (
    {"message_id": "<0@mail0.example>"},
    {"envid": "E0"},
    {"sender": "first@client0.example"},
    {"recipient": "first@dest0.example"},
    {"client": "2001:db8::1"},
    {"login": "first"},
    {"subject": "order 0"},
    {"states": frozenset({RecipientState.FAILED})},
    {"until": 1_800_000_000.01},
    {"sender": "@client7.example"},
    {"recipient": "@dest7.example"},
    {"states": frozenset({RecipientState.DELIVERED})},
    {"message_id": "<nobody@example>"},
    {"recipient": "@nobody.example"},
    {"subject": "nothing"},
    {"states": frozenset({RecipientState.QUEUED})},
)


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one run."""

    sift_us: float  # CPU for each message
    ledger: int  # octets of the database
    sieves: int  # ... of which sieves
    seconds: dict[str, float]  # CPU by each key
    found: dict[str, int]


def measured(folder: Path, count: int) -> Costs:
    """Of so many finished recipients, one a message."""
    path = folder / "queue.db"
    with closing(schema.connect(path, cache=16 << 20)) as connection:
        schema.prepare(connection, now=0.0)
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(schema.FORGET)
        for first in range(0, count, BATCH):
            _fill(connection, first, min(first + BATCH, count))
        began = time.process_time()
        _sift(connection)
        sift = time.process_time() - began
        sieves = connection.execute("SELECT sum(length(bits)) FROM sieve").fetchone()[0]
        schema.checkpoint(connection, "TRUNCATE")
    seconds, found = {}, {}
    with closing(schema.connect(path, cache=8 << 20, read_only=True)) as connection:
        for key in KEYS:
            began, name = time.process_time(), str(key)
            found[name] = _search(connection, FindFilter(**key))
            seconds[name] = time.process_time() - began
    return Costs(sift / count * 1e6, path.stat().st_size, sieves or 0, seconds, found)


def _fill(connection: Any, first: int, last: int) -> None:
    batch, ends = Batch(1_800_000_000.0, 0), []
    for number in range(first, last):
        rest = random.Random(number)
        at = 1_800_000_000.0 + number * 0.05
        content = (
            b"Received: from a by b\r\nMessage-ID: <%d@mail%d.example>\r\n"
            b"Subject: Invoice for order %d\r\n\r\nx\r\n" % (number, number % 300, number)
        )
        sender = Mailbox(f"s{rest.randrange(5000)}", f"client{1 + rest.randrange(500)}.example")
        to = Mailbox(f"user{rest.randrange(200_000)}", f"dest{1 + rest.randrange(20_000)}.example")
        client = replace(
            CLIENT, address=f"192.0.2.{rest.randrange(256)}", login=f"u{rest.randrange(3000)}"
        )
        if not number:
            sender, to = Mailbox("first", "client0.example"), Mailbox("first", "dest0.example")
            client = replace(client, address="2001:db8::1", login="first")
        made = replace(
            submission(replace(recipient(), mailbox=to, original=to)),
            envelope=Envelope(sender, envid=f"E{number}"),
            client=client,
            recipients=(Recipient(to, to, "inside", sender),),
            header_size=len(content) - 3,
        )
        ident = make_ident(int(at * 1e6), 0)
        rows = accept_rows(ident, at, made, BytesContent(content), 0, content)
        batch.accept(rows)
        state = RecipientState.DELIVERED if number else RecipientState.FAILED
        ends.append(Settlement(rows.value[1][0], state, DONE))
    batch.settle(ends)
    connection.execute("BEGIN")
    batch.write(connection)
    connection.execute("COMMIT")


def _sift(connection: Any) -> None:
    sift = Sift().begun()
    while True:
        connection.execute("BEGIN")
        sift.enter(Batch(0.0), connection)
        connection.execute("COMMIT")
        if sift.done():
            return


def _search(connection: Any, wanted: FindFilter) -> int:
    found, before = 0, 1 << 62
    while found < PAGE:
        page = find(connection, wanted, before, PAGE - found)
        found += len(page.found)
        if page.before is None:
            break
        before = page.before
    return found


def main(arguments: Sequence[str] = sys.argv[1:]) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="find_bench", description=__doc__)
    parser.add_argument("--recipients", type=int, default=1_000_000)
    count: int = parser.parse_args(arguments).recipients
    with tempfile.TemporaryDirectory(prefix="relayd-find-") as folder:
        costs = measured(Path(folder), count)
    print(f"sifting: {costs.sift_us:.1f} us of CPU a message")
    print(
        f"database: {costs.ledger / count:.0f} octets a message, {costs.sieves / count:.1f} sieve"
    )
    for name, seconds in costs.seconds.items():
        print(f"{seconds * 1000:7.1f} ms  {costs.found[name]:4}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
