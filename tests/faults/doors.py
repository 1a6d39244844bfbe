"""What is wrong at the door: TLS handshakes that stall or are garbage, certificates that change,
logins whose service is slow, silent, talks nonsense or is gone."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import random
import signal
import ssl
from pathlib import Path

from tests.certs import Authority
from tests.faults.injector import Door, Peer, RefusedError, ended
from tests.faults.run import Row, fault
from tests.faults.stage import Stage, staged

NAME = "gw.test"
LOGIN = "alice:secret"
RULES = """table people dovecot-auth unix:{auth}
next-hop out smtp {{host}}:{{port}}
may-send-as any
accept login any
route any via out
"""


class Certified:
    """Certificate files that are replaced at will, and who trusts them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tls"
        self._authority = Authority()
        self.renew()
        self.trust = ssl.create_default_context(cadata=self._authority.pem.decode())
        self.trust.check_hostname = False

    @property
    def settings(self) -> str:
        """For relayd's configuration."""
        return f"certificate {self._folder}/gw.pem key {self._folder}/gw.key"

    def renew(self) -> None:
        """A new key, a new certificate, in the same files."""
        self._authority.issue(NAME).write(self._folder, "gw")


class Vandals:
    """Clients that come for a handshake and spoil it, each in one of a few ways."""

    def __init__(self, stage: Stage, seed: int, count: int) -> None:
        self._stage = stage
        self._random = random.Random(f"vandals {seed}")
        self._tasks = [asyncio.create_task(self._forever(number)) for number in range(count)]
        self.times = 0

    async def leave(self) -> None:
        """All of them."""
        await ended(self._tasks)

    async def _forever(self, number: int) -> None:
        ways = (self._stall, self._garbage, self._half, self._garbage_inside)
        for turn in itertools.count(number):
            with contextlib.suppress(OSError, EOFError, TimeoutError, ValueError, RefusedError):
                peer = await Peer.dial(self._stage.relayd.address)
                try:
                    await peer.want("", 220)
                    await peer.want("EHLO vandal.test", 250)
                    await peer.want("STARTTLS", 220)
                    self.times += 1
                    await ways[turn % len(ways)](peer)
                finally:
                    peer.close()
            await asyncio.sleep(0.05)

    async def _stall(self, peer: Peer) -> None:
        await asyncio.sleep(3.0)

    async def _garbage(self, peer: Peer) -> None:
        peer.writer.write(self._random.randbytes(5000))
        await peer.reader.read()

    async def _half(self, peer: Peer) -> None:
        hello = _hello()[0]
        for octet in hello[: len(hello) // 2]:
            peer.writer.write(bytes((octet,)))
            await asyncio.sleep(0.002)

    async def _garbage_inside(self, peer: Peer) -> None:
        hello, inside, outgoing, tls = _hello_and_more()
        peer.writer.write(hello)
        while True:
            inside.write(await asyncio.wait_for(peer.reader.read(65536), 5))
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
        # a record as it should be begun, of octets that no key has made
        junk = self._random.randbytes(400)
        peer.writer.write(outgoing.read() + b"\x17\x03\x03\x01\x90" + junk)
        await peer.reader.read()


def _hello() -> tuple[bytes, ssl.MemoryBIO]:
    hello, inside, _, _ = _hello_and_more()
    return hello, inside


def _hello_and_more() -> tuple[bytes, ssl.MemoryBIO, ssl.MemoryBIO, ssl.SSLObject]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    inside, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(inside, outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read(), inside, outgoing, tls


@fault("TLS stalls, garbage, renewals")
async def tls(row: Row, seed: int, short: bool) -> None:
    """Good clients' sessions go on, whatever others do and whenever the certificate is new."""
    async with staged(seed, workers=1 + (not short)) as stage:
        certified = Certified(stage.folder)
        stage.build(settings=certified.settings)
        await stage.start()
        vandals = Vandals(stage, seed, 12)
        door = Door(stage.relayd.address, tls=certified.trust)
        injector = stage.inject(kinds=("ok", "no", "late"), each=5, door=door)
        for _ in range(5 if short else 30):
            await asyncio.sleep(0.7)
            certified.renew()
            stage.relayd.signal(signal.SIGHUP)
        row.runs = vandals.times
        await vandals.leave()
        await injector.stop()
        row.add(await stage.finish(), stage)
        row.demand(injector.tally.broken == 0, f"{injector.tally.broken} sessions broke")
        wrong = set(injector.tally.codes) - {250}
        row.demand(not wrong, f"clients heard {sorted(wrong)}")


class AuthService:
    """What Dovecot's auth socket says to those who ask for logins, if it is well."""

    MOODS = ("slow", "silent", "hangs up", "talks nonsense", "gone")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mood = ""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def begin(self, mood: str = "") -> None:
        """From now on it is like that; whoever is connected is cut off."""
        self._mood = mood
        for writer in [*self._writers]:
            writer.close()
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)
        if mood != "gone":
            self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(OSError, ValueError):
            await self._converse(reader, writer)
        self._writers.discard(writer)
        writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mood = self._mood
        if mood == "talks nonsense":
            writer.write(b"\0\xff" * 3000 + b"\nOK\t\t\nFAIL\n" * 10)
        elif mood != "silent":
            writer.write(b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t7\nCUID\t1\nDONE\n")
        while line := await reader.readline():
            word, number, *rest = line.decode().rstrip("\n").split("\t")
            if word != "AUTH" or mood in ("silent", "talks nonsense"):
                continue
            if mood == "hangs up":
                return
            if mood == "slow":
                await asyncio.sleep(0.3)
            given = next(each[5:] for each in rest if each.startswith("resp="))
            _, user, password = base64.b64decode(given).decode().split("\0")
            well = f"{user}:{password}" == LOGIN
            answer = f"OK\t{number}\tuser={user}" if well else f"FAIL\t{number}\tuser={user}"
            writer.write(f"{answer}\n".encode())


@fault("logins: service slow, silent, mad, gone")
async def logins(row: Row, seed: int, short: bool) -> None:
    """4xx while nobody knows, never 535 to who is right; back by itself."""
    async with staged(seed, workers=1 + (not short)) as stage:
        certified = Certified(stage.folder)
        service = AuthService(stage.folder / "auth")
        await service.begin()
        stage.build(
            settings=certified.settings,
            listener="auth people",
            rules=RULES.format(auth=stage.folder / "auth"),
        )
        await stage.start()
        door = Door(stage.relayd.address, tls=certified.trust, login=LOGIN)
        injector = stage.inject(kinds=("ok", "no", "late"), each=2, door=door)
        for mood in AuthService.MOODS[-2:] if short else AuthService.MOODS * 2:
            await asyncio.sleep(1.0)
            await service.begin(mood)
            row.runs += 1
            await asyncio.sleep(2.0)
            await service.begin()
            acknowledged = injector.tally.acknowledged
            row.recover = max(
                row.recover,
                await stage.until(
                    lambda before=acknowledged: injector.tally.acknowledged > before + 8,  # type: ignore[misc]
                    "logins succeed again",
                ),
            )
        await injector.stop()
        await service.begin("gone")
        row.add(await stage.finish(), stage)
        wrong = {code for code in injector.tally.codes if code >= 500}
        row.demand(not wrong, f"clients heard {sorted(wrong)}")
