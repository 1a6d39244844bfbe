"""A scriptable SMTP and LMTP next hop that keeps what it gets, byte for byte.

It shares no line with relayd: plain sockets, one thread a session, strict about CRLF. A script
answers any stage with a reply of its own; `kill` cuts every connection as a dead host would.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.ports import free_port

CLOSE = "close"
"""A script's answer that cuts the connection without a word."""
CLOSE_AFTER = "close after "
"""How a script's answer begins that is said, and then the connection ends."""
STALL = "stall"
"""A script's answer that never comes; the connection stays open."""

EXTENSIONS = ("PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN")
STAGES = ("connect", "hello", "starttls", "mail", "rcpt", "data", "content")


@dataclass(frozen=True)
class Asked:
    """What a script is asked about: one step of one session."""

    stage: str  # one of STAGES
    argument: str  # what stands between the angle brackets, or after HELO
    session: int  # counts from 1
    transaction: int  # counts from 1 within the session
    recipients: tuple[str, ...] = ()


Script = Callable[[Asked], str | None]


@dataclass
class Arrived:
    """One message that the sink took: an entry is made just before its 250 leaves."""

    sender: str
    sender_parameters: tuple[str, ...]
    recipients: tuple[str, ...]
    recipient_parameters: tuple[tuple[str, ...], ...]
    content: bytes  # dots unstuffed, trace fields included
    hello: str
    session: int
    verb: str  # DATA or BDAT
    peer: str
    at: float = field(default_factory=time.time)


class Sink:
    """Listens from construction on; use as a context manager or call `stop`."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        lmtp: bool = False,
        extensions: tuple[str, ...] = EXTENSIONS,
        bind: Callable[[], socket.socket] | None = None,
        keep_content: bool = True,
    ) -> None:
        self.script = script
        self.lmtp = lmtp
        self.extensions = extensions
        self.keep_content = keep_content
        self.arrived: list[Arrived] = []
        self.sessions = 0
        self.open: set[socket.socket] = set()
        self._news = threading.Condition()
        port = 0 if bind else free_port()  # the same again after `kill`
        self._bind = bind or (lambda: loopback_listener(port))
        self._listener: socket.socket | None = None
        self.start()

    def start(self) -> None:
        """Listen, also again after `kill` or `stop`, at the same place."""
        self._listener = self._bind()
        self.address = self._listener.getsockname()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        return int(self.address[1])

    def stop(self) -> None:
        """Stop listening; sessions are cut."""
        self.kill()

    def kill(self) -> None:
        """Die as a crashed host does: listener closed, every connection reset."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._news:
            victims = list(self.open)
            self.open.clear()
        for connection in victims:
            cut(connection)

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def wait(self, count: int, seconds: float = 120.0) -> list[Arrived]:
        """The messages, once there are `count` of them; AssertionError after `seconds`."""
        with self._news:
            if not self._news.wait_for(lambda: len(self.arrived) >= count, seconds):
                raise AssertionError(
                    f"{len(self.arrived)} of {count} messages arrived within {seconds} s"
                )
            return list(self.arrived)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            with self._news:
                self.sessions += 1
                number = self.sessions
                self.open.add(connection)
            session = _Session(self, connection, number, str(peer[0]) if peer else "unix")
            threading.Thread(target=session.run, daemon=True).start()

    def take(self, message: Arrived) -> None:
        """Keep a message; called by the session before it says 250."""
        if not self.keep_content:
            message.content = b""
        with self._news:
            self.arrived.append(message)
            self._news.notify_all()

    def forget(self, connection: socket.socket) -> None:
        """A session is over."""
        with self._news:
            self.open.discard(connection)


class _OverError(Exception):
    """The session ends here."""


