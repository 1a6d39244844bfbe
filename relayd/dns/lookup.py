"""One question to the DNS servers, uncached: fail-over, and the answer as plain values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.resolver
from twisted.internet.defer import CancelledError

from relayd.dns.answer import Answer, DnsTrouble, MailExchanger, NoData, NxDomain, Tlsa
from relayd.dns.backend import Abandoned, TwistedBackend
from relayd.dns.names import name_text, wire_name
from relayd.dns.servers import Address, NameServer, Servers

# Seconds that each server gets, round by round. Two rounds as in the C library; the second is
# long, because a recursive server may itself wait for a dead one.
ROUNDS = (3.0, 7.0)
PATIENT = 25  # lookups in a later round at a time; with more, a silent name has had its chance
SILENT_TTL = 60  # seconds for which a name has no answer, if other names have (RFC 2308 section 7)
LIFETIME = 25.0  # seconds for all servers and rounds together
MAX_TTL = 604800  # seconds, a week: RFC 8767 section 4 takes no more from anyone

VALUES: dict[str, Callable[[Any], Any]] = {
    "A": lambda rdata: rdata.address,
    "AAAA": lambda rdata: rdata.address,
    "MX": lambda rdata: MailExchanger(rdata.preference, name_text(rdata.exchange)),
    "CNAME": lambda rdata: name_text(rdata.target),
    "PTR": lambda rdata: name_text(rdata.target),
    "NS": lambda rdata: name_text(rdata.target),
    # the strings of one record are one text (RFC 7208 section 3.3)
    "TXT": lambda rdata: b"".join(rdata.strings).decode("utf-8", "backslashreplace"),
    "TLSA": lambda rdata: Tlsa(rdata.usage, rdata.selector, rdata.mtype, bytes(rdata.cert)),
}


class Lookup:
    """Asks the servers one after the other until one gives an answer."""

    def __init__(
        self,
        reactor: Any,
        servers: Sequence[Address] = (),
        *,
        rounds: Sequence[float] = ROUNDS,
        lifetime: float = LIFETIME,
    ) -> None:
        self._reactor = reactor
        self._backend = TwistedBackend(reactor)
        self._rounds = tuple(rounds)
        self._lifetime = lifetime
        self._servers = Servers(servers, reactor.seconds)
        self._patient = 0  # lookups in a later round

    async def ask(self, name: str, rdtype: str) -> Answer[Any]:
        """The answer, TTLs as received; raises NxDomain, NoData, DnsTrouble, CancelledError."""
        try:
            wire = wire_name(name)
        except ValueError:
            raise NxDomain(name, rdtype, "not a valid domain name", MAX_TTL) from None
        troubles: dict[str, str] = {}
        began = self._reactor.seconds()
        end = began + self._lifetime
        servers = self._servers.in_order()
        for turn, seconds in enumerate(self._rounds):
            if turn and self._patient >= PATIENT:
                break
            for server in list(servers):
                left = end - self._reactor.seconds()
                if left <= 0:
                    break
                try:
                    response = await self._ask(
                        server, wire, rdtype, min(seconds, left), again=turn > 0
                    )
                except dns.resolver.NXDOMAIN as error:
                    self._servers.answered(server)
                    ttl = negative_ttl(error.response(wire))  # type: ignore[no-untyped-call]
                    raise NxDomain(name, rdtype, "no such name", ttl) from None
                except dns.resolver.LifetimeTimeout:
                    self._servers.silent(server)
                    troubles[str(server)] = "timed out"
                except dns.exception.DNSException as error:
                    # It said something, and would say it again: only silence is worth a round.
                    servers.remove(server)
                    troubles[str(server)] = reason(error)
                else:
                    self._servers.answered(server)
                    return plain(name, rdtype, response, trusted=server.trusted)
        said = "; ".join(f"{server} {trouble}" for server, trouble in troubles.items())
        silent = set(troubles.values()) == {"timed out"} and self._servers.answered_at >= began
        raise DnsTrouble(name, rdtype, said, SILENT_TTL if silent else 0)

    async def _ask(
        self, server: NameServer, name: dns.name.Name, rdtype: str, seconds: float, *, again: bool
    ) -> dns.resolver.Answer:
        self._patient += again
        try:
            return await server.resolver.resolve(
                name,
                rdtype,
                lifetime=seconds,
                raise_on_no_answer=False,
                search=False,
                backend=self._backend,
            )
        except Abandoned:
            raise CancelledError from None
        finally:
            self._patient -= again


def reason(error: dns.exception.DNSException) -> str:
    """What one server did wrong, in a few words."""
    errors = error.kwargs.get("errors") or []
    last: Any = errors[-1][3] if errors else error
    if isinstance(last, str):
        return f"said {last}"
    if isinstance(last, dns.exception.Timeout):
        return "timed out"
    if isinstance(last, OSError):
        return last.strerror or str(last) or "network error"
    return f"sent no valid answer ({type(last).__name__})"


def plain(
    name: str, rdtype: str, response: dns.resolver.Answer, *, trusted: bool = True
) -> Answer[Any]:
    """The answer of dnspython as ours; raises NoData. `trusted`: its AD flag is to be believed."""
    chain = response.chaining_result
    if response.rrset is None:
        raise NoData(name, rdtype, "no such record", negative_ttl(response.response))
    value = VALUES.get(rdtype, str)
    return Answer(
        name=name,
        canonical=name_text(chain.canonical_name),
        values=tuple(value(rdata) for rdata in response.rrset),
        secure=trusted and bool(response.response.flags & dns.flags.AD),
        ttl=min(chain.minimum_ttl, MAX_TTL),
    )


def negative_ttl(response: dns.message.QueryMessage) -> int:
    """How long the absence may be remembered (RFC 2308 section 5); 0 where no SOA says it."""
    for records in response.authority:
        if records.rdtype == dns.rdatatype.SOA:
            return min(records.ttl, int(records[0].minimum), MAX_TTL)
    return 0
