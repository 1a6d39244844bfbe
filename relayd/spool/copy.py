"""What waits moves from a folder to a database, or back: some messages at a time.

Each step is durable where it goes before it is dropped where it was. Killed in between, the same
messages are in both; the next run sees by their identifiers and the ledger that they have been
taken, whatever has become of them there, and only drops them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from zlib import crc32

from relayd.mail.content import CHUNK
from relayd.mail.ident import ident_text, shard_of
from relayd.spool.disk.content import ContentFiles
from relayd.spool.disk.lock import Lock
from relayd.spool.errors import SpoolError
from relayd.spool.sqlite import schema
from relayd.spool.sqlite.batch import UNKNOWN, Batch
from relayd.spool.sqlite.bridge import ThreadBridge
from relayd.spool.sqlite.database import in_force
from relayd.spool.sqlite.rows import (
    IN_FILE,
    LedgerRow,
    MessageRow,
    RecipientRow,
    Row,
    columns,
)
from relayd.spool.sqlite.store import Spool

STEP = 200  # messages
STEP_OCTETS = 16 << 20  # of content, unless one message has more
_CACHE = 16 << 20


class Pieces(Protocol):
    """Gives the content of a message; raises OSError or SpoolError."""

    def __call__(self) -> Iterator[bytes]:
        """From the beginning."""


class MovedMessage(NamedTuple):
    """All that waits of one message, and what the ledger says of it."""

    row: MessageRow
    recipients: list[RecipientRow]
    headers: list[bytes]
    ledger: list[LedgerRow]
    pieces: Pieces

    def content(self) -> bytes:
        """All of it; raises SpoolError if it is not what was taken."""
        data = b"".join(self.pieces())
        if len(data) != self.row.size or crc32(data) != self.row.content_parity:
            raise SpoolError(f"{ident_text(self.row.ident)}: content is missing or damaged")
        return data

    def whole(self) -> bool:
        """Its content is what was taken; read without having it in memory."""
        octets = parity = 0
        try:
            for piece in self.pieces():
                octets, parity = octets + len(piece), crc32(piece, parity)
        except OSError:
            return False
        return (octets, parity) == (self.row.size, self.row.content_parity)

    @property
    def mark(self) -> Row | None:
        """What tells it from any other of the same identifier."""
        return mark_of(self.ledger)


def mark_of(ledger: Iterable[LedgerRow]) -> Row | None:
    """Of a message's acceptance: what nothing changes afterwards."""
    for row in ledger:
        if not row.ended and row.facts is not None:
            return row.at, row.size, row.sender, row.facts
    return None


class MovingEnd(Protocol):
    """One of the two places. All methods raise SpoolError, or what the place itself raises."""

    def waiting(self) -> Iterator[list[MovedMessage]]:
        """All that waits, by ident, a step at a time; each step may be dropped at once."""

    def marks(self, idents: Sequence[int]) -> dict[int, Row | None]:
        """Of these, those that are known here, and what tells them from others."""

    def take(self, messages: Sequence[MovedMessage]) -> None:
        """Have them; durable when it returns."""

    def drop(self, messages: Sequence[MovedMessage]) -> None:
        """Have them no more, nor anything that the ledger says of them."""

    def close(self) -> None:
        """Let go of it."""


@dataclass
class Copied:
    """What was done."""

    messages: int = 0
    known: int = 0  # of these, what an earlier run had taken already
    damaged: int = 0  # left where they are
    octets: int = 0


def copy(source: MovingEnd, target: MovingEnd, told: Any = lambda done: None) -> Copied:  # noqa: ANN401
    """Move all that waits; `told` hears of each step. Raises SpoolError."""
    done = Copied()
    for step in source.waiting():
        marks = target.marks([each.row.ident for each in step])
        fresh = []
        moved = []
        for each in step:
            ident = each.row.ident
            if ident in marks:
                if marks[ident] != each.mark:
                    raise SpoolError(f"there is another message {ident_text(ident)} already")
                done.known += 1
                moved.append(each)
            elif each.whole():
                fresh.append(each)
                moved.append(each)
            else:
                done.damaged += 1
        target.take(fresh)
        source.drop(moved)
        done.messages += len(moved)
        done.octets += sum(each.row.size for each in moved)
        told(done)
    return done


class FolderEnd:
    """A spool in a folder that no relayd has open: all shards of it."""

    def __init__(self, folder: Path, *, make: bool = False) -> None:
        """`make`: shards that are not there yet."""
        self._folder = folder
        self._make = make
        self._held = contextlib.ExitStack()
        self._shards: dict[int, FolderShard] = {}
        if make:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not any(folder.glob("shard-*")):
            raise SpoolError(f"there is no spool {folder}")
        self._lock(folder / "lock")
        try:
            for path in sorted(folder.glob("shard-*")):
                number = path.name.removeprefix("shard-")
                if number.isdigit() and in_force(path) is not None:
                    self._shard(int(number))
        except BaseException:
            self.close()
            raise

    def _lock(self, path: Path) -> None:
        lock = Lock(path)
        lock.acquire()
        self._held.callback(lock.release)

    def _shard(self, number: int) -> FolderShard:
        found = self._shards.get(number)
        if found is None:
            path = self._folder / f"shard-{number}"
            if not path.is_dir() or in_force(path) is None:
                bridge = ThreadBridge()
                spool = Spool(self._folder, bridge, shard=number, lock=path / "lock")
                spool.open()
                bridge.wait(spool.close())
            self._lock(path / "lock")
            found = self._shards[number] = FolderShard(path)
            self._held.callback(found.close)
        return found

    def waiting(self) -> Iterator[list[MovedMessage]]:
        """See MovingEnd."""
        for number in sorted(self._shards):
            yield from self._shards[number].waiting()

    def _by_shard(
        self, messages: Sequence[MovedMessage]
    ) -> Iterator[tuple[FolderShard, list[MovedMessage]]]:
        found: dict[FolderShard, list[MovedMessage]] = {}
        for each in messages:
            found.setdefault(self._holding(each.row.ident), []).append(each)
        yield from found.items()

    def _holding(self, ident: int) -> FolderShard:
        for each in self._shards.values():
            if each.marks([ident]):
                return each
        return self._shard(shard_of(ident))

    def marks(self, idents: Sequence[int]) -> dict[int, Row | None]:
        """See MovingEnd."""
        found: dict[int, Row | None] = {}
        for each in self._shards.values():
            found |= each.marks(idents)
        return found

    def take(self, messages: Sequence[MovedMessage]) -> None:
        """See MovingEnd."""
        for shard, some in self._by_shard(messages):
            shard.take(some)

    def drop(self, messages: Sequence[MovedMessage]) -> None:
        """See MovingEnd."""
        for shard, some in self._by_shard(messages):
            shard.drop(some)

    def close(self) -> None:
        """See MovingEnd."""
        self._held.close()