class _Session:
    def __init__(self, sink: Sink, connection: socket.socket, number: int, peer: str) -> None:
        self.sink = sink
        self.connection = connection
        self.number = number
        self.peer = peer
        self.hello = ""
        self.transaction = 0
        self.buffer = b""
        self.pending = b""
        self.reset()

    def reset(self) -> None:
        self.sender: str | None = None
        self.sender_parameters: tuple[str, ...] = ()
        self.recipients: list[tuple[str, tuple[str, ...]]] = []
        self.chunks: list[bytes] = []

    def run(self) -> None:
        with contextlib.suppress(OSError):  # a unix socket has no such option
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self.answer("connect", "", "220 sink.example ESMTP"):
                while True:
                    self.command(self.line())
            self.connection.sendall(self.pending)
        except (_OverError, OSError):
            pass
        finally:
            self.sink.forget(self.connection)
            self.connection.close()

    # --- bytes

    def fill(self) -> None:
        if self.pending:
            self.connection.sendall(self.pending)
            self.pending = b""
        data = self.connection.recv(65536)
        if not data:
            raise _OverError
        self.buffer += data

    def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            self.fill()
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    def exactly(self, size: int) -> bytes:
        pieces = [self.buffer[:size]]
        self.buffer = self.buffer[size:]
        missing = size - len(pieces[0])
        while missing:
            self.fill()
            pieces.append(self.buffer[:missing])
            self.buffer = self.buffer[missing:]
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def until_dot(self) -> bytes:
        """The content: only CRLF.CRLF ends it, and a dot alone as its very first line."""
        pieces = []
        tail = b"\r\n"
        while True:
            data = tail + self.buffer
            end = data.find(b"\r\n.\r\n")
            if end >= 0:
                pieces.append(data[:end])
                self.buffer = data[end + 5 :]
                stuffed = b"".join(pieces) + b"\r\n"
                return stuffed.replace(b"\r\n.", b"\r\n")[2:]
            pieces.append(data[:-4] if len(data) > 4 else b"")
            tail = data[-4:] if len(data) > 4 else data
            self.buffer = b""
            self.fill()

    def say(self, reply: str) -> None:
        self.pending += reply.encode() + b"\r\n"

    # --- commands

    def answer(self, stage: str, argument: str, default: str) -> bool:
        """Say the script's reply or the default; True if it was a positive one."""
        reply = None
        if self.sink.script is not None:
            reply = self.sink.script(
                Asked(
                    stage,
                    argument,
                    self.number,
                    self.transaction,
                    tuple(mailbox for mailbox, _ in self.recipients),
                )
            )
        if reply == CLOSE:
            cut(self.connection)
            raise _OverError
        if reply == STALL:
            while True:  # until the peer gives up or the sink is killed
                if not self.connection.recv(65536):
                    raise _OverError
        text = reply or default
        over = text.startswith((CLOSE_AFTER, "421"))
        text = text.removeprefix(CLOSE_AFTER)
        self.say(text)
        if over:
            self.connection.sendall(self.pending)
            raise _OverError
        return text[0] in "23"

    def command(self, line: bytes) -> None:
        text = line.decode("utf-8", "surrogateescape")
        verb, _, argument = text.partition(" ")
        verb = verb.upper()
        if verb in ("EHLO", "LHLO", "HELO"):
            self.greet(verb, argument)
        elif verb == "STARTTLS":
            self.answer("starttls", "", "454 4.7.0 no TLS here")
        elif verb == "MAIL":
            self.mail(argument)
        elif verb == "RCPT":
            self.rcpt(argument)
        elif verb == "DATA":
            self.data()
        elif verb == "BDAT":
            self.bdat(argument)
        elif verb == "RSET":
            self.reset()
            self.say("250 2.0.0 reset")
        elif verb == "NOOP":
            self.say("250 2.0.0 ok")
        elif verb == "QUIT":
            self.say("221 2.0.0 bye")
            self.connection.sendall(self.pending)
            raise _OverError
        else:
            self.say("500 5.5.1 what?")

    def greet(self, verb: str, argument: str) -> None:
        self.hello = argument
        self.reset()
        if (verb == "LHLO") != self.sink.lmtp:
            self.say("500 5.5.1 wrong greeting for this protocol")
        elif verb == "HELO":
            self.answer("hello", argument, "250 sink.example")
        else:
            lines = ["sink.example", *self.sink.extensions]
            last = len(lines) - 1
            reply = "\r\n".join(f"250{' ' if n == last else '-'}{x}" for n, x in enumerate(lines))
            self.answer("hello", argument, reply)

    def mail(self, argument: str) -> None:
        path, parameters = split_path(argument)
        self.transaction += 1
        self.reset()
        if self.answer("mail", path, "250 2.1.0 ok"):
            self.sender, self.sender_parameters = path, parameters

    def rcpt(self, argument: str) -> None:
        path, parameters = split_path(argument)
        if self.sender is None:
            self.say("503 5.5.1 MAIL first")
        elif self.answer("rcpt", path, "250 2.1.5 ok"):
            self.recipients.append((path, parameters))

    def data(self) -> None:
        if not self.recipients:
            self.say("554 5.5.1 no valid recipients")
        elif self.answer("data", "", "354 go on"):
            self.arrive(self.until_dot(), "DATA")

    def bdat(self, argument: str) -> None:
        size, _, last = argument.partition(" ")
        chunk = self.exactly(int(size))
        if not self.recipients:
            self.say("554 5.5.1 no valid recipients")
            return
        self.chunks.append(chunk)
        if last.upper() == "LAST":
            self.arrive(b"".join(self.chunks), "BDAT")
        else:
            self.say("250 2.0.0 go on")

    def arrive(self, content: bytes, verb: str) -> None:
        groups = [[recipient] for recipient in self.recipients] if self.sink.lmtp else []
        for group in groups or [self.recipients]:
            message = Arrived(
                self.sender or "",
                self.sender_parameters,
                tuple(mailbox for mailbox, _ in group),
                tuple(parameters for _, parameters in group),
                content,
                self.hello,
                self.number,
                verb,
                self.peer,
            )
            self.finish(message)
        self.reset()

    def finish(self, message: Arrived) -> None:
        """Answer the final dot; the message is kept first, so that no 250 goes unrecorded."""
        asked_for = message.recipients[0] if self.sink.lmtp else ""
        kept = f"250 2.0.0 kept as {len(self.sink.arrived) + 1}"
        before = self.pending
        if self.answer("content", asked_for, kept):
            reply, self.pending = self.pending, before
            self.sink.take(message)
            self.pending = reply


def split_path(argument: str) -> tuple[str, tuple[str, ...]]:
    """`FROM:<a@b> SIZE=3` as `a@b` and its parameters; a quoted local part may hold `>`."""
    start = argument.index("<") + 1
    end, quoted = start, False
    while quoted or argument[end] != ">":
        if argument[end] == "\\":
            end += 1
        elif argument[end] == '"':
            quoted = not quoted
        end += 1
    return argument[start:end], tuple(argument[end + 1 :].split())


def cut(connection: socket.socket) -> None:
    """Reset a connection: the peer sees an error, not an orderly end."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)  # wakes a thread that is reading
    connection.close()


def loopback_listener(port: int) -> socket.socket:
    """A listening socket on 127.0.0.1."""
    return listener(socket.AF_INET, ("127.0.0.1", port))


def unix_listener(path: Path) -> socket.socket:
    """A listening unix socket."""
    path.unlink(missing_ok=True)
    return listener(socket.AF_UNIX, str(path))


def listener(family: socket.AddressFamily, address: tuple[str, int] | str) -> socket.socket:
    """A listening socket of any family."""
    result = socket.socket(family)
    if family != socket.AF_UNIX:
        result.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        result.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    result.bind(address)
    result.listen(512)
    return result
