"""The process that reads one directory into a snapshot, and ends.

It has a process of its own so that nothing of it can be felt where mail is taken: neither a library
that waits, nor a million rows, nor a server that hangs. It reads a
TableOrder from standard input and prints a Fetched.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

from relayd.directories.source import Driver, SourceError, TableOrder, Unchanged
from relayd.rules.tables.rows import cell, line, wrong
from relayd.rules.tables.snapshot import Entries, Skipped, SnapshotError, SnapshotHead, write
from relayd.spool.disk.content import sync_directory

TAKEN, SAME, ASKS, FAILED = "taken", "same", "asks", "failed"
MOST_ROWS = 20_000_000
PENDING = ".asks"  # behind the name of a snapshot that somebody has to accept
_DIGEST = 16  # octets
_NICE = 5


@dataclass(frozen=True)
class Fetched:
    """What came of it."""

    outcome: str
    why: str = ""


def pending(path: Path) -> Path:
    """Where a snapshot waits that is not taken up by itself."""
    return path.with_name(f"{path.name}{PENDING}")


def fetch(order: TableOrder) -> Fetched:
    """Read the source; what is new and whole is in force when this returns."""
    path = Path(order.path)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    rows_path, new = path.with_name(f".{path.name}.rows"), path.with_name(f".{path.name}.new")
    try:
        return _fetch(order, path, rows_path, new)
    except SourceError as error:
        return Fetched(FAILED, str(error))
    except (OSError, sqlite3.Error) as error:
        return Fetched(FAILED, getattr(error, "strerror", None) or str(error))
    finally:
        for each in (rows_path, new):
            each.unlink(missing_ok=True)


def _fetch(order: TableOrder, path: Path, rows_path: Path, new: Path) -> Fetched:
    kept, waits = _head(path), _head(pending(path))
    source = order.directory.source
    same = kept if kept is not None and kept.source == source else None
    driver: Driver = import_module(f"relayd.directories.{order.directory.kind}").read
    try:
        found = driver(order, "" if same is None else same.tag)
        digest, count = _copy(found.rows, rows_path)
    except Unchanged:
        return _unchanged(path)
    digest = f"{found.columns}:{count}:{digest}"
    if same is not None and same.digest == digest:
        return _unchanged(path)
    if waits is not None and (waits.source, waits.digest) == (source, digest):
        less = "" if same is None else _less(same, waits, order.directory.shrink)
        return _put(path, pending(path), less)
    head = SnapshotHead(source, found.columns, 0, time.time(), digest, found.tag, skipped=Skipped())
    head = write(new, order.name, _lines(rows_path, head.skipped), head)
    if order.directory.strict and head.skipped.count:
        key, why = head.skipped.rows[0]
        return Fetched(FAILED, f'entry "{key}": {why} (and "strict" is said)')
    less = "" if same is None else _less(same, head, order.directory.shrink)
    return _put(path, new, less)


def _put(path: Path, new: Path, less: str) -> Fetched:
    """Take it up, or let it wait because it is so much `less`."""
    new.replace(pending(path) if less else path)
    if not less:
        pending(path).unlink(missing_ok=True)
    sync_directory(path.parent)
    return Fetched(ASKS if less else TAKEN, less)


def _head(path: Path) -> SnapshotHead | None:
    with contextlib.suppress(OSError, SnapshotError):
        return Entries(path).head
    return None


def _unchanged(path: Path) -> Fetched:
    os.utime(path)  # the source has said once more that this is so
    pending(path).unlink(missing_ok=True)
    return Fetched(SAME)


def _less(before: SnapshotHead | None, now: SnapshotHead, shrink: int) -> str:
    """What is missing, where so much is that somebody must have a look; empty: it is not."""
    if before is None:
        return ""
    if before.columns != now.columns:
        return f"has {now.columns} columns, and had {before.columns}"
    if (before.entries - now.entries) * 100 <= before.entries * shrink and (
        now.entries or not before.entries or shrink == 100
    ):
        return ""
    if not now.entries:
        return f"has lost all {before.entries:,} entries"
    return f"has {now.entries:,} of {before.entries:,} entries left"


def _copy(rows: Iterator[Sequence[object]], path: Path) -> tuple[str, int]:
    """Put the rows down as lines, so that the source need not wait; their digest and number.

    The digest is the same in whatever order they come: a query need not say one.
    """
    total = count = 0
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        for row in rows:
            why = wrong(row)
            text = f"!{why}\x00{line(row)}" if why else " ".join(filter(None, map(cell, row)))
            octets = text.encode("utf-8", "surrogateescape")
            digest = hashlib.blake2b(octets, digest_size=_DIGEST).digest()
            total = (total + int.from_bytes(digest, "big")) & ((1 << 8 * _DIGEST) - 1)
            file.write(b" " * (not why) + octets + b"\n")
            count += 1
            if count > MOST_ROWS:
                raise SourceError(f"it has more than {MOST_ROWS:,} entries")
    return f"{total:032x}", count


def _lines(path: Path, skipped: Skipped) -> Iterator[str]:
    """What _copy put down, less what makes no entry: that is named in `skipped`."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for each in file:
            text = each.rstrip("\n")
            if text[:1] == "!":
                why, _, row = text[1:].partition("\x00")
                skipped.add(row.partition(" ")[0], why)
                yield ""
            else:
                yield text[1:]


def main() -> None:
    """An order in, a report out."""
    os.umask(0o077)
    os.nice(_NICE)
    report = fetch(TableOrder.parse(sys.stdin.read()))
    sys.stdout.write(json.dumps(asdict(report)))


if __name__ == "__main__":
    main()
