"""Content files that no message names: found at start, in the background, a directory a step."""

from __future__ import annotations

import contextlib
import enum
import sqlite3
from collections.abc import Callable, Iterator

from relayd.spool.disk.content import ContentFiles
from relayd.spool.errors import SpoolError


class Fate(enum.Enum):
    """What is to become of a content file."""

    KEEP = "keep"
    REMOVE = "remove"
    SET_ASIDE = "set aside"


class Orphans:
    """Removes what a crash left of messages that were never accepted or are over.

    Only files under a name of ours and older than this run; whatever else lies there stays.
    A file whose message was accepted and is neither waiting nor ended (its row was lost with a
    damaged database) is set aside, never removed.
    """

    def __init__(
        self,
        files: ContentFiles,
        newest: int,
        ask: Callable[[list[int]], dict[int, Fate]],
        notice: Callable[..., None],
    ) -> None:
        self._files = files
        self._newest = newest
        self._ask = ask
        self._notice = notice
        self._sets: Iterator[tuple[list[int], int]] = files.sets()
        self._removed = self._aside = self._foreign = 0

    def step(self) -> bool:
        """Look at one directory; whether there are more."""
        try:
            idents, foreign = next(self._sets)
        except (StopIteration, OSError):
            if self._removed or self._aside or self._foreign:
                self._notice(
                    "orphaned content",
                    removed=self._removed,
                    set_aside=self._aside,
                    foreign=self._foreign,
                )
            return False
        self._foreign += foreign
        old = [ident for ident in idents if ident <= self._newest]
        for at in range(0, len(old), 500):
            try:
                fates = self._ask(old[at : at + 500])
            except SpoolError:
                return False  # the store is in trouble: the next start looks again
            for ident, fate in fates.items():
                if fate is Fate.REMOVE:
                    self._files.remove((ident,))
                    self._removed += 1
                elif fate is Fate.SET_ASIDE:
                    with contextlib.suppress(OSError):
                        self._files.set_aside(ident)
                        self._aside += 1
        return True


def fates(connection: sqlite3.Connection, idents: list[int]) -> dict[int, Fate]:
    """What is to become of these files."""
    marks = ", ".join("?" * len(idents))
    ask = connection.execute
    fate = dict.fromkeys(idents, Fate.REMOVE)
    rebuilt = ask("SELECT value FROM meta WHERE name = 'rebuilt'").fetchone()[0]
    ended = {
        row[0]
        for row in ask(
            f"SELECT DISTINCT message FROM ledger WHERE ended AND message IN ({marks})", idents
        )
    }
    accepted = {
        row[0]
        for row in ask(
            f"SELECT DISTINCT message FROM ledger WHERE NOT ended AND message IN ({marks})", idents
        )
    }
    for ident in idents:
        unfinished = ident in accepted and ident not in ended
        if unfinished or (ident <= rebuilt and ident not in ended):
            fate[ident] = Fate.SET_ASIDE
    for (ident,) in ask(f"SELECT message FROM damaged WHERE message IN ({marks})", idents):
        fate[ident] = Fate.SET_ASIDE
    for (ident,) in ask(f"SELECT ident FROM message WHERE ident IN ({marks})", idents):
        fate[ident] = Fate.KEEP
    return fate
