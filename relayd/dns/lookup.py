"""One question to the DNS servers, uncached: fail-over, and the answer as plain values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.inet
import dns.message
import dns.name
import dns.rdatatype
import dns.resolver
from twisted.internet.defer import CancelledError

from relayd.dns.answer import Answer, DnsTrouble, MailExchanger, NoData, NxDomain, Tlsa
from relayd.dns.backend import Abandoned, TwistedBackend
from relayd.dns.names import name_text, wire_name

Server = tuple[str, int]

RESOLV_CONF = Path("/etc/resolv.conf")
# Seconds that each server gets, round by round. Two rounds as in the C library; the second is
# long, because a recursive server may itself wait for a dead one.
ROUNDS = (3.0, 7.0)
LIFETIME = 25.0  # seconds for all servers and rounds together
PAYLOAD = 1232  # octets, the size that DNS flag day 2020 found to pass everywhere
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


def system_servers(path: Path = RESOLV_CONF) -> tuple[Server, ...]:
    """The name servers of resolv.conf(5); the local host when it names none, as the C library."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    words = [line.split() for line in lines]
    named = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver"]
    found = [address for address in named if dns.inet.is_address(address)]
    return tuple((address, 53) for address in found[:3]) or (("127.0.0.1", 53),)


class _Asked:
    """One server, with a dnspython resolver to itself.

    dnspython 2.3 knows one port per address, and would spend a lifetime on the first of a list.
    """

    def __init__(self, server: Server) -> None:
        self.text = server_text(server)
        self.resolver = dns.asyncresolver.Resolver(configure=False)
        self.resolver.port = server[1]
        self.resolver.nameservers = [server[0]]
        # AD in a query asks for AD in the answer (RFC 6840 section 5.7), without the signatures
        # that DO would bring along.
        self.resolver.flags = dns.flags.RD | dns.flags.AD
        self.resolver.use_edns(0, 0, PAYLOAD)


class Lookup:
    """Asks the servers in order, the one that answered last first."""

    def __init__(
        self,
        reactor: Any,
        servers: Sequence[Server] = (),
        *,
        rounds: Sequence[float] = ROUNDS,
        lifetime: float = LIFETIME,
    ) -> None:
        self._reactor = reactor
        self._backend = TwistedBackend(reactor)
        self._rounds = tuple(rounds)
        self._lifetime = lifetime
        self._servers = [_Asked(server) for server in servers or system_servers()]

    async def ask(self, name: str, rdtype: str) -> Answer[Any]:
        """The answer, TTLs as received; raises NxDomain, NoData, DnsTrouble, CancelledError."""
        try:
            wire = wire_name(name)
        except ValueError:
            raise NxDomain(name, rdtype, "not a valid domain name", MAX_TTL) from None
        troubles: dict[str, str] = {}
        end = self._reactor.seconds() + self._lifetime
        servers = list(self._servers)
        for seconds in self._rounds:
            for server in list(servers):
                left = end - self._reactor.seconds()
                if left <= 0:
                    break
                try:
                    response = await self._ask(server, wire, rdtype, min(seconds, left))
                except dns.resolver.NXDOMAIN as error:
                    self._prefer(server)
                    ttl = negative_ttl(error.response(wire))  # type: ignore[no-untyped-call]
                    raise NxDomain(name, rdtype, "no such name", ttl) from None
                except dns.resolver.LifetimeTimeout:
                    troubles[server.text] = "timed out"
                except dns.exception.DNSException as error:
                    # It said something, and would say it again: only silence is worth a round.
                    servers.remove(server)
                    troubles[server.text] = reason(error)
                else:
                    self._prefer(server)
                    return plain(name, rdtype, response)
        said = "; ".join(f"{server} {trouble}" for server, trouble in troubles.items())
        raise DnsTrouble(name, rdtype, said)

    async def _ask(
        self, server: _Asked, name: dns.name.Name, rdtype: str, seconds: float
    ) -> dns.resolver.Answer:
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

    def _prefer(self, server: _Asked) -> None:
        """A dead first server costs its time-out once, not for every name."""
        if self._servers[0] is not server:
            self._servers.remove(server)
            self._servers.insert(0, server)


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


def plain(name: str, rdtype: str, response: dns.resolver.Answer) -> Answer[Any]:
    """The answer of dnspython as ours; raises NoData."""
    chain = response.chaining_result
    if response.rrset is None:
        raise NoData(name, rdtype, "no such record", negative_ttl(response.response))
    value = VALUES.get(rdtype, str)
    return Answer(
        name=name,
        canonical=name_text(chain.canonical_name),
        values=tuple(value(rdata) for rdata in response.rrset),
        secure=bool(response.response.flags & dns.flags.AD),
        ttl=min(chain.minimum_ttl, MAX_TTL),
    )


def negative_ttl(response: dns.message.QueryMessage) -> int:
    """How long the absence may be remembered (RFC 2308 section 5); 0 where no SOA says it."""
    for records in response.authority:
        if records.rdtype == dns.rdatatype.SOA:
            return min(records.ttl, int(records[0].minimum), MAX_TTL)
    return 0


def server_text(server: Server) -> str:
    """`192.0.2.53:53`, `[2001:db8::53]:53`."""
    address, port = server
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
