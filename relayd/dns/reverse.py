"""The name of an address: the one that it leads to, and that leads back to it."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from relayd.dns.answer import Answer, DnsError, DnsTrouble, NoData, NxDomain
from relayd.dns.hostname import LOCALHOST, host_name, is_loopback
from relayd.dns.resolver import Resolver
from relayd.reactor.coroutine import promise

PATIENCE = 1.0  # seconds from the connection on for which anybody waits
MOST_NAMES = 5  # of one address that are looked up in turn


class ReverseNames:
    """Looks names of clients up; cached and coalesced by the resolver, which is theirs alone.

    A slow zone of somebody's takes its slots of this resolver, and none of those for mail.
    """

    def __init__(
        self,
        resolver: Resolver,
        reactor: Any,
        *,
        listed: Callable[[str], str] = lambda address: "",
    ) -> None:
        """`listed` is asked first: the name that a file has for an address, or nothing."""
        self._resolver = resolver
        self._reactor = reactor
        self._listed = listed

    def known(self, address: str) -> str | None:
        """The name, folded, or "" where there is none; None: somebody must be asked."""
        if is_loopback(address):
            return LOCALHOST
        listed = self._listed(address)
        if listed:
            return listed
        answer = self._resolver.known(_pointer(address), "PTR")
        if answer is None or isinstance(answer, DnsTrouble):
            return None
        for name in _names(answer):
            forward = self._resolver.known(name, _kind(address))
            if forward is None or isinstance(forward, DnsTrouble):
                return None
            if _leads_to(forward, address):
                return name
        return ""

    def look_up(self, address: str) -> NameLookup:
        """Begin to ask."""
        return NameLookup(self._reactor, promise(self.name_of(address)))

    async def name_of(self, address: str) -> str:
        """The name, or "" where there is none; raises DnsTrouble."""
        known = self.known(address)
        if known is not None:
            return known
        trouble: DnsTrouble | None = None
        for name in _names(await self._ask(_pointer(address), "PTR")):
            try:
                if _leads_to(await self._ask(name, _kind(address)), address):
                    return name
            except DnsTrouble as error:  # another one may lead back
                trouble = error
        if trouble is not None:
            raise trouble
        return ""

    async def pointer(self, address: str) -> str:
        """The first name that it leads to, whether that leads back or not; raises DnsTrouble."""
        if is_loopback(address):
            return LOCALHOST
        listed = self._listed(address)
        names = [listed] if listed else _names(await self._ask(_pointer(address), "PTR"))
        return names[0] if names else ""

    async def _ask(self, name: str, rdtype: Any) -> Answer[Any] | DnsError:
        try:
            answer: Answer[Any] = await self._resolver.query(name, rdtype)
        except (NxDomain, NoData) as error:
            return error
        return answer

    def forget(self) -> None:
        """Ask anew."""
        self._resolver.forget()


class NameLookup:
    """The name of one client while it is looked up, side by side with the session."""

    def __init__(self, reactor: Any, asked: Deferred[str]) -> None:
        self.name: str | None = None  # "": there is none; None: not known, or not yet
        self.over = False
        self._reactor = reactor
        self._until = reactor.seconds() + PATIENCE
        self._waiting: Deferred[None] | None = None
        self._asked = asked
        asked.addCallbacks(self._found, self._failed)

    @property
    def worth_waiting(self) -> bool:
        """It may yet come in time."""
        return not self.over and self._reactor.seconds() < self._until

    async def wait(self) -> None:
        """Until it is over, or it is too late."""
        if self.worth_waiting:
            waiting: Deferred[None] = Deferred()
            self._waiting = waiting
            timer = self._reactor.callLater(self._until - self._reactor.seconds(), self._wake)
            try:
                await waiting
            finally:
                self._waiting = None
                if timer.active():
                    timer.cancel()

    def cancel(self) -> None:
        """The client has gone. What is late is looked up to its end: the client may come again."""
        if self.worth_waiting:
            self._asked.cancel()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def _found(self, name: str) -> None:
        self.name, self.over = name, True
        self._wake()

    def _failed(self, _: object) -> None:
        """Trouble of the DNS, or a cancel."""
        self.over = True
        self._wake()


def _pointer(address: str) -> str:
    """RFC 1035 section 3.5, RFC 3596 section 2.5."""
    try:
        return ipaddress.ip_address(address).reverse_pointer
    except ValueError:
        return ""  # a name that does not exist


def _kind(address: str) -> Any:
    return "AAAA" if ":" in address else "A"


def _names(answer: Answer[Any] | DnsError) -> list[str]:
    """Those that can be names of hosts, folded."""
    if isinstance(answer, DnsError):
        return []
    names = [host_name(str(each)) for each in answer.values[:MOST_NAMES]]
    return [each for each in names if each]


def _leads_to(answer: Answer[Any] | DnsError, address: str) -> bool:
    return not isinstance(answer, DnsError) and address in answer.values
