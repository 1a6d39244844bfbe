from __future__ import annotations

import unittest
from typing import Any
from unittest import mock

from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from relayd.intake import factory
from relayd.intake.limits import Deadlines, SessionLimits
from relayd.intake.reception import Reception
from relayd.intake.session import GULP, SIP
from relayd.mail.message import RecipientState
from relayd.smtp.exchange import ServerLimits
from relayd.smtp.extensions import Offer
from relayd.smtp.server import SmtpServer
from relayd.spool.errors import SpoolError, SpoolFull
from tests.unit.intake.scene import CONTENT, HOST, Scene, message

LONG_NOOP = b"NOOP " + b"x" * 2000 + b"\r\n"


class Dialogues(unittest.TestCase):
    def setUp(self) -> None:
        self.scene = Scene()

    def test_one_message(self) -> None:
        scene = self.scene
        peer = scene.connect()
        self.assertEqual(peer.replies(), [f"220 {HOST} ESMTP relayd"])
        self.assertEqual(peer.say("EHLO client.example")[0], f"250-{HOST}")
        self.assertEqual(peer.say("MAIL FROM:<s@example.org>"), ["250 2.1.0 Ok"])
        self.assertEqual(peer.say("RCPT TO:<alice@example.com>"), ["250 2.1.5 Ok"])
        self.assertEqual(peer.say("DATA"), ["354 End data with <CR><LF>.<CR><LF>"])
        (reply,) = peer.say(*CONTENT)
        self.assertRegex(reply, r"^250 2\.0\.0 queued as [0-9A-Z]{12}$")
        self.assertRegex(peer.say("QUIT")[0], "^221 ")
        self.assertTrue(peer.told_to_go)
        peer.leave()
        ((stored, submission),) = scene.spool.stored
        self.assertEqual(
            b"".join(stored.content.chunks()),
            b"Received: from client.example (unknown [192.0.2.1])\r\n"
            b" by gw.example.com (relayd) with ESMTP id " + str(stored).encode() + b"\r\n"
            b" for <alice@example.com>;\r\n Sat, 22 Nov 2025 05:04:00 +0000\r\n"
            b"Subject: test\r\n\r\nHello.\r\n",
        )
        self.assertEqual(reply.split()[-1], str(stored))
        self.assertEqual(b"".join(stored.content.chunks(submission.header_size)), b"Hello.\r\n")
        self.assertEqual(len(scene.handed_over), 1)
        self.assertEqual(scene.log.of("accepted"), [f"{stored} 1"])
        self.assertEqual(scene.log.of("session"), ["192.0.2.1 messages=1 refused=0 0s quit"])
        self.assertEqual((scene.admission.in_all, scene.service.sessions), (0, set()))
        self.assertEqual(scene.clock.getDelayedCalls(), [])

    def test_no_memory_at_the_end_of_a_session_leaves_nobody_counted(self) -> None:
        for place in ("log", "rollback"):
            scene = self.scene
            peer = scene.connect()
            peer.replies()
            target = scene.log if place == "log" else Reception
            name = "session" if place == "log" else "rollback"
            with (
                mock.patch.object(target, name, side_effect=MemoryError),
                self.assertRaises(MemoryError),
            ):
                peer.leave()
            self.assertEqual((scene.admission.in_all, scene.service.sessions), (0, set()))
            self.assertEqual(scene.clock.getDelayedCalls(), [])

    def test_no_memory_for_a_session_leaves_nobody_counted(self) -> None:
        with (
            mock.patch.object(factory, "Session", side_effect=MemoryError),
            self.assertRaises(MemoryError),
        ):
            self.scene.connect()
        self.assertEqual(self.scene.admission.in_all, 0)

    def test_no_memory_to_say_421_closes(self) -> None:
        peer = self.scene.greeted()
        with (
            mock.patch.object(Reception, "receive", side_effect=MemoryError),
            mock.patch.object(SmtpServer, "fail", side_effect=MemoryError),
        ):
            peer.say("MAIL FROM:<s@example.org>")
        self.assertTrue(peer.told_to_go)

    def test_a_device_that_does_not_say_who_it_is(self) -> None:
        peer = self.scene.connect()
        peer.replies()
        for hello in (b"HELO", b"HELO ", b"EHLO caf\xe9"):
            self.assertEqual(peer.say(hello)[0][:3], "501")
        peer.say("MAIL FROM: s@example.org", "RCPT TO: a..b@example.com", "DATA")
        self.assertEqual(peer.say(*CONTENT, "QUIT")[0][:3], "250")
        ((stored, submission),) = self.scene.spool.stored
        self.assertEqual((stored.client.helo, stored.client.protocol), ("", "SMTP"))
        self.assertEqual(str(submission.recipients[0].mailbox), '"a..b"@example.com')
        self.assertTrue(
            b"".join(stored.content.chunks()).startswith(
                b"Received: from [192.0.2.1] (unknown [192.0.2.1])\r\n"
                b" by gw.example.com (relayd) with SMTP id " + str(stored).encode() + b"\r\n"
                b' for <"a..b"@example.com>;\r\n'
            )
        )

    def test_who_ends_lines_with_lf_alone_is_answered_and_cut_off_in_the_end(self) -> None:
        peer = self.scene.connect()
        peer.replies()
        for _ in range(20):
            self.assertEqual(peer.send(b"EHLO client.example\n")[0][:9], "500 5.5.2")
        self.assertEqual(peer.send(b"EHLO client.example\n")[0][:3], "421")
        self.assertTrue(peer.told_to_go)

    def test_a_strict_listener_wants_the_letter_and_says_so(self) -> None:
        self.scene.listen(strict=True)
        peer = self.scene.connect()
        peer.replies()
        self.assertEqual(peer.say("MAIL FROM:<s@example.org>")[0][:3], "503")
        peer.say("EHLO client.example")
        for wrong in ("MAIL FROM: <s@example.org>", "MAIL FROM:s@example.org"):
            self.assertEqual(
                peer.say(wrong),
                ["501 5.5.4 Not as RFC 5321 spells it, and this listener is strict"],
            )
        self.assertEqual(peer.say("MAIL FROM:<s@example.org>")[0][:3], "250")

    def test_all_at_once_is_answered_in_two_writes(self) -> None:
        peer = self.scene.greeted()
        peer.writes = 0
        replies = peer.say(*message("alice@example.com", "bob@example.com"))
        self.assertEqual([reply[:3] for reply in replies], ["250", "250", "250", "354"])
        self.assertEqual(peer.writes, 1)
        replies = peer.say(*CONTENT, *message(), *CONTENT, "QUIT")
        self.assertEqual(
            [reply[:3] for reply in replies], ["250", "250", "250", "354", "250", "221"]
        )
        self.assertEqual(peer.writes, 2)
        self.assertEqual(len(self.scene.spool.stored), 2)

    def test_byte_by_byte(self) -> None:
        peer = self.scene.greeted()
        octets = "\r\n".join([*message(), *CONTENT, "QUIT", ""]).encode()
        for at in range(len(octets)):
            peer.protocol.dataReceived(octets[at : at + 1])
        self.assertEqual(
            [reply[:3] for reply in peer.replies()], ["250", "250", "354", "250", "221"]
        )

    def test_bdat(self) -> None:
        peer = self.scene.greeted()
        replies = peer.send(
            b"MAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\n"
            b"BDAT 8\r\nA: b\r\n\r\nBDAT 5 LAST\r\nno.\nd".replace(b".\n", b"..")
        )
        self.assertEqual([reply[:3] for reply in replies], ["250", "250", "250", "250"])
        ((stored, submission),) = self.scene.spool.stored
        content = b"".join(stored.content.chunks())
        self.assertTrue(content.endswith(b"A: b\r\n\r\nno..d"))
        self.assertEqual(submission.header_size, len(content) - 5)

    def test_a_last_chunk_without_an_octet_is_answered_at_once(self) -> None:
        peer = self.scene.greeted()
        peer.say(*message()[:-1])
        self.assertEqual(peer.send(b"BDAT 8\r\nA: b\r\n\r\n")[0][:3], "250")
        self.assertEqual(peer.send(b"BDAT 0\r\n")[0][:3], "250")
        self.assertIn("queued as", peer.send(b"BDAT 0 LAST\r\n")[0])

    def test_dot_lines_come_unstuffed(self) -> None:
        peer = self.scene.greeted()
        peer.say(*message())
        peer.say("Subject: x", "", "..", "..a", ".")
        self.assertTrue(
            b"".join(self.scene.spool.stored[0][0].content.chunks()).endswith(b"\r\n.\r\n.a\r\n")
        )

    def test_vrfy_tells_nothing(self) -> None:
        self.assertRegex(self.scene.greeted().say("VRFY alice")[0], "^252 2.5.0 ")

    def test_starttls_is_not_there_without_a_certificate(self) -> None:
        self.assertRegex(self.scene.greeted().say("STARTTLS")[0], "^5")

    def test_core_refusals_are_logged_and_counted(self) -> None:
        peer = self.scene.greeted()
        peer.say("FROB x")
        peer.leave()
        self.assertIn("unknown, 6 octets -> 5", self.scene.log.of("refused")[0])
        self.assertIn("refused=1", self.scene.log.of("session")[0])

    def test_too_many_errors_end_the_session(self) -> None:
        peer = self.scene.greeted()
        for _ in range(30):
            peer.say("FROB")
        self.assertTrue(peer.told_to_go)
        peer.leave()
        self.assertIn(" 421", self.scene.log.of("session")[0])

    def test_guessing_mailboxes_ends_the_session(self) -> None:
        scene = Scene(session=ServerLimits(refusals=3))
        peer = scene.greeted()
        peer.say("MAIL FROM:<>")
        replies = [peer.say(f"RCPT TO:<refuse{n}@example.com>")[0][:3] for n in range(4)]
        self.assertEqual(replies, ["550", "550", "550", "421"])
        self.assertTrue(peer.told_to_go)

    def test_a_bug_is_said_as_421_and_logged(self) -> None:
        def broken(*_: object) -> None:
            raise KeyError("bug")

        self.scene.change(decide=broken)
        peer = self.scene.greeted()
        replies = peer.say(*message())
        self.assertEqual([reply[:9] for reply in replies], ["250 2.1.0", "421 4.3.0"])
        self.assertTrue(peer.told_to_go)
        self.assertIn("KeyError", self.scene.log.of("trouble")[0])

    def test_a_bug_at_the_end_of_content_leaves_no_draft(self) -> None:
        def broken(*_: object) -> None:
            raise KeyError("bug")

        self.scene.change(edit=broken)
        peer = self.scene.greeted()
        peer.say(*message("rewritten@example.com"))
        self.assertEqual([reply[:9] for reply in peer.say(*CONTENT)], ["421 4.3.0"])
        self.assertTrue(peer.told_to_go)
        self.assertTrue(self.scene.spool.drafts[0].rolled_back)
        self.assertEqual(self.scene.spool.waiting, [])


