"""Keeps MTA-STS policies: from the cache in the spool, fetched when they are new (RFC 8461)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from relayd.dns.answer import DnsError
from relayd.dns.resolver import Resolver
from relayd.mail.log import MailLog
from relayd.reactor.coroutine import log_bug, spawn
from relayd.relay.stsfetch import FetchError
from relayd.tls.flaw import Failure, Flaw, Policy, PolicyKind
from relayd.tls.sts import MAX_AGE, StsPolicy, parse_policy, policy_id

PAUSE = 300.0  # seconds after a failed fetch: section 3.3
REFRESH = 86_400.0  # seconds after which a policy in use is fetched anew: section 3.3, once a day
MOST = 10_000  # policies in memory
MOST_OCTETS = 16 << 20  # ... and about so much, for it is others who write them
SLICE = 1000  # files of policies that are looked at in one go, for those that have expired
_HALF_WRITTEN = 3600.0  # seconds after which nobody goes on writing a file
_FILE = re.compile(r"[0-9a-f]{32}(\.[0-9]+)?\Z")

Fetch = Callable[[str], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Kept:
    """A policy as it was fetched."""

    ident: str
    fetched: float  # seconds since the epoch
    policy: StsPolicy

    def fresh(self, now: float) -> bool:
        """It still holds."""
        return now < self.fetched + self.policy.max_age

    @property
    def octets(self) -> int:
        """About so much memory."""
        return sum(len(each) + 64 for each in self.policy.mx)


class StsPolicies:
    """`await policies(domain)`: what holds for the domain now, or None."""

    def __init__(
        self,
        resolver: Resolver,
        fetch: Fetch,
        folder: Path,
        log: MailLog,
        clock: Callable[[], float],
        failed: Callable[[Policy, Failure], None] = lambda policy, failure: None,
    ) -> None:
        self.fetch = fetch
        self._resolver = resolver
        self._folder = folder
        self._log = log
        self._clock = clock
        self._failed = failed
        self._kept: OrderedDict[str, Kept | None] = OrderedDict()
        self._octets = 0  # of all of them
        self._not_before: dict[str, float] = {}
        self._under_way: dict[str, list[Deferred[None]]] = {}
        self._names: Any = None  # of the folder, those not yet looked at by `prune`

    async def __call__(self, domain: str) -> StsPolicy | None:
        """Never raises: without a policy, opportunistic TLS is all there is."""
        ident = await self._announced(domain)
        kept = self._find(domain)
        now = self._clock()
        if kept is not None and not kept.fresh(now):
            kept = None
        if ident and (kept is None or kept.ident != ident):
            await self._renew(domain, ident)
            found = self._find(domain)
            kept = found if found is not None and found.fresh(now) else kept
        elif ident and kept is not None and now > kept.fetched + REFRESH:
            spawn(self._renew(domain, ident), partial(log_bug, self._log, "bug"))
        # announced no more, or the DNS is silent: what was promised holds to its end
        if kept is None or kept.policy.mode == "none":
            return None
        return kept.policy

    async def _announced(self, domain: str) -> str:
        try:
            answer = await self._resolver.query(f"_mta-sts.{domain}", "TXT")
        except DnsError:
            return ""
        return policy_id(answer.values)

    async def _renew(self, domain: str, ident: str) -> None:
        """Fetch it, unless that failed lately; who comes meanwhile waits for the same."""
        if domain in self._under_way:
            waiting: Deferred[None] = Deferred()
            self._under_way[domain].append(waiting)
            await waiting
            return
        if self._clock() < self._not_before.get(domain, 0.0):
            return
        self._under_way[domain] = []
        try:
            policy = parse_policy(await self.fetch(domain))
        except (FetchError, ValueError) as error:
            if len(self._not_before) > MOST:
                self._not_before.clear()
            self._not_before[domain] = self._clock() + PAUSE
            self._log.notice("mta-sts", domain=domain, why=str(error))
            flaw = error.flaw if isinstance(error, FetchError) else Flaw.STS_INVALID
            self._failed(Policy(domain, PolicyKind.STS), Failure(flaw, str(error)))
        else:
            self._keep(domain, Kept(ident, self._clock(), policy))
        finally:
            for waiting in self._under_way.pop(domain):
                waiting.callback(None)

    # the cache: memory, and a file for each domain

    def _find(self, domain: str) -> Kept | None:
        if domain in self._kept:
            self._kept.move_to_end(domain)
            return self._kept[domain]
        kept = self._read(domain)
        self._remember(domain, kept)
        return kept

    def _remember(self, domain: str, kept: Kept | None) -> None:
        self._octets += _octets(kept) - _octets(self._kept.get(domain))
        self._kept[domain] = kept
        self._kept.move_to_end(domain)
        while len(self._kept) > MOST or self._octets > MOST_OCTETS:
            self._octets -= _octets(self._kept.popitem(last=False)[1])

    def _path(self, domain: str) -> Path:
        # never a peer's text in a path
        return self._folder / hashlib.sha256(domain.encode()).hexdigest()[:32]

    def _read(self, domain: str) -> Kept | None:
        try:
            of, kept = _parsed(self._path(domain).read_bytes())
        except (OSError, ValueError):
            return None
        return kept if of == domain else None

    def _keep(self, domain: str, kept: Kept) -> None:
        self._remember(domain, kept)
        text = {"domain": domain, "id": kept.ident, "fetched": kept.fetched}
        data = json.dumps(text | {"policy": str(kept.policy)})
        path = self._path(domain)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            beside = path.with_suffix(f".{os.getpid()}")  # workers share the folder
            beside.write_text(data)
            with self._to_ourselves():
                beside.replace(path)
        except OSError as error:
            self._log.trouble("mta-sts", domain=domain, why=f"policy not kept: {error}")

    def prune(self) -> None:
        """Remove files of policies that have expired, a slice of the folder at a time.

        One that holds stays, whatever happens at the same time: without it mail could be led
        elsewhere. For a thread; by one process of all. Raises OSError.
        """
        if self._names is None:
            if not self._folder.is_dir():
                return
            self._names = os.scandir(self._folder)
        seen = 0
        for entry in islice(self._names, SLICE):
            seen += 1
            if _FILE.match(entry.name):
                with contextlib.suppress(FileNotFoundError):
                    self._remove_expired(Path(entry.path))
        if seen < SLICE:
            self._names.close()
            self._names = None

    def _remove_expired(self, path: Path) -> None:
        if self._expired(path):
            with self._to_ourselves():
                if self._expired(path):  # and has not been replaced since
                    path.unlink()

    def _expired(self, path: Path) -> bool:
        age = self._clock() - path.stat().st_mtime
        if path.suffix:
            return age > _HALF_WRITTEN
        try:
            return not _parsed(path.read_bytes())[1].fresh(self._clock())
        except ValueError:
            return age > MAX_AGE  # whatever it says, no policy holds for longer

    @contextlib.contextmanager
    def _to_ourselves(self) -> Iterator[None]:
        """No file in the folder is replaced or removed by others."""
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def _parsed(data: bytes) -> tuple[str, Kept]:
    """A file: which domain's policy it is, and that. Raises ValueError."""
    try:
        found = json.loads(data)
        policy = parse_policy(found["policy"])
        return found["domain"], Kept(str(found["id"]), float(found["fetched"]), policy)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no policy: {error!r}") from None


def _octets(kept: Kept | None) -> int:
    return 0 if kept is None else kept.octets
