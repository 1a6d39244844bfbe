"""The next hop: writes down each message that it takes, then says 250.

A `Mood` is how it misbehaves. The plain one is strict and well behaved, but for recipients whose
local part asks for something else (see letters.KINDS).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Callable
from socket import SO_LINGER, SOL_SOCKET

from tests.faults.journal import Entry, Journal
from tests.faults.letters import kind_of, original
from tests.ports import free_port
from tests.scenarios.network import Host

_PATH = re.compile(rb"<([^>]*)>")
_LATE = 2  # attempts at a "late" recipient before it is taken
_LONGEST = 1 << 26


class HangUpError(Exception):
    """The mood ends the session, without a word."""


class Mood:
    """How a next hop behaves; each method sees one step and may answer for it.

    None: the sink answers as it should. HangUpError: the connection is reset.
    """

    async def say(self, stage: str, session: Session) -> bytes | None:
        """The reply to connect, hello, starttls, mail, rcpt, data, content or quit, with CRLF."""
        return None

    async def send(self, reply: bytes, session: Session) -> None:
        """How a reply goes out."""
        session.writer.write(reply)
        await session.writer.drain()


class Sink:
    """Listens on loopback, at the same port for as long as it lives."""

    def __init__(self, journal: Journal, mood: Mood | None = None) -> None:
        self.journal = journal
        self.mood = mood or Mood()
        self.read: Callable[[bytes], Entry | None] = letter_of
        self.taken = 0  # messages
        self.sessions: dict[int, Session] = {}
        self.attempts: dict[str, int] = {}  # at "late" recipients
        self.host = "127.0.0.1"  # its address
        self.world: Host | None = None  # where that is an address; None: here
        self.port = free_port()
        self._count = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        # in no thread of the loop's: those must not be older than the mounts of disk.py
        listening = self._listen()
        self._server = await asyncio.start_server(self._accept, sock=listening, limit=_LONGEST)

    def _listen(self) -> socket.socket:
        def create() -> socket.socket:
            return socket.create_server((self.host, self.port), backlog=100)

        return self.world.call(create) if self.world else create()

    async def stop(self) -> None:
        """Die as a crashed host does."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for session in list(self.sessions.values()):
            session.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(0)

    def fault(self, what: str, node: str = "") -> None:
        """relayd is being broken now, or that node: what is in flight may come twice."""
        self.journal.write("fault", what=what, node=node)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count += 1
        session = Session(self, self._count, reader, writer)
        self.sessions[session.number] = session
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await session.run()
        except (OSError, EOFError, HangUpError, ValueError, asyncio.CancelledError):
            session.reset()
            self.journal.write("cut", session=session.number)
        finally:
            del self.sessions[session.number]
            self._tasks.discard(task)
            writer.close()


class Session:
    """One connection from relayd."""

    def __init__(
        self,
        sink: Sink,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.sink = sink
        self.number = number
        self.reader = reader
        self.writer = writer
        self.client = ""  # as it says who it is
        self.recipients: list[str] = []
        self.open = False  # MAIL was taken
        self.null = False  # the reverse-path: so it is a report
        self.content = b""  # of the transaction whose final dot came last
        self.transactions = 0

    def reset(self) -> None:
        """RST instead of FIN."""
        connection = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self.writer.transport.abort()

    async def run(self) -> None:
        """Until QUIT."""
        await self._answer("connect", b"220 sink.test ESMTP\r\n")
        while True:
            line = await self.reader.readline()
            if not line.endswith(b"\r\n"):
                raise EOFError
            verb = line[:4].upper().strip()
            if verb in (b"EHLO", b"HELO", b"LHLO"):
                self.recipients = []
                self.client = line[5:].strip().decode("latin-1")
                await self._answer(
                    "hello", b"250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 DSN\r\n"
                )
            elif verb == b"STAR":  # who offers it, by a hello of his own, does so to abuse it
                await self._answer("starttls", b"454 4.7.0 No TLS today\r\n")
            elif verb == b"MAIL":
                self.recipients = []
                self.null = not _path(line)
                self.transactions += 1
                said = await self._answer("mail", b"250 2.1.0 Ok\r\n")
                self.open = said.startswith(b"2")
            elif verb == b"RCPT":
                await self._rcpt(_path(line))
            elif verb == b"DATA":
                await self._data()
            elif verb == b"QUIT":
                await self._answer("quit", b"221 2.0.0 Bye\r\n")
                return
            elif verb == b"RSET":
                self.recipients = []
                await self._answer("rset", b"250 2.0.0 Ok\r\n")
            else:
                await self._answer("other", b"500 5.5.1 What?\r\n")

    async def _answer(self, stage: str, reply: bytes) -> bytes:
        own = await self.sink.mood.say(stage, self)
        reply = reply if own is None else own
        await self.sink.mood.send(reply, self)
        return reply

    async def _rcpt(self, mailbox: str) -> None:
        if not self.open:
            await self._answer("other", b"503 5.5.1 MAIL first\r\n")
            return
        reply = b"250 2.1.5 Ok\r\n"
        kind = kind_of(mailbox)
        if kind == "no":
            reply = b"550 5.1.1 No such user\r\n"
        elif kind == "late":
            attempts = self.sink.attempts
            attempts[mailbox] = attempts.get(mailbox, 0) + 1
            if attempts[mailbox] <= _LATE:
                reply = b"451 4.7.1 Come back later\r\n"
        if (await self._answer("rcpt", reply)).startswith(b"2"):
            self.recipients.append(mailbox)

    async def _data(self) -> None:
        if not self.recipients:
            await self._answer("data", b"554 5.5.1 No valid recipients\r\n")
            return
        if not (await self._answer("data", b"354 Go ahead\r\n")).startswith(b"354"):
            return
        wire = await self.reader.readuntil(b"\r\n.\r\n")
        lines = wire[:-5].split(b"\r\n")
        self.content = b"".join(line[line.startswith(b".") :] + b"\r\n" for line in lines)
        own = await self.sink.mood.say("content", self)
        reply = b"250 2.0.0 Taken\r\n" if own is None else own
        if reply.startswith(b"2"):
            self.take()
        await self.sink.mood.send(reply, self)

    def take(self, *, said: bool = True) -> None:
        """Write down what came; `said`: and relayd is going to hear so."""
        found = self.sink.read(self.content)
        facts = {
            "session": self.number,
            "by": self.client,
            "recipients": self.recipients,
            "said": said,
        }
        journal = self.sink.journal
        if self.null or found is None:
            journal.write("report", text=self.content.decode("latin-1"), **facts)
        else:
            journal.write("arrived", **found, **facts)
        self.sink.taken += 1


def letter_of(content: bytes) -> Entry | None:
    """What the journal is told of a message: which letter it is, and its digest. None: none."""
    found = original(content)
    return None if found is None else {"name": found[0], "digest": found[1]}


def _path(line: bytes) -> str:
    found = _PATH.search(line)
    return found.group(1).decode("latin-1") if found else ""
