"""A message on its way in: in memory while it is small, in a file of its own above that."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from zlib import crc32

from relayd.mail.content import BytesContent, Content, from_octet
from relayd.mail.message import Submission
from relayd.spool.disk.content import ContentFiles, FileContent, Warm, os_trouble
from relayd.spool.errors import SpoolError
from relayd.spool.interface import AnyDraft
from relayd.spool.view import Accepted

MANY = 256  # pieces: more are joined, for each costs memory of its own; less than IOV_MAX


class Draft:
    """Takes content in pieces; `commit` makes message and envelope durable (see Store).

    Above the threshold content goes to a file: all at once at the commit while there is room to
    keep it until then, else as it arrives.
    """

    __slots__ = (
        "_anew",
        "_commit",
        "_done",
        "_fd",
        "_files",
        "_in_file",
        "_pieces",
        "_pure",
        "_threshold",
        "_warm",
        "ident",
        "parity",
        "size",
        "trouble",
    )

    def __init__(
        self,
        ident: int,
        files: ContentFiles,
        threshold: int,
        commit: Callable[[Draft, Submission], Awaitable[Accepted]],
        anew: Callable[[], Draft],
        *,
        pure: bool = False,
    ) -> None:
        self.ident = ident
        self.size = 0
        self.parity = 0  # CRC-32 of the content
        self.trouble: SpoolError | None = None  # why it cannot be committed, if so
        self._files = files
        self._threshold = threshold
        self._commit = commit
        self._anew = anew
        self._pieces: list[bytes] = []
        self._pure = pure
        self._fd = -1
        self._in_file = False
        self._warm: Warm | None = None
        self._done = False

    def write(self, data: bytes) -> None:
        """More content; raises SpoolError, and commit will then do the same."""
        self.parity = crc32(data, self.parity)
        self.size += len(data)
        if self.trouble is not None:
            raise self.trouble
        try:
            if self._in_file:
                _write_all(self._fd, [data])
                return
            self._pieces.append(bytes(data))
            if self.size <= self._threshold or self._has_room():
                if len(self._pieces) > MANY:
                    self._pieces = [b"".join(self._pieces)]
            else:
                self._warm = None
                self._write_file()
                self._pieces = []
        except OSError as error:
            self.trouble = os_trouble("writing content", error)
            raise self.trouble from error

    def _has_room(self) -> bool:
        """Though it is large, all of it may stay in memory until the commit."""
        if self._warm is None:
            self._warm = Warm(self._files.room)
        return self._warm.hold(self.size)

    def _write_file(self) -> None:
        self._fd = self._files.create(self.ident)
        self._in_file = True
        _write_all(self._fd, self._pieces)

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """What was written, from `start` on; raises SpoolError, as commit will then."""
        if self.trouble is not None:
            raise self.trouble
        return self._read(start) if self._in_file else from_octet(start, self._pieces)

    def _read(self, start: int) -> Iterator[bytes]:
        path = self._files.path(self.ident)
        content = FileContent(path, self.size, self.parity, lambda reason: None)
        try:
            yield from content.chunks(start)
        except OSError as error:
            self.trouble = os_trouble("reading content", error)
            raise self.trouble from error

    def anew(self) -> Draft:
        """An empty draft for what may take the place of this content."""
        if self.trouble is not None:
            raise self.trouble
        fresh = self._anew()
        fresh._pure = False  # whoever writes it is no peer whose octets were looked at
        return fresh

    def become(self, fresh: AnyDraft) -> None:
        """Have the content of `fresh` instead; raises SpoolError, and commit will then do the same.

        A file of its own takes the name of ours: after a crash each is an orphan like any other.
        """
        assert isinstance(fresh, Draft)
        trouble = self.trouble or fresh.trouble
        if trouble is not None:
            raise trouble
        try:
            if fresh._in_file:
                self._files.move(fresh.ident, self.ident)
        except OSError as error:
            self.trouble = os_trouble("replacing content", error)
            raise self.trouble from error
        self._close(remove=self._in_file and not fresh._in_file)
        self._fd, fresh._fd = fresh._fd, -1
        self._in_file, fresh._in_file = fresh._in_file, False
        self._pieces, self._warm = fresh._pieces, fresh._warm
        self.parity, self.size = fresh.parity, fresh.size
        fresh.rollback()

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
            self._warm = None
            self.trouble = SpoolError("the draft is over")

    # what the spool asks while it commits

    @property
    def data(self) -> bytes | None:
        """The content, or None if it goes to a file."""
        if self._in_file or self.size > self._threshold:
            return None
        return b"".join(self._pieces)

    def content(self, data: bytes | None) -> Content:
        """The content as the message will have it; `data` is what the property gave."""
        if data is not None:
            return BytesContent(data, pure=self._pure)
        warm, self._warm = self._warm, None
        if warm is not None:
            warm.pieces = self._pieces
            warm.pure = self._pure
        return self._files.content(self.ident, self.size, self.parity, warm)

    def sync(self) -> None:
        """Make the file durable, but for its directory entries; raises OSError."""
        if not self._in_file:
            self._write_file()
            self._pieces = []
        fd, self._fd = self._fd, -1
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def discard_file(self) -> None:
        """Close and remove the file, if there is one."""
        self._close(remove=self._in_file)

    def _close(self, *, remove: bool) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)
        if remove:
            self._files.remove((self.ident,))


def _write_all(fd: int, pieces: Sequence[bytes]) -> None:
    views = [memoryview(piece) for piece in pieces]
    while views:
        written = os.writev(fd, views)
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if views:
            views[0] = views[0][written:]
