"""Hosts of domains that have never taken mail from us: how long to wait for them, and how many may.

Anybody may make us try to reach a host that he chooses, by a domain of his and a report that we
owe. RFC 5321 section 4.5.3.2 would let it hold a slot for five minutes a command. A stranger has
less at first, and twice as much after each time in which it did not answer, up to what the RFC
says: who is merely slow is reached by and by. Named next hops are no strangers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from relayd.mail.nexthop import NextHop
from relayd.mail.outcome import Outcome, postponed
from relayd.mail.reply import Severity
from relayd.relay.limits import NextHopDeadlines
from relayd.relay.survey import Endpoint

FIRST_WAIT = 20.0  # seconds for each answer, the greeting included, up to the content
WALK = 60.0  # seconds after which no further host of a stranger is tried
AT_THE_DOOR = 5.0  # seconds: who has not greeted one of ours by then is not asked by another
_MOST = 10_000  # endpoints to remember, of each kind


class Strangers:
    """Knows who is none any more, who did not answer, and before whose door somebody stands."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._known: dict[str, None] = {}  # took mail; the longest known first
        self._silent: dict[str, tuple[int, float]] = {}  # how often, and when last
        self._doors: dict[Endpoint, list[float]] = {}  # since when each of ours waits

    def strange(self, target: NextHop | str, endpoint: Endpoint) -> bool:
        """It is a domain's host, and has taken no mail."""
        return isinstance(target, str) and str(endpoint) not in self._known

    def in_order(self, endpoints: Sequence[Endpoint], until: float) -> tuple[list[Endpoint], float]:
        """Those that did not answer last, each time further back; and when to end this attempt."""
        if all(str(each) not in self._known for each in endpoints):
            until = min(until, self._seconds() + WALK)
        return sorted(endpoints, key=self.silences), until

    def wait(self, endpoint: Endpoint) -> float:
        """Seconds for an answer of a stranger."""
        return FIRST_WAIT * 2.0 ** min(self.silences(endpoint), 10)

    def silences(self, endpoint: Endpoint) -> int:
        """How often it did not answer since it last did."""
        return self._silent.get(str(endpoint), (0, 0.0))[0]

    def deadlines(self, endpoint: Endpoint, usual: NextHopDeadlines) -> NextHopDeadlines:
        """The time for each state of a session. What may be delivered is not cut short."""
        wait = self.wait(endpoint)
        return replace(
            usual,
            greeting=min(wait, usual.greeting),
            hello=min(wait, usual.hello),
            handshake=min(wait, usual.handshake),
            envelope=min(wait, usual.envelope),
            recipient=min(wait / 40, usual.recipient),
            data=min(wait, usual.data),
            block=min(wait, usual.block),
            content=min(15 * wait, usual.content),
        )

    def closed(self, endpoint: Endpoint) -> Outcome | None:
        """It keeps others of ours waiting: what becomes of those that come now."""
        since = self._doors.get(endpoint)
        if not since or self._seconds() - since[0] < AT_THE_DOOR:
            return None
        text = f"{endpoint.host} [{endpoint.address}]:{endpoint.port} does not answer"
        return postponed("4.4.1", text, why=f"{len(since)} others wait for it").but(
            remote_address=str(endpoint)
        )

    def knocked(self, endpoint: Endpoint) -> float:
        """A connection is being made; the result is for `answered`."""
        now = self._seconds()
        self._doors.setdefault(endpoint, []).append(now)
        return now

    def answered(self, endpoint: Endpoint, began: float, *, session: bool) -> None:
        """There is a session, or there will be none."""
        doors = self._doors[endpoint]
        doors.remove(began)
        if not doors:
            del self._doors[endpoint]
        if not session and self._seconds() - began >= AT_THE_DOOR:  # not refused at once
            self._count(str(endpoint))

    def heard(self, outcomes: Iterable[Outcome]) -> None:
        """What became of a delivery: who takes mail is no stranger."""
        for outcome in outcomes:
            where = outcome.remote_address
            if outcome.severity is Severity.SUCCESS:
                if where not in self._known:
                    self._known[where] = None
                    _bound(self._known)
            elif where and outcome.reply.status == "4.4.2" and not outcome.remote_mta:
                self._count(where)

    def _count(self, where: str) -> None:
        """It did not answer. Those of ours who waited together found out one thing."""
        now = self._seconds()
        times, last = self._silent.get(where, (0, 0.0))
        if now - last >= AT_THE_DOOR:
            self._silent[where] = times + 1, now
            _bound(self._silent)


def _bound(known: dict[Any, Any]) -> None:
    """Forget the first when there are too many."""
    if len(known) > _MOST:
        del known[next(iter(known))]
