"""TLS sessions with next hops, to be resumed: half a round trip and most of the CPU less.

OpenSSL looks at no certificate when a session is resumed. So what was found of it the first time is
kept beside the session, and both are used only where the very same would be asked for again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple

from OpenSSL import SSL

from relayd.tls.flaw import Flaw

LIFETIME = 3600.0  # seconds from the handshake that looked at the certificate; then one looks anew
MOST = 1000  # some 10 kB each


class CertificateVerdict(NamedTuple):
    """What a handshake found of the server's certificate; all empty: nothing is wrong with it."""

    why: str = ""
    flaw: Flaw | None = None


class KeptSession(NamedTuple):
    """One session, and what is known of its server."""

    session: SSL.Session | None  # None: this server is in trouble with them
    verdict: CertificateVerdict
    until: float  # on the clock of TlsSessions


@dataclass(slots=True)
class Handshakes:
    """How many there were."""

    full: int = 0
    resumed: int = 0


class TlsSessions:
    """The sessions of one context, by server and by what it had to prove."""

    def __init__(
        self, counts: Handshakes | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.counts = counts or Handshakes()
        self._clock = clock
        self._kept: OrderedDict[Hashable, KeptSession] = OrderedDict()  # the longest unused first

    def find(self, key: Hashable) -> KeptSession | None:
        """One to resume."""
        kept = self._known(key)
        return None if kept is None or kept.session is None else kept

    def keep(
        self,
        key: Hashable,
        session: SSL.Session,
        verdict: CertificateVerdict,
        resumed: KeptSession | None,
    ) -> None:
        """For the next connection; `resumed`: what it goes back to, whose time runs on."""
        known = self._known(key)
        if known is not None and known.session is None:
            return
        until = self._clock() + LIFETIME if resumed is None else resumed.until
        self._keep(key, KeptSession(session, verdict, until))

    def refuse(self, key: Hashable) -> None:
        """A handshake that offered one has failed: none is offered there for a while."""
        self._keep(key, KeptSession(None, CertificateVerdict(), self._clock() + LIFETIME))

    def _known(self, key: Hashable) -> KeptSession | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until <= self._clock():
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return kept

    def _keep(self, key: Hashable, kept: KeptSession) -> None:
        self._kept[key] = kept
        self._kept.move_to_end(key)
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)
