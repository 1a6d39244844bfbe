"""A spool of each format ever released opens, is brought up to date and empties itself.

They were written by real relayds of then, and are never made again (tests/golden/spools/make.py).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import cast

from twisted.internet import reactor as _reactor
from twisted.internet.defer import succeed
from twisted.internet.task import deferLater

from relayd.mail.address import path_text
from relayd.mail.message import Message, RecipientState, Record
from relayd.mail.nexthop import HostPort, NextHop
from relayd.mail.outcome import Blame
from relayd.mail.plan import Verdict
from relayd.relay.dial import IReactor
from relayd.relay.dispatch import Dispatcher
from relayd.relay.retrypolicy import RetryPolicy
from relayd.relay.route import route
from relayd.relay.smtpout import Courier
from relayd.relay.survey import Endpoint
from relayd.spool import formats
from relayd.spool.envelopes import Seen, accepted, noted
from relayd.spool.schedule import Schedule
from relayd.spool.sqlite.store import Spool
from relayd.spool.view import Accepted, NewMessage, QueueFilter, Summary
from tests.golden.spools import FOLDER, unpack
from tests.sink import Sink
from tests.spooling import octets, summaries
from tests.support import TestCase
from tests.unit.relay.fakes import Log
from tests.unit.relay.test_together import Bridge

reactor = cast(IReactor, _reactor)

MADE_AT = 1795877703.0
LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcdef" * 4 * 2000 + b"\r\n"
STAMPED = "SRS0=HaB9=JR=sender.example=ann@srs.example.com"
ANN, JOERG = "ann@sender.example", "j\u00f6rg@sender.example"

# of each message: its sender, and of each recipient: mailbox, original, next hop, destination
WAITING: list[tuple[str, list[tuple[str, str, str, str]]]] = [
    (ANN, [("late@example.com", "late@example.com", "down", "down")]),
    (ANN, [("alice@outside.example", "info@example.com", "down", "down")]),
    (
        ANN,
        [
            ("one@example.com", "team@example.com", "down", "down"),
            ("two@direct.example", "team@example.com", "direct", "direct direct.example"),
        ],
    ),
    (
        ANN,
        [
            (
                "everybody@lists.example.com",
                "everybody@lists.example.com",
                "down,spare",
                "down,spare",
            )
        ],
    ),
    ("", [("nobody-hears@example.com", "nobody-hears@example.com", "down", "down")]),
    (ANN, [("large@example.com", "large@example.com", "down", "down")]),
    (
        ANN,
        [
            ("header@example.com", "header@example.com", "down", "down"),
            ("asis@example.com", "asis@example.com", "down", "down"),
        ],
    ),
    (JOERG, [("j\u00f6rg@example.com", "j\u00f6rg@example.com", "down", "down")]),
    (ANN, [("dsn@example.com", "dsn@example.com", "down", "down")]),
    (
        ANN,
        [
            ("held@example.com", "held@example.com", "down", "down"),
            ("beside@example.com", "beside@example.com", "down", "down"),
        ],
    ),
]
WARNED = [ANN] * 6 + [JOERG] + [ANN] * 2  # ... and who was told that one of these is late
ENDED = {
    "yes@up.example": (RecipientState.DELIVERED, "250 2.0.0 kept as 1"),
    "no@up.example": (RecipientState.FAILED, "550 5.1.1 nobody of that name"),
    "noreply@example.com": (RecipientState.DISCARDED, ""),
    "removed@example.com": (RecipientState.REMOVED, "not wanted"),
}


class GoldenSpoolTests(TestCase):
    def setUp(self) -> None:
        self.now = MADE_AT + 2 * 86400.0  # all is due, nothing is too old
        self.log = Log()

    def opened(self, number: int) -> Spool:
        """The golden spool of this format."""
        folder = Path(self.mktemp())
        folder.mkdir()
        spooled = unpack(number, folder)
        self.shard = spooled / "shard-0"
        spool = Spool(spooled, Bridge(), clock=lambda: self.now, log=self.log, floor_bytes=0)
        spool.open()
        return spool

    def idents(self) -> list[int]:
        """Of all messages that the ledger knows."""
        with contextlib.closing(sqlite3.connect(self.shard / "queue.db")) as connection:
            found = connection.execute("SELECT DISTINCT message FROM ledger ORDER BY message")
            return [row[0] for row in found]

    def test_there_is_one_of_each_format(self) -> None:
        kept = sorted(path.name for path in FOLDER.glob("*.tar.gz"))
        known = range(formats.OLDEST, formats.VERSION + 1)
        self.assertEqual(kept, [f"format-{number}.tar.gz" for number in known])

    async def test_what_waits_reads_as_it_was_written(self) -> None:
        for number in range(formats.OLDEST, formats.VERSION + 1):
            with self.subTest(number):
                spool = self.opened(number)
                found = await spool.aged(self.now, 0, 100)
                listed = summaries(await spool.listing(QueueFilter(), 0, 100))
                await spool.close()
                self.check_listing(listed)
                self.check_messages(found)
                self.assertEqual(self.log.troubles, [])

    def check_listing(self, listed: list[Summary]) -> None:
        _, *mail = [
            (
                each.sender,
                [
                    (one.mailbox, one.original, one.next_hop, one.destination)
                    for one in each.recipients
                ],
            )
            for each in listed
        ]
        self.assertEqual(mail[: len(WAITING)], WAITING)
        told = [recipients[0][0] for sender, recipients in mail[len(WAITING) :] if not sender]
        self.assertEqual(told, WARNED)

    def check_messages(self, found: list[Accepted]) -> None:
        mail: dict[str, tuple[Message, Record]] = {}
        for message, records in found:
            for record in records:
                if message.client.address:
                    self.assertEqual(message.client.helo, "client.example")
                    mail[str(record.recipient.mailbox)] = message, record
        _, held = mail.pop("held@example.com")
        self.assertEqual((held.state, held.last, held.warned), (RecipientState.HELD, None, False))
        for name, (_, record) in mail.items():
            self.assertEqual((record.state, record.warned), (RecipientState.QUEUED, True), name)
            assert record.last is not None
            self.assertRegex(str(record.last.reply), r"^451 4\.4\.[13] ")
            self.assertIs(record.last.blame, Blame.DESTINATION)
        self.assertIsNone(mail["nobody-hears@example.com"][0].envelope.reverse_path)
        stamped = mail["alice@outside.example"][1].recipient
        self.assertEqual(path_text(stamped.reverse_path), STAMPED)
        self.assertEqual(stamped.orcpt, "rfc822;info@example.com")
        self.assertTrue(octets(mail["large@example.com"][0].content).endswith(LARGE))
        message, rewritten = mail["header@example.com"]
        self.assertEqual(rewritten.recipient.header, 1)
        self.assertEqual(mail["asis@example.com"][1].recipient.header, 0)
        self.assertIn(b"\r\nX-Rewritten: yes\r\n", octets(message.content_for(1)))
        message, _ = mail["j\u00f6rg@example.com"]
        self.assertEqual((message.utf8_header, message.eight_bit), (True, True))
        self.assertEqual((message.envelope.smtputf8, message.envelope.body), (True, "8BITMIME"))
        message, wishes = mail["dsn@example.com"]
        self.assertEqual((message.envelope.ret, message.envelope.envid), ("HDRS", "QQ+314159"))
        self.assertEqual(wishes.recipient.notify, {"SUCCESS", "DELAY"})
        self.assertEqual(wishes.recipient.orcpt, "rfc822;first@other.example")

    async def test_what_has_ended_and_what_was_refused_is_remembered(self) -> None:
        for number in range(formats.OLDEST, formats.VERSION + 1):
            with self.subTest(number):
                spool = self.opened(number)
                ended = await self.ended(spool)
                audit = await spool.audit(0, 1000)
                seen = [*accepted(self.shard, 0.0)]
                (stranger,) = noted(self.shard, 0.0)
                await spool.close()
                self.assertEqual(ended, ENDED)
                self.assertEqual(audit.discrepancies, [])
                self.assertEqual(str(seen[0].recipient), "yes@up.example")
                verdicts = {str(each.recipient): each.verdict for each in seen}
                self.assertIs(verdicts["noreply@example.com"], Verdict.DISCARD)
                self.assertIs(verdicts["held@example.com"], Verdict.HOLD)
                self.assertIs(verdicts["late@example.com"], Verdict.ACCEPT)
                assert isinstance(stranger, Seen)
                self.assertEqual(str(stranger.recipient), "stranger@elsewhere.example")
                self.assertEqual(stranger.reply, "550 5.7.1 Relaying denied")
                self.assertEqual(stranger.client.helo, "client.example")

    async def ended(self, spool: Spool) -> dict[str, tuple[RecipientState, str]]:
        """Of the mail that has ended: its state, and the reply or the note."""
        found = {}
        for ident in self.idents():
            history = await spool.history(ident)
            assert history is not None
            for entry in history.entries:
                if entry.state is not None:
                    said = entry.note if entry.outcome is None else str(entry.outcome.reply)
                    found[str(entry.mailbox)] = entry.state, said
        return found

    async def test_it_empties_itself(self) -> None:
        for number in range(formats.OLDEST, formats.VERSION + 1):
            with self.subTest(number), Sink() as sink:
                spool = self.opened(number)
                arrived = await self.emptied(spool, sink)
                ended = await self.ended(spool)
                audit = await spool.audit(0, 1000)
                await spool.close()
                wanted = [to for _, recipients in WAITING for to, *_ in recipients]
                self.assertEqual(sorted(arrived), sorted([*wanted, *WARNED, ANN]))
                for name in wanted:
                    self.assertIs(ended[name][0], RecipientState.DELIVERED, name)
                self.assertEqual(audit.discrepancies, [])
                self.assertEqual([*self.shard.glob("content/*/*")], [])
                # whoever looks for orphans at the start may be there first when a message is over
                told = [each for each in self.log.troubles if "orphaned content" not in each]
                self.assertEqual(told, [])

    async def emptied(self, spool: Spool, sink: Sink) -> list[str]:
        """Deliver all, the held one last; who it arrived for."""
        hop = NextHop("down", hosts=(HostPort("127.0.0.1", sink.port),))
        hops = {"down": hop, "spare": hop}

        def resolve(_: NextHop | str) -> Awaitable[Sequence[Endpoint]]:
            return succeed([Endpoint("sink.example", "127.0.0.1", sink.port)])

        def report(_: object) -> NewMessage:
            raise AssertionError("nobody is owed a report")

        courier = Courier(reactor, resolve, "gw.example.com")
        dispatcher = Dispatcher(
            reactor,
            spool,
            courier,
            lambda recipient: route(recipient, hops),
            report,
            self.log,
            retry_policy=RetryPolicy(Schedule.parse("1d")),
            now=lambda: self.now,
        )
        spool.on_change = dispatcher.changed
        dispatcher.start()
        await self.until_queued(spool, 0)
        counts = await spool.counts()
        self.assertEqual((counts.messages, counts.held), (1, 1))
        await spool.release(QueueFilter())
        await self.until_queued(spool, 0)
        self.assertEqual((await spool.counts()).messages, 0)
        await dispatcher.stop(1.0)
        return [recipient for each in sink.arrived for recipient in each.recipients]

    async def until_queued(self, spool: Spool, count: int) -> None:
        for _ in range(2000):
            counts = await spool.counts()
            if counts.queued == count:
                return
            await deferLater(reactor, 0.01, lambda: None)
        raise AssertionError(counts)
