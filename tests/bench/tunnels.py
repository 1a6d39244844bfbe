"""TLS for smtp-source and smtp-sink, which speak none: a stunnel beside each, for every server.

The one beside the source says STARTTLS; the one beside the sink speaks TLS from the first octet,
because to offer STARTTLS it waits a fifth of a second on each connection. Their CPU is part of the
load, as that of source and sink is.
"""

from __future__ import annotations

from pathlib import Path

from tests.bench.jobs import Sink
from tests.certs import Authority
from tests.scenarios.harness import Process, free_port, port_is_open, program, wait_until

_COMMON = """foreground = yes
pid =
debug = warning
socket = a:TCP_NODELAY=1
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
"""


def certificate(folder: Path) -> tuple[Path, Path]:
    """A new one (ECDSA P-256) for the server, or for the next hop: certificate, key."""
    return Authority().issue("gw.example.net").write(folder, "tls")


class Tunnel:
    """A stunnel between a plain side and one with TLS."""

    def __init__(self, folder: Path, name: str, lines: str) -> None:
        self.port = free_port()
        config = folder / f"{name}.conf"
        config.write_text(f"{_COMMON}[{name}]\naccept = 127.0.0.1:{self.port}\n{lines}")
        self._process = Process([program("stunnel"), str(config)], folder / f"{name}.out")
        wait_until(lambda: port_is_open(("127.0.0.1", self.port)), f"stunnel: {name}", 60)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.popen.pid

    def stop(self) -> None:
        """End it."""
        self._process.kill()


def before_server(folder: Path, port: int) -> Tunnel:
    """The source's: in the clear on its own port, with STARTTLS to the server."""
    lines = f"client = yes\nprotocol = smtp\nconnect = 127.0.0.1:{port}\n"
    return Tunnel(folder, "source", lines)


def before_sink(folder: Path, sink: Sink) -> Tunnel:
    """The sink's: with TLS on its own port, in the clear to the sink."""
    chain, key = certificate(folder)
    lines = f"cert = {chain}\nkey = {key}\nconnect = 127.0.0.1:{sink.port}\n"
    return Tunnel(folder, "sink", lines)
