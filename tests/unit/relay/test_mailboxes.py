"""Mailboxes at next hops: asked for on loopback, remembered, and never asked for too often."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from relayd.mail.address import Mailbox
from relayd.mail.delivery import Delivery
from relayd.mail.nexthop import HostPort, NextHop
from relayd.mail.outcome import Blame, Outcome, failed, postponed
from relayd.reactor.coroutine import promise
from relayd.relay.courier import Hop
from relayd.relay.limits import RelayLimits
from relayd.relay.mailboxes import (
    AT_A_TIME,
    DOWN,
    FRESH,
    PAUSE,
    STALE,
    WAITING,
    MailboxVerification,
    _delivery,
)
from tests.support import TestCase
from tests.unit.intake.scene import FakeLog
from tests.unit.relay.test_smtpout import CourierCase, says

EXCHANGE = NextHop("exchange", hosts=(HostPort("192.0.2.25", 25),))
BOB, NOBODY, CARL = (Mailbox(name, "example.com") for name in ("bob", "nobody", "carl"))
SILENT = postponed("4.4.1", "Connection refused")
FULL = postponed("4.2.2", "Mailbox full", blame=Blame.RECIPIENT)


class FakeCourier:
    """Says what it is told to; each question waits for `go_on`."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.says: dict[Mailbox, bool | Outcome] = {BOB: True, CARL: FULL}
        self.down: Outcome | None = None
        self.waiting: list[Deferred[None]] = []
        self.slow = False

    async def verify(self, delivery: Delivery, hop: Hop) -> Sequence[bool | Outcome]:
        assert delivery.verifies
        assert delivery.reverse_path is None
        boxes = [record.recipient.mailbox for record in delivery.records]
        self.asked.append([str(each) for each in boxes])
        if self.slow:
            self.waiting.append(Deferred())
            await self.waiting[-1]
        return [self.down or self.says.get(each, False) for each in boxes]

    def abort(self) -> None:
        pass


