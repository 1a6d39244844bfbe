"""A directory's entries as they were last read: an indexed file, of which nothing is in memory.

One process reads the directory (relayd.directories), all look entries up in the file. A newer one
takes its place by a rename; whoever looks something up notices within a second.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sqlite3
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from relayd.rules.language.source import Problem, Source
from relayd.rules.subject import NetIndex, Subject
from relayd.rules.tables.table import (
    FoundEntry,
    ListTable,
    MapEntry,
    MapTable,
    MapTransport,
    Table,
    Unknown,
)
from relayd.rules.tables.tablefile import read_table

T = TypeVar("T")

FOLDER = "tables"  # in the spool directory
LOOK = 1.0  # seconds between two looks whether there is a newer one
MOST_SKIPPED = 100  # that are kept by name
MOST_MAPPED = 1 << 32  # octets
CHUNK = 2000  # rows that are read at once
FORM = "relayd table 1"
_SCHEMA = """
    PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -32768;
    CREATE TABLE entry (key TEXT PRIMARY KEY, line INTEGER, targets TEXT) WITHOUT ROWID;
    CREATE TABLE head (text TEXT);
"""
# What is no key of an address: it begins with what none begins with.
_WORD, _DOMAIN, _NETWORK = "=", "%", "/"


@dataclass
class Skipped:
    """Entries that were passed over: the first ones, as keys and what is wrong, and how many."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    count: int = 0

    def add(self, key: str, why: str) -> None:
        """One more."""
        self.count += 1
        if len(self.rows) < MOST_SKIPPED:
            self.rows.append((key, why))


@dataclass(frozen=True)
class SnapshotHead:
    """What a snapshot says of itself."""

    source: str  # what was asked: see Directory.source
    columns: int  # 1: a list; 2: a map
    entries: int
    taken: float  # when it was read, seconds since the epoch
    digest: str  # of the rows, in whatever order
    tag: str = ""  # the source's own word for this state: HTTP's ETag
    bare: bool = False  # see MapTable
    networks: tuple[str, ...] = ()  # whatever stands in it of each kind: version/bits
    skipped: Skipped = field(default_factory=Skipped)


class SnapshotError(Exception):
    """There is one, and it cannot be used."""


class Entries:
    """The file, for look-ups; raises OSError (none) or SnapshotError."""

    def __init__(self, path: Path) -> None:
        self.identity = identity(path.stat())
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        try:
            self._rows = sqlite3.connect(uri, uri=True, check_same_thread=False)
            self._rows.execute(f"PRAGMA mmap_size = {MOST_MAPPED}")
            text = self._rows.execute("SELECT text FROM head").fetchone()[0]
            read = json.loads(text)
            if read.pop("form") != FORM:
                raise SnapshotError("it is of another relayd")
            skipped = read.pop("skipped")
            rows = [(key, why) for key, why in skipped["rows"]]
            networks = tuple(read.pop("networks"))
            self.head = SnapshotHead(
                **read, networks=networks, skipped=Skipped(rows, skipped["count"])
            )
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            raise SnapshotError(f"it is damaged: {error}") from None

    def get(self, key: str) -> MapEntry | None:
        """The entry of exactly this key; raises Unknown."""
        try:
            found = self._rows.execute("SELECT line, targets FROM entry WHERE key = ?", (key,))
            row = found.fetchone()
        except sqlite3.Error as error:
            raise Unknown(f"a snapshot cannot be read: {error}") from None
        except UnicodeEncodeError:
            return None
        return row and MapEntry(row[0], tuple(row[1].split("\n")))


