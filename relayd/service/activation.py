"""Sockets that systemd opened for us (sd_listen_fds(3)): then relayd needs no root at all."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass

FIRST_FD = 3  # SD_LISTEN_FDS_START
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")

AT_START = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
"""As systemd set them. Twisted's endpoints remove them when they are imported, which is later."""


@dataclass(frozen=True, slots=True)
class Handed:
    """One listening socket, and what its unit calls it (FileDescriptorName=)."""

    name: str
    listening: socket.socket

    @property
    def place(self) -> tuple[str, int] | None:
        """Its address and port; None for what is no TCP socket."""
        if self.listening.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        host, port = self.listening.getsockname()[:2]
        return str(ipaddress.ip_address(host)), port


def handed_over(
    environment: MutableMapping[str, str], pid: int, first: int = FIRST_FD
) -> tuple[Handed, ...]:
    """What is meant for this process. The variables are removed: for our children it is not."""
    whose, count, names = (environment.pop(name, "") for name in _VARIABLES)
    if whose != str(pid) or not count.isdigit():
        return ()
    called = names.split(":") if names else []
    handed = []
    for number in range(int(count)):
        descriptor = first + number
        os.set_inheritable(descriptor, False)
        listening = socket.socket(fileno=descriptor)
        listening.setblocking(False)
        handed.append(Handed(called[number] if number < len(called) else "unknown", listening))
    return tuple(handed)


def place_of(address: str, port: int) -> tuple[str, int]:
    """Where a listener listens, spelt as Handed.place has it."""
    return str(ipaddress.ip_address(address)), port


def unwanted(
    handed: Iterable[Handed], places: Iterable[tuple[str, int]]
) -> Iterator[tuple[str, str]]:
    """Names and addresses of the sockets that no listener is for."""
    wanted = set(places)
    for each in handed:
        if each.place not in wanted:
            yield each.name, str(each.listening.getsockname())
