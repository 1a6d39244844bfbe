"""Dispatcher, courier, spool and reports together, with a next hop that comes and goes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.message import Submission
from relayd.mail.nexthop import HostPort, NextHop
from relayd.relay.courier import Hop
from relayd.relay.dial import IReactor
from relayd.relay.dispatch import Dispatcher
from relayd.relay.limits import RelayLimits
from relayd.relay.retrypolicy import RetryPolicy
from relayd.relay.smtpout import Courier
from relayd.relay.survey import Endpoint
from relayd.report.bounce import Report
from relayd.report.dsn import write
from relayd.report.smaller import Smaller
from relayd.spool.queue import Bounds
from relayd.spool.schedule import Schedule
from relayd.spool.sqlite.bridge import Promise
from relayd.spool.sqlite.store import Spool
from relayd.spool.view import NewMessage, QueueFilter
from tests.sink import Asked, Sink
from tests.support import TestCase
from tests.unit.relay.fakes import Log, a_recipient

reactor = cast(IReactor, _reactor)

LIMITS = RelayLimits(bounds=Bounds(messages=50, look=20))


class Bridge:
    def promise(self) -> Promise[Any]:
        return Deferred()

    def call(self, function: Callable[..., None], *args: object) -> None:
        _reactor.callFromThread(function, *args)  # type: ignore[attr-defined]


class Together(TestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.sink = Sink(self.script)
        self.log = Log()
        self.begin()

    async def tearDown(self) -> None:  # type: ignore[override]  # the base makes it a Deferred
        await self.end()
        self.sink.stop()
        self.assertEqual(self.log.troubles, [])

    def script(self, asked: Asked) -> str | None:
        if asked.stage == "rcpt" and asked.argument.startswith("nobody"):
            return "550 5.1.1 no such user"
        return None

    def begin(self) -> None:
        self.spool = Spool(self.directory, Bridge(), log=self.log)
        self.spool.open()
        self.courier = Courier(reactor, self.resolve, "gw.example.com", limits=LIMITS)
        self.dispatcher = Dispatcher(
            reactor,
            self.spool,
            self.courier,
            lambda _: Hop((NextHop("sink", hosts=(HostPort("127.0.0.1", 25),)),)),
            self.write_report,
            self.log,
            retry_policy=RetryPolicy(Schedule.parse("1s")),
            limits=LIMITS,
        )
        self.spool.on_change = self.dispatcher.changed
        self.spool.on_recovery = self.dispatcher.recovered
        self.dispatcher.start()

    async def end(self) -> None:
        await self.dispatcher.stop(0.2)
        await self.spool.close()
        while self.courier.connections:
            await deferLater(reactor, 0.01, lambda: None)

    def resolve(self, hop: NextHop | str) -> Awaitable[Sequence[Endpoint]]:
        return succeed([Endpoint("sink.example", "127.0.0.1", self.sink.port)])

    def write_report(self, report: Report | Smaller) -> NewMessage:
        ident = self.spool.new_ident()
        if isinstance(report, Smaller):
            return NewMessage(ident, report.content, report.submission)
        written = write(
            report,
            ident=ident,
            hostname="gw.example.com",
            now=time.time(),
            route=lambda mailbox: (Recipient(mailbox, mailbox, "sink"),),
        )
        return NewMessage(ident, written.content, written.submission)

    async def submit(self, *recipients: str) -> None:
        draft = self.spool.create()
        content = b"Subject: " + "+".join(recipients).encode() + b"\r\n\r\nhello\r\n"
        draft.write(content)
        submission = Submission(
            Envelope(Mailbox.parse("alice@example.org")),
            Client("192.0.2.1"),
            tuple(a_recipient(each) for each in recipients),
            header_size=content.index(b"\r\n\r\n") + 4,
            eight_bit=False,
            utf8_header=False,
        )
        self.dispatcher.accept(*await draft.commit(submission))

    async def empty(self) -> None:
        for _ in range(2000):
            counts = await self.spool.counts()
            if not counts.queued:
                return
            await deferLater(reactor, 0.01, lambda: None)
        raise AssertionError(counts, list(self.dispatcher.lanes()))

    async def test_each_arrives_once(self) -> None:
        for number in range(200):
            await self.submit(f"user{number}@example.com")
        await self.empty()
        self.assertEqual(
            sorted(each.recipients[0] for each in self.sink.arrived),
            sorted(f"user{number}@example.com" for number in range(200)),
        )

    async def test_a_next_hop_that_is_down_across_a_restart(self) -> None:
        self.sink.kill()
        for number in range(200):
            await self.submit(f"user{number}@example.com")
        self.assertEqual((await self.spool.counts()).queued, 200)
        await self.end()
        self.begin()
        self.sink.start()
        self.dispatcher.retry()
        await self.empty()
        self.assertEqual(len(self.sink.arrived), 200)
        self.assertEqual(len({each.recipients for each in self.sink.arrived}), 200)

    async def test_a_refusal_becomes_a_report_to_the_sender(self) -> None:
        await self.submit("user@example.com", "nobody@example.com")
        await self.empty()
        first, report = self.sink.arrived
        self.assertEqual(first.recipients, ("user@example.com",))
        self.assertEqual((report.sender, report.recipients), ("", ("alice@example.org",)))
        self.assertIn(b"nobody@example.com", report.content)

    async def test_the_operator_retries(self) -> None:
        self.sink.kill()
        self.dispatcher.apply(RetryPolicy(Schedule.parse("1h")), LIMITS)
        await self.submit("user@example.com")
        while not self.log.attempts:
            await deferLater(reactor, 0.01, lambda: None)
        self.sink.start()
        self.assertEqual(await self.spool.retry(QueueFilter()), 1)
        await self.empty()
        self.assertEqual(len(self.sink.arrived), 1)
