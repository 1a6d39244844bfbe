"""What can go wrong with the spool, in words fit for the log (never for a peer)."""

from __future__ import annotations


class SpoolError(Exception):
    """The spool could not do it; whoever is waiting hears 4xx. `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class SpoolFull(SpoolError):  # noqa: N818  a condition, not a mistake
    """No bytes, no inodes or no quota left (452 4.3.1)."""


class SpoolAway(SpoolError):  # noqa: N818  likewise
    """The database cannot be reached."""


class SpoolLocked(SpoolError):  # noqa: N818  likewise
    """Another process owns this spool (promise 7); `pid` is 0 if it did not say who it is."""

    def __init__(self, reason: str, pid: int = 0) -> None:
        super().__init__(reason)
        self.pid = pid


class SpoolGone(SpoolError):  # noqa: N818  likewise
    """The database file was taken away under us; the open one still holds everything."""
