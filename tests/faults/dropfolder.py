"""A drop folder full of traps: what no message is, what has to wait, what is too much.

Good slips between them, left as `sendmail` leaves them, all arrive exactly once, and soon.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.crowds import percentile
from tests.faults.journal import Journal
from tests.faults.letters import Letter, Writer
from tests.faults.run import Row, fault
from tests.faults.stage import RULES, Stage, staged
from tests.faults.transit import transits

PROMPT = 5.0  # seconds, at p99, from the folder to the next hop; it is looked into every second
LATER = 'reject to @later.test 451 4.7.1 "Come back later"\n'
_STRANGER = 65534  # another user, whose files relayd may not read
# relayd as root is stopped by no permission; so it gives up what makes root that
_WITHOUT_POWER = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all")


class Leaver:
    """Leaves messages in the folder, as any local program may."""

    def __init__(self, folder: Path, journal: Journal, seed: int) -> None:
        self._folder = folder
        self._journal = journal
        self._writer = Writer(seed, kinds=("ok", "no"), large=10)
        self._count = 0

    def leave(self, slip: bytes, content: bytes = b"", *, first: bool = False) -> Path:
        """A whole file; `first`: before all others, in the order of names."""
        self._count += 1
        stem = f"{'0' if first else '1'}{time.time_ns():x}-{self._count:08x}"
        writing = self._folder / f"{stem}.part"
        writing.write_bytes(slip + b"\n" + content)
        return writing.rename(self._folder / f"{stem}.mail")

    def good(self) -> None:
        """A letter that is to arrive, in the journal as if its final dot had got 250."""
        letter = self._writer.letter()
        self._left(letter, letter.recipients)

    def later(self) -> None:
        """One whose recipient gets 451 for now."""
        letter = self._writer.letter()
        recipients = tuple(each.replace("@corp.test", "@later.test") for each in letter.recipients)
        self._left(letter, recipients, first=True)

    def _left(self, letter: Letter, recipients: tuple[str, ...], *, first: bool = False) -> None:
        facts = {"name": letter.name, "digest": letter.digest}
        self._journal.write("sent", accepted=recipients, refused=[], **facts)
        self.leave(slip(letter.sender, *recipients), letter.content, first=first)
        self._journal.write("answered", name=letter.name, code=250)


def slip(sender: str, *recipients: str, **more: object) -> bytes:
    """The envelope on a file's first line."""
    return json.dumps({"relayd": 1, "sender": sender, "recipients": recipients, **more}).encode()


def _bad_slips() -> list[bytes]:
    ok = "trap@corp.test"
    return [
        slip("a@b.test\r\nx", ok),
        slip("a@b.test\n", ok),
        slip("a@b.test", "trap@corp.test\n"),
        slip("a@b.test", "trap\r\nRCPT TO:<x@corp.test>\r\n@corp.test"),
        slip("a@b.test", *[f"trap{number}@corp.test" for number in range(2000)]),
        slip("a@b.test"),
        slip("a@b.test", ok, relayd=2),
        slip("a@b.test", ok, notify=["NEVER", "SUCCESS"]),
        slip("a@b.test", ok, envid="x\r\nDATA"),
        slip("\ud800@b.test", ok),
        b"[" * 200_000,
        b"{" + b'"a":' * 100_000,
        b"9" * 1_000_000,
        b"\0" * 4096,
        b"",
        os.urandom(3000),
    ]


def _traps(leaver: Leaver, folder: Path, draw: random.Random) -> list[Callable[[], object]]:
    """Ways to lay one; each may be laid again and again."""
    bad = _bad_slips()

    def name(suffix: str = ".mail") -> Path:
        # among the others, wherever that is
        return folder / f"{draw.choice('012')}{draw.getrandbits(64):x}{suffix}"

    def directory() -> None:
        path = name()
        (path / "below").mkdir(parents=True)
        os.chown(path, _STRANGER, -1)

    def unreadable() -> None:
        path = leaver.leave(slip("a@b.test", "trap@corp.test"), b"Subject: x\r\n\r\n")
        path.chmod(0o600)
        os.chown(path, _STRANGER, -1)

    def huge() -> None:
        path = leaver.leave(slip("a@b.test", "trap@corp.test"))
        os.truncate(path, 1 << 40)

    def linked() -> None:
        os.link(leaver.leave(slip("a@b.test", "trap@corp.test"), b"Subject: x\r\n\r\n"), name())

    def sock() -> None:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(name()))

    return [
        directory,
        lambda: name().mkdir(),
        lambda: os.mkfifo(name()),
        lambda: name().symlink_to("/etc/passwd"),
        lambda: name().symlink_to(folder),
        lambda: name().symlink_to(name()),
        sock,
        unreadable,
        huge,
        linked,
        lambda: leaver.leave(slip("", "trap@corp.test"), b"Subject: x\r\n\r\na\nb\r\n"),
        lambda: leaver.leave(draw.choice(bad), b"Subject: x\r\n\r\n", first=draw.random() < 0.5),
        lambda: name("$(reboot);'\n.mail").write_bytes(b"x"),
        lambda: name(".part").write_bytes(b"half of it"),
    ]


async def _good_ones(leaver: Leaver, until: asyncio.Event) -> None:
    while not until.is_set():
        leaver.good()
        await asyncio.sleep(0.05)


def _folder(stage: Stage) -> Path:
    """As a package makes it."""
    folder = stage.folder / "spool" / "drop"
    folder.mkdir(parents=True)
    folder.chmod(0o3733)
    return folder


@fault("a drop folder full of traps")
async def drop(row: Row, seed: int, short: bool) -> None:
    """Each file by itself: the good ones arrive soon, the bad ones are set aside and told."""
    rules = LATER + RULES
    async with staged(seed) as stage:
        stage.build(rules=rules, settings="message-size 1MiB")
        if os.geteuid() == 0 and shutil.which("setpriv"):
            stage.relayd.prefix = _WITHOUT_POWER
        folder = _folder(stage)
        draw = random.Random(f"drop {seed}")
        leaver = Leaver(folder, stage.journal, seed)
        traps = _traps(leaver, folder, draw)
        for _ in range(5):
            leaver.later()
        for number in range(2000 if short else 20_000):
            (folder / f"strange {number}").write_bytes(b"")
        await stage.start()
        over = asyncio.Event()
        good = asyncio.create_task(_good_ones(leaver, over))
        since = time.monotonic()
        for _ in range(3 if short else 20):
            for _ in range(100):
                draw.choice(traps)()
                row.runs += 1
            for trap in traps:  # each kind at least once
                trap()
                row.runs += 1
            leaver.later()
            await asyncio.sleep(2.0)
        over.set()
        await good
        await asyncio.sleep(2.0)
        took = transits(stage.journal, "corp.test", since, time.monotonic() - 2.0)
        worst = percentile(took, 0.99)
        row.remarks.append(f"{len(took)} good ones between: p99 {worst:.1f} s to the next hop")
        row.demand(worst < PROMPT, f"p99 of the good ones {worst:.1f} s")
        row.demand("drop set aside" in stage.relayd.log(10**6), "nothing was said of the bad ones")
        # what was put off arrives when it may
        text = stage.relayd.config.read_text()
        stage.relayd.config.write_text(text.replace(LATER, "accept to @later.test\n"))
        await stage.terminate()
        await stage.start()
        left = lambda: len(list(folder.glob("*.mail")))  # noqa: E731
        before = -1
        while before != left():  # until nothing more is taken up
            before = left()
            await asyncio.sleep(2.5)
        row.add(await stage.finish(), stage)
