"""TLS for smtp-source and smtp-sink, which speak none: haproxy between them and every server.

Both sides speak TLS from the first octet, because haproxy knows no STARTTLS. Every session of the
source has a whole handshake, as those of unrelated clients have; the sink offers tickets. What
haproxy costs is part of the load, as what source and sink cost is.
"""

from __future__ import annotations

from pathlib import Path

from tests.bench.jobs import Sink
from tests.certs import Authority
from tests.scenarios.harness import Process, free_port, port_is_open, program, wait_until

_CONFIG = """global
  maxconn 4000
  nbthread 1
defaults
  mode tcp
  timeout connect 60s
  timeout client 300s
  timeout server 300s
listen {name}
  bind 127.0.0.1:{port}{bind}
  server other 127.0.0.1:{to}{server}
"""


def certificate(folder: Path) -> tuple[Path, Path]:
    """A new one (ECDSA P-256) for the server, or for the next hop: certificate, key."""
    return Authority().issue("gw.example.net").write(folder, "tls")


class Tunnel:
    """A haproxy between a plain side and one with TLS."""

    def __init__(
        self, folder: Path, name: str, to: int, *, bind: str = "", server: str = ""
    ) -> None:
        self.port = free_port()
        config = folder / f"{name}.cfg"
        config.write_text(
            _CONFIG.format(name=name, port=self.port, to=to, bind=bind, server=server)
        )
        command = [program("haproxy"), "-db", "-f", str(config)]
        self._process = Process(command, folder / f"{name}.out")
        wait_until(lambda: port_is_open(("127.0.0.1", self.port)), f"haproxy: {name}", 60)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.popen.pid

    def stop(self) -> None:
        """End it."""
        self._process.kill()


def before_server(folder: Path, port: int) -> Tunnel:
    """The source's: in the clear on its own port, with TLS to the server."""
    return Tunnel(folder, "source", port, server=" ssl verify none no-ssl-reuse")


def before_sink(folder: Path, sink: Sink) -> Tunnel:
    """The sink's: with TLS on its own port, in the clear to the sink."""
    chain, key = certificate(folder)
    both = folder / "both.pem"
    both.write_bytes(chain.read_bytes() + key.read_bytes())
    both.chmod(0o600)
    return Tunnel(folder, "sink", sink.port, bind=f" ssl crt {both}")
