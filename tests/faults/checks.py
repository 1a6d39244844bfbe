"""Every check on, and filters that die, hang, babble, break off and come back while mail flows.

Clients of several addresses send: most are vouched for by SPF, some are greylisted and come back,
some are on a block list, forged, or send more than their limit. Who filters what, and how each of
them may be out of order, stands in tests.faults.filters; what must come of it in words.py.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import dkim
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.faults.filters import KINDS, MOODS, added, fate, removed
from tests.faults.injector import Door, Injector, Peer, RefusedError
from tests.faults.journal import Journal
from tests.faults.letters import SENDERS, Letter, Writer
from tests.faults.names import NameServer
from tests.faults.run import Row, fault
from tests.faults.stage import Stage, staged
from tests.faults.words import BURST, WINDOW, by_kind, judge, marked
from tests.ports import free_port
from tests.scenarios.harness import CHECKOUT, Process

RULES = """
dnsbl    zen zen.test
dnswl    friends friends.test
milter   edits   unix:{edits}          on failure defer   timeout 2s
milter   keeper  unix:{keeper}         on failure hold    timeout 2s
rspamd   scan    http://{scan}         on failure accept  timeout 2s
clamd    virus   unix:{virus}          on failure reject  timeout 2s
policy   stamp   {stamp}               on failure accept  timeout 2s
limit    burst   {burst}/{window}s per client
next-hop out     smtp {{host}}:{{port}}
reject   when listed zen and not listed friends 550 5.7.1 "Your address is on a block list"
reject   when spf fail 550 5.7.23 "Not from there"
defer    to @d0.corp.test when over burst "Slow down, please"
defer    when first-seen 1s and not spf pass
reject   to @probed.corp.test when unknown at out 550 5.1.1 "There is no such mailbox"
ask      stamp
ask      edits, keeper
ask      scan, virus
accept   to @corp.test, @.corp.test
reject   when dmarc reject 550 5.7.1 "DMARC says no"
hold     when score scan >= 15 "spam?"
header   add X-Spam "yes" when score scan >= 6
route    any via out
"""
ASKED = {
    "edits": "milter",
    "keeper": "keeper",
    "scan": "scorer",
    "virus": "scanner",
    "stamp": "policy",
}
TROUBLED = ("is killed", *MOODS)
LISTED, FRIEND, LIMITED = "192.0.2.250", "192.0.2.251", "192.0.2.66"
SOME = 16  # one letter in so many has mailboxes that are asked for at the next hop
COME_BACK = 1.2  # seconds after which who is greylisted tries again


class Names(NameServer):
    """What the DNS says of clients and authors."""

    def __init__(self, seed: int, key: str) -> None:
        super().__init__(seed)
        self._texts = {
            f"{SENDERS}.": '"v=spf1 ip4:192.0.2.0/24 ?ip4:198.18.0.0/15 -all"',
            "_dmarc.strict.test.": '"v=DMARC1; p=reject"',
            "s._domainkey.strict.test.": f'"v=DKIM1; k=rsa; p={key}"',
        }

    def records(self, name: str, rdtype: str) -> list[str]:
        """Two addresses are listed, one of them is a friend's."""
        if rdtype == "TXT":
            return [self._texts[name]] if name in self._texts else []
        listed = {_reversed(LISTED), _reversed(FRIEND)} if name.endswith(".zen.test.") else set()
        if name.endswith(".friends.test."):
            listed = {_reversed(FRIEND)}
        return ["127.0.0.2"] if rdtype == "A" and name.rsplit(".", 3)[0] in listed else []


def _reversed(address: str) -> str:
    return ".".join(reversed(address.split(".")))


class Signed:
    """The key of an author whose domain says p=reject."""

    def __init__(self) -> None:
        key = rsa.generate_private_key(65537, 1024)
        self.secret = key.private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
        )
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.public = base64.b64encode(public).decode()

    def signature(self, content: bytes) -> bytes:
        """The field in front of it."""
        field = dkim.sign(content, b"s", b"strict.test", self.secret, include_headers=[b"from"])
        return bytes(field.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))