class SlowCommits(unittest.TestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.scene.spool.slow = True
        self.peer = self.scene.greeted()

    def test_nothing_is_answered_before_the_commit(self) -> None:
        peer, spool = self.peer, self.scene.spool
        self.assertEqual(len(peer.say(*message())), 3)
        self.assertEqual(peer.say(*CONTENT), [])
        self.assertEqual(peer.say("NOOP", "MAIL FROM:<>", "RSET"), [])
        self.assertEqual(peer.say("QUIT"), [])
        self.assertEqual(self.scene.handed_over, [])
        peer.writes = 0
        spool.finish()
        replies = peer.replies()
        self.assertEqual([reply[:9] for reply in replies[:4]], [
            "250 2.0.0", "250 2.0.0", "250 2.1.0", "250 2.0.0",
        ])  # fmt: skip
        self.assertIn("queued as", replies[0])
        self.assertEqual(replies[4][:3], "221")
        self.assertEqual(peer.writes, 1)

    def test_pipelined_transactions_keep_their_order(self) -> None:
        peer, spool = self.peer, self.scene.spool
        batch = [line for _ in range(5) for line in (*message(), *CONTENT)]
        said = [reply[:3] for reply in peer.say(*batch)]
        for _ in range(5):
            self.assertEqual(len(spool.waiting), 1)
            spool.finish()
            said += [reply[:3] for reply in peer.replies()]
        self.assertEqual(said, ["250", "250", "354", "250"] * 5)

    def test_input_beyond_the_high_water_mark_pauses_the_transport(self) -> None:
        peer = self.peer
        peer.say(*message())
        peer.say(*CONTENT)
        peer.send(LONG_NOOP * 15)
        self.assertEqual(peer.transport.producerState, "producing")
        peer.send(LONG_NOOP * 30)
        self.assertEqual(peer.transport.producerState, "paused")
        self.scene.spool.finish()
        self.assertEqual(peer.transport.producerState, "producing")
        self.assertEqual(len(peer.replies()), 46)

    def test_only_content_that_comes_fast_is_read_in_gulps(self) -> None:
        peer, transport = self.peer, self.peer.transport
        full = b"x" * 78 + b"\r\n"
        sizes = []
        for octets in (
            LONG_NOOP * (SIP // len(LONG_NOOP) + 1),
            b"".join(line.encode() + b"\r\n" for line in message()),
            full * (SIP // 80 + 1),
            full,
            full * (GULP // 80 + 1),
            full + b".\r\n",
        ):
            peer.send(octets)
            sizes.append(transport.bufferSize)  # type: ignore[attr-defined]
        self.assertEqual(sizes, [SIP, SIP, GULP, SIP, GULP, SIP])

    def test_the_peer_leaves_during_the_commit(self) -> None:
        peer, spool = self.peer, self.scene.spool
        peer.say(*message())
        peer.say(*CONTENT)
        peer.leave()
        spool.finish()
        self.assertEqual(len(self.scene.handed_over), 1)
        self.assertFalse(spool.drafts[0].rolled_back)
        self.assertEqual(peer.replies(), [])

    def test_the_peer_leaves_during_the_content(self) -> None:
        peer = self.peer
        peer.say(*message())
        peer.say("Subject: half")
        peer.leave()
        self.assertTrue(self.scene.spool.drafts[0].rolled_back)
        self.assertEqual(self.scene.spool.waiting, [])

    def test_a_long_commit_is_not_timed_out(self) -> None:
        peer = self.peer
        peer.say(*message())
        peer.say(*CONTENT)
        self.scene.clock.pump([100] * 60)
        self.assertFalse(peer.told_to_go)
        self.scene.spool.finish()
        self.assertEqual(peer.replies()[0][:3], "250")
        self.scene.clock.pump([10] * 20)
        self.assertFalse(peer.told_to_go)

    def test_shutdown_waits_for_the_commit(self) -> None:
        peer, other = self.peer, self.scene.greeted("192.0.2.7")
        peer.say(*message())
        peer.say(*CONTENT, "MAIL FROM:<>")
        self.scene.service.close()
        self.assertEqual(other.replies(), [f"421 4.3.2 {HOST} is shutting down"])
        self.assertTrue(other.told_to_go)
        self.assertEqual(peer.replies(), [])
        self.assertFalse(peer.told_to_go)
        self.scene.spool.finish()
        self.assertEqual([reply[:9] for reply in peer.replies()], ["250 2.0.0", "421 4.3.2"])
        self.assertTrue(peer.told_to_go)
        self.assertEqual(len(self.scene.handed_over), 1)

    def test_shutdown_in_the_middle_of_content(self) -> None:
        peer = self.peer
        peer.say(*message())
        peer.say("Subject: half")
        self.scene.service.close()
        self.assertEqual([reply[:3] for reply in peer.replies()], ["421"])
        self.assertTrue(self.scene.spool.drafts[0].rolled_back)
        peer.leave()
        self.assertIn("shutdown", self.scene.log.of("session")[0])


class Retiring(unittest.TestCase):
    def test_a_session_at_rest_goes_now_and_another_after_its_transaction(self) -> None:
        scene = Scene()
        resting, busy, slow, fresh = (scene.greeted(f"192.0.2.{n}") for n in range(4))
        resting.say(*message())
        resting.say(*CONTENT)
        busy.say(*message())
        slow.say("MAIL FROM:<>")
        scene.service.retire()
        self.assertEqual(resting.replies(), [f"421 4.3.2 {HOST} is shutting down"])
        self.assertTrue(resting.told_to_go)
        self.assertFalse(busy.told_to_go)
        self.assertEqual([r[:3] for r in busy.say(*CONTENT)], ["250", "421"])
        self.assertTrue(busy.told_to_go)
        self.assertEqual([r[:3] for r in slow.say("RCPT TO:<a@example.com>")], ["250"])
        self.assertEqual([r[:3] for r in slow.say("RSET")], ["250"])
        for peer in (slow, fresh):  # nothing was taken from them yet
            self.assertFalse(peer.told_to_go)
            peer.say(*message())
            self.assertEqual([r[:3] for r in peer.say(*CONTENT)], ["250", "421"])
            self.assertTrue(peer.told_to_go)
        self.assertEqual(len(scene.handed_over), 4)

    def test_a_commit_under_way_is_answered_first(self) -> None:
        scene = Scene()
        scene.spool.slow = True
        peer = scene.greeted()
        peer.say(*message())
        peer.say(*CONTENT)
        scene.service.retire()
        self.assertEqual(peer.replies(), [])
        scene.spool.finish()
        self.assertEqual([r[:3] for r in peer.replies()], ["250", "421"])


class SlowReaders(unittest.TestCase):
    def test_no_more_replies_are_made_than_the_peer_takes(self) -> None:
        scene = Scene()
        peer = scene.greeted()
        self.assertIs(peer.transport.producer, peer.protocol)
        self.assertTrue(peer.transport.streaming)
        peer.protocol.pauseProducing()  # type: ignore[attr-defined]
        self.assertEqual(peer.transport.producerState, "paused")
        self.assertEqual(peer.say("NOOP"), [])
        peer.protocol.resumeProducing()  # type: ignore[attr-defined]
        self.assertEqual(len(peer.replies()), 1)
        self.assertEqual(peer.transport.producerState, "producing")

    def test_a_commit_ends_while_the_peer_does_not_read(self) -> None:
        scene = Scene()
        scene.spool.slow = True
        peer = scene.greeted()
        peer.say(*message())
        peer.say(*CONTENT, "NOOP")
        peer.protocol.pauseProducing()  # type: ignore[attr-defined]
        scene.spool.finish()
        self.assertEqual(peer.transport.producerState, "paused")
        peer.protocol.resumeProducing()  # type: ignore[attr-defined]
        self.assertEqual(len(peer.replies()), 2)


class Deadlined(unittest.TestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.clock = self.scene.clock

    def test_a_silent_client(self) -> None:
        peer = self.scene.connect()
        peer.replies()
        self.clock.advance(299)
        self.assertEqual(peer.replies(), [])
        self.clock.advance(2)
        self.assertEqual(peer.replies(), [f"421 4.4.2 {HOST} timed out waiting for you"])
        self.assertTrue(peer.told_to_go)
        self.assertFalse(peer.transport.disconnected)
        self.clock.advance(10)
        self.assertTrue(peer.transport.disconnected)  # it never closed: aborted
        peer.leave()
        self.assertIn("timeout", self.scene.log.of("session")[0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_command_line_in_drips(self) -> None:
        peer = self.scene.greeted()
        passed = 0
        while not peer.told_to_go and passed < 1000:
            peer.send(b"N")
            self.clock.advance(10)
            passed += 10
        self.assertEqual(passed, 300)

    def test_each_command_has_its_time(self) -> None:
        peer = self.scene.greeted()
        for _ in range(5):
            self.clock.advance(290)
            self.assertEqual(peer.say("NOOP"), ["250 2.0.0 Ok"])

    def test_a_session_without_mail_ends_whatever_it_says(self) -> None:
        peer = self.scene.greeted()
        passed = 0
        while not peer.told_to_go and passed < 10_000:
            self.clock.advance(100)
            passed += 100
            if not peer.told_to_go:
                peer.say("NOOP")
        self.assertEqual(passed, 1800)

    def test_mail_prolongs_the_session(self) -> None:
        peer = self.scene.greeted()
        for _ in range(30):
            self.clock.advance(200)
            peer.say(*message())
            self.assertEqual(peer.say(*CONTENT)[0][:3], "250")

    def test_content_in_drips(self) -> None:
        peer = self.scene.greeted()
        peer.say(*message())
        passed = 0
        while not peer.told_to_go and passed < 10_000:
            peer.send(b"x" * 1000)
            self.clock.advance(10)
            passed += 10
        self.assertEqual(passed, 300)
        self.assertTrue(self.scene.spool.drafts[0].rolled_back)
        self.assertEqual([reply[:9] for reply in peer.replies()][-1:], ["421 4.4.2"])

    def test_slow_content_that_gets_on(self) -> None:
        peer = self.scene.greeted()
        peer.say(*message())
        peer.send(b"Subject: x\r\n\r\n")
        for _ in range(200):
            peer.send(b"x" * 11_000 + b"\r\n")
            self.clock.advance(10)
        self.assertFalse(peer.told_to_go)
        self.assertEqual(peer.say(".")[0][:3], "250")

    def test_a_burst_does_not_buy_hours(self) -> None:
        peer = self.scene.greeted()
        peer.say(*message())
        peer.send(b"Subject: x\r\n\r\n" + b"x" * 1_000_000)
        passed = 0
        while not peer.told_to_go and passed < 10_000:
            self.clock.advance(10)
            passed += 10
            peer.send(b"x")
        self.assertEqual(passed, 600)

    def test_refused_content_is_swallowed_under_the_same_deadline(self) -> None:
        scene = Scene(offer=Offer(size=1000))
        peer = scene.greeted()
        peer.say(*message())
        peer.send(b"Subject: x\r\n\r\n" + b"x" * 5000)
        for _ in range(100):
            peer.send(b"x" * 20_000)
            scene.clock.advance(10)
        self.assertFalse(peer.told_to_go)
        self.assertEqual([r[:9] for r in peer.say("", ".")], ["552 5.3.4"])
        scene.clock.advance(290)
        self.assertFalse(peer.told_to_go)
        scene.clock.advance(20)
        self.assertTrue(peer.told_to_go)

    def test_a_peer_that_does_not_take_the_last_reply_is_cut_off(self) -> None:
        peer = self.scene.greeted()
        peer.say("QUIT")
        self.assertIsNone(peer.transport.producer)
        self.clock.advance(11)
        self.assertTrue(peer.transport.disconnected)
        peer.leave()
        self.assertIn("quit", self.scene.log.of("session")[0])

    def test_one_timer_a_connection(self) -> None:
        peers = [self.scene.greeted() for _ in range(10)]
        for _ in range(5):
            self.clock.advance(100)
            for peer in peers:
                peer.say(*message())
                peer.say(*CONTENT)
        self.assertEqual(len(self.clock.getDelayedCalls()), 10)

    def test_after_the_end_nothing_is_heard(self) -> None:
        peer = self.scene.greeted()
        peer.say("QUIT")
        self.assertEqual(peer.say("NOOP"), [])


class FakeTls:
    """The server's side of TLS."""

    ready = True

    def describe(self, _: object) -> tuple[str, str]:
        return "TLSv1.3 TLS_AES_256_GCM_SHA384", "aa bb"

    def early(self, _: object) -> bytes:
        return b""


class StartTls(unittest.TestCase):
    """RFC 3207: nothing said in the clear counts once TLS stands."""

    def setUp(self) -> None:
        self.scene = Scene(offer=Offer(starttls=True))
        self.tls = FakeTls()
        self.scene.listen(tls=self.tls)
        self.started: list[object] = []
        self.peer = self.scene.greeted()
        transport: Any = self.peer.transport
        transport.startTLS = self.started.append
        transport.getHandle = object

    def test_a_message_over_tls(self) -> None:
        peer = self.peer
        peer.say("MAIL FROM:<>", "RSET")
        # the command behind STARTTLS came in the clear: it is dropped, not run under TLS
        self.assertEqual([r[:3] for r in peer.say("STARTTLS", "MAIL FROM:<>")], ["220"])
        self.assertEqual(self.started, [self.tls])
        self.assertEqual(peer.say("EHLO early.example"), [])
        peer.protocol.handshakeCompleted()  # type: ignore[attr-defined]
        self.assertEqual(peer.replies(), [])
        self.assertEqual(peer.say("RCPT TO:<a@b.example>")[0][:3], "503")
        self.assertNotIn("250-STARTTLS", peer.say("EHLO secure.example"))
        peer.say(*message())
        self.assertEqual(peer.say(*CONTENT)[0][:3], "250")
        ((stored, submission),) = self.scene.spool.stored
        content = b"".join(stored.content.chunks())
        self.assertTrue(content.startswith(b"Received: from secure.example (unknown [192.0.2.1])"))
        self.assertIn(b" with ESMTPS id ", content)
        self.assertIn(b"\r\n (TLSv1.3 TLS_AES_256_GCM_SHA384)\r\n", content)
        self.assertEqual(submission.client.tls, "TLSv1.3 TLS_AES_256_GCM_SHA384")
        self.assertEqual(submission.client.certificate, "aa bb")

    def test_a_failed_handshake_is_named(self) -> None:
        self.peer.say("STARTTLS")
        error = Exception([("SSL routines", "", "unsupported protocol")])
        self.peer.protocol.connectionLost(Failure(error))
        self.assertIn("handshake failed: unsupported protocol", self.scene.log.of("session")[0])

    def test_tls_from_the_first_octet(self) -> None:
        scene = self.scene
        scene.listen(tls=self.tls, implicit=True)
        protocol: Any = scene.factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 40000))
        transport: Any = StringTransport()
        transport.startTLS = self.started.append
        transport.getHandle = object
        protocol.makeConnection(transport)
        self.assertEqual(transport.value(), b"")
        self.assertEqual(self.started, [self.tls])
        protocol.handshakeCompleted()
        self.assertTrue(transport.value().startswith(b"220 "))
        protocol.dataReceived(b"EHLO client.example\r\n")
        self.assertNotIn(b"STARTTLS", transport.value())

    def test_no_certificate_no_entry(self) -> None:
        self.tls.ready = False
        self.scene.listen(tls=self.tls, implicit=True)
        address = IPv4Address("TCP", "192.0.2.1", 40000)
        self.assertIsNone(self.scene.factory.buildProtocol(address))

    def test_a_handshake_that_never_ends(self) -> None:
        self.peer.say("STARTTLS")
        self.scene.clock.advance(61)
        self.assertTrue(self.peer.told_to_go)
        self.assertEqual(self.peer.replies(), [])
        self.scene.clock.advance(11)
        self.assertTrue(self.peer.transport.disconnected)


class Crowds(unittest.TestCase):
    def test_refused_before_the_greeting(self) -> None:
        scene = Scene(sessions=SessionLimits(per_client=1))
        scene.greeted()
        late = scene.connect()
        self.assertEqual(late.replies(), ["421 4.7.0 Too many sessions from your address"])
        self.assertTrue(late.told_to_go)
        late.leave()
        self.assertEqual(scene.admission.in_all, 1)
        self.assertIn("connection -> 421 4.7.0", scene.log.of("refused")[0])

    def test_a_deadline_that_is_shorter_than_the_one_for_commands_holds(self) -> None:
        for deadlines in (Deadlines(content=3.0), Deadlines(barren=3.0)):
            scene = Scene()
            scene.service.normal = deadlines
            peer = scene.greeted()
            if deadlines.content == 3.0:
                peer.say(*message())
            scene.clock.pump([0.5] * 7)
            self.assertTrue(peer.told_to_go, deadlines)

    def test_stress_shortens_the_deadlines_of_all(self) -> None:
        scene = Scene(sessions=SessionLimits(in_all=4, stress_at=0.75))
        scene.service.stressed = Deadlines(command=20.0)
        first, second = scene.greeted(), scene.greeted()
        scene.clock.advance(60)
        self.assertFalse(first.told_to_go)
        second.say("NOOP")
        third = scene.greeted()
        self.assertIn("stress", scene.log.of("notice")[0])
        scene.clock.advance(0)
        self.assertTrue(first.told_to_go)  # a minute without a command is too long now
        self.assertFalse(second.told_to_go)
        scene.clock.advance(21)
        self.assertTrue(second.told_to_go)
        self.assertTrue(third.told_to_go)


class FullDisk(unittest.TestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.peer = self.scene.greeted()

    def test_no_room_at_mail(self) -> None:
        self.scene.spool.free = 1000
        self.assertEqual(self.peer.say("MAIL FROM:<> SIZE=5000")[0][:9], "452 4.3.1")
        self.assertEqual(self.peer.say("MAIL FROM:<> SIZE=500")[0][:9], "250 2.1.0")

    def test_unhealthy_spool(self) -> None:
        self.scene.spool.healthy = False
        self.assertEqual(self.peer.say("MAIL FROM:<>")[0][:9], "451 4.3.0")
        self.scene.spool.healthy = True
        self.assertEqual(self.peer.say("MAIL FROM:<>")[0][:9], "250 2.1.0")

    def test_full_at_data(self) -> None:
        self.scene.spool.write_error = SpoolFull("no space")
        self.assertEqual([r[:3] for r in self.peer.say(*message())], ["250", "250", "452"])
        self.scene.spool.write_error = None
        self.peer.say("RSET")
        self.peer.say(*message())
        self.assertEqual(self.peer.say(*CONTENT)[0][:3], "250")

    def test_full_in_the_middle(self) -> None:
        self.peer.say(*message())
        self.scene.spool.write_error = SpoolFull("no space")
        self.assertEqual(self.peer.say("Subject: x", ""), [])
        self.assertTrue(self.scene.spool.drafts[0].rolled_back)
        self.assertEqual(self.peer.say("more", ".")[0][:9], "452 4.3.1")
        self.assertEqual(self.scene.spool.waiting, [])

    def test_commit_fails(self) -> None:
        for error, status in (
            (SpoolFull("no space"), "452 4.3.1"),
            (SpoolError("disk I/O error"), "451 4.3.0"),
            (KeyError("bug"), "451 4.3.0"),
        ):
            self.scene.spool.commit_error = error
            self.peer.say(*message())
            self.assertEqual(self.peer.say(*CONTENT)[0][:9], status)
        self.assertEqual(self.scene.handed_over, [])
        self.scene.spool.commit_error = None
        self.peer.say(*message())
        self.assertEqual(self.peer.say(*CONTENT)[0][:9], "250 2.0.0")

    def test_dispatch_trouble_does_not_take_back_the_250(self) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("dispatch")

        self.scene.change(accept=broken)
        peer = self.scene.greeted()
        peer.say(*message())
        self.assertEqual(peer.say(*CONTENT)[0][:3], "250")
        self.assertEqual(self.scene.spool.stored[0][1].state, RecipientState.QUEUED)
        self.assertIn("dispatch", self.scene.log.of("trouble")[0])
