"""A message on its way in: in memory while it is small, in a file of its own above that."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from zlib import crc32

from relayd.mail.content import BytesContent, Content
from relayd.mail.message import Submission
from relayd.spool.content import ContentFiles, os_trouble
from relayd.spool.errors import SpoolError
from relayd.spool.view import Accepted


class Draft:
    """Takes content in pieces; `commit` makes message and envelope durable (see Store)."""

    __slots__ = (
        "_commit",
        "_done",
        "_fd",
        "_files",
        "_in_file",
        "_parity",
        "_pieces",
        "_threshold",
        "_trouble",
        "ident",
        "size",
    )

    def __init__(
        self,
        ident: int,
        files: ContentFiles,
        threshold: int,
        commit: Callable[[Draft, Submission], Awaitable[Accepted]],
    ) -> None:
        self.ident = ident
        self.size = 0
        self._files = files
        self._threshold = threshold
        self._commit = commit
        self._pieces: list[bytes] = []
        self._parity = 0
        self._fd = -1
        self._in_file = False
        self._trouble: SpoolError | None = None
        self._done = False

    def write(self, data: bytes) -> None:
        """More content; raises SpoolError, and commit will then do the same."""
        self._parity = crc32(data, self._parity)
        self.size += len(data)
        if self._trouble is not None:
            raise self._trouble
        if not self._in_file and self.size <= self._threshold:
            self._pieces.append(bytes(data))
            return
        try:
            if not self._in_file:
                self._fd = self._files.create(self.ident)
                self._in_file = True
                pieces, self._pieces = self._pieces, []
                for piece in pieces:
                    _write_all(self._fd, piece)
            _write_all(self._fd, data)
        except OSError as error:
            self._trouble = os_trouble("writing content", error)
            raise self._trouble from error

    def commit(self, submission: Submission) -> Awaitable[Accepted]:
        """Store it all; to be called once."""
        assert not self._done, "a draft is committed or rolled back once"
        self._done = True
        return self._commit(self, submission)

    def rollback(self) -> None:
        """Forget the content written so far; harmless after commit."""
        if not self._done:
            self._done = True
            self.discard_file()
            self._pieces = []

    # what the spool asks while it commits

    @property
    def trouble(self) -> SpoolError | None:
        """Why it cannot be committed, if so."""
        return self._trouble

    @property
    def parity(self) -> int:
        """CRC-32 of the content."""
        return self._parity

    @property
    def data(self) -> bytes | None:
        """The content, or None if it is in a file."""
        return None if self._in_file else b"".join(self._pieces)

    def content(self, data: bytes | None) -> Content:
        """The content as the message will have it; `data` is what the property gave."""
        if data is not None:
            return BytesContent(data)
        return self._files.content(self.ident, self.size, self._parity)

    def sync(self) -> None:
        """Make the file durable, but for its directory entries; raises OSError."""
        fd, self._fd = self._fd, -1
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def discard_file(self) -> None:
        """Close and remove the file, if there is one."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)
        if self._in_file:
            self._files.remove((self.ident,))


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