class _Looked(Mapping[str, T]):
    """What is looked up by key, as ListTable and MapTable do; nobody walks through a directory."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries

    @abstractmethod
    def get(self, key: str, default: object = None) -> T | None:  # type: ignore[override]
        """None: it is not there."""

    def __getitem__(self, key: str) -> T:
        found = self.get(key)
        if found is None:
            raise KeyError(key)
        return found

    def __contains__(self, key: object) -> bool:
        return self.get(str(key)) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return self._entries.head.entries


class _Lines(_Looked[int]):
    """Lines by key."""

    def __init__(self, entries: Entries, key: Callable[[str], Iterable[str]]) -> None:
        super().__init__(entries)
        self._key = key

    def get(self, key: str, default: object = None) -> int | None:  # type: ignore[override]
        for each in self._key(key):
            found = self._entries.get(each)
            if found is not None:
                return found.line
        return None


class _Targets(_Looked[MapEntry]):
    """Entries of a map by key."""

    def get(self, key: str, default: object = None) -> MapEntry | None:  # type: ignore[override]
        return self._entries.get(key)


class _Networks(NetIndex):
    """Networks by their bits, for each length that occurs."""

    __slots__ = ("_entries", "_kinds")

    def __init__(self, entries: Entries) -> None:
        super().__init__()
        self._entries = entries
        kinds = [tuple(map(int, each.split("/"))) for each in entries.head.networks]
        self._kinds = sorted(kinds, key=lambda kind: kind[1])

    def __len__(self) -> int:
        return len(self._kinds)

    def find(self, number: tuple[int, int] | None) -> list[int]:
        """See NetIndex."""
        if number is None:
            return []
        version, bits = number
        found = (
            self._entries.get(_network(family, shift, bits >> shift))
            for family, shift in self._kinds
            if family == version
        )
        return [entry.line for entry in found if entry is not None]


def _network(version: int, shift: int, bits: int) -> str:
    return f"{_NETWORK}{version}/{shift}/{bits:x}"


def identity(found: os.stat_result) -> tuple[int, int]:
    """What tells a snapshot from the next: a time alone may be the same, a number be used again."""
    return found.st_ino, found.st_size


def table_of(name: str, kind: str, entries: Entries) -> ListTable | MapTable:
    """The table that the entries make, for look-ups only."""
    if entries.head.columns == 1:
        table = ListTable(name, kind, lines=False)
        table.probes = _Lines(entries, lambda key: (key,))  # type: ignore[assignment]
        table.words = _Lines(entries, _spelled)  # type: ignore[assignment]
        table.networks = _Networks(entries)
        return table
    mapped = MapTable(name, "virtual", kind)
    mapped.entries = _Targets(entries)  # type: ignore[assignment]
    mapped.domains = _Lines(entries, lambda key: (_DOMAIN + key,))  # type: ignore[assignment]
    mapped.bare = entries.head.bare
    return mapped


def _spelled(word: str) -> Iterable[str]:
    """A word of a list as it stands in the file: an address stands for itself."""
    return (word, _WORD + word) if "@" in word[1:-1] else (_WORD + word,)


_closed: set[int] = set()  # threads to which nothing is known of directories


@contextlib.contextmanager
def nothing_read() -> Iterator[None]:
    """In this thread directories are asked as if none had been read yet."""
    thread = threading.get_ident()
    _closed.add(thread)
    try:
        yield
    finally:
        _closed.discard(thread)


class SnapshotTable(Table):
    """A directory's entries as they were last read; while there are none, nothing is known.

    The source may be away for `stale` seconds. From then on nothing is known, either.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        path: Path,
        stale: float,
        clock: Callable[[], float] = time.time,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, kind)
        self.kind = "snapshot"
        self.path = path
        self._of, self._stale = kind, stale
        self._clock, self._seconds = clock, seconds
        self._entries: Entries | None = None
        self._table: ListTable | MapTable | None = None
        self._why = ""
        self._due = 0.0

    @property
    def table(self) -> ListTable | MapTable:
        """What it is now; raises Unknown."""
        if _closed and threading.get_ident() in _closed:
            raise Unknown(f"what table {self.name} holds is left open")
        now = self._seconds()
        if now >= self._due:
            self._due = now + LOOK
            self._look()
        if self._table is None or self._why:
            raise Unknown(f"table {self.name} is not known: {self._why}")
        return self._table

    @property
    def head(self) -> SnapshotHead | None:
        """What the file says of itself; None: there is none, or none to be used."""
        with contextlib.suppress(Unknown):
            self.table  # noqa: B018 - it looks
        return None if self._entries is None else self._entries.head

    @property
    def known(self) -> bool:
        """Whether it is known what it holds."""
        try:
            self.table  # noqa: B018 - it looks
        except Unknown:
            return False
        return True

    def _look(self) -> None:
        try:
            found = self.path.stat()
            if self._entries is None or self._entries.identity != identity(found):
                entries = Entries(self.path)
                self._entries, self._table = entries, table_of(self.name, self._of, entries)
            away = self._clock() - found.st_mtime
            self._why = "its source has been away for too long" if away > self._stale else ""
        except FileNotFoundError:
            self._entries = self._table = None
            self._why = "its source has not been read yet"
        except (OSError, SnapshotError) as error:
            self._entries = self._table = None
            self._why = str(error)

    @property
    def size(self) -> int:
        """See Table."""
        return 0 if (head := self.head) is None else head.entries

    @property
    def skipped(self) -> Skipped:
        """What was passed over when it was read."""
        return Skipped() if (head := self.head) is None else head.skipped

    def mailbox(self, subject: Subject) -> str:
        """See Table."""
        return self.table.mailbox(subject)

    def client(self, address: str) -> str:
        """See Table."""
        return self.table.client(address)

    def word(self, text: str) -> str:
        """See Table."""
        return self.table.word(text)

    def owns(self, key: str) -> bool:
        """See Table."""
        return self.table.owns(key)

    def find(self, subject: Subject, at: Iterable[str] = ()) -> FoundEntry | None:
        """See Table."""
        table = self.table
        if isinstance(table, ListTable):
            raise Unknown(f"table {self.name} has one column: it says not what becomes of whom")
        return table.find(subject, at)

    def transport(self, subject: Subject) -> tuple[MapTransport, str] | None:
        """No directory says where mail goes."""
        raise Unknown(f"table {self.name} says not where mail goes")


