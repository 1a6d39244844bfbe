"""A small real DNS server on loopback, UDP and TCP, that answers from a zone text, or misbehaves.

It answers as a recursive resolver would: CNAMEs are followed, names that it has not heard of do
not exist. Zone text is lines of `name [ttl] type data` with absolute names, SOA and NS not needed:

    server = DnsServer(reactor, "example.com. MX 10 mx1.example.com.\\n...")
    server.start()
    server.fault("servfail", "mx1.example.com", "A")
    resolver = Resolver(reactor, [server.address])
    ...
    await server.stop()
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from twisted.internet.defer import DeferredList, maybeDeferred
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol

from tests.ports import free_port

KINDS = (
    "drop",  # no answer at all
    "delay",  # the answer comes `seconds` late
    "servfail",
    "refused",
    "formerr",
    "truncate",  # over UDP: TC and no records
    "wrong-id",  # a forged datagram only
    "wrong-question",
    "query",  # the query itself comes back, without the QR bit
    "forge",  # forged datagrams first, then the true answer
    "garbage",  # right ID and question, then octets that make no sense
    "short",  # three octets
    "close",  # over TCP: closes without an answer
)


@dataclass
class Fault:
    """What goes wrong with queries of this name and type ("*": any), `left` times (-1: ever)."""

    kind: str
    name: str
    rdtype: str
    left: int
    seconds: float


class DnsServer:
    """See the module. `queries` is what was asked: (name, type, "udp" or "tcp")."""

    def __init__(
        self,
        reactor: Any,
        zone: str,
        *,
        interface: str = "127.0.0.1",
        port: int = 0,
        secure: bool = False,
        limit: int = 1232,
    ) -> None:
        self._reactor = reactor
        self._interface = interface
        self._port = port
        self._ports: list[Any] = []
        self._connections: set[Any] = set()
        self._late: list[Any] = []
        self._faults: list[Fault] = []
        self._limit = limit
        self.secure = secure  # sets AD
        self.queries: list[tuple[str, str, str]] = []
        self.load(zone)

    def load(self, zone: str) -> None:
        """Replace the whole zone."""
        self._zone = dict(records(zone))
        self._names = {parent for name, _ in self._zone for parent in ancestry(name)}

    def fault(
        self, kind: str, name: str = "*", rdtype: str = "*", *, times: int = -1, seconds: float = 0
    ) -> None:
        """From now on, `times` queries of this name and type go wrong in this way."""
        assert kind in KINDS, kind
        self._faults.append(Fault(kind, name, rdtype, times, seconds))

    def mend(self) -> None:
        """No more faults."""
        self._faults.clear()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host = self._ports[0].getHost()
        return host.host, host.port

    def start(self) -> None:
        """Listen on UDP and TCP, on the same port; raises CannotListenError."""
        port, host = self._port or free_port(), self._interface
        self._ports = [
            self._reactor.listenUDP(port, _Datagrams(self), interface=host, maxPacketSize=65535),
            self._reactor.listenTCP(port, _Streams(self), interface=host),
        ]

    def stop(self) -> Any:
        """Close all; fires when it is closed."""
        for call in self._late:
            if call.active():
                call.cancel()
        for connection in list(self._connections):
            connection.abortConnection()
        return DeferredList([maybeDeferred(port.stopListening) for port in self._ports])

    def respond(self, wire: bytes, transport: str, send: Callable[[bytes | None], None]) -> None:
        """Answer one query; `send(None)` closes a TCP connection."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        rdtype = dns.rdatatype.to_text(question.rdtype)
        self.queries.append((name, rdtype, transport))
        response = self.answer(query)
        good = response.to_wire(max_size=65535)
        if transport == "udp" and len(good) > self._limit:
            good = truncated(query)
        fault = self._take(name, rdtype)
        if fault is None:
            send(good)
        elif fault.kind == "delay":
            self._late.append(self._reactor.callLater(fault.seconds, send, good))
        else:
            for datagram in broken(fault.kind, query, response, good, transport):
                send(datagram)

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        """The true answer."""
        question = query.question[0]
        response = dns.message.make_response(query, recursion_available=True)
        if self.secure:
            response.flags |= dns.flags.AD
        name = question.name
        for _ in range(16):
            records = self._records(name, question.rdtype)
            if records is not None:
                response.answer.append(records)
                return response
            alias = self._records(name, dns.rdatatype.CNAME)
            if alias is None:
                break
            response.answer.append(alias)
            name = next(iter(alias)).target
        if lower(name) not in self._names:
            response.set_rcode(dns.rcode.NXDOMAIN)
        for parent in ancestry(lower(name)):
            soa = self._records(parent, dns.rdatatype.SOA)
            if soa is not None:
                response.authority.append(soa)
                break
        return response

    def _records(
        self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType
    ) -> dns.rrset.RRset | None:
        found = self._zone.get((lower(name), rdtype))
        # under the name as it was asked: its case is kept
        return None if found is None else dns.rrset.from_rdata_list(name, found.ttl, list(found))

    def _take(self, name: str, rdtype: str) -> Fault | None:
        for fault in self._faults:
            if fault.left and fault.name in ("*", name) and fault.rdtype in ("*", rdtype):
                fault.left -= 1
                return fault
        return None


