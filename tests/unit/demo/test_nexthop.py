"""The demonstration's next hop: what it stores is what it was sent, and 250 comes after."""

from __future__ import annotations

import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport

from relayd.demo.nexthop import MaildirFactory, Stored
from tests.support import TestCase


class NextHop(TestCase):
    async def test_message_is_in_the_maildir_when_250_is_said(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            stored: Deferred[Stored] = Deferred()
            factory = MaildirFactory(Path(folder) / "Maildir", stored.callback)
            session = factory.buildProtocol(None)
            transport = StringTransport()
            session.makeConnection(transport)
            session.dataReceived(
                b"EHLO c.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"
                b"Subject: x\r\n\r\n..dot\r\n.\r\n"
            )
            self.assertTrue(transport.value().endswith(b"354 Go on\r\n"))
            result = await stored
            self.assertIn(b"\r\n250 2.0.0 Stored as ", transport.value())
            self.assertEqual(result.content, b"Subject: x\r\n\r\n.dot\r\n")
            self.assertEqual(
                result.path.read_bytes(), b"Return-Path: <a@b.example>\nSubject: x\n\n.dot\n"
            )
            self.assertEqual(result.recipients, ("c@d.example",))
            session.dataReceived(b"QUIT\r\n")
            self.assertTrue(transport.disconnecting)
