"""Hosts of our own: network namespaces joined by a bridge, each with its addresses and port 25.

Needs root and `ip`. Everything made here is gone after `close`; nothing outside is touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests import sink

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_counter = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


def missing() -> str:
    """Why no namespaces can be made here; empty if they can."""
    if shutil.which("ip") is None:
        return "ip (apt-get install iproute2)"
    if os.geteuid() != 0:
        return "root, to make network namespaces"
    probe = f"rp{os.getpid():x}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if made.returncode != 0:
        return f"network namespaces ({made.stderr.strip()})"
    subprocess.run(["ip", "netns", "del", probe], check=False)
    return ""


class Host:
    """One namespace with a name, an interface and its addresses."""

    def __init__(self, name: str, namespace: str) -> None:
        self.name = name
        self.namespace = namespace

    @property
    def enter(self) -> list[str]:
        """What to put before a command line so that it runs on this host."""
        return ["ip", "netns", "exec", self.namespace]

    def bind(self, address: str, port: int) -> Callable[[], socket.socket]:
        """Makes a listening socket of this host whenever called, for a Sink."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return lambda: self.call(lambda: sink.listener(family, (address, port)))

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` in a thread that has moved into the namespace: its sockets stay there."""
        results: list[T | BaseException] = []

        def run() -> None:
            try:
                with Path(f"/run/netns/{self.namespace}").open("rb") as handle:
                    if _libc.setns(handle.fileno(), _CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                results.append(function())
            except BaseException as error:
                results.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if isinstance(results[0], BaseException):
            raise results[0]
        return results[0]


class Network:
    """A switch and the hosts on it."""

    def __init__(self) -> None:
        self.prefix = f"r{os.getpid():x}n{next(_counter)}"
        self.namespaces: list[str] = []
        self.hosts: dict[str, Host] = {}
        self._switch = self._namespace("sw")
        self._ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        self._ip("-n", self._switch, "link", "set", "br0", "up")

    def host(self, name: str, *addresses: str) -> Host:
        """A new host with these addresses, e.g. "192.0.2.1/24", on the common link."""
        namespace = self._namespace(name)
        port = f"p{len(self.namespaces)}"
        self._ip(
            *("-n", namespace, "link", "add", "eth0", "type", "veth"),
            *("peer", "name", port, "netns", self._switch),
        )
        self._ip("-n", self._switch, "link", "set", port, "master", "br0", "up")
        disable = "for f in /proc/sys/net/ipv6/conf/*/accept_dad; do echo 0 >$f; done"
        subprocess.run(["ip", "netns", "exec", namespace, "sh", "-c", disable], check=False)
        self._ip("-n", namespace, "link", "set", "lo", "up")
        self._ip("-n", namespace, "link", "set", "eth0", "up")
        for address in addresses:
            extra = ("nodad",) if ":" in address else ()
            self._ip("-n", namespace, "address", "add", address, "dev", "eth0", *extra)
        self.hosts[name] = Host(name, namespace)
        return self.hosts[name]

    def close(self) -> None:
        """Remove every namespace, and with it the links; processes are their starters' care."""
        while self.namespaces:
            subprocess.run(["ip", "netns", "del", self.namespaces.pop()], check=False)

    def _namespace(self, name: str) -> str:
        namespace = f"{self.prefix}{name}"
        self._ip("netns", "add", namespace)
        self.namespaces.append(namespace)
        return namespace

    @staticmethod
    def _ip(*arguments: str) -> None:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError):
            self.close()
