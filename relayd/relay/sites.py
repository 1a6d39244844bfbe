"""Sites: what is one place to send to, however many domains have their mail there.

Theory of operation. Where a domain's mail goes is known after the look-up of its exchangers, so a
lane learns its site from its first delivery. A site is a provider where the rules know the names of
the exchangers, else the sorted set of those. What a reply says of us holds for all lanes of the
site. A site that nobody limits, and that has asked for nothing, is only counted; one that is
`gated` is a share like those of `relay/scheduler.py`, which lanes wait for: for a connection, for
the rate, or for the end of a block. `pace to` and `pace via` make sites of their own, without a
look-up.

Over several workers each has its part of a rate, and sees the connections of the others, and when
they were refused what had been enough.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from relayd.mail.envelope import is_direct
from relayd.mail.log import MailLog
from relayd.mail.nexthop import NextHop
from relayd.mail.outcome import Outcome
from relayd.mail.pacing import PROVIDER, TO, VIA, PaceLimits, Pacing
from relayd.mail.reply import Reply
from relayd.relay.learntrate import FORGOTTEN, LearntRate
from relayd.relay.limits import RelayLimits
from relayd.relay.scheduler import NOBODY, Share
from relayd.relay.survey import Endpoint, Terms
from relayd.shared.counters import SharedCounters
from relayd.spool.queue import Lane

BLOCK = 24 * 3600.0  # seconds for which mail takes the next way
PROBE = 3600.0  # seconds from one question whether a block is gone to the next
LOCATED = 3600.0  # seconds for which it is known where a domain's mail goes
_LATELY = 60.0  # seconds
_WIDER = 60.0  # seconds without "too many connections" after which one more is tried
_AGAIN = 0.5  # seconds until it is looked again whether another worker has left a connection
_WIDEST = 20  # connections; who takes that many does not count them
_OFTEN = 5.0  # seconds: longer nobody waits without a look at how things are
_EXCUSES = 3  # attempts of one message that count for nothing; then it is the message
_MOST_EXCUSED = 1000  # messages to remember
_UNLIMITED = 1 << 30
_FILE = "paces"
_MX = "mx "  # how the name of a site begins that is nobody's with a name
_MOST_KEPT = 1000  # sites whose pace outlives a restart
_SAVE = 10.0  # seconds between two looks whether there is something to keep

Resolve = Callable[[str], Awaitable[Sequence[Endpoint]]]


class SendingSite(Share):
    """One place to send to. Times are seconds since the epoch."""

    __slots__ = (
        *("__weakref__", "_counters", "_excuses", "_key", "_limited_at", "_now"),
        *("_reopened_at", "_told"),
        *("blocked_until", "connections", "exchangers", "gated", "learnt", "limit", "messages"),
        *("name", "probe_at", "proved_at", "provider", "refused", "taken", "trouble"),
    )
    paced = True

    def __init__(
        self,
        name: str,
        rate: LearntRate,
        now: Callable[[], float],
        *,
        provider: str = "",
        exchangers: Iterable[str] = (),
        counters: SharedCounters | None = None,
    ) -> None:
        self._now = now
        self._counters = counters
        self._key = f"site {name}"
        self._told = 0  # of those, what other workers know
        self.connections = 0  # at a time, as configured; 0: nothing is said of it
        self._excuses: dict[int, int] | None = None
        super().__init__()
        self.waiting = NOBODY  # most never have any, and there are many sites
        self.name = name
        self.provider = provider
        self.exchangers = frozenset(exchangers)
        self.learnt = rate
        self.limit = 0  # ... as it has asked for
        self._limited_at = 0.0
        self.messages = 0  # on one connection, as configured
        self.blocked_until = 0.0
        self._reopened_at = 0.0  # when the operator wanted it tried
        self.probe_at = 0.0  # when the next one may ask whether that is over
        self.proved_at = 0.0  # when it last took a message
        self.trouble: Outcome | None = None  # why it is slowed or blocked
        self.taken = self.refused = 0  # messages, since the start
        self.gated = False

    # as a share

    def most(self, limits: RelayLimits) -> int:
        """How many may be under way by now."""
        if not self.gated:
            return _UNLIMITED
        if self.opens_at(self._now()) > self._now():
            return 0
        most = self.limit or _UNLIMITED
        if self.connections:
            elsewhere = 0 if self._counters is None else self._counters.get(self._key)
            most = min(most, max(self.connections - elsewhere, 0))
        return most

    @property
    def room(self) -> int:
        """How many connections may be open beside those that carry mail now."""
        elsewhere = 0 if self._counters is None else self._counters.get(self._key)
        least = min(self.connections or _UNLIMITED, self.limit or _UNLIMITED)
        return _UNLIMITED if least == _UNLIMITED else max(least - self.in_flight - elsewhere, 0)

    def wait(self) -> float:
        """Seconds until it is worth while to look again."""
        return min(max(self.opens_at(self._now()) - self._now(), 0.0) or _AGAIN, _OFTEN)

    def opens_at(self, now: float) -> float:
        """When the next one may start."""
        if self._counters is not None and self.learnt.rate:
            self.learnt.heard(now, self._noted("too much"))
        at = self.learnt.opens_at(now)
        if self.blocks:
            asked = self._asked()
            if asked <= now:
                at = max(at, asked + PROBE)
        return at

    def _asked(self) -> float:
        """When a worker last asked whether a block is over; 0: not since the operator's word."""
        elsewhere = self._noted("asked")
        return max(self.probe_at - PROBE, elsewhere if elsewhere > self._reopened_at else 0.0)

    def started(self, now: float) -> None:
        """One has."""
        self.learnt.started(now)
        if self.blocks:
            self.probe_at = now + PROBE
            self._note("asked", now)
        self._tell()

    def spared(self, now: float) -> None:
        """It came to no attempt: the next one may ask instead."""
        self.learnt.spared()
        if self.blocks:
            self.probe_at = min(self.probe_at, now)
            self._note("asked", 0.0)

    def ended(self) -> None:
        """One is not under way any more."""
        self._tell()

    def _tell(self) -> None:
        """Other workers, how many there are: where that counts."""
        if self._counters is not None:
            told = self.in_flight if self.connections else 0
            self._counters.add(self._key, told - self._told)
            self._told = told

    def _note(self, what: str, now: float) -> None:
        if self._counters is not None:
            self._counters.note(f"{what} {self.name}", now)

    def _noted(self, what: str, *, own: bool = False) -> float:
        """When that was at another worker, or here (`own`); 0: never."""
        if self._counters is None:
            return 0.0
        return self._counters.noted(f"{what} {self.name}", own=own)

    # what it says

    @property
    def blocks(self) -> bool:
        """Nothing of ours is taken, as far as is known."""
        if self._counters is not None:
            self._hear_of_blocks()
        return self.blocked_until > 0.0 and 0.0 < self.blocked_until - self._now() <= BLOCK

    def _hear_of_blocks(self) -> None:
        """What other workers know."""
        opened = self._noted("opened", own=True)  # what we have found out ourselves as well
        if self.blocked_until:
            if opened > self.blocked_at:
                self._open()
            return
        at = self._noted("blocked")
        if 0.0 < at <= self._now() < at + BLOCK and at > opened:
            self.blocked_until = at + BLOCK
            self.probe_at = self._noted("asked") + PROBE  # also when those who know are gone
            self.weigh()

    @property
    def blocked_at(self) -> float:
        """When it last said so."""
        return self.blocked_until - BLOCK

    def reopened(self) -> None:
        """The operator wants it tried now."""
        self.probe_at = 0.0
        self._reopened_at = self._now()
        self.learnt.reopened()

    def excuses(self, message: int) -> bool:
        """Whether this attempt counts for nothing: not if it is always the same message."""
        excuses = self._excuses = self._excuses or {}
        if len(excuses) >= _MOST_EXCUSED and message not in excuses:
            excuses.clear()
        excuses[message] = excuses.get(message, 0) + 1
        return excuses[message] <= _EXCUSES

    def probe_due(self, now: float) -> bool:
        """It is time to ask whether a block is gone."""
        return not 0.0 <= now - self._asked() < PROBE

    def serves_lately(self, now: float) -> bool:
        """It took something a moment ago, or is known to take so much and no more."""
        return self.learnt.rate > 0 or 0.0 <= now - self.proved_at < _LATELY

    def took(self, now: float, began: float) -> None:
        """It took a message, in an attempt that began then."""
        self.taken += 1
        self.proved_at = now
        self.learnt.took(now, began)
        if self.gated:
            if self.limit and now - self._limited_at >= _WIDER:
                self._limited_at = now
                self.limit = self.limit + 1 if self.limit < (self.connections or _WIDEST) else 0
            self.weigh()

    def slower(self, now: float, began: float, trouble: Outcome, pause: float = 0.0) -> bool:
        """It wants less in the same time; whether that was news."""
        self.refused += 1
        self.trouble = trouble
        news = self.learnt.slower(now, began, pause)
        if news and self.learnt.surprised:
            self._note("too much", now)
        self.weigh()
        return news

    def fewer(self, now: float, trouble: Outcome) -> None:
        """It wants fewer at a time: those that it serves beside this one."""
        self.refused += 1
        self.trouble = trouble
        self._limited_at = now
        self.limit = max(min(self.in_flight, self.limit or _UNLIMITED), 1)
        self.weigh()

    def block(self, now: float, trouble: Outcome) -> bool:
        """It takes nothing from us; whether that was news."""
        news = not self.blocks
        self.refused += 1
        self.trouble = trouble
        self.blocked_until, self.probe_at = now + BLOCK, now + PROBE
        self._note("asked", now)
        self._note("blocked", now)
        self.weigh()
        return news

    def unblock(self) -> None:
        """It takes our mail again."""
        self._note("opened", self._now())
        self._open()

    def _open(self) -> None:
        self.blocked_until = self.probe_at = 0.0
        self.weigh()

    def pace_as(self, pace: PaceLimits | None, workers: int, machines: int = 1) -> None:
        """As configured: a rate is for all workers together, of whatever machine.

        Connections are for all `machines`; the workers of one see each other's.
        """
        most = pace.connections if pace is not None else 0
        self.connections = max(most // machines, 1) if most else 0
        self.messages = pace.messages if pace is not None else 0
        rate = pace.rate if pace is not None else None
        self.learnt.pinned = 0.0 if rate is None else 1 / rate.interval / workers
        self.weigh()

    def weigh(self) -> None:
        """Whether lanes have to ask it at all."""
        self.gated = bool(
            self.connections or self.limit or self.blocked_until or self.learnt.active
        )
        self._tell()
        if not self.gated:
            self.trouble = None

    # across a restart

    def kept(self) -> dict[str, Any]:
        """What it has learnt."""
        return {
            "limit": self.limit,
            "blocked_until": self.blocked_until,
            "probe_at": self._asked() + PROBE if self.blocks else 0.0,
            "said": "" if self.trouble is None else str(self.trouble.reply),
            **self.learnt.kept(),
        }


class Sites:
    """Knows the sites of one queue's lanes."""

    def __init__(
        self,
        resolve: Resolve,
        log: MailLog,
        now: Callable[[], float],
        random: Callable[[], float],
        *,
        counters: SharedCounters | None = None,
        workers: int = 1,
        folder: Path | None = None,
    ) -> None:
        """`folder`: where what is learnt outlives a restart; None: nowhere."""
        self._resolve = resolve
        self._log = log
        self._now = now
        self._random = random
        self._counters = counters
        self._workers = workers
        self._machines = 1
        self._path = folder / _FILE if folder is not None else None
        self._pacing = Pacing()
        self._sites: WeakValueDictionary[str, SendingSite] = WeakValueDictionary()
        self._gated: dict[str, SendingSite] = {}  # kept, whether there is mail or not
        self._learnt: dict[str, dict[str, Any]] = {}  # before the restart, until it is asked for
        self._saved = ""

    def apply(self, pacing: Pacing) -> bool:
        """New rules; whether lanes have to find their sites anew."""
        if pacing == self._pacing:
            return False
        self._pacing = pacing
        self._pace_anew()
        return True

    def share(self, workers: int, machines: int) -> None:
        """So many have the same mail to send: of what is for all, each has its part."""
        if (workers, machines) != (self._workers, self._machines):
            self._workers, self._machines = workers, machines
            self._pace_anew()

    def _pace_anew(self) -> None:
        for site in list(self._sites.values()):
            site.pace_as(self._pace_of(site.name, site.provider), self._workers, self._machines)

    def _pace_of(self, name: str, provider: str) -> PaceLimits | None:
        kind, _, whom = name.partition(" ")
        if provider:
            return self._pacing.pace(PROVIDER, provider)
        return self._pacing.pace(kind, whom) if kind in (TO, VIA) else None

    # where a lane's mail goes

    def gates_of(
        self, destination: str
    ) -> tuple[tuple[SendingSite, ...], tuple[SendingSite, ...] | None]:
        """What is known of a queue by its name: its sites, and those of the way around them."""
        if not is_direct(destination):
            return self._hops(destination.split(",")), None
        _, via, names = destination.partition(" via ")
        return (), self._hops(names.split(",")) if via else None

    def _hops(self, names: Iterable[str]) -> tuple[SendingSite, ...]:
        found = (name.strip() for name in names)
        return tuple(
            self._site(f"{VIA} {name}")
            for name in found
            if any(each.kind == VIA and each.whom == name for each in self._pacing.paces)
        )

    async def locate(self, domain: str, source: str = "") -> tuple[SendingSite, ...]:
        """The sites of what goes direct to a domain from a source; raises UnresolvedError.

        A provider knows us by our address: to it, each source is somebody else.
        """
        endpoints = await self._resolve(domain)
        names = sorted({endpoint.host.lower() for endpoint in endpoints})
        provider = self._pacing.provider_of(names)
        # no provider, and no pace of ours, has such a name: strangers choose their exchangers'
        name = _of_source(provider or _MX + ",".join(names), source)
        found = (self._site(name, provider, names),)
        if self._pacing.pace(TO, domain) is not None:
            return *found, self._site(f"{TO} {domain}")
        return found

    def _site(self, name: str, provider: str = "", exchangers: Iterable[str] = ()) -> SendingSite:
        site = self._sites.get(name)
        if site is None:
            site = self._sites[name] = SendingSite(
                name,
                LearntRate(self._random),
                self._now,
                provider=provider,
                exchangers=exchangers,
                counters=self._counters,
            )
            self._restore(site)
            site.pace_as(self._pace_of(name, provider), self._workers, self._machines)
        elif provider and not site.exchangers.issuperset(exchangers):
            site.exchangers |= frozenset(exchangers)
        if site.gated:
            self.keep(site)
        return site

    def keep(self, site: SendingSite) -> None:
        """It has something to remember."""
        self._gated[site.name] = site
        if len(self._gated) > _MOST_KEPT:
            for each in list(self.gated()):
                if not (each.blocks or each.connections or each.learnt.pinned):
                    del self._gated[each.name]
                    break

    # what couriers tell, and ask

    def blocked(self, provider: str, source: str, outcome: Outcome) -> None:
        """A host of this provider says that it takes nothing from us, or from that source."""
        site = self._sites.get(_of_source(provider, source))
        if site is not None:
            self.block(site, outcome)

    def block(self, site: SendingSite, outcome: Outcome) -> None:
        """The same of a site."""
        self.keep(site)
        if site.block(self._now(), outcome):
            self._log.notice("provider blocks us", provider=site.name, reply=str(outcome.reply))

    def terms(self, target: NextHop | str, endpoint: Endpoint, source: str) -> Terms:
        """On what terms a host takes a connection from a source, empty: from none by name."""
        provider = ""
        if isinstance(target, NextHop):
            names = [f"{VIA} {target.name}"]
        else:
            provider = self._pacing.provider_of((endpoint.host.lower(),))
            host = _of_source(provider or _MX + endpoint.host.lower(), source)
            names = [host, f"{TO} {target}"]
        messages, group, room = 0, "", _UNLIMITED
        for site in filter(None, map(self._sites.get, names)):
            if site.messages:
                messages = min(messages or site.messages, site.messages)
            if site.room < room:
                group, room = site.name, site.room
        return Terms(provider, messages, group, room)

    # what operators ask

    def gated(self) -> Iterator[SendingSite]:
        """Those that have a pace, are blocked, or were."""
        for site in list(self._gated.values()):
            if site.gated:
                yield site
            else:
                del self._gated[site.name]

    # across a restart

    def load(self) -> None:
        """What was learnt before the restart; nothing, if it cannot be read."""
        if self._path is None:
            return
        try:
            found = json.loads(self._path.read_text())
            learnt = {str(name): dict(kept) for name, kept in found.items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, AttributeError) as error:
            self._log.trouble("paces not read", file=str(self._path), why=str(error))
            return
        now = self._now()
        self._learnt = {
            name: kept
            for name, kept in learnt.items()
            if now - _number(kept.get("refused_at")) < FORGOTTEN
            or _number(kept.get("blocked_until")) > now
        }
        for name, kept in self._learnt.items():
            self._tell_block(name, *_block(kept, now))

    def _tell_block(self, name: str, until: float, probe_at: float) -> None:
        """Other workers, to whom mail for that site may come first, need not know of the block."""
        if until and self._counters is not None:
            self._counters.note(f"blocked {name}", until - BLOCK)
            self._counters.note(f"asked {name}", probe_at - PROBE)

    def _over(self, name: str, kept: Mapping[str, object]) -> bool:
        """Another worker has found out that the block is over, and we have had no mail for them."""
        if self._counters is None:
            return False
        opened = self._counters.noted(f"opened {name}")
        return opened > _number(kept.get("blocked_until")) - BLOCK

    def _restore(self, site: SendingSite) -> None:
        kept = self._learnt.pop(site.name, None)
        if kept is None:
            return
        now = self._now()
        numbers = {name: _number(value) for name, value in kept.items()}
        site.learnt.restore(numbers, now)
        site.limit = max(int(min(numbers.get("limit", 0), 1e6)), 0)
        site.blocked_until, site.probe_at = _block(kept, now)
        site.trouble = _said(kept.get("said"))
        site.weigh()

    def save(self) -> None:
        """Keep what is learnt."""
        if self._path is None:
            return
        kept = {
            name: {**each, "blocked_until": 0.0} if self._over(name, each) else each
            for name, each in self._learnt.items()
        }
        kept |= {
            site.name: site.kept()
            for site in self.gated()
            if site.learnt.rate or site.learnt.resume_at or site.limit or site.blocked_until
        }
        text = json.dumps(dict(list(kept.items())[-_MOST_KEPT:]), indent=1)
        if text == self._saved or (not kept and not self._saved and not self._path.exists()):
            return
        part = self._path.with_suffix(".new")
        try:
            part.write_text(text)
            os.replace(part, self._path)  # noqa: PTH105
        except OSError as error:
            self._log.trouble("paces not kept", file=str(self._path), why=str(error))
        else:
            self._saved = text

    @property
    def period(self) -> float:
        """Seconds between two calls of `save`."""
        return _SAVE


def _block(kept: Mapping[str, object], now: float) -> tuple[float, float]:
    """Until when what is kept says that mail is blocked, and when it is asked again; or 0."""
    until = _number(kept.get("blocked_until"))
    if not now < until <= now + BLOCK:
        return 0.0, 0.0
    return until, min(_number(kept.get("probe_at")), now + PROBE)


def _number(value: object) -> float:
    """As it is kept; 0 for what is no number."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else 0.0


def _said(text: object) -> Outcome | None:
    try:
        return Outcome(Reply.parse(str(text)))
    except ValueError:
        return None


def _of_source(name: str, source: str) -> str:
    """A site's name, as it is for what comes from there."""
    return f"{name} from {source}" if source else name


def located(lane: Lane, now: float) -> bool:
    """Whether it is known where a lane's mail goes; of a named next hop it always is."""
    return not lane.direct or 0.0 <= now - lane.located_at < LOCATED


def goes_around(gates: Sequence[SendingSite], shares: Sequence[Share]) -> bool:
    """Whether a delivery that was let go with these shares takes the other way."""
    return any(gate.blocks and gate not in shares for gate in gates)


def site_document(site: SendingSite, now: float) -> Mapping[str, object]:
    """One site for the operator."""
    rate = site.learnt.in_force
    opens_at = site.opens_at(now)
    return {
        "site": site.name,
        "provider": site.provider,
        "rate": round(60 * rate, 3),  # messages a minute
        "pinned": bool(site.learnt.pinned),
        "connections": site.limit or site.connections,
        "messages": site.messages,
        "in_flight": site.in_flight,
        "taken": site.taken,
        "refused": site.refused,
        "resume_at": opens_at if opens_at > now + 1 else 0.0,
        "blocked_until": site.blocked_until,
        "trouble": "" if site.trouble is None else str(site.trouble.reply),
    }
