"""Many sessions that send letters, and write down each and the reply that its final dot got."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import socket
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.faults.journal import Journal
from tests.faults.letters import Letter, Writer
from tests.scenarios.network import Host

PATIENCE = 30.0  # seconds for one reply


class RefusedError(Exception):
    """relayd does not want this transaction now."""

    def __init__(self, code: int, stage: str) -> None:
        super().__init__(f"{code} at {stage}")
        self.code = code
        self.stage = stage


def stuffed(content: bytes) -> bytes:
    """As it goes over the wire, with the final dot (RFC 5321 section 4.5.2)."""
    content = content.replace(b"\r\n.", b"\r\n..")
    if content.startswith(b"."):
        content = b"." + content
    return content + b".\r\n"


@dataclass
class Tally:
    """What the injector heard; codes by count."""

    codes: dict[int, int] = field(default_factory=dict)
    broken: int = 0  # sessions
    seconds: list[float] = field(default_factory=list)  # of each acknowledged transaction
    last_acknowledged: float = 0.0  # monotonic

    def heard(self, code: int) -> None:
        """A reply to a final dot, or a refusal before it."""
        self.codes[code] = self.codes.get(code, 0) + 1

    @property
    def acknowledged(self) -> int:
        """Final dots that got 250."""
        return self.codes.get(250, 0)


async def ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel them until they are over.

    Before Python 3.12 wait_for() loses a cancel that comes together with what it waits for.
    """
    alive = set(tasks)
    while alive:
        for task in alive:
            task.cancel()
        _, alive = await asyncio.wait(alive, timeout=1)


class Injector:
    """Sends until told to stop, through faults: a session that breaks is begun again."""

    def __init__(
        self,
        door: Door,
        writer: Writer,
        journal: Journal,
        *,
        sessions: int = 8,
        pause: float = 0.02,
        each: int = 0,
    ) -> None:
        self.tally = Tally()
        self._door = door
        self._writer = writer
        self._journal = journal
        self._pause = pause
        self._each = each  # transactions in a session; 0: as many as it lasts
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._sessions = sessions

    def start(self) -> None:
        """Begin."""
        self._stopping = False
        self._tasks = [asyncio.create_task(self._forever()) for _ in range(self._sessions)]

    async def stop(self) -> None:
        """Finish the transactions under way."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    def cancel(self) -> None:
        """Stop at once."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()

    async def _forever(self) -> None:
        while not self._stopping:
            try:
                await self._session()
            except RefusedError as error:
                self.tally.heard(error.code)
                await asyncio.sleep(0.1)
            except (TimeoutError, OSError, EOFError, ValueError):
                self.tally.broken += 1
                await asyncio.sleep(0.05)

    async def _session(self) -> None:
        peer = await self._door.enter()
        try:
            for number in itertools.count(1):
                began = time.monotonic()
                code = await self._transaction(peer, self._writer.letter())
                self.tally.heard(code)
                if code == 250:
                    self.tally.last_acknowledged = time.monotonic()
                    self.tally.seconds.append(self.tally.last_acknowledged - began)
                await asyncio.sleep(self._pause)
                if self._stopping or number == self._each:
                    break
            await peer.want("QUIT", 221)
        finally:
            peer.close()

    async def _transaction(self, peer: Peer, letter: Letter) -> int:
        await peer.want(f"MAIL FROM:<{letter.sender}> BODY=8BITMIME", 250)
        replies = [(each, await peer.ask(f"RCPT TO:<{each}>")) for each in letter.recipients]
        accepted = [mailbox for mailbox, code in replies if code == 250]
        if not accepted:
            raise RefusedError(replies[0][1], "RCPT")
        await peer.want("DATA", 354)
        self._journal.write(
            "sent",
            name=letter.name,
            digest=letter.digest,
            via=self._door.name,
            accepted=letter.owed(accepted),
            refused=[mailbox for mailbox, code in replies if code != 250],
        )
        code = await peer.give(stuffed(letter.above + letter.content))
        self._journal.write("answered", name=letter.name, code=code)
        return code


@dataclass
class Door:
    """How clients come in: through what address, from where, under TLS, with a login."""

    address: tuple[str, int]
    host: Host | None = None
    tls: ssl.SSLContext | None = None
    login: str = ""  # and the password: "alice:secret"
    name: str = ""  # of several gateways, this one's

    async def enter(self) -> Peer:
        """A session that may begin a transaction; raises RefusedError, OSError, EOFError."""
        peer = await Peer.dial(self.address, self.host)
        try:
            await peer.want("", 220)
            await peer.want("EHLO injector.test", 250)
            if self.tls is not None:
                await peer.want("STARTTLS", 220)
                await asyncio.wait_for(peer.writer.start_tls(self.tls), PATIENCE)
                await peer.want("EHLO injector.test", 250)
            if self.login:
                secret = base64.b64encode(f"\0{self.login.replace(':', chr(0))}".encode()).decode()
                await peer.want(f"AUTH PLAIN {secret}", 235)
        except BaseException:
            peer.close()
            raise
        return peer


class Peer:
    """The client's end of one SMTP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def dial(cls, address: tuple[str, int], host: Host | None = None) -> Peer:
        """Connect, as that host if there is one; raises OSError."""
        if host is None:
            return cls(*await asyncio.wait_for(asyncio.open_connection(*address), PATIENCE))
        connection = await asyncio.to_thread(host.call, socket.socket)
        connection.setblocking(False)
        try:
            loop = asyncio.get_running_loop()
            await asyncio.wait_for(loop.sock_connect(connection, address), PATIENCE)
        except (OSError, TimeoutError):
            connection.close()
            raise
        return cls(*await asyncio.open_connection(sock=connection))

    async def reply(self) -> int:
        """The code of the next reply; raises EOFError."""
        while True:
            line = await asyncio.wait_for(self.reader.readline(), PATIENCE)
            if not line.endswith(b"\n"):
                raise EOFError
            if line[3:4] != b"-":
                return int(line[:3])

    async def give(self, octets: bytes) -> int:
        """Send octets, then read a reply."""
        self.writer.write(octets)
        await asyncio.wait_for(self.writer.drain(), PATIENCE)
        return await self.reply()

    async def ask(self, line: str) -> int:
        """Send a line, if any, then read a reply."""
        return await self.give(f"{line}\r\n".encode() if line else b"")

    async def want(self, line: str, code: int) -> None:
        """The same; any other reply raises RefusedError."""
        heard = await self.ask(line)
        if heard != code:
            raise RefusedError(heard, line.split(":")[0] or "greeting")

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self.writer.close()
