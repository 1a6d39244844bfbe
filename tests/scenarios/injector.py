"""Many messages at once: a few sessions, pipelined, each message known by a number of its own."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

NUMBER = re.compile(rb"^X-Number: (\d+)\r$", re.MULTILINE)


@dataclass
class Injected:
    """What was sent, and what relayd said to it."""

    acknowledged: set[int] = field(default_factory=set)  # 250 to the final dot was read
    refused: dict[int, str] = field(default_factory=dict)
    lost: int = 0  # sessions that broke


def number_of(content: bytes) -> int:
    """Which message of an injection this is."""
    found = NUMBER.search(content)
    assert found is not None, content[:500]
    return int(found.group(1))


def inject(
    port: int,
    count: int,
    *,
    sessions: int = 4,
    size: int = 2000,
    sender: str = "ann@example.net",
    recipient: str = "bob@example.com",
    first: int = 0,
) -> Injected:
    """Send `count` messages of about `size` octets; a broken session ends with what it has."""
    result = Injected()
    lock = threading.Lock()
    numbers = iter(range(first, first + count))

    def work() -> None:
        try:
            _session(port, numbers, lock, result, size, sender, recipient)
        except (OSError, EOFError):
            with lock:
                result.lost += 1

    threads = [threading.Thread(target=work) for _ in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return result


def _session(
    port: int,
    numbers: Iterator[int],
    lock: threading.Lock,
    result: Injected,
    size: int,
    sender: str,
    recipient: str,
) -> None:
    body = (b"x" * 70 + b"\r\n") * (size // 72)
    envelope = f"MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        replies = connection.makefile("rb")

        def reply() -> str:
            while True:
                line = replies.readline()
                if not line:
                    raise EOFError
                if line[3:4] != b"-":
                    return line.decode().strip()

        reply()
        connection.sendall(b"EHLO injector.example\r\n")
        reply()
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            connection.sendall(envelope)
            said = [reply(), reply(), reply()]
            if not said[-1].startswith("354"):
                result.refused[number] = " / ".join(said)
                connection.sendall(b"RSET\r\n")
                reply()
                continue
            head = f"Subject: {number}\r\nX-Number: {number}\r\n\r\n".encode()
            connection.sendall(head + body + b".\r\n")
            final = reply()
            with lock:
                if final.startswith("250"):
                    result.acknowledged.add(number)
                else:
                    result.refused[number] = final
        connection.sendall(b"QUIT\r\n")
        reply()
