"""Which host names and IP addresses are our own, so that mail is not sent in a circle."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Iterable
from functools import lru_cache

from relayd.mail.address import AddressError, fold_domain

WILDCARDS = {"": 4, "0.0.0.0": 4, "::": 6}
KEPT = 10  # seconds; a new address of ours is noticed after that
DISCARD_PORT = 9  # RFC 863; nothing is sent to it


def is_local(address: str) -> bool:
    """Whether the address is one of this machine's.

    The kernel's own answer: it reaches a local address from that very address. (Binding to it
    tells nothing where ip_nonlocal_bind is on.) No packet is sent.
    """
    parsed = ipaddress.ip_address(address)
    if parsed.is_loopback:
        return True
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, DISCARD_PORT))
            source = probe.getsockname()[0]
    except OSError:
        return False
    return ipaddress.ip_address(source) == parsed


class SelfDetection:
    """The names we go by and the addresses we listen at (`listeners`, without ports)."""

    def __init__(
        self,
        names: Iterable[str],
        listeners: Iterable[str] = (),
        *,
        local: Callable[[str], bool] = is_local,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._names = {_folded(name) for name in names} | {"localhost"}
        listening = set(listeners)
        self._wildcards = {WILDCARDS[address] for address in listening if address in WILDCARDS}
        self._addresses = {
            ipaddress.ip_address(address) for address in listening if address not in WILDCARDS
        }
        # asked for every message, and each time a socket: so what the kernel says is kept a while
        self._local = lru_cache(maxsize=4096)(lambda address, _period: local(address))
        self._clock = clock

    def host(self, name: str) -> bool:
        """Whether it is a name of ours."""
        return _folded(name) in self._names

    def address(self, address: str) -> bool:
        """Whether we listen there, on whatever port: some path may lead from port 25 to it."""
        parsed = _parsed(address)
        if parsed in self._addresses:
            return True
        return parsed.version in self._wildcards and self._is_local(address)

    def _is_local(self, address: str) -> bool:
        return self._local(address, self._clock() // KEPT)


@lru_cache(maxsize=4096)
def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(address)


def _folded(name: str) -> str:
    try:
        return fold_domain(name.removesuffix("."))
    except AddressError:
        return name.lower()
