"""Loads the tables that the rules name, from their files, as snapshots."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from relayd.config.files import (
    ASIDE,
    COMMENT,
    read_text,
    require_private,
    short_name,
    similar_file,
)
from relayd.config.texts import Texts
from relayd.rules.language.directory import DirectoryDef
from relayd.rules.language.model import Item, TableDef
from relayd.rules.language.source import Complaint, Place, Problem, Source
from relayd.rules.language.unseen import unseen
from relayd.rules.tables.live import LiveTable
from relayd.rules.tables.rows import line as row_line
from relayd.rules.tables.rows import wrong as row_wrong
from relayd.rules.tables.snapshot import SnapshotTable
from relayd.rules.tables.table import Table
from relayd.rules.tables.tablefile import ReadFile, list_table, read_table
from relayd.rules.tables.userstable import DovecotTable

MAX_ROWS = 5_000_000
MAX_SKIPPED = 10  # rows of a table that are named


@dataclass
class TableLoader:
    """Reads tables for a configuration in `folder`.

    `files`, `problems` and `warnings`, of rows that are passed over, grow as it does.
    """

    folder: Path
    problems: list[Problem]
    texts: Texts
    snapshots: Path = Path()  # the folder of what directories held
    files: list[Path] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def load_all(self, items: Sequence[Item]) -> dict[str, Table]:
        """Every table by name, but those with a complaint."""
        tables: dict[str, Table] = {}
        for item in items:
            if isinstance(item, TableDef) and item.name not in tables:
                table = self._load(item)
                if table is not None:
                    tables[item.name] = table
        return tables

    def _load(self, item: TableDef) -> Table | None:
        if item.socket:
            return DovecotTable(item.name, str(item.place), item.socket)
        if item.directory is not None:
            if item.directory.live:
                return LiveTable(item.name, str(item.place))
            return self._snapshot(item, item.directory)
        if not item.file:
            entries = list(zip(item.entries, item.entry_places, strict=True))
            return list_table(item.name, str(item.place), entries, self.problems)
        path = self._find(item)
        where = item.entry_places[0] if item.entry_places else item.place
        self.files.append(path)
        try:
            if item.kind == "sqlite":
                return self._from_database(item, path)
            source = self._source(path, item.kind)
            if item.kind == "users":
                require_private(path, item.file, where)
        except OSError as error:
            problem = f"cannot read {item.file}: {error.strerror or error}"
            self.problems.append(Problem(where, problem, similar_file(path)))
            return None
        except sqlite3.Error as error:
            self.problems.append(
                Problem(where, f"cannot read {item.file}: {error}", "expected an SQLite database")
            )
            return None
        except Complaint as complaint:
            self.problems.append(complaint.problem)
            return None
        include = None
        if item.includes:
            include = self._includer(self._beside(item) / item.includes)
        return read_table(item.name, item.kind, source, self.problems, include)

    def _snapshot(self, item: TableDef, directory: DirectoryDef) -> Table:
        """What is kept of a directory; that there is nothing yet refuses no start."""
        table = SnapshotTable(item.name, item.kind, self.snapshots / item.name, directory.stale)
        skipped = table.skipped
        for key, why in skipped.rows[:MAX_SKIPPED]:
            more = skipped.count - len(skipped.rows[:MAX_SKIPPED])
            what = f'table {item.name}, entry "{key}" is passed over: {why}'
            if more and key == skipped.rows[:MAX_SKIPPED][-1][0]:
                what += f" (and so are {more:,} more)"
            expected = "expected an address, and in a second column what it becomes"
            self.warnings.append(Problem(item.place, what, expected))
        return table

    def _beside(self, item: TableDef) -> Path:
        return Path(item.place.source.path).parent

    def _find(self, item: TableDef) -> Path:
        """Beside the file that names it, else beside relayd.conf."""
        beside = self._beside(item) / item.file
        return beside if self.texts.has(beside) else self.folder / item.file

    def _source(self, path: Path, kind: str) -> Source:
        unread = ASIDE if kind in ("aliases", "virtual", "canonical") else COMMENT
        text = read_text(path, str(path), unread, self.texts, secret=kind == "users")
        source = Source.of(text, str(path), short_name(path, self.folder))
        self.warnings += unseen(source, unread) if kind != "users" else ()
        return source

    def _includer(self, folder: Path) -> ReadFile:
        """Reads :include: files, which must lie below the folder, whatever links say."""
        if not self.texts.has(folder):
            folder = self.folder / folder.name

        def read(name: str) -> Source:
            path = folder / name
            real = Path(os.path.realpath(path))
            if not real.is_relative_to(os.path.realpath(folder)):
                raise ValueError(f"{name} lies outside the folder {folder}")
            self.files.append(path)
            try:
                return self._source(path, "aliases")
            except Complaint as complaint:
                raise ValueError(complaint.problem.headline) from None

        return read

    def _from_database(self, item: TableDef, path: Path) -> Table:
        """A query's rows as a list (one column) or a map (two: address, targets).

        A database is others' business: a row that makes no entry is named, and the rest counts.
        """
        skipped: list[Problem] = []
        rows = _rows(path, item.query)
        source = Source(str(path), short_name(path, self.folder), tuple(map(row_line, rows)))
        kind = "rows" if rows and len(rows[0]) > 1 else "list"
        entries = []
        for number, (row, line) in enumerate(zip(rows, source.lines, strict=True), 1):
            wrong = row_wrong(row)
            if wrong:
                skipped.append(Problem(Place(source, number, 1, max(len(line), 1)), wrong))
            entries.append("" if wrong else line)
        read = Source(source.path, source.name, tuple(entries))
        table = read_table(item.name, kind, read, skipped)
        self.warnings += _named(item.name, skipped)
        return table


def _rows(path: Path, query: str) -> list[tuple[object, ...]]:
    if not path.is_file():
        raise FileNotFoundError(2, "No such file or directory")
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=2)) as database:
        database.text_factory = _text  # else one row that is not UTF-8 costs all
        return database.execute(query).fetchmany(MAX_ROWS)


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def _named(name: str, skipped: list[Problem]) -> list[Problem]:
    """The rows that were passed over, in order, not too many of them."""
    rows: dict[int, Problem] = {}
    for each in sorted(skipped, key=lambda problem: problem.place.line):
        rows.setdefault(each.place.line, each)
    shown = [
        Problem(
            each.place,
            f"table {name}, row {line} is passed over: {each.what}",
            each.expected or "expected an address, and in a second column what it becomes",
        )
        for line, each in list(rows.items())[:MAX_SKIPPED]
    ]
    if len(rows) > len(shown):
        what = f"{shown[-1].what} (and so are {len(rows) - len(shown)} more)"
        shown[-1] = Problem(shown[-1].place, what, shown[-1].expected)
    return shown
