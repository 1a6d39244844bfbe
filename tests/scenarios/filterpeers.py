"""Filters of our own: a milter that does what a test says, a policy service, and misbehaviour."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.scenarios.harness import Scenario

Packet = tuple[bytes, bytes]
"""A letter and its data."""
Edits = list[Packet]
ALL_ACTIONS, ALL_STEPS = 0x1FF, 0


def packet(letter: bytes, data: bytes = b"") -> bytes:
    return struct.pack("!I", len(data) + 1) + letter + data


def add(name: str, value: str) -> Packet:
    return b"h", f"{name}\0{value}\0".encode()


def insert(index: int, name: str, value: str) -> Packet:
    return b"i", struct.pack("!I", index) + f"{name}\0{value}\0".encode()


def change(index: int, name: str, value: str) -> Packet:
    return b"m", struct.pack("!I", index) + f"{name}\0{value}\0".encode()


def body(octets: bytes) -> Packet:
    return b"b", octets


def recipient(path: str) -> Packet:
    return b"+", path.encode() + b"\0"


def no_recipient(path: str) -> Packet:
    return b"-", path.encode() + b"\0"


def sender(path: str) -> Packet:
    return b"e", path.encode() + b"\0"


@dataclass
class Heard:
    """What a milter was told on one connection, in order; macros by the letter they came with."""

    events: list[Packet] = field(default_factory=list)
    macros: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)
    offered: tuple[int, int, int] = (0, 0, 0)


class Listening:
    """A thread for each connection; ends with the test."""

    def __init__(
        self,
        scenario: Scenario,
        serve: Callable[[socket.socket], None],
        path: str = "",
        *,
        v6: bool = False,
    ) -> None:
        self._serve = serve
        self.connections = 0
        self._open: list[socket.socket] = []
        if path:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.bind(path)
            self.where = f"unix:{path}"
        elif v6:
            self.socket = socket.create_server(("::1", 0), family=socket.AF_INET6)
            self.where = f"[::1]:{self.socket.getsockname()[1]}"
        else:
            self.socket = socket.socket()
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(("127.0.0.1", 0))
            self.where = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.socket.listen(600)
        threading.Thread(target=self._accept, daemon=True).start()
        scenario.addCleanup(self.close)

    @property
    def port(self) -> int:
        return int(self.where.rpartition(":")[2])

    def close(self) -> None:
        """Nobody listens, and whoever is connected is cut off."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self._serve(connection)


class Milter:
    """Records what it is told; `edits` says what it does at the end of a message, `answers` before.

    It asks for all actions and every event, unless told otherwise.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        path: str = "",
        v6: bool = False,
        version: int = 6,
        actions: int = ALL_ACTIONS,
        steps: int = ALL_STEPS,
        edits: Callable[[dict[str, str], bytes], Edits] = lambda fields, content: [],
        answers: Callable[[bytes, bytes], Packet | None] = lambda letter, data: (b"c", b""),
        pause: Callable[[bytes], float] = lambda letter: 0.0,
    ) -> None:
        self.heard: list[Heard] = []
        self._version, self._actions, self._steps = version, actions, steps
        self._edits, self._answers, self._pause = edits, answers, pause
        self.listening = Listening(scenario, self._serve, path, v6=v6)
        self.where = self.listening.where

    def _serve(self, connection: socket.socket) -> None:
        heard = Heard()
        self.heard.append(heard)
        fields: dict[str, str] = {}
        content = b""
        for letter, data in packets(connection):
            if letter == b"D":
                parts = data[1:].decode().split("\0")[:-1]
                heard.macros.append((data[:1], dict(zip(parts[::2], parts[1::2], strict=True))))
                continue
            heard.events.append((letter, data))
            time.sleep(self._pause(letter))
            if letter == b"O":
                heard.offered = struct.unpack("!III", data[:12])
                version = min(self._version, heard.offered[0])
                known = 0x3F if version < 6 else 0x1FF
                chosen = struct.pack("!III", version, self._actions & known, self._steps)
                connection.sendall(packet(b"O", chosen))
                continue
            if letter == b"Q":
                return
            if letter == b"A" or letter == b"K":
                fields, content = {}, b""
                continue
            if letter == b"L":
                name, value = data.decode("utf-8", "surrogateescape").split("\0")[:2]
                fields.setdefault(name.lower(), value)
            elif letter == b"B":
                content += data
            elif letter == b"E":
                answer = self._answers(letter, data)
                octets = b"".join(packet(*each) for each in self._edits(fields, content))
                connection.sendall(octets + packet(*(answer or (b"c", b""))))
                fields, content = {}, b""
                continue
            answer = self._answers(letter, data)
            if answer is not None and not self._silent(letter):
                connection.sendall(packet(*answer))

    def _silent(self, letter: bytes) -> bool:
        silent = {
            b"L": 0x80, b"C": 0x1000, b"H": 0x2000, b"M": 0x4000, b"R": 0x8000,
            b"T": 0x10000, b"U": 0x20000, b"N": 0x40000, b"B": 0x80000,
        }  # fmt: skip
        return bool(self._steps & silent.get(letter, 0))


def packets(connection: socket.socket) -> Iterator[Packet]:
    """What comes on a connection, until it ends."""
    stream = connection.makefile("rb")
    while True:
        head = stream.read(4)
        if len(head) < 4:
            return
        data = stream.read(struct.unpack("!I", head)[0])
        yield data[:1], data[1:]


class Policy:
    """A policy service that records requests and answers what it is told to."""

    def __init__(
        self, scenario: Scenario, answer: Callable[[dict[str, str]], str], path: str = ""
    ) -> None:
        self.requests: list[str] = []
        self._answer = answer
        self.listening = Listening(scenario, self._serve, path)
        self.where = self.listening.where

    def _serve(self, connection: socket.socket) -> None:
        lines: list[str] = []
        for line in connection.makefile("rb"):
            text = line.decode().removesuffix("\n")
            if text:
                lines.append(text)
                continue
            self.requests.append("\n".join(lines))
            asked = dict(each.split("=", 1) for each in lines)
            connection.sendall(f"action={self._answer(asked)}\n\n".encode())
            lines = []


def answer_to(client: smtplib.SMTP, recipient: str, letter: bytes) -> tuple[int, bytes]:
    """The reply to the first command that is refused, or to the final dot."""
    code, reply = client.mail("a@example.org")
    if code == 250:
        code, reply = client.rcpt(recipient)
    if code == 250:
        try:
            code, reply = client.data(letter)
        except smtplib.SMTPDataError as refused:  # DATA itself
            error = refused.smtp_error
            return refused.smtp_code, error if isinstance(error, bytes) else error.encode()
    return code, reply
