"""The DNS servers to ask, in order: those configured, or those of the system as they change."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from pathlib import Path

import dns.asyncresolver
import dns.flags
import dns.inet

Address = tuple[str, int]

RESOLV_CONF = Path("/etc/resolv.conf")
LOOK = 10  # seconds between two looks at resolv.conf
SILENCE = 60  # seconds for which a server that did not answer is asked last
PAYLOAD = 1232  # octets, the size that DNS flag day 2020 found to pass everywhere


class NameServer:
    """One server, with a dnspython resolver to itself.

    dnspython 2.3 knows one port per address, and would spend a lifetime on the first of a list.
    """

    def __init__(self, address: Address, *, chosen: bool = False) -> None:
        self.address = address
        # whether to believe its AD flag: the administrator has chosen it, or nobody is between us
        self.trusted = chosen or ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
        self.silent_until = 0.0
        self.resolver = dns.asyncresolver.Resolver(configure=False)
        self.resolver.port = address[1]
        self.resolver.nameservers = [address[0]]
        # AD in a query asks for AD in the answer (RFC 6840 section 5.7), without the signatures
        # that DO would bring along.
        self.resolver.flags = dns.flags.RD | dns.flags.AD
        self.resolver.use_edns(0, 0, PAYLOAD)

    def __str__(self) -> str:
        address, port = self.address
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Servers:
    """The list; `addresses` empty means resolv.conf, which is read again when it has changed."""

    def __init__(
        self,
        addresses: Sequence[Address],
        clock: Callable[[], float],
        *,
        path: Path = RESOLV_CONF,
    ) -> None:
        self._clock = clock
        self._path = None if addresses else path
        self._look_at = clock() + LOOK
        self.answered_at = 0.0  # when any of them last did
        self._stamp = stamp_of(path)
        self._servers = [
            NameServer(address, chosen=bool(addresses))
            for address in addresses or system_servers(path)
        ]

    def in_order(self) -> list[NameServer]:
        """Those to ask, in their order, but those last that were silent lately."""
        now = self._clock()
        if self._path is not None and now >= self._look_at:
            self._look_at = now + LOOK
            stamp = stamp_of(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                self._servers = [NameServer(address) for address in system_servers(self._path)]
        return sorted(self._servers, key=lambda server: server.silent_until > now)

    def silent(self, server: NameServer) -> None:
        """It did not answer: its time-out is not to be paid for every name."""
        server.silent_until = self._clock() + SILENCE

    def answered(self, server: NameServer) -> None:
        """It is well."""
        server.silent_until = 0.0
        self.answered_at = self._clock()


def system_servers(path: Path = RESOLV_CONF) -> tuple[Address, ...]:
    """The name servers of resolv.conf(5); the local host when it names none, as the C library."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    words = [line.split() for line in lines]
    named = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver"]
    found = [address for address in named if dns.inet.is_address(address)]
    return tuple((address, 53) for address in found[:3]) or (("127.0.0.1", 53),)


def stamp_of(path: Path) -> tuple[int, int]:
    """Changes when the file does, also when another takes its place."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino
