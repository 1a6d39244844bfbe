"""What a scrape of `metrics` costs: CPU of all that one does, with so many recipients waiting.

python -m tests.bench.scrape_bench --recipients 1000000
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relayd.mail.address import Mailbox
from relayd.mail.content import BytesContent
from relayd.mail.envelope import DIRECT, Recipient, is_direct
from relayd.mail.ident import make_ident
from relayd.ops.answers import FiguresAnswer
from relayd.ops.documents import no_figures, provider_figures
from relayd.ops.openmetrics import gauges_of, text_of_metrics
from relayd.shared.meters import Meters, shared_meters
from relayd.spool.disk.content import ContentFiles
from relayd.spool.sqlite import schema
from relayd.spool.sqlite.batch import Batch
from relayd.spool.sqlite.rows import accept_rows
from relayd.spool.sqlite.search import Search
from tests.spooling import SENDER, submission

BATCH = 500
SCRAPES = 20
SERIES = 500  # counters that are there, with labels, of each process; some 200 are usual
PROCESSES = 3
HOPS = 50
CONTENT = b"Subject: x\r\n\r\nx\r\n"


@dataclass(frozen=True, slots=True)
class ScrapeCosts:
    """Of one run."""

    waiting: int
    seconds: float  # CPU of one scrape, the median
    octets: int  # of its text


def measured(folder: Path, count: int) -> ScrapeCosts:
    """With so many waiting recipients, one a message; half of them for domains, half for hops."""
    path = folder / "queue.db"
    with closing(schema.connect(path, cache=16 << 20)) as connection:
        schema.prepare(connection, now=0.0)
        connection.execute("PRAGMA synchronous = OFF")
        for first in range(0, count, BATCH):
            _fill(connection, first, min(first + BATCH, count))
        schema.checkpoint(connection, "TRUNCATE")
    memory = shared_meters(PROCESSES)
    meters = [Meters(memory, PROCESSES, row) for row in range(PROCESSES)]
    for each in meters:
        for number in range(SERIES):
            slot = each.slot(f'relayd_attempts_total{{next_hop="hop{number}",state="sent"}}')
            each.cells[slot] += number
    seconds, text, waiting = [], "", 0
    with closing(schema.connect(path, cache=8 << 20, read_only=True)) as connection:
        search = Search(connection, ContentFiles(folder, lambda *_: None))
        for _ in range(SCRAPES):
            began = time.process_time()
            backlog = search.backlog()
            oldest: dict[str, float] = {}
            for destination, at in backlog.oldest.items():
                name = DIRECT if is_direct(destination) else destination
                oldest[name] = min(oldest.get(name, at), at)
            providers = provider_figures(backlog.oldest, lambda _: "google", ())
            figures: FiguresAnswer = {
                **no_figures(),
                "messages": backlog.messages,
                "octets": backlog.octets,
                "oldest": oldest,
                "providers": providers,
            }
            gauges = gauges_of(figures, 2e9)
            text = text_of_metrics(meters[0].sums(), gauges, openmetrics=True)
            seconds.append(time.process_time() - began)
            waiting = backlog.messages
    return ScrapeCosts(waiting, sorted(seconds)[SCRAPES // 2], len(text))


def _fill(connection: Any, first: int, last: int) -> None:
    batch = Batch(1_800_000_000.0, 0)
    for number in range(first, last):
        at = 1_800_000_000.0 + number * 0.05
        to = Mailbox(f"user{number}", f"dest{number % 20_000}.example")
        hop = DIRECT if number % 2 else f"hop{number % HOPS}"
        made = submission(Recipient(to, to, hop, SENDER))
        rows = accept_rows(
            make_ident(int(at * 1e6), 0), at, made, BytesContent(CONTENT), 0, CONTENT
        )
        batch.accept(rows)
    connection.execute("BEGIN")
    batch.write(connection)
    connection.execute("COMMIT")


def main(arguments: Sequence[str] = sys.argv[1:]) -> int:
    """Measure, and print a line."""
    parser = argparse.ArgumentParser(prog="scrape_bench", description=__doc__)
    parser.add_argument("--recipients", type=int, default=1_000_000)
    count: int = parser.parse_args(arguments).recipients
    with tempfile.TemporaryDirectory(prefix="relayd-scrape-") as folder:
        costs = measured(Path(folder), count)
    print(
        f"{costs.waiting:,} waiting: {costs.seconds * 1000:.1f} ms of CPU a scrape,"
        f" {costs.octets:,} octets"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
