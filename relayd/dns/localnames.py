"""Names that the system itself knows: /etc/hosts, and the search domains of resolv.conf.

For hosts that the administrator has named, as the C library finds them. Domains of mail and their
exchangers are never looked for here: what mail goes by is the DNS.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path

from relayd.dns.hostname import host_name
from relayd.dns.servers import LOOK, RESOLV_CONF, stamp_of

HOSTS = Path("/etc/hosts")
MOST = 4 << 20  # octets of a file that are read
MOST_DOMAINS = 6  # of `search`, as the C library once had it


class LocalNames:
    """Both files, read again when they have changed."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        hosts: Path | None = None,
        resolv_conf: Path | None = None,
    ) -> None:
        """`hosts`, `resolv_conf`: other files than the system's."""
        self._clock = clock
        self._files = hosts or HOSTS, resolv_conf or RESOLV_CONF
        self._stamps: tuple[tuple[int, int], ...] = ()
        self._look_at = 0.0
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._names: dict[str, str] = {}
        self._search: tuple[str, ...] = ()

    def addresses(self, name: str) -> tuple[str, ...]:
        """Those of a host in /etc/hosts."""
        self._look()
        return self._addresses.get(name.lower().removesuffix("."), ())

    def name(self, address: str) -> str:
        """The first name of an address there; empty: it has none."""
        self._look()
        return self._names.get(address, "")

    def candidates(self, name: str) -> tuple[str, ...]:
        """What a name may stand for in the DNS, in order: a short one, for one in our domains."""
        if "." in name:
            return (name,)
        self._look()
        return (*(f"{name}.{domain}" for domain in self._search), name)

    def _look(self) -> None:
        now = self._clock()
        if self._stamps and now < self._look_at:
            return
        self._look_at = now + LOOK
        stamps = tuple(map(stamp_of, self._files))
        if stamps != self._stamps:
            self._stamps = stamps
            self._read()

    def _read(self) -> None:
        hosts, resolv_conf = map(_lines, self._files)
        addresses: dict[str, list[str]] = {}
        self._names = {}
        for address, *names in hosts:
            try:
                address = str(ipaddress.ip_address(address.replace("%", " ")))
            except ValueError:
                continue  # of another file format, or a link's own (fe80::1%eth0)
            for name in map(host_name, names):
                if name:
                    self._names.setdefault(address, name)
                    known = addresses.setdefault(name, [])
                    if address not in known:
                        known.append(address)
        self._addresses = {name: tuple(found) for name, found in addresses.items()}
        domain = socket.gethostname().partition(".")[2]
        found = [domain] if domain else []
        for word, *rest in resolv_conf:
            if word in ("search", "domain"):  # the last one counts, resolv.conf(5)
                found = rest
        self._search = tuple(filter(None, map(host_name, found)))[:MOST_DOMAINS]


def _lines(path: Path) -> list[list[str]]:
    """The words of each line, without comments; a file that cannot be read has none."""
    try:
        with path.open("rb") as file:
            text = file.read(MOST).decode("utf-8", "replace")
    except OSError:
        return []
    lines = (line.partition("#")[0].partition(";")[0].split() for line in text.splitlines())
    return [words for words in lines if words]
