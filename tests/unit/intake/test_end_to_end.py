"""Session, core, rules and spool as they are, with nothing in their place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred

from relayd.config.load import load_text
from relayd.intake.intake import DraftStore as AnySpool
from relayd.mail.message import RecipientState
from relayd.rules.evaluate import evaluate
from relayd.rules.header import edit_header
from relayd.spool.memory import MemorySpool
from relayd.spool.sqlite.bridge import Promise
from relayd.spool.sqlite.store import Spool
from tests.support import TestCase
from tests.unit.intake.scene import CONTENT, FakeSpool, Scene, message

T = TypeVar("T")
reactor: Any = installed

CONFIG = """
hostname  gw.example.com
spool     spool
listen    127.0.0.1:2525
table     ours { example.com }
reject    to old@example.com  550 5.1.6 "Moved"
hold      to held@example.com
discard   to trap@example.com
accept    to <ours>
forward   info@example.com -> alice@example.net, bob@example.org
route     any direct
header    remove X-Internal-Host
header    add X-Gateway "gw"
"""


class Immediate:
    """A bridge whose calls run at once."""

    def promise(self) -> Promise[Any]:
        return Deferred()

    def call(self, function: Callable[..., None], *args: object) -> None:
        function(*args)


class FromThread(Immediate):
    """The reactor's."""

    def call(self, function: Callable[..., None], *args: object) -> None:
        reactor.callFromThread(function, *args)


class EndToEnd(TestCase):
    def folder(self) -> Path:
        folder = Path(self.mktemp())
        folder.mkdir()
        return folder

    def scene(self, spool: AnySpool) -> Scene:
        settings = load_text(CONFIG, Path(self.mktemp()))
        scene = Scene()
        scene.service.intake = replace(
            scene.intake,
            rules=lambda: settings.ruleset,
            spool=spool,
            decide=evaluate,
            edit=edit_header,
        )
        return scene

    def test_rules_decide_and_the_spool_keeps(self) -> None:
        spool = MemorySpool(Immediate())
        spool.open()
        scene = self.scene(spool)
        peer = scene.greeted()
        replies = peer.say(
            "MAIL FROM:<s@example.org>",
            "RCPT TO:<old@example.com>",
            "RCPT TO:<x@elsewhere.example>",
            "RCPT TO:<info@example.com>",
            "RCPT TO:<held@example.com>",
            "RCPT TO:<trap@example.com>",
            "DATA",
        )
        self.assertEqual(
            [reply[:9] for reply in replies[:3]], ["250 2.1.0", "550 5.1.6", "550 5.7.1"]
        )
        self.assertEqual([reply[:3] for reply in replies[3:]], ["250", "250", "250", "354"])
        self.assertEqual(peer.say(*CONTENT)[0][:3], "250")
        ((stored, records),) = scene.handed_over
        self.assertEqual(
            [str(record.recipient.mailbox) for record in records],
            ["alice@example.net", "bob@example.org"],
        )
        history = self.successResultOf(Deferred.fromCoroutine(_ask(spool.history(stored.ident))))
        assert history is not None
        self.assertEqual(
            [(str(entry.mailbox), entry.state) for entry in history.entries],
            [
                ("alice@example.net", None),
                ("bob@example.org", None),
                ("held@example.com", None),
                ("trap@example.com", RecipientState.DISCARDED),
            ],
        )
        loaded = self.successResultOf(Deferred.fromCoroutine(_ask(spool.load(stored.ident))))
        assert loaded is not None
        self.assertEqual(
            [record.state for record in loaded[1]],
            [RecipientState.QUEUED, RecipientState.QUEUED, RecipientState.HELD],
        )

    def test_the_header_section_is_rewritten_behind_our_trace_field(self) -> None:
        spool = MemorySpool(Immediate())
        spool.open()
        scene = self.scene(spool)
        peer = scene.greeted()
        for subject in ("Subject: x", "X-Internal-Host: pc7\r\nSubject: x"):
            peer.say(*message("info@example.com"))
            self.assertEqual(peer.say(subject, "", "body", ".")[0][:3], "250")
            stored, records = scene.handed_over[-1]
            received = b"".join(stored.content.chunks())
            rewritten = b"".join(stored.content_for(records[0].recipient.header).chunks())
            trace, found, _ = received.partition(subject.encode())
            self.assertTrue(found)
            self.assertEqual(rewritten, trace + b"X-Gateway: gw\r\nSubject: x\r\n\r\nbody\r\n")

    def test_a_spool_that_stops_recording(self) -> None:
        spool = MemorySpool(Immediate())
        spool.open()
        peer = self.scene(spool).greeted()
        peer.say(*message("info@example.com"))
        spool.healthy = False
        self.assertEqual(peer.say(*CONTENT)[0][:9], "451 4.3.0")
        self.assertEqual(peer.say("MAIL FROM:<>")[0][:9], "451 4.3.0")

    async def test_on_disk(self) -> None:
        spool = Spool(self.folder(), FromThread(), floor_bytes=0, floor_inodes=0)
        spool.open()
        self.addCleanup(lambda: Deferred.fromCoroutine(_ask(spool.close())))
        scene = self.scene(spool)
        peer = scene.greeted()
        big = "x" * 998
        batch = [*message("info@example.com"), "Subject: 1", "", *[big] * 200, "."]
        batch += [*message("trap@example.com", "held@example.com", "info@example.com"), *CONTENT]
        said = peer.say(*batch)
        while len(said) < 10:
            await _turn()
            said += peer.replies()
        self.assertEqual(
            [reply[:3] for reply in said],
            ["250", "250", "354", "250", "250", "250", "250", "250", "354", "250"],
        )
        first, second = (stored for stored, _ in scene.handed_over)
        loaded = await spool.load(first.ident)
        assert loaded is not None
        content = b"".join(loaded[0].content.chunks(first.header_size))
        self.assertEqual(content, f"{big}\r\n".encode() * 200)
        loaded = await spool.load(second.ident)
        assert loaded is not None
        self.assertEqual(
            [(record.number, record.state) for record in loaded[1]],
            [(1, RecipientState.HELD), (2, RecipientState.QUEUED), (3, RecipientState.QUEUED)],
        )
        history = await spool.history(second.ident)
        assert history is not None
        self.assertEqual(history.entries[0].state, RecipientState.DISCARDED)


_fake: AnySpool = FakeSpool()  # for the type checker: the fake is one too


async def _ask(question: Awaitable[T]) -> T:
    return await question


async def _turn() -> None:
    done: Deferred[None] = Deferred()
    reactor.callLater(0.01, done.callback, None)
    await done
