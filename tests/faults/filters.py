"""Filters that can be broken: a milter, a scorer, a virus scanner, a policy service, on a socket.

    python -m tests.faults.filters KIND WHERE FOLDER

One process for each. What it does with a letter is told by the letter's name (see FATES), and what
it has done shows in the message that arrives: fields with the name, and the digest of the body that
it was shown. A scanner leaves no trace in what it has found clean: it writes that down, before it
says so. How it misbehaves stands in the file `mood` of its folder, read again at SIGHUP.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from tests.faults.journal import Journal
from tests.faults.letters import NAMED, digest_of

FATES = {
    "0": "refused",  # by the milter, for good
    "1": "put off",  # by the milter
    "2": "infected",
    "3": "spam",  # held by a rule, for its score
    "4": "doubtful",  # a field is added by a rule, for its score
    "5": "replaced",  # the milter replaces its body
    "6": "quarantined",  # by the milter
    "7": "redirected",  # the milter takes a recipient away, and adds one
    "8": "forged",  # DMARC says reject
    "9": "signed",  # the same author, and a good signature
}
"""By the first digit of the letter's name; others are plain."""

MOODS = ("hangs", "is slow", "babbles", "breaks off", "stops halfway", "leaves after a message")
SLOW = 0.2  # seconds
FOOTER = b"-- \r\nseen by a milter\r\n"
SCORES = {"spam": 20.0, "doubtful": 7.0}
_ABORT, _BODY, _END, _HEADER, _MACRO, _OFFER, _QUIT = b"A", b"B", b"E", b"L", b"D", b"O", b"Q"
_CHANGE, _INSERT, _REPLACE, _ADD, _DELETE, _HOLD, _REPLY = b"m", b"i", b"b", b"+", b"-", b"q", b"y"
_CONTINUE = b"c"


def fate(name: str) -> str:
    """What becomes of a letter."""
    return FATES.get(name[0], "plain")


class LeaveError(Exception):
    """It hangs up."""


class Filter:
    """One process; subclasses speak a protocol."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal(folder / "journal")
        self.read_mood()

    def read_mood(self) -> None:
        """Begin to be like that."""
        self.mood = (self.folder / "mood").read_text().strip()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        with contextlib.suppress(OSError, EOFError, LeaveError, ValueError):
            await self.serve(reader, writer)
        with contextlib.suppress(OSError):
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until it ends."""
        raise NotImplementedError

    async def answer(self, writer: asyncio.StreamWriter, octets: bytes, *, last: bool) -> None:
        """Say it, as the mood is; `last`: about this message."""
        mood = self.mood
        if mood == "hangs":
            await asyncio.sleep(3600)
        elif mood == "is slow":
            await asyncio.sleep(SLOW)
        elif mood == "babbles":
            octets = b"\0\0\0\x05zzzz\n" * 1000
        elif mood == "breaks off" or (mood == "stops halfway" and not last):
            raise LeaveError
        elif mood == "stops halfway":
            octets = octets[: len(octets) * 2 // 3]
        writer.write(octets)
        await writer.drain()
        if mood == "stops halfway" or (last and mood == "leaves after a message"):
            raise LeaveError


def _packet(letter: bytes, data: bytes = b"") -> bytes:
    return struct.pack("!I", len(data) + 1) + letter + data


async def _packets(reader: asyncio.StreamReader) -> AsyncIterator[tuple[bytes, bytes]]:
    while True:
        (length,) = struct.unpack("!I", await reader.readexactly(4))
        data = await reader.readexactly(length)
        yield data[:1], data[1:]


class Milter(Filter):
    """Tells what it has seen, and makes every kind of edit; see FATES."""

    mark = b"X-Edits"
    fated = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Version 6, each event."""
        name, pieces = "", list[bytes]()
        async for letter, data in _packets(reader):
            if letter == _OFFER:
                await self._give(writer, _packet(_OFFER, struct.pack("!III", 6, 0x1FF, 0)))
                continue
            if letter == _QUIT:
                return
            if letter in (_ABORT, _MACRO):
                if letter == _ABORT:
                    name, pieces = "", []
                continue
            if letter == _HEADER:
                field, value = data.split(b"\0")[:2]
                if field == b"X-Letter":
                    name = value.decode().strip()
            elif letter == _BODY:
                pieces.append(data)
            elif letter == _END:
                await self.answer(writer, self._verdict(name, b"".join(pieces)), last=True)
                name, pieces = "", []
                continue
            await self._give(writer, _packet(_CONTINUE))

    async def _give(self, writer: asyncio.StreamWriter, octets: bytes) -> None:
        """What is no verdict; who stops halfway does so among his edits."""
        if self.mood == "stops halfway":
            writer.write(octets)
        else:
            await self.answer(writer, octets, last=False)

    def _verdict(self, name: str, body: bytes) -> bytes:
        became = fate(name) if self.fated else ""
        if became == "refused":
            return _packet(_REPLY, b"550 5.7.1 Not this one\0")
        if became == "put off":
            return _packet(_REPLY, b"451 4.7.1 Not yet\0")
        value = f"{name} {digest_of(body)}".encode()
        edits = [(_INSERT, b"\0\0\0\0" + self.mark + b"\0" + value + b"\0")]
        if self.fated:
            edits += [
                (_CHANGE, b"\0\0\0\1X-Change\0new " + name.encode() + b"\0"),
                (_CHANGE, b"\0\0\0\1X-Stale\0\0"),
            ]
        if became == "replaced":
            whole = body + FOOTER
            edits += [(_REPLACE, whole[at : at + 65535]) for at in range(0, len(whole), 65535)]
        elif became == "quarantined":
            edits.append((_HOLD, b"to be looked at\0"))
        elif became == "redirected":
            edits += [
                (_ADD, f"<{added(name)}>\0".encode()),
                (_DELETE, f"<{removed(name)}>\0".encode()),
            ]
        return b"".join(_packet(*each) for each in edits) + _packet(_CONTINUE)


class Keeper(Milter):
    """Only tells what it has seen."""

    mark = b"X-Keeper"
    fated = False


def added(name: str) -> str:
    """Whom the milter adds to a letter that it redirects."""
    return f"ok-9.{name}@corp.test"


def removed(name: str) -> str:
    """... and whom it takes away."""
    return f"ok-0.{name}@corp.test"


class Scorer(Filter):
    """rspamd, as far as it is asked."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests over one connection."""
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            )
            name = _name(await reader.readexactly(length))
            score = SCORES.get(fate(name), 1.0)
            mark = {"X-Scan": {"value": name, "order": 0}}
            report = {"action": "no action", "score": score, "milter": {"add_headers": mark}}
            octets = json.dumps(report).encode()
            await self.answer(
                writer,
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(octets) + octets,
                last=True,
            )


