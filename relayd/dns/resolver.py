"""The caching resolver: one lookup for all who ask the same, remembered for as long as it holds."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal, NamedTuple, overload

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.python.failure import Failure

from relayd.dns.answer import Answer, DnsError, DnsTrouble, MailExchanger, Tlsa
from relayd.dns.lookup import Lookup
from relayd.dns.names import fold_name
from relayd.dns.servers import Address
from relayd.reactor.coroutine import promise

CACHE_SIZE = 20_000  # entries, about a kilobyte each
CACHE_OCTETS = 32 << 20  # of text in them: whose name it is may make an answer as large as 32 KiB
IN_FLIGHT = 100  # queries, one UDP socket each
# seconds; one second protects a server from mail in bulk to a name that forbids caching
POSITIVE_TTL = (1, 86_400)
NEGATIVE_TTL = (5, 300)
TROUBLE_TTL = 5  # RFC 2308 section 7 allows up to 300; mail has its own retry schedule

Ask = Callable[[str, str], Coroutine[Any, Any, Answer[Any]]]
Key = tuple[str, str]


class _Known(NamedTuple):
    """One entry of the cache: an answer, or the error to raise."""

    expires: float
    result: Answer[Any] | DnsError  # an error is one to raise, again and again
    octets: int  # of text in it


class _Flight:
    """One lookup under way, and all who wait for it."""

    __slots__ = ("lookup", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Deferred[Answer[Any]]] = []
        self.lookup: Deferred[Answer[Any]] | None = None


class Resolver:
    """Answers DNS questions; `servers` empty means those of the system."""

    def __init__(
        self,
        reactor: Any,
        servers: Sequence[Address] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        ask: Ask | None = None,
        cache_size: int = CACHE_SIZE,
        in_flight: int = IN_FLIGHT,
    ) -> None:
        self._ask = ask or Lookup(reactor, servers).ask
        self._clock = clock
        self._cache: OrderedDict[Key, _Known] = OrderedDict()
        self._cache_size = cache_size
        self._cache_octets = 0
        self._flights: dict[Key, _Flight] = {}
        self._free = DeferredSemaphore(in_flight)

    @overload
    async def query(
        self, name: str, rdtype: Literal["A", "AAAA", "CNAME", "NS", "PTR", "TXT"]
    ) -> Answer[str]: ...
    @overload
    async def query(self, name: str, rdtype: Literal["MX"]) -> Answer[MailExchanger]: ...
    @overload
    async def query(self, name: str, rdtype: Literal["TLSA"]) -> Answer[Tlsa]: ...

    async def query(self, name: str, rdtype: str) -> Answer[Any]:
        """The records of `name`; raises NxDomain, NoData, DnsTrouble.

        Cancelling it gives up waiting; the lookup itself ends with its last waiter.
        """
        key = (fold_name(name), rdtype)
        known = self._known(key)
        if known is None:
            return await self._join(key)
        if isinstance(known, DnsError):
            raise _again(known)
        return known

    def known(self, name: str, rdtype: str) -> Answer[Any] | DnsError | None:
        """What the cache has, without asking anybody: an answer, an error (not raised) or None."""
        return self._known((fold_name(name), rdtype))

    def _known(self, key: Key) -> Answer[Any] | DnsError | None:
        known = self._cache.get(key)
        if known is None or known.expires <= self._clock():
            return None
        self._cache.move_to_end(key)
        return known.result

    def forget(self) -> None:
        """Empty the cache, for the operator who has just mended the DNS."""
        self._cache.clear()
        self._cache_octets = 0

    def _join(self, key: Key) -> Deferred[Answer[Any]]:
        """Wait for the lookup of this key, which is started unless it is under way."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()

        def leave(waiter: Deferred[Answer[Any]]) -> None:
            flight.waiting.remove(waiter)
            if not flight.waiting and flight.lookup is not None:
                # the next to ask starts afresh, rather than joining what is being cancelled
                self._flights.pop(key, None)
                flight.lookup.cancel()

        waiter: Deferred[Answer[Any]] = Deferred(leave)
        flight.waiting.append(waiter)
        if flight.lookup is None:
            flight.lookup = promise(self._look_up(key))
            flight.lookup.addBoth(self._land, key, flight)
        return waiter

    def _land(self, result: Answer[Any] | Failure, key: Key, flight: _Flight) -> None:
        """Tell all who wait. A lookup that nobody waits for ends here, whatever became of it."""
        if self._flights.get(key) is flight:
            del self._flights[key]
        waiting, flight.waiting = flight.waiting, []
        for waiter in waiting:
            if not isinstance(result, Failure):
                waiter.callback(result)
            elif isinstance(result.value, DnsError):
                waiter.errback(_again(result.value))
            else:
                waiter.errback(result)

    async def _look_up(self, key: Key) -> Answer[Any]:
        await self._free.acquire()
        try:
            answer = await self._ask(*key)
        except DnsError as error:
            self._remember(key, _negative_seconds(error), error)
            raise
        finally:
            self._free.release()
        low, high = POSITIVE_TTL
        seconds = min(max(answer.ttl, low), high)
        self._remember(key, seconds, answer)
        return answer

    def _remember(self, key: Key, seconds: float, result: Answer[Any] | DnsError) -> None:
        before = self._cache.get(key)
        known = _Known(self._clock() + seconds, result, _octets(result))
        self._cache_octets += known.octets - (0 if before is None else before.octets)
        self._cache[key] = known
        self._cache.move_to_end(key)
        while len(self._cache) > self._cache_size or self._cache_octets > CACHE_OCTETS:
            _, gone = self._cache.popitem(last=False)
            self._cache_octets -= gone.octets


def _octets(result: Answer[Any] | DnsError) -> int:
    values = result.values if isinstance(result, Answer) else ()
    return sum(len(each) for each in values if isinstance(each, str))


def _negative_seconds(error: DnsError) -> float:
    if isinstance(error, DnsTrouble):
        return max(TROUBLE_TTL, error.ttl)
    low, high = NEGATIVE_TTL
    return min(max(error.ttl, low), high)


def _again(error: DnsError) -> DnsError:
    """A fresh copy to raise: one that is raised again and again grows a traceback each time."""
    return type(error)(error.name, error.rdtype, error.text, error.ttl)
