"""The database file of a shard: `queue.db`, or `queue-N.db` after N rebuilds of a damaged one."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

from relayd.spool.disk.content import sync_directory
from relayd.spool.sqlite import salvage, schema

_NAME = re.compile(r"queue(?:-([1-9][0-9]{0,8}))?\.db\Z")
_BESIDE = ("-wal", "-shm")  # SQLite's own files beside it
_MAGIC = b"SQLite format 3\0"


def in_force(directory: Path) -> Path | None:
    """The file that a look from outside finds in force; None: there is none."""
    found = _numbered(directory)
    return found[_latest(found)] if found else None


def _numbered(directory: Path) -> dict[int, Path]:
    return {
        int(match[1] or 0): entry
        for entry in directory.iterdir()
        if (match := _NAME.match(entry.name))
    }


def _latest(found: dict[int, Path]) -> int:
    """The number in force: what was rebuilt is never empty, so a number alone makes no database."""
    return max((number for number in found if not number or _begins_well(found[number])), default=0)


def _begins_well(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


class Database:
    """Finds, opens and rebuilds the file.

    A rebuilt database gets a name of its own, and the rename to that name is what makes it the
    one in force. Put under the old name, a crash could leave it beside the old one's log.
    """

    def __init__(self, directory: Path, damaged: Path) -> None:
        self._directory = directory
        self._damaged = damaged
        self._number = 0
        self._opened: tuple[tuple[int, int] | None, ...] = ()  # device and inode of each file
        self.begun_anew = False  # there was none, or nothing in it

    @property
    def path(self) -> Path:
        """The file in force."""
        return self._path(self._number)

    def _path(self, number: int) -> Path:
        return self._directory / (f"queue-{number}.db" if number else "queue.db")

    def find(self) -> None:
        """Look which file is in force, and finish a rebuild that was cut short; raises OSError."""
        found = _numbered(self._directory)
        self._number = _latest(found)
        for number in sorted(found.keys() - {self._number}):
            self._keep(self._path(number))
        log = Path(f"{self.path}{_BESIDE[0]}")
        self.begun_anew = not any(
            each.exists() and each.stat().st_size for each in (self.path, log)
        )
        # empty, so that SQLite gives its own files the same permissions
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(self.path, flags, 0o600))
        sync_directory(self._directory)

    def connect(self, *, cache: int, read_only: bool = False) -> sqlite3.Connection:
        """A connection to the file in force; raises sqlite3.Error."""
        return schema.connect(self.path, cache=cache, read_only=read_only)

    def note_files(self) -> None:
        """These are what a connection has open; raises OSError."""
        self._opened = self._files()

    def gone(self) -> bool:
        """Whether the names lead elsewhere by now, or nowhere: what is open is out of reach."""
        try:
            return self._files() != self._opened
        except OSError:  # a disk in trouble tells nothing about names
            return False

    def _files(self) -> tuple[tuple[int, int] | None, ...]:
        """The folder, the database, its log."""
        return tuple(map(_identity, (self._directory, self.path, Path(f"{self.path}{_BESIDE[0]}"))))

    def rescue(self, connection: sqlite3.Connection, notice: Callable[..., None]) -> None:
        """Copy what is open, but out of reach, into a new file; what took its place is kept.

        Raises OSError or sqlite3.Error, and then nothing has changed.
        """
        old, new = self.path, self._path(self._number + 1)
        if _identity(self._directory) != self._opened[0]:  # another disk, perhaps
            raise OSError(f"{self._directory} is not the folder it was: put that back")
        draft = self._draft(new)
        with contextlib.closing(schema.connect(draft, cache=16 << 20)) as fresh:
            connection.backup(fresh)
            fresh.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._put_in_force(draft, new)
        notice("spool copied", reason=f"{old} was taken away", to=str(new))
        if old.exists():
            self._keep(old)

    def rebuild(self, *, now: float, reason: str, notice: Callable[..., None]) -> None:
        """Carry what can be read into a new file and keep the old one in `damaged/`.

        Raises OSError or sqlite3.Error, and then nothing has changed.
        """
        old, new = self.path, self._path(self._number + 1)
        draft = self._draft(new)
        with contextlib.closing(schema.connect(draft, cache=16 << 20)) as fresh:
            schema.prepare(fresh, now=now)
            saved = salvage.carry_over(old, fresh)
            fresh.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._put_in_force(draft, new)
        kept = self._keep(old)
        notice("spool rebuilt", reason=reason, kept=str(kept), **saved)

    def _draft(self, new: Path) -> Path:
        draft = new.with_suffix(".tmp")
        for suffix in ("", *_BESIDE):
            Path(f"{draft}{suffix}").unlink(missing_ok=True)
        os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return draft

    def _put_in_force(self, draft: Path, new: Path) -> None:
        # closing the only connection removed the log; were it still there, it would be left behind
        if Path(f"{draft}-wal").exists():
            raise OSError(f"{draft}-wal is in use")
        draft.rename(new)
        sync_directory(self._directory)
        self._number += 1

    def _keep(self, path: Path) -> Path:
        kept = self._damaged / path.name
        turn = 0
        while kept.exists():
            turn += 1
            kept = self._damaged / f"{path.stem}-copy-{turn}.db"
        for suffix in (*_BESIDE, ""):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{path}{suffix}").rename(f"{kept}{suffix}")
        sync_directory(self._damaged)
        sync_directory(self._directory)
        return kept


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
