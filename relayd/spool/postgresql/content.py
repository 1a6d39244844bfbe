"""Content on its way: in a file of this node until it is in the database, and while it is sent.

What is larger than a draft keeps in memory goes through a private folder of the process. Nothing
in there is missed: all of it is in the database, or was never promised to anybody.
"""

from __future__ import annotations

import contextlib
import os
from itertools import count
from pathlib import Path
from zlib import crc32

from relayd.mail.ident import ident_text
from relayd.spool.disk.content import ContentFiles, FileContent, Warm
from relayd.spool.errors import SpoolError
from relayd.spool.postgresql.session import DatabaseSession

CHUNK = 1 << 20  # octets: more are in rows of their own, each of so many

_INSERT = "INSERT INTO content(message, number, data) VALUES (%s, %s, %s)"


class LocalContent(FileContent):
    """A file that nobody but this object knows, and which goes with it."""

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()


class LocalFiles(ContentFiles):
    """The private folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, lambda ident, reason: None)
        self._numbers = count()

    def content(self, ident: int, size: int, parity: int, warm: Warm | None = None) -> FileContent:
        """The content of a draft that was committed."""
        return LocalContent(self.path(ident), size, parity, lambda reason: None, warm)

    def fetched(
        self, session: DatabaseSession, ident: int, size: int, parity: int, chunks: int
    ) -> FileContent | None:
        """The content of a message as the database has it, in a new file; None: it is damaged.

        Raises OSError.
        """
        path = self.directory / f"{ident_text(ident)}-{next(self._numbers)}"
        found = LocalContent(path, size, parity, lambda reason: None)
        octets, check = 0, 0
        with path.open("xb") as file:
            for number in range(max(chunks, 1)):
                row = session.ask(*_piece(ident, number, chunks)).fetchone()
                data = b"" if row is None or row[0] is None else row[0]
                octets, check = octets + len(data), crc32(data, check)
                file.write(data)
        return found if (octets, check) == (size, parity) else None


def _piece(ident: int, number: int, chunks: int) -> tuple[str, tuple[int, ...]]:
    if chunks:
        return "SELECT data FROM content WHERE message = %s AND number = %s", (ident, number)
    return "SELECT content FROM message WHERE ident = %s", (ident,)


class Upload:
    """Sends large content ahead of its message's row; in the syncer's thread, on its own session.

    What is sent for a message that is never accepted is cleared away by `Sweep`.
    """

    def __init__(self, where: str, name: str, files: LocalFiles) -> None:
        self._where = where
        self._name = name
        self._files = files
        self._session: DatabaseSession | None = None

    def send(self, ident: int, size: int) -> tuple[bytes | None, int]:
        """What goes into the message's row, and how many rows have been written beside it.

        Raises SpoolError, OSError or psycopg.Error.
        """
        with self._files.path(ident).open("rb", buffering=0) as file:
            if size <= CHUNK:
                return _exactly(file.fileno(), size), 0
            chunks = -(-size // CHUNK)
            if self._session is None or self._session.lost:
                self._session = DatabaseSession(self._where, self._name)
            for number in range(chunks):
                data = _exactly(file.fileno(), min(CHUNK, size - number * CHUNK))
                self._session.begin()
                try:
                    self._session.ask(_INSERT, (ident, number, data))
                    self._session.commit()
                except BaseException:
                    self.close()
                    raise
            return None, chunks

    def close(self) -> None:
        """Let go of the connection."""
        session, self._session = self._session, None
        if session is not None:
            session.close()


def _exactly(fd: int, size: int) -> bytes:
    pieces = []
    while size:
        data = os.read(fd, size)
        if not data:
            raise SpoolError("content file is truncated")
        pieces.append(data)
        size -= len(data)
    return b"".join(pieces)