def _writer(signed: Signed) -> type[Writer]:
    class Fated(Writer):
        """Letters with an author, with fields that a milter changes, and with their fate."""

        def letter(self) -> Letter:
            """The next one."""
            letter = super().letter()
            became = fate(letter.name)
            strict = became in ("forged", "signed")
            author = "ann@strict.test" if strict else f"{letter.name}@{SENDERS}"
            above = f"X-Stale: x\r\nX-Change: old\r\nFrom: {author}\r\n".encode()
            if became == "signed":
                above = signed.signature(above + letter.content) + above
            letter = replace(letter, above=above)
            if became == "redirected":
                gone, more = (removed(letter.name),), (added(letter.name),)
                letter = replace(letter, removed=gone, added=more)
            if int(letter.name[1:3], 16) < 256 // SOME:
                asked = tuple(f"{word}-{letter.name}@probed.corp.test" for word in ("ok", "no"))
                letter = replace(letter, recipients=letter.recipients + asked)
            return letter

    return Fated


class Introduced(Door):
    """Clients of many addresses, by XCLIENT."""

    def __init__(self, address: tuple[str, int], seed: int, client: str = "") -> None:
        super().__init__(address)
        self._random = random.Random(f"clients {seed}")
        self._client = client

    async def enter(self) -> Peer:
        """As somebody else."""
        peer = await super().enter()
        try:
            await peer.want(f"XCLIENT ADDR={self._client or self._drawn()}", 220)
            await peer.want("EHLO injector.test", 250)
        except BaseException:
            peer.close()
            raise
        return peer

    def _drawn(self) -> str:
        draw = self._random
        kind = draw.randrange(20)
        if kind < 3:
            return f"198.18.{draw.randrange(256)}.{draw.randrange(1, 250)}"
        last = {3: LISTED, 4: FRIEND, 5: "203.0.113.9"}
        return last.get(kind, f"192.0.2.{draw.randrange(1, 60)}")


class Caller(Injector):
    """Tries again, as mail servers do, where all recipients were deferred."""

    async def _transaction(self, peer: Peer, letter: Letter) -> int:
        try:
            return await super()._transaction(peer, letter)
        except RefusedError as refused:
            if (refused.stage, refused.code) != ("RCPT", 451):
                raise
        await peer.want("RSET", 250)
        await asyncio.sleep(COME_BACK)
        return await super()._transaction(peer, letter)


class Filters:
    """All of them, each a process."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        self._folder = folder
        self._journal = journal
        self._processes: dict[str, Process] = {}
        self.where = {
            name: f"127.0.0.1:{free_port()}"
            if name in ("scan", "stamp")
            else str(folder / name / "socket")
            for name in ASKED
        }

    async def start(self, name: str) -> None:
        """For the first time, or again."""
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        (folder / "mood").write_text("")
        (folder / "ready").unlink(missing_ok=True)
        words = ["-m", "tests.faults.filters", ASKED[name], self.where[name], str(folder)]
        self._processes[name] = process = Process(
            [sys.executable, *words], folder / "log", environment={"PYTHONPATH": str(CHECKOUT)}
        )
        while not (folder / "ready").exists():
            assert process.running, process.log()
            await asyncio.sleep(0.02)

    def spoil(self, name: str, mood: str) -> None:
        """From now on it is like that."""
        if mood == "is killed":
            self._processes[name].kill()
        else:
            (self._folder / name / "mood").write_text(mood)
            self._processes[name].popen.send_signal(signal.SIGHUP)
        self._journal.write("filter", name=name, mood=mood)

    async def mend(self, name: str) -> None:
        """It is as it should be; whoever was connected is cut off."""
        self._journal.write("filter", name=name, mood="")
        await asyncio.to_thread(self._processes[name].kill)
        await self.start(name)

    def kill(self) -> None:
        """All of them."""
        for process in self._processes.values():
            process.kill()

    def journals(self) -> list[Journal]:
        """What they have written down."""
        return [Journal(self._folder / name / "journal") for name in ASKED]


class Gateway:
    """A stage with every check on."""

    def __init__(self, stage: Stage, filters: Filters, seed: int) -> None:
        self.stage = stage
        self.filters = filters
        self._seed = seed
        self._injectors: list[Injector] = []

    async def start(self) -> None:
        """All of it, and mail."""
        stage, signed = self.stage, Signed()
        names = Names(self._seed, signed.public)
        port = await names.start()
        stage.sink.read = marked
        await asyncio.gather(*map(self.filters.start, ASKED))
        rules = RULES.format(**self.filters.where, burst=BURST, window=round(WINDOW))
        stage.build(
            rules=rules, settings=f"resolver 127.0.0.1:{port}", listener="xclient 127.0.0.0/8"
        )
        await stage.start()
        address = stage.relayd.address
        made, kinds = _writer(signed), ("ok", "no", "late", "foreign")
        self._injectors = [
            stage.inject(
                made=made, calling=Caller, kinds=kinds, sessions=16, pause=0.005, each=10,
                large=60, door=Introduced(address, self._seed),
            ),
            stage.inject(
                made=made, calling=Caller, sessions=1, pause=0.005, each=10, domains=1,
                door=Introduced(address, self._seed, LIMITED),
            ),
        ]  # fmt: skip

    @property
    def messages(self) -> int:
        """Whose final dot, or whose sender's last recipient, has had its answer."""
        return sum(sum(each.tally.codes.values()) for each in self._injectors)

    async def finish(self, row: Row) -> None:
        """Let go what was held, and judge."""
        stage = self.stage
        for injector in self._injectors:
            await injector.stop()
        held = await asyncio.to_thread(stage.relayd.queue, "--state", "held")
        stage.journal.write("released")
        if held:
            words = ("release", "--all", "--state", "held")
            await asyncio.to_thread(stage.relayd.ctl, *words)
        # a message that waits is tried again within seconds
        row.add(await stage.finish(240), stage)
        entries = itertools.chain(
            stage.journal.entries(), *(each.entries() for each in self.filters.journals())
        )
        words_ = judge(entries)
        row.complaints += by_kind(words_.complaints)
        row.remarks.append(f"{self.messages:,} messages, {len(held):,} of them held")
        row.remarks += [f"{what}: {count:,}" for what, count in sorted(words_.counts.items())]


