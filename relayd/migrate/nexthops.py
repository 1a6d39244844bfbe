"""Postfix's `transport:nexthop` texts as next hops of relayd."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from relayd.mail.nexthop import LMTP, SMTP, HostPort
from relayd.migrate.maincf import split
from relayd.migrate.mastercf import Service
from relayd.migrate.work import Work
from relayd.rules.language.source import Complaint, Place, Source
from relayd.rules.language.words import host_port

_PORTS = {"smtp": 25, "submission": 587, "submissions": 465, "smtps": 465, "lmtp": 24}
_STATUS = re.compile(r"[45]\.\d{1,3}\.\d{1,3}\s")
_PARTS = re.compile(r"(\[[^\]]*\]|[^:\[\]]+)(?::([A-Za-z0-9-]+))?\Z")


@dataclass(frozen=True, slots=True)
class PostfixHosts:
    """Hosts that are tried in order; `mx`: by the mail exchangers of their names."""

    hosts: tuple[HostPort, ...]
    mx: bool


@dataclass
class Where:
    """What a transport and its next hop come to.

    One of: `hops` (names, in order), `direct` (by MX of the recipient's domain), `refuse` (an
    entry of the error or retry transport), `discard`, `local` (local(8)), or `why` not.
    """

    hops: list[str] = field(default_factory=list)
    direct: bool = False
    refuse: str = ""
    discard: bool = False
    local: bool = False
    why: str = ""
    text: str = ""  # as an entry of a transport table of relayd; empty: it cannot stand there

    @property
    def route(self) -> str:
        """The end of a `route` rule; empty: there is none."""
        if self.direct:
            return "direct"
        return f"via {', '.join(self.hops)}" if self.hops else ""


def where(work: Work, text: str, *, title: str) -> Where:
    """What `transport:nexthop` means; an empty transport is smtp."""
    name, _, nexthop = text.partition(":")
    name, nexthop = name.strip(), nexthop.strip()
    if name in ("error", "retry"):
        return _refused(name, nexthop)
    if name == "discard":
        return Where(discard=True, text=f"discard:{nexthop}")
    program = program_of(work.services, name)
    if program == "local":
        return Where(local=True)
    if program == LMTP:
        return _lmtp(work, nexthop, title)
    if program == SMTP:
        if not nexthop:
            return Where(direct=True, text="smtp:")
        return to_hosts(work, nexthop, title)
    what = f"transport {name} runs {program}" if program else f"master.cf has no transport {name}"
    return Where(why=f"{what}: relayd delivers by SMTP and LMTP only")


def program_of(services: Sequence[Service], name: str) -> str:
    """smtp, lmtp, local, or what else master.cf has under that name."""
    if name in ("", "smtp", "relay"):
        return SMTP
    for service in services:
        if service.name == name and service.type == "unix":
            return service.command
    return name if name in (LMTP, "local", "virtual", "pipe") else ""


def _refused(name: str, text: str) -> Where:
    text = text or "Address is undeliverable"
    if not _STATUS.match(text + " "):
        text = f"{'5.0.0' if name == 'error' else '4.0.0'} {text}"
    return Where(refuse=text, text=f"{name}:{text}")


def to_hosts(work: Work, nexthop: str, title: str) -> Where:
    """`[host]:port`, `domain`, several of them; no brackets: by MX."""
    found = hosts_of(nexthop)
    if isinstance(found, str):
        return Where(why=found)
    names = []
    for each in found:
        first = each.hosts[0]
        name = title or (first.host if first.port == 25 else f"{first.host}-{first.port}")
        names.append(work.draft.hop(name, each.hosts, mx=each.mx))
    text = ", ".join(_numbered(word) for word in split(nexthop))
    return Where(hops=names, text=f"smtp:{text}" if len(found) == 1 else "")


def _numbered(text: str) -> str:
    """The same with a service's number in place of its name."""
    match = _PARTS.match(text)
    if match is None or match.group(2) is None or match.group(2).isdigit():
        return text
    return f"{match.group(1)}:{port_of(match.group(2))}"


def hosts_of(nexthop: str) -> list[PostfixHosts] | str:
    """The hosts in order, neighbours of one sort together; a text: what is wrong."""
    found: list[PostfixHosts] = []
    for word in split(nexthop):
        match = _PARTS.match(word)
        if match is None:
            return f"{word} is no host"
        host, service = match.groups()
        port = 25 if service is None else port_of(service)
        if port is None:
            return f"no port is known for {service}"
        bracketed = host.startswith("[")
        bare = host.strip("[]").removeprefix("IPv6:").removeprefix("ipv6:")
        try:
            place = Place(Source("", "", (bare,)), 1)
            one = host_port(f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}", place)
        except Complaint as complaint:
            return complaint.problem.what
        if found and found[-1].mx is not bracketed:
            found[-1] = PostfixHosts((*found[-1].hosts, one), found[-1].mx)
        else:
            found.append(PostfixHosts((one,), not bracketed))
    return found or f'"{nexthop}" names no host'


def port_of(service: str) -> int | None:
    """The number of a port or service; None: it is unknown."""
    if service.isdigit():
        return int(service) if 0 < int(service) < 65536 else None
    if service in _PORTS:
        return _PORTS[service]
    try:
        return socket.getservbyname(service, "tcp")
    except OSError:
        return None


def _lmtp(work: Work, nexthop: str, title: str) -> Where:
    if nexthop.startswith("unix:"):
        path = nexthop.removeprefix("unix:")
        if not path.startswith("/"):  # relative to the queue, into which Postfix may chroot
            path = f"{work.main['queue_directory']}/{path}"
        name = work.draft.hop(title or "store", (), protocol=LMTP, unix=path)
        return Where(hops=[name], text=f"lmtp:unix:{path}")
    text = nexthop.removeprefix("inet:")
    if not text:
        return Where(why="an LMTP server has to be named: lmtp:unix:/path or lmtp:inet:host:port")
    found = hosts_of(text)
    if isinstance(found, str):
        return Where(why=found)
    hosts = [
        host if ":" in text.replace("[", "").replace("]", "")[-6:] else HostPort(host.host, 24)
        for each in found
        for host in each.hosts
    ]
    name = work.draft.hop(title or hosts[0].host, hosts, protocol=LMTP)
    single = len(hosts) == 1
    return Where(hops=[name], text=f"lmtp:inet:{hosts[0]}" if single else "")
