"""Where new mail goes: into the shared spool, and while that is away, into one of this node's own.

What is kept there is a spool as any other, on a disk of this machine's: it empties itself, whether
the shared one is back or not, and outlives whatever becomes of the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from relayd.mail.ident import MAX_SHARDS
from relayd.mail.log import MailLog
from relayd.spool.interface import AnyDraft, Store

FOLDER = "away"  # below the one that `away keep` names
_LAST = MAX_SHARDS - 1  # of the first worker; no node of a shared spool has so high a number


def local_shards(folder: Path, number: int, workers: int) -> Iterator[int]:
    """Of this worker: its own, and those that are left by workers that are no more."""
    yield _LAST - number
    for path in sorted(folder.glob("shard-*")):
        name = path.name.removeprefix("shard-")
        worker = _LAST - int(name) if name.isdigit() else -1
        if worker >= workers and worker % workers == number:
            yield _LAST - worker


class AwayStore:
    """Begins each message in the store that can record it; what has begun stays where it is."""

    def __init__(self, shared: Store, local: Store, log: MailLog) -> None:
        self._shared = shared
        self._local = local
        self._log = log
        self._away = False

    @property
    def healthy(self) -> bool:
        """One of them can record."""
        return self._shared.healthy or self._local.healthy

    def room(self, size: int) -> bool:
        """Whether there is room for so many octets where the next message goes."""
        return self._taking().room(size)

    def create(self, *, pure: bool = False) -> AnyDraft:
        """Begin to take in a message."""
        return self._taking().create(pure=pure)

    def _taking(self) -> Store:
        away = not self._shared.healthy
        if away is not self._away:
            self._away = away
            if away:
                self._log.trouble("the database is away: mail is kept in this node's own spool")
            else:
                self._log.notice("the database is back: mail goes there again")
        return self._local if away else self._shared
