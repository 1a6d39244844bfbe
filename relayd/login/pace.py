"""How fast logins may be tried: per address, and per account, in bounded memory.

A try counts when it begins and is forgiven when it succeeds, so parallel sessions gain nothing.
An account under attack from everywhere stays open to addresses it was used from before: guessing
must not be a way to lock somebody out.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

MINUTE = 60.0  # seconds, the window
MOST_KEYS = 20_000  # addresses, accounts and pairs remembered each; the longest unused goes


@dataclass(frozen=True, slots=True)
class PaceLimits:
    """Failed tries in a minute."""

    per_address: int = 10  # one IPv4 address or one IPv6 /64
    per_account: int = 30  # from addresses where it never succeeded

    def shared_by(self, workers: int) -> PaceLimits:
        """The part of one of several processes, which do not know of each other's."""
        return PaceLimits(max(self.per_address // workers, 1), max(self.per_account // workers, 1))


class _Window:
    """The times of the last tries, by key."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def full(self, key: str, limit: int) -> bool:
        times = self._times.get(key)
        if times is None:
            return False
        now = self._now()
        while times and not 0 <= now - times[0] < MINUTE:
            times.popleft()
        if not times:
            del self._times[key]
        return len(times) >= limit

    def add(self, key: str) -> float:
        now = self._now()
        self._times.setdefault(key, deque()).append(now)
        self._times.move_to_end(key)
        if len(self._times) > MOST_KEYS:
            self._times.popitem(last=False)
        return now

    def remove(self, key: str, moment: float) -> None:
        times = self._times.get(key)
        if times is None:
            return
        if moment in times:
            times.remove(moment)
        if not times:
            del self._times[key]

    def __len__(self) -> int:
        return len(self._times)


class Pace:
    """Counts failed tries and says when it is too fast. `now` is in seconds, of any epoch."""

    def __init__(self, now: Callable[[], float], limits: PaceLimits | None = None) -> None:
        self.limits = limits or PaceLimits()
        self._addresses = _Window(now)
        self._accounts = _Window(now)
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def begin(self, address: str) -> float | None:
        """A try begins; None: too many of this address failed. Else a token for `forgive`."""
        if self._addresses.full(address, self.limits.per_address):
            return None
        return self._addresses.add(address)

    def forgive(self, address: str, token: float) -> None:
        """It was no failure after all: success, or given up, or our own trouble."""
        self._addresses.remove(address, token)

    def closed(self, account: str, address: str) -> bool:
        """Whether this account has seen too many failures to try it from a new address."""
        if (account, address) in self._known:
            return False
        return self._accounts.full(account, self.limits.per_account)

    def failed(self, account: str) -> None:
        """A wrong password for this account, or for one that does not exist."""
        self._accounts.add(account)

    def succeeded(self, account: str, address: str) -> None:
        """The account was used from this address."""
        self._known[account, address] = None
        self._known.move_to_end((account, address))
        if len(self._known) > MOST_KEYS:
            self._known.popitem(last=False)

    def __len__(self) -> int:
        return len(self._addresses) + len(self._accounts) + len(self._known)
