"""Loads the tables that the rules name, from their files, as snapshots."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from relayd.config.files import read_text, require_private, short_name, similar_file
from relayd.rules.language.model import Item, TableDef
from relayd.rules.language.source import Complaint, Problem, Source
from relayd.rules.tables.table import Table
from relayd.rules.tables.tablefile import ReadFile, list_table, read_table
from relayd.rules.tables.userstable import DovecotTable

MAX_ROWS = 5_000_000


@dataclass
class TableLoader:
    """Reads tables for a configuration in `folder`; `files` and `problems` grow as it does."""

    folder: Path
    problems: list[Problem]
    files: list[Path] = field(default_factory=list)

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
        if not item.file:
            entries = list(zip(item.entries, item.entry_places, strict=True))
            return list_table(item.name, str(item.place), entries, self.problems)
        path = self._find(item)
        where = item.entry_places[0] if item.entry_places else item.place
        self.files.append(path)
        kind = item.kind
        try:
            if kind == "sqlite":
                source, kind = self._rows(path, item.query)
            else:
                source = self._source(path)
                if kind == "users":
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
        return read_table(item.name, kind, source, self.problems, include)

    def _beside(self, item: TableDef) -> Path:
        return Path(item.place.source.path).parent

    def _find(self, item: TableDef) -> Path:
        """Beside the file that names it, else beside relayd.conf."""
        beside = self._beside(item) / item.file
        return beside if beside.exists() else self.folder / item.file

    def _source(self, path: Path) -> Source:
        return Source.of(read_text(path, str(path)), str(path), short_name(path, self.folder))

    def _includer(self, folder: Path) -> ReadFile:
        """Reads :include: files, which must lie below the folder, whatever links say."""
        if not folder.is_dir():
            folder = self.folder / folder.name

        def read(name: str) -> Source:
            path = folder / name
            real = Path(os.path.realpath(path))
            if not real.is_relative_to(os.path.realpath(folder)):
                raise ValueError(f"{name} lies outside the folder {folder}")
            self.files.append(path)
            try:
                return self._source(path)
            except Complaint as complaint:
                raise ValueError(complaint.problem.headline) from None

        return read

    def _rows(self, path: Path, query: str) -> tuple[Source, str]:
        """A query's rows as the lines of a list (one column) or a map (two: address, targets)."""
        if not path.is_file():
            raise FileNotFoundError(2, "No such file or directory")
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=2)) as database:
            rows = database.execute(query).fetchmany(MAX_ROWS)
        name = short_name(path, self.folder)
        wide = bool(rows) and len(rows[0]) > 1
        lines = [
            " ".join(" ".join(str(cell).split()) for cell in row if cell is not None)
            for row in rows
        ]
        return Source(str(path), name, tuple(lines)), "virtual" if wide else "list"