class FolderShard:
    """One shard of it."""

    def __init__(self, path: Path) -> None:
        database = in_force(path)
        assert database is not None
        self._connection = schema.connect(database, cache=_CACHE)
        schema.prepare(self._connection, now=time.time())
        self._files = ContentFiles(path, lambda ident, reason: None)
        self._files.prepare()

    def waiting(self) -> Iterator[list[MovedMessage]]:
        """See MovingEnd."""
        after = 0
        while True:
            rows = self._connection.execute(
                f"SELECT {columns('message')} FROM message WHERE ident > ? ORDER BY ident LIMIT ?",
                (after, STEP),
            ).fetchall()
            if not rows:
                return
            step = [self._moved(row) for row in bounded(map(MessageRow._make, rows))]
            after = step[-1].row.ident
            yield step

    def _rows(self, table: str, ident: int, order: str) -> list[Row]:
        text = f"SELECT {columns(table)} FROM {table} WHERE message = ? ORDER BY {order}"
        return self._connection.execute(text, (ident,)).fetchall()

    def _moved(self, row: MessageRow) -> MovedMessage:
        ident = row.ident
        return MovedMessage(
            row,
            [*map(RecipientRow._make, self._rows("recipient", ident, "number"))],
            [section for _, _, section in self._rows("header", ident, "number")],
            [*map(LedgerRow._make, self._rows("ledger", ident, "number, ended"))],
            lambda: self._pieces(row),
        )

    def _pieces(self, row: MessageRow) -> Iterator[bytes]:
        if row.flags & IN_FILE:
            with self._files.path(row.ident).open("rb") as file:
                while data := file.read(CHUNK):
                    yield data
        else:
            for _, data in self._rows("content", row.ident, "message"):
                yield data

    def marks(self, idents: Sequence[int]) -> dict[int, Row | None]:
        """See MovingEnd."""
        found = {}
        for ident in idents:
            ledger = [*map(LedgerRow._make, self._rows("ledger", ident, "number, ended"))]
            if ledger:
                found[ident] = mark_of(ledger)
        return found

    def take(self, messages: Sequence[MovedMessage]) -> None:
        """See MovingEnd."""
        in_files = [each for each in messages if each.row.flags & IN_FILE]
        for each in in_files:
            fd = self._files.create(each.row.ident)
            with open(fd, "wb", buffering=0) as file:  # noqa: PTH123 - of the descriptor
                for piece in each.pieces():
                    file.write(piece)
                os.fsync(fd)
        self._files.sync_directories(each.row.ident for each in in_files)
        self._connection.execute("BEGIN IMMEDIATE")
        batch = Batch(time.time())
        for each in messages:
            self._insert("message", [each.row])
            self._insert("recipient", each.recipients)
            sections = enumerate(each.headers, 1)
            self._insert("header", [(each.row.ident, n, section) for n, section in sections])
            if not each.row.flags & IN_FILE:
                self._insert("content", [(each.row.ident, each.content())])
            self._insert("ledger", each.ledger)
            batch.add(1, each.row.size, len(each.ledger))
            batch.spoil(self._connection, min(each.row.ident, UNKNOWN))
        batch.write(self._connection)
        self._connection.execute("COMMIT")

    def _insert(self, table: str, rows: Sequence[Row]) -> None:
        if rows:
            places = ", ".join("?" * len(rows[0]))
            text = f"INSERT INTO {table}({columns(table)}) VALUES ({places})"
            self._connection.executemany(text, rows)

    def drop(self, messages: Sequence[MovedMessage]) -> None:
        """See MovingEnd."""
        self._connection.execute("BEGIN IMMEDIATE")
        batch = Batch(time.time())
        batch.purge(self._connection, [each.row.ident for each in messages])
        batch.write(self._connection)
        self._connection.execute("COMMIT")
        self._files.remove(each.row.ident for each in messages if each.row.flags & IN_FILE)

    def close(self) -> None:
        """Let go of it."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        schema.checkpoint(self._connection, "TRUNCATE")
        self._connection.close()


def bounded(rows: Iterable[MessageRow]) -> Iterator[MessageRow]:
    """The first of them, as long as it is not too much at once; one in any case."""
    octets = 0
    for row in rows:
        if octets and octets + row.size > STEP_OCTETS:
            return
        octets += row.size
        yield row
