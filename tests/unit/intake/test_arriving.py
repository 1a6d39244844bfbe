"""The message that arrives, by itself: what it makes of content, and what is left when it fails."""

from __future__ import annotations

import unittest
from dataclasses import replace

from relayd.intake.arriving import ArrivingMessage
from relayd.intake.intake import ReceptionLimits
from relayd.intake.policy import RELAY, ListenerPolicy
from relayd.intake.transaction import ReceivedTransaction
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope
from relayd.mail.reply import Reply
from relayd.spool.errors import SpoolError, SpoolFull
from tests.unit.intake.scene import RULES, FakeDraft, Scene

NO = Reply.of(550, "5.7.1", "Not this")


class Scan:
    """Sees content while it arrives, as far as it takes it."""

    def __init__(self) -> None:
        self.seen = b""
        self.full = self.refused = False

    @property
    def sent(self) -> int:
        return len(self.seen)

    def push(self, piece: bytes) -> None:
        self.seen += piece


class Arriving(unittest.TestCase):
    def setUp(self) -> None:
        self.scene = Scene(limits=ReceptionLimits(header_size=100_000))

    def message(
        self, policy: ListenerPolicy = RELAY, *, keeps_header: bool = False
    ) -> ArrivingMessage:
        transaction = ReceivedTransaction(Envelope(None), Client("192.0.2.1"), 0.0, RULES)
        intake = self.scene.intake
        return ArrivingMessage(intake, transaction, None, None, policy, keeps_header=keeps_header)

    def content(self, message: ArrivingMessage) -> bytes:
        """What is in the draft below our trace field."""
        draft = message.draft
        assert isinstance(draft, FakeDraft)
        self.assertTrue(draft.content.startswith(message.trace))
        return draft.content[len(message.trace) :]

    def test_content_in_any_pieces_is_the_same_content(self) -> None:
        for content in (b"Subject: x\r\n\r\nbody\r\n", b"\r\nbody\r\n", b"Subject: x\r\n"):
            for size in (1, 3, 1000):
                message = self.message(keeps_header=True)
                for at in range(0, len(content), size):
                    message.receive(content[at : at + size])
                self.assertIsNone(message.end())
                self.assertEqual(self.content(message), content)
                self.assertEqual(message.section_size, len(message.section))
                self.assertTrue(content.startswith(message.section))

    def test_what_has_no_field_stands_behind_an_empty_line(self) -> None:
        message = self.message()
        message.receive(b"only")
        self.assertEqual(self.content(message), b"")  # it may yet become a field
        self.assertIsNone(message.end())
        self.assertEqual(self.content(message), b"\r\nonly")
        self.assertEqual(message.section_size, 2)

    def test_completed_the_section_is_what_is_in_the_draft(self) -> None:
        message = self.message(replace(RELAY, submission=True, origin="example.org"))
        message.receive(b"From: ann\r\n\r\nbody\r\n")
        self.assertIsNone(message.end())
        self.assertIn(b"From: ann@example.org\r\n\r\n", message.section)
        self.assertEqual(self.content(message), message.section + b"body\r\n")

    def test_whoever_sees_it_early_sees_each_octet_once(self) -> None:
        message, scan = self.message(), Scan()
        message.scans = [scan]
        message.receive(b"Sub")
        self.assertEqual(scan.seen, b"")  # held back
        message.receive(b"ject: x\r\n\r\nfirst\r\n")
        scan.full = True
        message.receive(b"second\r\n")
        self.assertNotIn(b"second", scan.seen)
        scan.full = False
        message.receive(b"third\r\n")
        self.assertEqual(scan.seen, b"Subject: x\r\n\r\nfirst\r\nsecond\r\nthird\r\n")
        self.assertEqual(scan.seen, self.content(message))

    def test_failed_it_holds_nothing_and_swallows_the_rest(self) -> None:
        message = self.message(keeps_header=True)
        message.receive(b"Subject: " + b"x" * 50_000)
        self.assertGreater(self.scene.intake.memory.held, 0)
        message.fail(NO)
        self.assertEqual((self.scene.intake.memory.held, message.header.held), (0, 0))
        message.receive(b"more\r\n\r\n")
        self.assertEqual((message.end(), message.header.held), (NO, 0))
        self.assertTrue(self.scene.spool.drafts[0].rolled_back)

    def test_rolled_back_it_holds_nothing(self) -> None:
        message = self.message(keeps_header=True)
        message.receive(b"Subject: " + b"x" * 50_000)
        message.rollback()
        self.assertEqual(self.scene.intake.memory.held, 0)
        self.assertTrue(self.scene.spool.drafts[0].rolled_back)

    def test_a_spool_that_fails_is_our_trouble(self) -> None:
        message = self.message()
        self.scene.spool.write_error = SpoolFull("no room")
        message.receive(b"Subject: x\r\n\r\n")
        self.assertEqual(str(message.end())[:9], "452 4.3.1")
        with self.assertRaises(SpoolError):
            self.message()
        self.assertTrue(self.scene.spool.drafts[-1].rolled_back)
