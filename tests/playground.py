"""`python -m tests.playground [--once]`: what `make cluster` runs.

Three gateways and a PostgreSQL that they share, on loopback alone, beside a next
hop that takes everything and says what has come. Ctrl-C takes all of it down. With --once one
message goes through each gateway: exit status 0 if all have arrived.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from relayd.demo.__main__ import relayctl
from tests.ports import free_port
from tests.postgresqlserver import PostgresqlServer
from tests.sink import Sink

NODES = ("gw1", "gw2", "gw3")
PATIENCE = 120.0  # seconds


def configured(folder: Path, name: str, where: str, port: int, next_hop: int) -> Path:
    """The configuration of a node."""
    place = folder / name
    place.mkdir()
    path = place / "relayd.conf"
    path.write_text(
        f"hostname {name}.example.com\n"
        f'spool postgresql "{where}" folder {place / "spool"}\n'
        f"node {name}\n"
        f"away keep {place / 'spool'}\n"
        f"control {place / 'control'}\n"
        f"listen 127.0.0.1:{port}\n"
        "workers 1\n"
        f"next-hop out smtp 127.0.0.1:{next_hop}\n"
        "accept from 127.0.0.0/8\n"
        "route any via out\n"
    )
    return path


def ctl(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Have relayctl do it."""
    command = [sys.executable, "-m", "relayd.ctl.relayctl", "--config", str(config), *words]
    return subprocess.run(command, check=True, text=True, capture_output=True)


@contextlib.contextmanager
def running(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A gateway, its log beside its configuration."""
    start = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"
    command = [sys.executable, "-c", start, "-n", "--pidfile=", "relayd", "--config", str(config)]
    with (config.parent / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def greets(port: int) -> None:
    """Wait until somebody does on this port; TimeoutError."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as link:
            link.settimeout(5)
            if link.recv(3) == b"220":
                return
        time.sleep(0.1)
    raise TimeoutError(f"nobody greets on port {port}")


def main() -> int:
    """Until Ctrl-C, or with --once until all has arrived; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="a message through each, then end")
    once = parser.parse_args().once
    with contextlib.ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="relayd-cluster-")))
        database = PostgresqlServer("fsync=on")
        held.callback(database.stop)
        sink = Sink()
        held.callback(sink.stop)
        ports = {name: free_port() for name in NODES}
        configs = {
            name: configured(folder, name, database.where, port, sink.port)
            for name, port in ports.items()
        }
        print(ctl(configs["gw1"], "spool", "create").stdout, end="")
        for config in configs.values():
            held.enter_context(running(config))
        for name, port in ports.items():
            greets(port)
            print(f"{name}: 127.0.0.1:{port}, {relayctl()} --config {configs[name]}")
        print(f"PostgreSQL: psql '{database.where}'", flush=True)
        if once:
            return _once(ports, sink, configs["gw3"])
        told = 0
        with contextlib.suppress(KeyboardInterrupt):
            print(
                "Ctrl-C takes all of it down; what arrives is shown here. Try: send mail to one,"
                "\nask another for it (find, cluster), kill -9 one (status has its pid), and look"
                "\nagain after 30 seconds.",
                flush=True,
            )
            while True:
                for mail in sink.arrived[told:]:
                    told += 1
                    print(f"arrived: {', '.join(mail.recipients)}", flush=True)
                time.sleep(0.2)
    return 0


def _once(ports: dict[str, int], sink: Sink, config: Path) -> int:
    for name, port in ports.items():
        with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
            client.sendmail("ann@example.net", [f"{name}@example.com"], b"Subject: x\r\n\r\nx\r\n")
    sink.wait(len(ports))
    arrived = sorted(to for mail in sink.arrived for to in mail.recipients)
    print(ctl(config, "cluster").stdout, end="")
    return 0 if arrived == [f"{name}@example.com" for name in NODES] else 1


if __name__ == "__main__":
    sys.exit(main())
