"""Many sessions that send letters, and write down each and the reply that its final dot got."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from tests.faults.journal import Journal
from tests.faults.letters import Letter, Writer

PATIENCE = 30.0  # seconds for one reply


class RefusedError(Exception):
    """relayd does not want this transaction now."""

    def __init__(self, code: int, stage: str) -> None:
        super().__init__(f"{code} at {stage}")
        self.code = code


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


class Injector:
    """Sends until told to stop, through faults: a session that breaks is begun again."""

    def __init__(
        self,
        address: tuple[str, int],
        writer: Writer,
        journal: Journal,
        *,
        sessions: int = 8,
        pause: float = 0.02,
    ) -> None:
        self.tally = Tally()
        self._address = address
        self._writer = writer
        self._journal = journal
        self._pause = pause
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
            except (TimeoutError, OSError, EOFError):
                self.tally.broken += 1
                await asyncio.sleep(0.05)

    async def _session(self) -> None:
        peer = await Peer.dial(self._address)
        try:
            await peer.want("", 220)
            await peer.want("EHLO injector.test", 250)
            while not self._stopping:
                began = time.monotonic()
                code = await self._transaction(peer, self._writer.letter())
                self.tally.heard(code)
                if code == 250:
                    self.tally.last_acknowledged = time.monotonic()
                    self.tally.seconds.append(self.tally.last_acknowledged - began)
                await asyncio.sleep(self._pause)
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
            accepted=accepted,
            refused=[mailbox for mailbox, code in replies if code != 250],
        )
        code = await peer.give(stuffed(letter.content))
        self._journal.write("answered", name=letter.name, code=code)
        return code


class Peer:
    """The client's end of one SMTP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def dial(cls, address: tuple[str, int]) -> Peer:
        """Connect; raises OSError."""
        return cls(*await asyncio.wait_for(asyncio.open_connection(*address), PATIENCE))

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
