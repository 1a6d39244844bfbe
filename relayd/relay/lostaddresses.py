"""Addresses that a `source` names and this machine has not: said once, and looked for.

They go and come with interfaces and their leases. Mail from there waits: it never leaves from
another address, for another one is somebody else to those who take it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.mail.log import MailLog
from relayd.mail.pacing import SourceAddress

LOOK = 5.0  # seconds between two looks, while one is lost


def is_there(address: str) -> bool:
    """Whether a connection may come from it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


class LostAddresses:
    """Those of one process. `told` hear the name of a source whose address has come back."""

    def __init__(
        self,
        clock: IReactorTime,
        log: MailLog,
        now: Callable[[], float],
        there: Callable[[str], bool] = is_there,
    ) -> None:
        self.told: list[Callable[[str], None]] = []
        self._clock = clock
        self._log = log
        self._now = now
        self._there = there
        self._lost: dict[tuple[str, str], float] = {}  # source and address: since when
        self._looking: IDelayedCall | None = None
        self._sources: Mapping[str, SourceAddress] | None = None  # of the rules of now; None: any

    def lost(self, source: SourceAddress, address: str) -> None:
        """A connection was to come from there."""
        if (source.name, address) in self._lost or not self._named(source.name, address):
            return
        self._lost[source.name, address] = self._now()
        self._log.trouble(
            *("source address lost",),
            source=source.name,
            address=address,
            consequence="its mail waits",
            remedy="see `ip address`",
        )
        if self._looking is None:
            self._looking = self._clock.callLater(LOOK, self._look)

    def apply(self, sources: Mapping[str, SourceAddress]) -> None:
        """New rules: what no source names any more is nobody's loss."""
        self._sources = sources
        for name, address in list(self._lost):
            if not self._named(name, address):
                del self._lost[name, address]

    def _named(self, name: str, address: str) -> bool:
        """A source has it; an attempt that began before new rules may still look for another."""
        sources = self._sources
        return sources is None or (name in sources and address in sources[name].addresses)

    def documents(self) -> Iterator[dict[str, object]]:
        """For the operator."""
        for (name, address), since in self._lost.items():
            yield {"source": name, "address": address, "since": since}

    def stop(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _look(self) -> None:
        self._looking = None
        for name, address in list(self._lost):
            if self._there(address):
                del self._lost[name, address]
                self._log.notice("source address is back", source=name, address=address)
                for told in self.told:
                    told(name)
        if self._lost:
            self._looking = self._clock.callLater(LOOK, self._look)