def records(zone: str) -> Iterator[tuple[tuple[dns.name.Name, int], dns.rrset.RRset]]:
    """Each line `name [ttl] type data` as a record, those of one name and type together."""
    sets: dict[tuple[str, str], tuple[int, list[str]]] = {}
    for line in zone.splitlines():
        words = line.split(None, 1)
        if not words or words[0].startswith(";"):
            continue
        name, rest = words
        ttl, rest = rest.split(None, 1) if rest[0].isdigit() else ("300", rest)
        rdtype, data = rest.split(None, 1)
        sets.setdefault((name, rdtype), (int(ttl), []))[1].append(data)
    for (name, rdtype), (seconds, texts) in sets.items():
        found = dns.rrset.from_text(name, seconds, "IN", rdtype, *texts)
        yield (lower(found.name), found.rdtype), found


def lower(name: dns.name.Name) -> dns.name.Name:
    """The name in lower case."""
    return dns.name.Name([label.lower() for label in name.labels])


def ancestry(name: dns.name.Name) -> Iterator[dns.name.Name]:
    """The name, its parent, and so on up to the root."""
    yield name
    while name != dns.name.root:
        name = name.parent()
        yield name


def truncated(query: dns.message.Message) -> bytes:
    """Only the question, and TC: ask again over TCP."""
    response = dns.message.make_response(query, recursion_available=True)
    response.flags |= dns.flags.TC
    return response.to_wire()


def broken(
    kind: str,
    query: dns.message.Message,
    response: dns.message.Message,
    good: bytes,
    transport: str,
) -> Iterator[bytes | None]:
    """The datagrams that a server with this fault sends, None to close."""
    if kind in ("servfail", "refused", "formerr"):
        refusal = dns.message.make_response(query, recursion_available=True)
        refusal.set_rcode(dns.rcode.from_text(kind.upper()))
        yield refusal.to_wire()
    elif kind == "truncate":
        yield truncated(query) if transport == "udp" else good
    elif kind == "garbage":
        # counts of records that are not there
        yield good[:6] + b"\0\7\0\0\0\0" + good[12:] + b"\xff" * 7
    elif kind == "short":
        yield good[:3]
    elif kind == "close":
        yield None
    elif kind in ("wrong-id", "wrong-question", "query", "forge"):
        if kind in ("wrong-id", "forge"):
            yield bytes([good[0] ^ 1]) + good[1:]
        if kind in ("wrong-question", "forge"):
            other = dns.message.make_query("forged.example.", "A", use_edns=False)
            other.id = query.id
            yield dns.message.make_response(other).to_wire()
        if kind in ("query", "forge"):
            yield query.to_wire()
        if kind == "forge":
            yield good


class _Datagrams(DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        def send(wire: bytes | None) -> None:
            if wire is not None and self.transport is not None:
                self.transport.write(wire, addr)

        self._server.respond(datagram, "udp", send)


class _Stream(Protocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._received = b""

    def connectionMade(self) -> None:
        self._server._connections.add(self.transport)

    def connectionLost(self, reason: object = None) -> None:
        self._server._connections.discard(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= 2:
            (length,) = struct.unpack_from("!H", self._received)
            if len(self._received) < 2 + length:
                return
            wire, self._received = self._received[2 : 2 + length], self._received[2 + length :]
            self._server.respond(wire, "tcp", self._send)

    def _send(self, wire: bytes | None) -> None:
        transport: Any = self.transport
        if wire is None:
            transport.loseConnection()
        else:
            # in two pieces, as the network may
            transport.write(struct.pack("!H", len(wire)) + wire[:5])
            transport.write(wire[5:])


class _Streams(Factory):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def buildProtocol(self, addr: object) -> _Stream:
        return _Stream(self._server)


def main() -> None:
    """`python -m tests.dnsserver ADDRESS PORT ZONEFILE [KIND NAME TYPE]`: serve until killed."""
    from twisted.internet import reactor

    address, port, path, *faults = sys.argv[1:]
    server = DnsServer(reactor, Path(path).read_text("utf-8"), interface=address, port=int(port))
    words = iter(faults)
    for kind, name, rdtype in zip(words, words, words, strict=True):
        server.fault(kind, name, rdtype)
    server.start()
    print(f"listening on {server.address}", flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
