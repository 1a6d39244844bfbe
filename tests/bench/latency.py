"""How long a message is under way: from the client's final dot to the next hop's final dot.

Messages leave at a steady pace, whatever the server does (an open loop), over a few sessions
that stay open; times are of one clock, `time.monotonic`, which all processes share.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from tests.bench.jobs import Job
from tests.bench.servers import SERVERS, Server, needs, remove

SESSIONS = 20
_NUMBER = re.compile(rb"\r\nX-Number: (\d+)\r\n")


def _read(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionError:
        return b""  # the server ended


def receive(
    listening: socket.socket, arrivals: SimpleQueue[tuple[int, float]], think: float = 0.0
) -> None:
    """A next hop that notes when the final dot of each message came, and thinks before 250."""

    def session(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"220 sink\r\n")
        data, content = b"", False
        while received := _read(connection):
            data += received
            while True:
                end = data.find(b"\r\n.\r\n" if content else b"\r\n")
                if end < 0:
                    break
                if content:
                    now = time.monotonic()
                    found = _NUMBER.search(data[: end + 2])
                    if found:
                        arrivals.put((int(found.group(1)), now))
                    data, content = data[end + 5 :], False
                    if think:
                        time.sleep(think)
                    connection.sendall(b"250 2.0.0 Ok\r\n")
                    continue
                verb, data = data[:4].upper(), data[end + 2 :]
                content = verb == b"DATA"
                connection.sendall(
                    b"354 go\r\n"
                    if content
                    else b"250-sink\r\n250 PIPELINING\r\n"
                    if verb == b"EHLO"
                    else b"250 Ok\r\n"
                )

    while True:
        connection, _ = listening.accept()
        threading.Thread(target=session, args=(connection,), daemon=True).start()


def transaction(connection: socket.socket) -> Callable[[int], float]:
    """Begins a session; what comes back sends a message of this number: when its dot left."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    replies = connection.makefile("rb")

    def said(code: bytes) -> None:
        line = b"-" * 4
        while line[3:4] == b"-":
            line = replies.readline()
        assert line.startswith(code), line

    def send(number: int) -> float:
        for line in (b"MAIL FROM:<a@source.example>", b"RCPT TO:<user@example.com>"):
            connection.sendall(line + b"\r\n")
            said(b"250")
        connection.sendall(b"DATA\r\n")
        said(b"354")
        head = b"Subject: x\r\nX-Number: %d\r\n\r\n" % number
        at = time.monotonic()
        connection.sendall(head + (b"x" * 78 + b"\r\n") * 62 + b".\r\n")
        said(b"250")
        return at

    said(b"220")
    connection.sendall(b"EHLO source.example\r\n")
    said(b"250")
    return send


def submit(port: int, rate: float, count: int) -> dict[int, float]:
    """Send at this pace; when the final dot of each message left."""
    left: dict[int, float] = {}
    began = time.monotonic() + 0.5

    def session(first: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            send = transaction(connection)
            for number in range(first, count, SESSIONS):
                time.sleep(max(began + number / rate - time.monotonic(), 0))
                left[number] = send(number)

    threads = [threading.Thread(target=session, args=(first,)) for first in range(SESSIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return left


def measure(kind: type[Server], rate: float, seconds: float, base: Path) -> tuple[float, float]:
    """Median and 99th percentile in seconds."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=200)
    arrivals: SimpleQueue[tuple[int, float]] = multiprocessing.SimpleQueue()
    sink = multiprocessing.Process(target=receive, args=(listening, arrivals), daemon=True)
    sink.start()
    server = kind(base / f"{kind.name}-{rate:.0f}", Job("5k", 1), listening.getsockname()[1])
    server.start()
    arrived: dict[int, float] = {}

    def collect() -> None:
        while True:
            number, at = arrivals.get()
            arrived[number] = at

    threading.Thread(target=collect, daemon=True).start()
    try:
        submit(server.port, rate, SESSIONS * 2)  # warm
        time.sleep(0.5)
        arrived.clear()
        left = submit(server.port, rate, int(rate * seconds))
        until = time.monotonic() + 30
        while len(arrived) < len(left) and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        server.stop()
        sink.kill()
        listening.close()
        remove(server.folder)
    waits = sorted(arrived[number] - at for number, at in left.items() if number in arrived)
    return waits[len(waits) // 2], waits[len(waits) * 99 // 100]


def main(arguments: Sequence[str] | None = None) -> None:
    """Each server at each rate."""
    parser = argparse.ArgumentParser(prog="latency", description=__doc__)
    parser.add_argument("--servers", default="postfix,relayd-1,relayd-2")
    parser.add_argument("--rates", default="60,300", help="messages a second")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on a real disk")
    options = parser.parse_args(arguments)
    names = options.servers.split(",")
    lacking = needs(names)
    with tempfile.TemporaryDirectory(prefix="relay-latency-", dir=options.folder) as name:
        base = Path(name)
        base.chmod(0o755)
        for rate in map(float, options.rates.split(",")):
            for each in names:
                if each in lacking:
                    print(f"left out: {each}, which needs {lacking[each]}")
                    continue
                median, late = measure(SERVERS[each], rate, options.seconds, base)
                print(f"| {rate:.0f}/s | {each} | {median * 1e3:.0f} ms | {late * 1e3:.0f} ms |")


if __name__ == "__main__":
    main()
