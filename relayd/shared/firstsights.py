"""Who tried to send what to whom, since when, and who is known to come back (greylisting).

As postgrey has it: a client, a sender and a recipient are seen first, and come back within two
days or are new again. A client that came back once is known, whatever it sends to whom, until it
has not been heard of for 35 days.
"""

from __future__ import annotations

import struct
from pathlib import Path

from relayd.shared.keytable import KeyTable

RETRIED = 2 * 86400.0  # seconds within which somebody comes back, or is new again
KNOWN = 35 * 86400.0  # seconds for which a client is known that came back
SIGHTS = 1_000_000  # first sights that are remembered
CLIENTS = 200_000  # ... and clients that are known
_HOUR = 3600.0  # a client that is known is noted anew no more often than this
_MOMENT = struct.Struct("<d")


class FirstSights:
    """First sights, and clients that came back. Times are seconds since the epoch."""

    def __init__(self, folder: Path, *, sights: int = SIGHTS, clients: int = CLIENTS) -> None:
        """Two files in `folder`. Raises OSError, as each method may."""
        self._seen = KeyTable(folder / "seen", _MOMENT.size, sights)
        self._known = KeyTable(folder / "known", _MOMENT.size, clients)

    def close(self) -> None:
        """Nobody asks it any more."""
        self._seen.close()
        self._known.close()

    def new(self, client: str, errand: str, now: float, patience: float) -> bool:
        """Note that the client is here with this errand; whether it is too new.

        It is if it is first seen with it less than `patience` seconds ago. When it comes back
        later than that it is known.
        """
        if self._knows(client, now, note=True):
            return False
        first = now

        def edit(row: bytes | None) -> bytes | None:
            nonlocal first
            if row is not None:
                (first,) = _MOMENT.unpack(row)
                if 0 <= now - first < RETRIED:
                    return None
            first = now
            return _MOMENT.pack(now)

        self._seen.change(f"{client} {errand}", now, edit)
        if now - first < patience:
            return True
        self._known.change(client, now, lambda _: _MOMENT.pack(now))
        return False

    def knows(self, client: str, now: float) -> bool:
        """Whether the client has come back before; it is noted that he is here."""
        return self._knows(client, now, note=True)

    def know(self, client: str, now: float) -> None:
        """The client has come back, to somebody else."""
        self._known.change(client, now, lambda _: _MOMENT.pack(now))

    def seems_new(self, client: str, errand: str, now: float, patience: float) -> bool:
        """What `new` would say; nothing is noted."""
        if self._knows(client, now, note=False):
            return False
        row = self._seen.look(f"{client} {errand}")
        return row is None or not patience <= now - _MOMENT.unpack(row)[0] < RETRIED

    def _knows(self, client: str, now: float, *, note: bool) -> bool:
        row = self._known.look(client)
        if row is None:
            return False
        heard = now - _MOMENT.unpack(row)[0]
        if note and _HOUR <= heard < KNOWN:
            self._known.change(client, now, lambda _: _MOMENT.pack(now))
        return bool(heard < KNOWN)