class Remembered(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.clock, self.log, self.courier = Clock(), FakeLog(), FakeCourier()
        self.clock.advance(1_800_000_000)
        self.verification = self.opened()

    def opened(self) -> MailboxVerification:
        courier: Any = self.courier
        reactor: Any = self.clock
        verification = MailboxVerification(
            reactor, courier, self.folder, self.log, self.clock.seconds
        )
        self.addCleanup(verification.stop)
        return verification

    def ask(self, mailbox: Mailbox, hop: NextHop = EXCHANGE) -> Deferred[bool | None]:
        return promise(self.verification.exists(hop, mailbox))

    def said(self, mailbox: Mailbox) -> bool | None:
        answer = self.successResultOf(self.ask(mailbox))
        self.clock.advance(PAUSE)
        return answer

    def test_yes_no_and_nobody_can_say(self) -> None:
        self.assertEqual([self.said(each) for each in (BOB, NOBODY, CARL)], [True, False, None])

    def test_what_is_known_is_not_asked_again_until_it_is_old(self) -> None:
        for mailbox, exists in ((BOB, True), (NOBODY, False)):
            self.courier.asked.clear()
            self.said(mailbox)
            self.clock.advance(FRESH[exists] - 10)
            self.said(mailbox)
            self.assertEqual(len(self.courier.asked), 1)
            self.clock.advance(10)
            self.said(mailbox)
            self.assertEqual(len(self.courier.asked), 2)

    def test_it_is_believed_for_longer_while_the_next_hop_is_down(self) -> None:
        self.assertEqual([self.said(BOB), self.said(NOBODY)], [True, False])
        self.courier.down = SILENT
        self.clock.advance(FRESH[True])
        self.assertTrue(self.said(BOB))
        self.assertIsNone(self.said(NOBODY))  # may have been made since
        self.clock.advance(STALE[True])
        self.assertIsNone(self.said(BOB))

    def test_all_workers_and_who_comes_after_a_crash_know_it(self) -> None:
        self.said(BOB)
        self.verification = self.opened()
        self.courier.down = SILENT
        self.assertTrue(self.said(BOB))

    def test_another_definition_of_the_next_hop_is_another_one(self) -> None:
        self.said(BOB)
        moved = NextHop("exchange", hosts=(HostPort("192.0.2.26", 25),))
        self.successResultOf(self.ask(BOB, moved))
        self.assertEqual(len(self.courier.asked), 2)

    def test_a_next_hop_that_is_down_is_left_alone_for_a_while_and_told_once(self) -> None:
        self.courier.down = SILENT
        self.assertEqual([self.said(BOB) for _ in range(5)], [None] * 5)
        self.assertEqual(len(self.courier.asked), 1)
        (told,) = self.log.of("trouble")
        self.assertIn("'next_hop': 'exchange'", told)
        self.courier.down = None
        self.clock.advance(DOWN)
        self.assertTrue(self.said(BOB))

    def test_new_rules_try_it_at_once(self) -> None:
        self.courier.down = SILENT
        self.said(BOB)
        self.courier.down = None
        self.verification.apply([EXCHANGE])
        self.assertTrue(self.said(BOB))

    def test_one_mailbox_that_is_put_off_is_no_trouble_of_the_others(self) -> None:
        self.assertIsNone(self.said(CARL))
        self.assertTrue(self.said(BOB))
        self.assertEqual(self.log.of("trouble"), [])

    def test_a_next_hop_that_refuses_our_question_is_told_and_asked_for_the_next(self) -> None:
        self.courier.says[CARL] = failed("5.7.1", "No null senders")
        self.assertEqual([self.said(CARL), self.said(CARL), self.said(BOB)], [None, None, True])
        (told,) = self.log.of("trouble")
        self.assertIn("No null senders", told)

    def test_one_transaction_at_a_time_asks_for_all_who_wait(self) -> None:
        self.courier.slow = True
        waiting = [self.ask(Mailbox(f"m{number}", "example.com")) for number in range(50)]
        waiting += [self.ask(Mailbox("m0", "example.com")) for _ in range(3)]
        self.assertEqual(self.courier.asked, [["m0@example.com"]])
        self.courier.slow = False
        self.courier.waiting[0].callback(None)
        self.clock.pump([PAUSE] * 5)
        self.assertEqual([len(each) for each in self.courier.asked], [1, AT_A_TIME, AT_A_TIME, 9])
        self.assertEqual([self.successResultOf(each) for each in waiting], [False] * 53)

    def test_they_are_paced(self) -> None:
        asked = [self.ask(Mailbox(f"m{number}", "example.com")) for number in range(200)]
        self.clock.pump([PAUSE / 10] * 45)
        self.assertLessEqual(len(self.courier.asked), 6)
        self.clock.pump([PAUSE] * 8)
        self.assertEqual([self.successResultOf(each) for each in asked], [False] * 200)

    def test_who_waits_is_bounded(self) -> None:
        self.courier.slow = True
        asked = [self.ask(Mailbox(f"m{n}", "example.com")) for n in range(WAITING + 10)]
        self.assertEqual([self.successResultOf(each) for each in asked[-10:]], [None] * 10)
        self.assertNoResult(asked[WAITING - 1])
        self.verification.apply([])  # the next hop is gone: nobody waits for ever
        self.assertEqual([self.successResultOf(each) for each in asked[:10]], [None] * 10)
        self.courier.waiting[0].callback(None)
        self.clock.advance(PAUSE)

    def test_who_has_gone_is_not_told(self) -> None:
        self.courier.slow = True
        gone, stays = self.ask(BOB), self.ask(BOB)
        gone.addErrback(lambda _: None)
        gone.cancel()
        self.courier.waiting[0].callback(None)
        self.assertTrue(self.successResultOf(stays))
        self.clock.advance(PAUSE)

    def test_without_memory_it_is_asked_each_time(self) -> None:
        (self.folder / "mailboxes").write_text("a file")
        self.assertEqual([self.said(BOB), self.said(BOB)], [True, True])
        self.assertEqual(len(self.courier.asked), 2)
        self.assertEqual(len(self.log.of("trouble")), 1)


class Asking(CourierCase):
    """A courier asks a server on loopback."""

    async def verified(self, *boxes: Mailbox) -> list[bool | str]:
        found = await self.courier.verify(_delivery(EXCHANGE, boxes), Hop((EXCHANGE,)))
        return [str(each.reply) if isinstance(each, Outcome) else each for each in found]

    async def test_it_says_which_recipients_it_takes_and_gets_no_content(self) -> None:
        sink = self.sink(says("rcpt", "550 5.1.1 No such user", argument="nobody@"))
        self.assertEqual(await self.verified(BOB, NOBODY), [True, False])
        self.assertEqual(await self.verified(NOBODY, BOB), [False, True])
        self.assertEqual((sink.sessions, sink.arrived), (1, []))

    async def test_by_lmtp_too(self) -> None:
        sink = self.sink(says("rcpt", "550 5.1.1 No such user", argument="nobody@"), lmtp=True)
        hop = NextHop("store", "lmtp", (HostPort("192.0.2.25", 24),))
        found = await self.courier.verify(_delivery(hop, [BOB, NOBODY]), Hop((hop,)))
        self.assertEqual((found, sink.arrived), ([True, False], []))

    async def test_what_says_that_there_is_no_such_mailbox(self) -> None:
        for reply, found in (
            ("550 5.1.1 User unknown", False),
            ("550 5.1.10 RESOLVER.ADR.RecipientNotFound", False),
            ("550 5.4.1 Recipient address rejected: Access denied", False),
            ("550 5.2.1 Disabled", False),
            ("550 No such user here", False),
            ("553 sorry, no mailbox here by that name", False),
            ("550 relaying denied", None),
            ("550 5.7.1 Unable to relay", None),
            ("550 5.7.1 Rejected by policy", None),
            ("530 5.7.0 Authentication required", None),
            ("554 5.3.2 Not now", None),
            ("451 4.7.1 Greylisted", None),
            ("452 4.2.2 Mailbox full", None),
        ):
            with self.subTest(reply):
                self.endpoints.clear()
                self.courier = self.a_courier()
                self.sink(says("rcpt", reply))
                (said,) = await self.verified(BOB)
                self.assertEqual(said if isinstance(said, bool) else None, found)

    async def test_what_is_said_before_rcpt_says_nothing_of_mailboxes(self) -> None:
        for stage, reply in (
            ("mail", "550 5.1.8 No null senders"), ("mail", "550 No such user here"),
            ("connect", "554 No"), ("hello", "550 No"), ("mail", "421 Bye"),
        ):  # fmt: skip
            with self.subTest(stage, reply=reply):
                self.endpoints.clear()
                self.courier = self.a_courier(limits=RelayLimits(connect=1.0))
                self.sink(says(stage, reply))
                (said,) = await self.verified(BOB)
                self.assertIsInstance(said, str)

    async def test_the_next_host_is_asked_where_one_is_down(self) -> None:
        self.dead()
        self.sink(says("rcpt", "550 5.1.1 No such user", argument="nobody@"))
        self.assertEqual(await self.verified(BOB, NOBODY), [True, False])
