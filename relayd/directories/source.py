"""What a driver is asked, and what it answers."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from relayd.mail.value import dataclass
from relayd.rules.language.directory import DirectoryDef

CONNECT = 15  # seconds for a connection
SILENCE = 60  # seconds without a word from the source
MOST_ROWS = 1000  # that stand behind one key
PATIENCE = 5  # seconds for either, where somebody waits at RCPT
MOST_SECRET = 4096  # octets
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


class SourceError(Exception):
    """The source does not answer, or with nothing that makes a table; the text says why."""


class Unchanged(Exception):  # noqa: N818 - an answer
    """The source says itself that nothing has changed."""


@dataclass(frozen=True)
class TableOrder:
    """A table to be read."""

    name: str
    directory: DirectoryDef
    folders: tuple[str, ...]  # where the files that it names may be, the likeliest first
    path: str  # of the snapshot
    authorities: str = ""  # whom to believe instead of the system's authorities

    def text(self) -> str:
        """For the process that reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> TableOrder:
        """The inverse of text."""
        read = json.loads(text)
        directory = DirectoryDef(**read.pop("directory"))
        return cls(directory=directory, folders=tuple(read.pop("folders")), **read)

    def file(self, name: str) -> Path:
        """A file that the table's statement names."""
        found = [Path(folder) / name for folder in self.folders]
        return next((each for each in found if each.exists()), found[0])

    def secret(self) -> str:
        """What the secret's file holds; raises SourceError."""
        path = self.file(self.directory.secret)
        private(path)
        text = path.read_bytes()[:MOST_SECRET].decode("utf-8", "replace").strip()
        if not text or "\n" in text:
            raise SourceError(f"{path} holds no secret: expected one line")
        return text

    @property
    def trusted(self) -> Path:
        """The file of the authorities that are believed."""
        return Path(self.authorities) if self.authorities else AUTHORITIES


@dataclass(frozen=True)
class Rows:
    """What a source holds."""

    columns: int
    rows: Iterator[Sequence[object]]
    tag: str = ""  # its own word for this state


Driver = Callable[[TableOrder, str], Rows]
"""Asks the source; told the tag of what is kept. Raises SourceError, Unchanged, OSError and, while
the rows are read as well, what its library raises."""


class AskedSource(Protocol):
    """A connection to a source that is asked for one key at a time."""

    def ask(self, key: str) -> Iterator[object]:
        """What stands behind a key: a row for each. Raises SourceError; then it is of no use."""

    def end(self) -> None:
        """Let go of it. From another thread: whoever waits for it waits no longer."""


Connect = Callable[[TableOrder], AskedSource]
"""Connects to the source of a live table. Raises SourceError and OSError."""


def private(path: Path) -> None:
    """A file with secrets must not be for everybody's eyes; raises SourceError."""
    try:
        found = path.stat()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from None
    if found.st_mode & stat.S_IRWXO:
        mode = stat.S_IMODE(found.st_mode)
        raise SourceError(f"{path} is open to others (mode {mode:04o}): chmod 640 {path}")


def counted(columns: int) -> int:
    """As many columns as make a table; raises SourceError."""
    if columns not in (1, 2):
        raise SourceError(
            f"the query gives {columns} columns: expected one, a list, "
            "or two, an address and what it becomes"
        )
    return columns


def versioned(order: TableOrder, row: Sequence[object] | None, tag: str) -> str:
    """The tag that the answer to `version` makes; raises SourceError, or Unchanged: it is this one.

    It is asked before the rows, so that what changes meanwhile is found the next time.
    """
    if row is None:
        raise SourceError("the query of version gives no row: expected one")
    fresh = json.dumps([order.directory.version, *(_plain(each) for each in row)])
    if fresh == tag:
        raise Unchanged
    return fresh


def _plain(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def one_line(error: object) -> str:
    """What a library says, without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def missing(library: str, package: str) -> SourceError:
    """The driver's library is not installed."""
    return SourceError(
        f"the library {library} is missing: apt install {package}, or pip install {library}"
    )
