"""How fast secrets may be guessed, per address and per account, in bounded memory.

Secrets are passwords, and the hashes in SRS addresses that let mail in.

A try counts when it begins and is forgiven when it succeeds, so parallel sessions gain nothing,
and neither do sessions with several workers: they count in the same memory. An account under
attack from everywhere stays open to addresses it was used from before: guessing must not be a way
to lock somebody out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from relayd.shared.window import SharedMemory, Window

PER_ADDRESS = 10  # failed tries in a minute of one IPv4 address or one IPv6 /64
PER_ACCOUNT = 30  # ... for one account, from addresses where it never succeeded
WRONG_HASHES = 20  # SRS addresses with a wrong hash in HASHES_LAST seconds of one address
HASHES_LAST = 3600.0
_BUCKETS = 2048  # of each kind: 16,384 addresses, accounts, and pairs of them are remembered

_ADDRESSES = 64  # where they start; before them the memory's secret
_ACCOUNTS = _ADDRESSES + Window.size(_BUCKETS, PER_ADDRESS)
_KNOWN = _ACCOUNTS + Window.size(_BUCKETS, PER_ACCOUNT)
_HASHES = _KNOWN + Window.size(_BUCKETS, 1)
SIZE = _HASHES + Window.size(_BUCKETS, WRONG_HASHES)  # octets


class Guesses:
    """Counts failed tries and says when it is too fast. `now` is in seconds, the same for all."""

    def __init__(self, now: Callable[[], float], descriptor: int | None = None) -> None:
        """`descriptor`: of memory that other workers have too; raises OSError."""
        self._memory = memory = SharedMemory(SIZE, descriptor)
        self._addresses = Window(memory, _ADDRESSES, _BUCKETS, PER_ADDRESS, now)
        self._accounts = Window(memory, _ACCOUNTS, _BUCKETS, PER_ACCOUNT, now)
        self._known = Window(memory, _KNOWN, _BUCKETS, 1, now, lasts=math.inf)
        self._hashes = Window(memory, _HASHES, _BUCKETS, WRONG_HASHES, now, lasts=HASHES_LAST)

    def begin(self, address: str) -> float | None:
        """A try begins; None: too many of this address failed. Else a token for `forgive`."""
        with self._memory.locked():
            return None if self._addresses.full(address) else self._addresses.add(address)

    def forgive(self, address: str, token: float) -> None:
        """It was no failure after all: success, or given up, or our own trouble."""
        with self._memory.locked():
            self._addresses.remove(address, token)

    def closed(self, account: str, address: str) -> bool:
        """Whether this account has seen too many failures to try it from a new address."""
        with self._memory.locked():
            return self._accounts.full(account) and not self._known.full(_pair(account, address))

    def failed(self, account: str) -> None:
        """A wrong password for this account, or for one that does not exist."""
        with self._memory.locked():
            self._accounts.add(account)

    def wrong_hash(self, address: str) -> None:
        """Mail for an SRS address that we have not made came from this address."""
        with self._memory.locked():
            self._hashes.add(address)

    def guesses_hashes(self, address: str) -> bool:
        """Whether there were too many of them: it shall not learn which hash is a good one."""
        with self._memory.locked():
            return self._hashes.full(address)

    def succeeded(self, account: str, address: str) -> None:
        """The account was used from this address."""
        with self._memory.locked():
            self._known.add(_pair(account, address))


def _pair(account: str, address: str) -> str:
    return f"{address} {account}"
