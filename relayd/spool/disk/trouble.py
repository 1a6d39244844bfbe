"""Which errors speak against the disk or the database, and which against one request."""

from __future__ import annotations

import sqlite3

from relayd.spool.disk.content import os_trouble
from relayd.spool.errors import SpoolError, SpoolFull

# SQLite's primary result codes, by their names in its documentation
_PERM, _BUSY, _LOCKED, _NOMEM, _READONLY = 3, 5, 6, 7, 8
_IOERR, _CORRUPT, _FULL, _CANTOPEN, _PROTOCOL, _NOTADB = 10, 11, 13, 14, 15, 26
_STORE = {
    _PERM, _BUSY, _LOCKED, _NOMEM, _READONLY,
    _IOERR, _CORRUPT, _FULL, _CANTOPEN, _PROTOCOL, _NOTADB,
}  # fmt: skip


_IOERR_SHMSIZE = 4874  # its shared memory file could not grow


class SpoolCorrupt(SpoolError):  # noqa: N818  a condition, not a mistake
    """The database file is damaged: it is rebuilt from what can be read."""


def trouble_of(error: Exception) -> SpoolError | None:
    """The trouble of the whole store that the error means; None: it is the request's own."""
    if isinstance(error, SpoolError):
        return error
    if isinstance(error, OSError):
        return os_trouble("spool", error)
    if isinstance(error, MemoryError):  # whether it was before the COMMIT or after, who knows
        return SpoolError("out of memory")
    if not isinstance(error, sqlite3.Error):
        return None
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code not in _STORE:
        return None
    reason = f"database: {error} ({getattr(error, 'sqlite_errorname', 'unknown')})"
    if code == _FULL or getattr(error, "sqlite_errorcode", 0) == _IOERR_SHMSIZE:
        return SpoolFull(reason)
    if code in (_CORRUPT, _NOTADB):
        return SpoolCorrupt(reason)
    return SpoolError(reason)