def write(path: Path, name: str, lines: Iterable[str], head: SnapshotHead) -> SnapshotHead:
    """Make the file at `path` of rows (see relayd.rules.tables.rows), however many there are.

    Rows that make no entry are passed over, and named. Only a chunk of them is in memory. The
    file is on the disk when this is done; raises OSError, or sqlite3.Error when the disk is full.
    """
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    skipped, kinds, bare, count, before = head.skipped, set(), False, 0, 0
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.executescript(_SCHEMA)
        file.execute("BEGIN")
        for chunk in _chunks(lines):
            problems: list[Problem] = []
            source = Source(name, name, chunk)
            table = read_table(name, "list" if head.columns == 1 else "rows", source, problems)
            for problem in problems:
                key, _, _ = source.line(problem.place.line).partition(" ")
                skipped.add(key, problem.what.partition(", in line")[0])
            if isinstance(table, MapTable):
                bare |= table.bare
                count += _put(file, _of_map(table, before), joins=True)
            elif isinstance(table, ListTable):
                count += _put(file, {word: (each + before, "") for word, each in _words(table)})
                _put(file, {probe: (each + before, "") for probe, each in table.probes.items()})
                networks = [*table.networks.stored()]
                kinds |= {f"{version}/{shift}" for version, shift, _, _ in networks}
                _put(file, {_network(*net): (each + before, "") for *net, each in networks})
            before += len(chunk)
        done = replace(head, entries=count, bare=bare, networks=tuple(sorted(kinds)))
        text = json.dumps({"form": FORM, **asdict(done)})
        file.execute("INSERT INTO head VALUES (?)", (text,))
        file.execute("COMMIT")
    with path.open("rb") as written:
        os.fsync(written.fileno())
    return done


def _chunks(lines: Iterable[str]) -> Iterator[tuple[str, ...]]:
    rest = iter(lines)
    while chunk := tuple(itertools.islice(rest, CHUNK)):
        yield chunk


def _words(table: ListTable) -> Iterator[tuple[str, int]]:
    for word, line in table.words.items():
        yield next(iter(_spelled(word))), line


def _of_map(table: MapTable, before: int) -> dict[str, tuple[int, str]]:
    rows = {
        key: (entry.line + before, "\n".join(entry.values)) for key, entry in table.entries.items()
    }
    return rows | {_DOMAIN + key: (line + before, "") for key, line in table.domains.items()}


def _put(file: sqlite3.Connection, rows: dict[str, tuple[int, str]], *, joins: bool = False) -> int:
    """How many of the rows are new; where one `joins`, the row of its key has its targets, too."""
    given = [(key, *row) for key, row in rows.items()]
    added = file.executemany("INSERT OR IGNORE INTO entry VALUES (?, ?, ?)", given).rowcount
    if joins and added < len(given):
        for key, line, targets in given:
            found = file.execute("SELECT line, targets FROM entry WHERE key = ?", (key,))
            first, known = found.fetchone()
            if first != line:
                both = "\n".join(dict.fromkeys(f"{known}\n{targets}".split("\n")))
                file.execute("UPDATE entry SET targets = ? WHERE key = ?", (both, key))
    return max(added, 0)