async def _checked(
    row: Row, seed: int, moods: Sequence[str], messages: int, kills: int, *, short: bool
) -> None:
    draw = random.Random(f"checks {seed}")
    async with staged(seed, workers=2) as stage:
        filters = Filters(stage.folder, stage.journal)
        gateway = Gateway(stage, filters, seed)
        try:
            await gateway.start()
            await stage.flows()
            # in the short form each mood befalls one of them, in the long one each befalls each
            pairs = [(name, mood) for mood in moods for name in ASKED]
            draw.shuffle(pairs)
            if short:
                pairs = [(name, moods[at % len(moods)]) for at, name in enumerate(ASKED)]
            for name, mood in itertools.cycle(pairs):
                filters.spoil(name, mood)
                row.runs += 1
                await asyncio.sleep(draw.uniform(0.7, 1.3) + 2.5 * (mood == "hangs"))
                if kills and draw.randrange(2):
                    await stage.kill()
                    await stage.start()
                    kills -= 1
                await filters.mend(name)
                row.recover = max(row.recover, await stage.flows())
                if row.runs >= len(pairs) and gateway.messages >= messages and not kills:
                    break
            await asyncio.sleep(0.5)
            await gateway.finish(row)
        finally:
            filters.kill()


@fault("checks on: filters killed, and back")
async def killed(row: Row, seed: int, short: bool) -> None:
    """Their failure words count."""
    await _checked(row, seed, TROUBLED[:1], 0 if short else 15_000, 0, short=short)


@fault("checks on: filters hang, or are slow")
async def late(row: Row, seed: int, short: bool) -> None:
    """The same; and who is slow is no trouble."""
    await _checked(row, seed, TROUBLED[1:3], 0 if short else 15_000, 0, short=short)


@fault("checks on: filters babble, or break off")
async def broken(row: Row, seed: int, short: bool) -> None:
    """The same, at each place of the dialogue."""
    await _checked(row, seed, TROUBLED[3:], 0 if short else 15_000, 0, short=short)


@fault("checks on: all of it, and kill -9")
async def everything(row: Row, seed: int, short: bool) -> None:
    """Of relayd, master and workers."""
    moods = TROUBLED[::3] if short else TROUBLED
    await _checked(row, seed, moods, 0 if short else 55_000, 1 if short else 40, short=short)


assert set(ASKED.values()) == set(KINDS)
