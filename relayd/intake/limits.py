"""Who may open a session: how many there are, of whom, how fast they come; and stress mode."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import field, replace
from typing import Protocol

from relayd.mail.reply import Reply
from relayd.mail.value import dataclass

_MINUTE = 60.0  # seconds, the window of the rate of new sessions
_SHARE = 16384  # octets of memory that are taken at a time
_MOST_KEYS = 100_000  # clients remembered within a window; a flood of more empties it


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Sessions at a time, and new ones in a minute. 0 means no limit."""

    in_all: int = 12_000
    per_client: int = 50  # one IPv4 address or one IPv6 /64
    new_per_minute: int = 0  # per client
    stress_at: float = 0.75  # of `in_all`: from here on deadlines are short
    relax_at: float = 0.6  # of `in_all`: back to normal; lower, so that it does not flap

    def within(self, descriptors: int) -> SessionLimits:
        """The same for a process that may open so many files (RLIMIT_NOFILE).

        A quarter stays free for deliveries, content files and DNS: 421 before collapse.
        """
        most = max(descriptors * 3 // 4, 1)
        return replace(self, in_all=min(self.in_all or most, most))


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long each state of a session may last in all, in seconds.

    RFC 5321 section 4.5.3.2.7 asks five minutes for the next command; the whole line counts,
    so a client that drips octets gains nothing by it. Under load they are cut short: a slow
    client is then told 421 so that others are served at all. A verdict that we wait for is not
    the client's fault: it is sooner late than the client, who by the same section waits five
    minutes for the answer to a command and ten for that to the final dot.
    """

    command: float = 300.0  # until the next whole command line
    barren: float = 1800.0  # from greeting or last content to the next, whatever the commands
    content: float = 300.0  # the window in which content must come at `content_rate`
    content_rate: int = 1024  # octets a second
    close: float = 10.0  # for the peer to take our last reply
    handshake: float = 60.0  # STARTTLS to its end
    verdict: float = 120.0  # for those asked about a client, a sender, a recipient or a login
    examination: float = 480.0  # ... about a content
    shortest: float = field(init=False)  # of all that a session may meet: the first look at it

    def __post_init__(self) -> None:
        """Once, and not for each session."""
        shortest = min(
            self.command, self.barren, self.content, self.handshake, self.verdict, self.examination
        )
        object.__setattr__(self, "shortest", shortest)


NORMAL = Deadlines()
STRESSED = Deadlines(
    command=20.0, barren=120.0, content=30.0, content_rate=4096, close=3.0, handshake=15.0
)


class Memory:
    """Octets that the sessions of this process hold beyond the little that each has anyway.

    It is peers who decide how much that is and for how long, so all of them share one bound.
    """

    def __init__(self, most: int = 24 << 20) -> None:
        self.most = most
        self.held = 0

    def change(self, before: int, now: int) -> bool:
        """Somebody holds `now` octets instead of `before`; False: there is no room for them."""
        if now > before and self.held + now - before > self.most:
            return False
        self.held += now - before
        return True


def shares(octets: int) -> int:
    """Octets of memory to take for so many: whole shares."""
    return -(-octets // _SHARE) * _SHARE


def client_key(address: str) -> str:
    """What is counted as one client: an IPv4 address, or the /64 an IPv6 host chooses from."""
    if ":" not in address:
        return address
    try:
        whole = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if whole.ipv4_mapped is not None:
        return str(whole.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(whole) >> 64 << 64)) + "/64"


class Elsewhere(Protocol):
    """Sessions by client in the other workers (see relayd.shared.counters)."""

    def add(self, key: str, change: int) -> None:
        """So many more sessions of this client here."""

    def get(self, key: str) -> int:
        """How many of this client the others have."""


class Admission:
    """Counts the sessions of this process and says who may come in.

    With several workers each counts its own; `elsewhere` knows how many sessions of a client
    the others have, and is told of ours.
    """

    def __init__(
        self,
        limits: SessionLimits,
        now: Callable[[], float],
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.limits = limits
        self.in_all = 0
        self.stressed = False
        self.refused = 0
        self._now = now
        self._elsewhere = elsewhere
        self._sessions: dict[str, int] = {}
        self._window = 0.0
        self._new: dict[str, int] = {}

    def admit(self, address: str) -> Reply | None:
        """Count a new session of this client in; or the reply to turn it away with.

        Whoever was let in is to be counted out with leave().
        """
        key = client_key(address)
        reply = self._verdict(key)
        if reply is not None:
            self.refused += 1
            return reply
        self._count(key)
        return None

    def move(self, before: str, now: str) -> Reply | None:
        """A session turns out to be another client's; with a reply it stays the former's."""
        self.leave(before)
        reply = self.admit(now)
        if reply is not None:
            self._count(client_key(before))
        return reply

    def _count(self, key: str) -> None:
        self.in_all += 1
        self._sessions[key] = self._sessions.get(key, 0) + 1
        if self._elsewhere is not None:
            self._elsewhere.add(key, 1)
        self._weigh()

    def leave(self, address: str) -> None:
        """A session of this client is over."""
        key = client_key(address)
        self.in_all -= 1
        left = self._sessions.get(key, 0) - 1
        if left > 0:
            self._sessions[key] = left
        else:
            self._sessions.pop(key, None)
        if self._elsewhere is not None:
            self._elsewhere.add(key, -1)
        self._weigh()

    def _verdict(self, key: str) -> Reply | None:
        limits = self.limits
        if limits.in_all and self.in_all >= limits.in_all:
            return Reply.of(421, "4.3.2", "Too many sessions, try again later")
        held = self._sessions.get(key, 0)
        if self._elsewhere is not None:
            held += self._elsewhere.get(key)
        if limits.per_client and held >= limits.per_client:
            return Reply.of(421, "4.7.0", "Too many sessions from your address")
        if limits.new_per_minute and not self._slow_enough(key):
            return Reply.of(421, "4.7.0", "Too many new sessions from your address")
        return None

    def _slow_enough(self, key: str) -> bool:
        now = self._now()
        if not 0 <= now - self._window < _MINUTE or len(self._new) >= _MOST_KEYS:
            self._window = now
            self._new = {}
        count = self._new.get(key, 0) + 1
        self._new[key] = count
        return count <= self.limits.new_per_minute

    def _weigh(self) -> None:
        limits = self.limits
        if not limits.in_all:
            return
        load = self.in_all / limits.in_all
        if self.stressed:
            self.stressed = load >= limits.relax_at
        else:
            self.stressed = load >= limits.stress_at