class Scanner(Filter):
    """clamd's INSTREAM; what it has found clean it writes down first."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One message, or several in a session (IDSESSION), each command with its number."""
        number = 0
        while True:
            command = await reader.readuntil(b"\0")
            if command != b"zINSTREAM\0":
                continue
            number += 1
            pieces = []
            while length := struct.unpack("!I", await reader.readexactly(4))[0]:
                pieces.append(await reader.readexactly(length))
            content = b"".join(pieces)
            name = _name(content)
            found = fate(name) == "infected"
            if not found:
                self.journal.write("clean", name=name, octets=len(content))
            said = b"stream: Eicar-Test FOUND\0" if found else b"stream: OK\0"
            await self.answer(writer, said, last=True)
            raise LeaveError


class Policy(Filter):
    """Puts a field before each message that it is asked about."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests over one connection."""
        while True:
            request = await reader.readuntil(b"\n\n")
            asked = dict(line.split(b"=", 1) for line in request.splitlines() if line)
            name = asked[b"sender"].partition(b"@")[0]
            await self.answer(writer, b"action=PREPEND X-Policy: %s\n\n" % name, last=True)


def _name(content: bytes) -> str:
    found = NAMED.search(content)
    return found.group(1).decode() if found else "-"


KINDS: dict[str, type[Filter]] = {
    "milter": Milter,
    "keeper": Keeper,
    "scorer": Scorer,
    "scanner": Scanner,
    "policy": Policy,
}


async def _serve(served: Filter, where: str) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, served.read_mood)
    limit = 1 << 20
    if where.startswith("/"):
        server = await asyncio.start_unix_server(served.connected, where, backlog=600, limit=limit)
    else:
        host, _, port = where.rpartition(":")
        server = await asyncio.start_server(
            served.connected, host, int(port), backlog=600, limit=limit
        )
    (served.folder / "ready").write_text("")
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[2].startswith("/"):
        Path(sys.argv[2]).unlink(missing_ok=True)
    asyncio.run(_serve(KINDS[sys.argv[1]](Path(sys.argv[3])), sys.argv[2]))
