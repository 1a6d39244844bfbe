"""Verdicts that take their time: at the connection, at MAIL, at RCPT and at the final dot."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.testing import StringTransport

from relayd.intake.checks import Finding, Objection, ReceivedContent
from relayd.intake.limits import NORMAL
from relayd.intake.session import SIP, TURN
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope
from relayd.mail.reply import Reply
from relayd.smtp.exchange import ServerLimits
from relayd.smtp.extensions import Offer
from relayd.smtp.xclient import ATTRIBUTES
from relayd.spool.errors import SpoolError, SpoolFull
from tests.support import TestCase
from tests.unit.intake.scene import CONTENT, HOST, Peer, Scene, message
from tests.unit.intake.test_session import FakeTls

NO = Reply.of(550, "5.7.1", "Not from you")
FAREWELL = f"421 4.3.2 {HOST} is shutting down"
BUG = "421 4.3.0 Local trouble, try again later"
EARLY = f"421 4.5.0 {HOST} You must wait for answers"
PROXY = "203.0.113.7"


class Others:
    """Whoever is asked. At `place` they answer when the test says so; elsewhere with no word."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.asked: list[Deferred[Objection]] = []
        self.about: list[str] = []
        self.given_up = 0
        self.at_once: Finding | None = None
        self.stubborn = False
        self.examine: Callable[[ReceivedContent], Coroutine[Any, Any, Objection]] | None = None

    def connection(self, client: Client) -> Finding:
        return self._at("connection", client.address)

    def mail(self, client: Client, envelope: Envelope) -> Finding:
        return self._at("MAIL", str(envelope.reverse_path))

    def recipient(self, client: Client, envelope: Envelope, mailbox: Mailbox) -> Finding:
        return self._at("RCPT", str(mailbox))

    def content(self, client: Client, envelope: Envelope, content: ReceivedContent) -> Finding:
        if self.examine is not None:
            return self.examine(content)
        return self._at("content", b"".join(content.chunks()).decode())

    def _at(self, place: str, about: str) -> Finding:
        if place != self.place:
            return None
        self.about.append(about)
        return self._answer() if self.at_once is None else self.at_once

    async def _answer(self) -> Objection:
        self.asked.append(Deferred())
        try:
            return await self.asked[-1]
        except CancelledError:
            self.given_up += 1
            if self.stubborn:
                return None
            raise


class AtOnePlace:
    """What holds wherever somebody is asked. `reach` brings a client to the question."""

    place = ""
    late = "451 4.3.0 It took too long to decide, try again later"
    patience = NORMAL.verdict
    welcome = "250 2.1.0 Ok"  # where nobody objects
    refusal = "550 5.7.1 Not from you"

    scene: Scene
    others: Others

    def setUp(self) -> None:
        self.scene = Scene(offer=Offer(xclient=()), session=ServerLimits(idle=10_000))
        self.others = Others(self.place)
        self.scene.change(checks=self.others)

    def reach(self, *behind: str) -> Peer:
        """A client who is at the question, and has sent some lines behind it already."""
        raise NotImplementedError

    def heard(self: Any, peer: Peer, welcome: bool = True) -> list[str]:
        replies: list[str] = peer.replies()
        return replies

    def test_it_waits_and_then_goes_on_in_order(self: Any) -> None:
        peer = self.reach("NOOP", "RSET", "VRFY x")
        self.assertEqual(peer.replies(), [])
        self.assertEqual(peer.say("NOOP"), [])
        peer.writes = 0
        self.others.asked[0].callback(None)
        self.assertEqual(
            [line[:9] for line in peer.replies()],
            [self.welcome[:9], "250 2.0.0", "250 2.0.0", "252 2.5.0", "250 2.0.0"],
        )
        self.assertEqual(peer.writes, 1)
        self.assertEqual(self.scene.log.of("trouble"), [])

    def test_an_objection_is_the_reply(self: Any) -> None:
        peer = self.reach()
        self.others.asked[0].callback(NO)
        self.assertEqual(peer.replies(), [self.refusal])
        self.assertIn(self.refusal, self.scene.log.of("refused")[0])
        self.assertEqual(self.scene.spool.stored, [])
        peer.leave()
        self.assert_nothing_left()

    def test_what_is_known_at_once_is_said_at_once(self: Any) -> None:
        self.others.at_once = NO
        peer = self.reach()
        self.assertEqual(peer.replies(), [self.refusal])
        self.assertEqual(self.others.asked, [])

    def test_a_coroutine_that_waits_for_nobody_is_answered_in_the_same_turn(self: Any) -> None:
        async def no_word() -> Objection:
            return None

        self.others.at_once = no_word()
        peer = self.reach("NOOP")
        self.assertEqual([line[:3] for line in peer.replies()], [self.welcome[:3], "250"])

    def test_the_deadline_is_ours_and_not_the_clients(self: Any) -> None:
        peer = self.reach()
        self.scene.clock.advance(self.patience - 1)
        self.assertEqual((peer.replies(), self.others.given_up), ([], 0))
        self.scene.clock.advance(1)
        self.assertEqual(peer.replies(), [self.late])
        self.assertEqual(self.others.given_up, 1)
        self.assertIn(self.late, self.scene.log.of("refused")[0])
        self.assertEqual(self.scene.log.of("trouble"), [])
        self.after_late(peer)
        peer.leave()
        self.assert_nothing_left()

    def after_late(self: Any, peer: Peer) -> None:
        self.assertEqual([line[:3] for line in peer.say("NOOP", "QUIT")], ["250", "221"])

    def test_the_client_goes(self: Any) -> None:
        peer = self.reach("NOOP")
        peer.leave()
        self.assertEqual(self.others.given_up, 1)
        self.assertEqual(peer.replies(), [])
        self.assert_nothing_left()

    def test_shutdown_does_not_wait(self: Any) -> None:
        peer = self.reach("NOOP")
        self.scene.service.close()
        self.assertEqual(peer.replies(), [FAREWELL])
        self.assertTrue(peer.told_to_go)
        self.assertEqual(self.others.given_up, 1)
        peer.leave()
        self.assert_nothing_left()

    def test_who_does_not_want_to_be_given_up_is_not_heard(self: Any) -> None:
        self.others.stubborn = True
        peer = self.reach("NOOP")
        self.scene.service.close()
        self.assertEqual(self.others.given_up, 1)
        self.assertEqual(peer.replies(), [FAREWELL])
        peer.leave()
        self.assertEqual(self.scene.spool.waiting, [])
        self.assert_nothing_left()

    def test_a_half_closed_client_hears_the_answer(self: Any) -> None:
        peer = self.reach()
        peer.protocol.readConnectionLost()
        self.assertFalse(peer.told_to_go)
        self.others.asked[0].callback(None)
        self.assertEqual([line[:3] for line in peer.replies()], [self.welcome[:3]])
        self.assertTrue(peer.told_to_go)
        peer.leave()
        self.assert_nothing_left()

    def test_a_bug_is_421_and_one_line(self: Any) -> None:
        peer = self.reach("NOOP")
        self.others.asked[0].errback(KeyError("bug"))
        self.assertEqual(peer.replies(), [BUG])
        self.assertTrue(peer.told_to_go)
        (line,) = self.scene.log.of("trouble")
        self.assertIn("KeyError", line)
        peer.leave()
        self.assert_nothing_left()

    def test_a_bug_in_the_asking_is_421_and_one_line(self: Any) -> None:
        class Broken:
            def __getattr__(self, name: str) -> Any:  # noqa: ANN401
                raise KeyError(name)

        peer = self.reach("NOOP")
        peer.leave()
        self.scene.change(checks=Broken())
        peer = self.scene.connect()
        self.assertEqual(peer.replies(), [BUG])
        self.assertEqual(len(self.scene.log.of("trouble")), 1)

    def test_a_client_who_does_not_read_hears_it_later(self: Any) -> None:
        peer = self.reach()
        session: Any = peer.protocol
        session.pauseProducing()
        session.resumeProducing()
        session.pauseProducing()
        self.assertEqual(peer.replies(), [])
        self.others.asked[0].callback(None)
        session.resumeProducing()
        self.assertEqual([line[:3] for line in peer.replies()], [self.welcome[:3]])
        self.assertEqual([line[:3] for line in peer.say("NOOP")], ["250"])

    def test_a_flood_behind_it_pauses_the_transport(self: Any) -> None:
        peer = self.reach()
        for _ in range(3):
            peer.send(b"NOOP\r\n" * (SIP // 12))
        self.assertEqual(peer.transport.producerState, "paused")
        self.others.asked[0].callback(None)
        while peer.transport.producerState == "paused" and not peer.told_to_go:
            self.scene.clock.advance(0)

    def test_a_worker_that_retires_waits_for_it(self: Any) -> None:
        peer = self.reach()
        self.scene.service.retire()
        self.assertEqual((peer.replies(), self.others.given_up), ([], 0))
        self.others.asked[0].callback(None)
        self.assertEqual([line[:3] for line in peer.replies()][:1], [self.welcome[:3]])

    def assert_nothing_left(self: Any) -> None:
        scene = self.scene
        self.assertEqual(scene.spool.stored, [])
        kept = [each for each in scene.spool.drafts if not each.rolled_back]
        self.assertEqual(kept, [])
        self.assertEqual((scene.admission.in_all, scene.service.sessions), (0, set()))
        self.assertEqual(scene.intake.memory.held, 0)
        self.assertEqual(scene.clock.getDelayedCalls(), [])
        self.assertEqual(len(scene.log.of("session")), 1)


class Greeting(AtOnePlace):
    """Whoever is asked decides whether there is one."""

    place = "connection"
    late = "421 4.3.0 It took too long to decide, try again later"
    welcome = f"220 {HOST} ESMTP relayd"

    def after_late(self: Any, peer: Peer) -> None:
        self.assertTrue(peer.told_to_go)

    def test_who_is_not_welcome_may_only_quit(self: Any) -> None:
        peer = self.reach()
        self.others.asked[0].callback(NO)
        self.assertEqual(peer.replies(), [self.refusal])
        self.assertEqual([line[:3] for line in peer.say("EHLO x", "QUIT")], ["503", "221"])


class AtTheConnection(Greeting, TestCase):
    def reach(self, *behind: str) -> Peer:
        peer = self.scene.connect()
        if behind:
            peer.protocol.dataReceived("".join(f"{each}\r\n" for each in behind).encode())
        return peer

    def test_it_waits_and_then_goes_on_in_order(self) -> None:
        peer = self.reach()
        self.assertEqual(peer.replies(), [])
        self.others.asked[0].callback(None)
        self.assertEqual(peer.replies(), [self.welcome])
        self.assertEqual(peer.say("NOOP"), ["250 2.0.0 Ok"])
        self.assertEqual(self.others.about, ["192.0.2.1"])

    def test_who_speaks_meanwhile_has_not_waited_for_the_greeting(self) -> None:
        peer = self.reach("EHLO client.example")
        self.assertEqual(peer.replies(), [])
        self.others.asked[0].callback(None)
        self.assertEqual(peer.replies(), [EARLY])
        self.assertTrue(peer.told_to_go)
        peer.leave()
        self.assertIn("synchronisation", self.scene.log.of("session")[0])
        self.assert_nothing_left()

    def test_a_coroutine_that_waits_for_nobody_is_answered_in_the_same_turn(self) -> None:
        async def no_word() -> Objection:
            return None

        self.others.at_once = no_word()
        self.assertEqual(self.reach().replies(), [self.welcome])

    def test_a_client_who_does_not_read_hears_it_later(self) -> None:
        """Nothing is written before the greeting: there is nothing to read."""
        peer = self.reach()
        peer.protocol.pauseProducing()  # type: ignore[attr-defined]
        peer.protocol.resumeProducing()  # type: ignore[attr-defined]
        self.assertEqual(peer.replies(), [])


class UnderTls(AtTheConnection):
    """TLS from the first octet: asked after the handshake, before the greeting."""

    def reach(self, *behind: str) -> Peer:
        tls = FakeTls()
        self.scene.listen(tls=tls, implicit=True)
        protocol: Any = self.scene.factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 40000))
        transport: Any = StringTransport()
        transport.startTLS = lambda _: None
        transport.getHandle = object
        peer = Peer(protocol, transport)
        protocol.makeConnection(transport)
        self.assertEqual(self.others.asked, [])
        protocol.handshakeCompleted()
        if behind:
            protocol.dataReceived("".join(f"{each}\r\n" for each in behind).encode())
        return peer

    def test_a_bug_in_the_asking_is_421_and_one_line(self) -> None:
        """As without TLS."""


class AfterXClient(Greeting, TestCase):
    """The greeting of the client whom a peer speaks for."""

    def reach(self, *behind: str) -> Peer:
        self.scene.listen(xclient=lambda address: ATTRIBUTES if address == PROXY else ())
        at_once, self.others.place = self.others.place, ""
        peer = self.scene.greeted(PROXY)
        self.others.place = at_once
        peer.protocol.dataReceived(
            "".join(f"{each}\r\n" for each in ("XCLIENT ADDR=198.51.100.9", *behind)).encode()
        )
        self.assertEqual(self.others.about, ["198.51.100.9"])
        return peer


class AtMail(AtOnePlace, TestCase):
    place = "MAIL"

    def reach(self, *behind: str) -> Peer:
        peer = self.scene.greeted()
        peer.protocol.dataReceived(
            "".join(f"{each}\r\n" for each in ("MAIL FROM:<s@example.org>", *behind)).encode()
        )
        return peer

    def test_refused_there_is_no_transaction(self) -> None:
        peer = self.reach("RCPT TO:<alice@example.com>", "DATA")
        self.others.asked[0].callback(NO)
        self.assertEqual([line[:3] for line in peer.replies()], ["550", "503", "503"])

    def test_a_transaction_follows(self) -> None:
        peer = self.reach(*message()[1:], *CONTENT)
        self.others.asked[0].callback(None)
        self.assertEqual([line[:3] for line in peer.replies()], ["250", "250", "354", "250"])
        self.assertEqual(self.others.about, ["s@example.org"])

    def test_what_we_refuse_ourselves_is_not_asked(self) -> None:
        self.scene.spool.healthy = False
        self.assertEqual(self.reach().replies()[0][:3], "451")
        self.assertEqual(self.others.asked, [])


class AtRcpt(AtOnePlace, TestCase):
    place = "RCPT"
    welcome = "250 2.1.5 Ok"

    def reach(self, *behind: str) -> Peer:
        peer = self.scene.greeted()
        peer.say("MAIL FROM:<s@example.org>")
        peer.protocol.dataReceived(
            "".join(f"{each}\r\n" for each in ("RCPT TO:<alice@example.com>", *behind)).encode()
        )
        return peer

    def test_each_recipient_has_an_answer_and_the_others_stay(self) -> None:
        peer = self.reach("RCPT TO:<bob@example.com>", "RCPT TO:<carol@example.com>", "DATA")
        self.others.asked[0].callback(None)
        self.others.asked[1].callback(NO)
        self.scene.clock.advance(self.patience)
        self.assertEqual(
            [line[:9] for line in peer.replies()],
            ["250 2.1.5", "550 5.7.1", "451 4.3.0", "354 End d"],
        )
        self.assertEqual(peer.say(*CONTENT)[0][:3], "250")
        [(_, submission)] = self.scene.spool.stored
        self.assertEqual(
            [str(each.mailbox) for each in submission.recipients], ["alice@example.com"]
        )

    def test_many_answers_in_one_turn_are_still_a_turns_share(self) -> None:
        class Quick(Others):
            async def _answer(self) -> Objection:
                return None

        self.scene.change(checks=Quick("RCPT"))
        peer = self.scene.greeted()
        replies = peer.say(*message(*(f"u{n}@example.com" for n in range(3 * TURN)))[:-1])
        self.assertEqual(len(replies), TURN)
        for _ in range(3):
            self.scene.clock.advance(0)
        self.assertEqual(len(peer.replies()), 2 * TURN + 1)

    def test_the_rules_have_the_last_word(self) -> None:
        peer = self.scene.greeted()
        peer.say("MAIL FROM:<s@example.org>")
        peer.say("RCPT TO:<refuse@example.com>")
        self.others.asked[0].callback(None)
        self.assertEqual(peer.replies(), ["550 5.7.1 Go away"])


class AtTheFinalDot(AtOnePlace, TestCase):
    place = "content"
    patience = NORMAL.examination
    welcome = "250 2.0.0 queued as"

    def reach(self, *behind: str) -> Peer:
        peer = self.scene.greeted()
        peer.say(*message())
        peer.protocol.dataReceived("".join(f"{each}\r\n" for each in (*CONTENT, *behind)).encode())
        return peer

    def assert_nothing_left(self) -> None:
        if self.scene.spool.stored:  # it was taken
            self.scene.spool.stored.clear()
            self.scene.spool.drafts.clear()
        super().assert_nothing_left()

    def test_the_whole_content_is_shown_and_nothing_stored_before_the_verdict(self) -> None:
        self.reach()
        self.assertEqual(self.others.about, ["Subject: test\r\n\r\nHello.\r\n"])
        self.assertEqual(self.scene.spool.waiting, [])
        self.others.asked[0].callback(None)
        self.assertEqual(len(self.scene.spool.stored), 1)

    def test_the_commit_that_follows_is_not_given_up(self) -> None:
        self.scene.spool.slow = True
        for end in (Peer.leave, lambda _: self.scene.service.close()):
            peer = self.reach()
            self.others.asked.pop().callback(None)
            self.assertEqual(len(self.scene.spool.waiting), 1)
            self.scene.clock.advance(10 * self.patience)
            self.assertEqual(peer.replies(), [])
            end(peer)
            self.scene.spool.finish()
        self.assertEqual(len(self.scene.spool.stored), 2)
        self.assertEqual([line[:3] for line in peer.replies()], ["250", "421"])
        self.assertEqual(self.others.given_up, 0)

    def test_the_next_message_waits_its_turn(self) -> None:
        peer = self.reach(*message(), *CONTENT, "QUIT")
        self.others.asked[0].callback(NO)
        self.assertEqual([line[:3] for line in peer.replies()], ["550", "250", "250", "354"])
        self.others.asked[1].callback(None)
        self.assertEqual([line[:3] for line in peer.replies()], ["250", "221"])

    def test_trouble_with_the_spool_while_it_is_looked_at_is_4xx(self) -> None:
        for error, reply in ((SpoolError("EIO"), "451 4.3.0"), (SpoolFull("ENOSPC"), "452 4.3.1")):
            peer = self.reach()
            self.others.asked.pop().errback(error)
            self.assertEqual([line[:9] for line in peer.replies()], [reply])
            self.assertEqual(peer.say("NOOP"), ["250 2.0.0 Ok"])

    def test_content_that_we_refuse_ourselves_is_not_shown(self) -> None:
        peer = self.scene.greeted()
        peer.say(*message())
        self.scene.spool.write_error = SpoolFull("full")
        self.assertEqual([line[:3] for line in peer.say(*CONTENT)], ["452"])
        self.assertEqual(self.others.asked, [])

    def test_bdat_last_is_a_final_dot(self) -> None:
        peer = self.scene.greeted()
        peer.say(*message()[:-1])
        self.assertEqual(peer.send(b"BDAT 16 LAST\r\nSubject: x\r\n\r\nhiNOOP\r\n"), [])
        self.others.asked[0].callback(None)
        self.assertEqual([line[:3] for line in peer.replies()], ["250", "250"])


class Rewriting(TestCase):
    """The header section and the body may be replaced, whole or not at all, before the commit."""

    def setUp(self) -> None:
        self.scene = Scene()
        self.others = Others("content")
        self.scene.change(
            checks=self.others, limits=replace(self.scene.intake.limits, message_size=5000)
        )

    def end(
        self,
        examine: Callable[[ReceivedContent], Coroutine[Any, Any, Objection]],
        *lines: str,
        to: str = "alice@example.com",
    ) -> list[str]:
        self.others.examine = examine
        peer = self.scene.greeted()
        peer.say(*message(to))
        return peer.say(*(lines or ("Subject: test", "", "Hello.")), ".")

    def stored(self) -> bytes:
        (message, submission), *_ = self.scene.spool.stored[-1:]
        content = b"".join(message.content.chunks())
        self.assertEqual(content[submission.header_size - 2 : submission.header_size], b"\r\n")
        _, _, behind = content.partition(b"2025 05:04:00 +0000\r\n")
        kept = [each for each in self.scene.spool.drafts if not each.rolled_back]
        self.assertEqual(len(kept), 1)
        return behind

    def test_a_field_is_added(self) -> None:
        async def examine(content: ReceivedContent) -> Objection:
            await content.rewrite(b"X-Spam: no\r\n" + content.section)
            return None

        self.assertEqual(self.end(examine)[0][:3], "250")
        self.assertEqual(self.stored(), b"X-Spam: no\r\nSubject: test\r\n\r\nHello.\r\n")

    def test_the_body_is_another_one(self) -> None:
        async def examine(content: ReceivedContent) -> Objection:
            body = content.new_body()
            for piece in (b"Clean\r", b"\nnow\n", b"\0ok"):
                body.write(piece)
            self.assertEqual(b"".join(content.body()), b"Hello.\r\n")
            await content.rewrite(body=body)
            self.assertEqual(b"".join(content.body()), b"Clean\r\nnow\r\nok")
            return None

        self.assertEqual(self.end(examine)[0][:3], "250")
        self.assertEqual(self.stored(), b"Subject: test\r\n\r\nClean\r\nnow\r\nok")

    def test_one_after_the_other_each_sees_what_the_one_before_made(self) -> None:
        async def examine(content: ReceivedContent) -> Objection:
            body = content.new_body()
            body.write("grün\r\n".encode())
            await content.rewrite(b"A: 1\r\n\r\n", body)
            self.assertEqual(content.section, b"A: 1\r\n\r\n")
            await content.rewrite(b"B: 2\r\n" + content.section)
            return None

        self.assertEqual(self.end(examine)[0][:3], "250")
        self.assertEqual(self.stored(), "B: 2\r\nA: 1\r\n\r\ngrün\r\n".encode())
        self.assertTrue(self.scene.spool.stored[0][1].eight_bit)

    def test_rules_edit_what_it_has_become(self) -> None:
        async def examine(content: ReceivedContent) -> Objection:
            await content.rewrite(b"A: 1\r\n\r\n")
            return None

        self.end(examine, to="rewritten@example.com")
        [(_, submission)] = self.scene.spool.stored
        (section,) = submission.headers
        self.assertTrue(section.endswith(b"\r\nX-Rules: 1,2\r\nA: 1\r\n\r\n"))

    def test_a_listener_for_submission_completes_it_first(self) -> None:
        self.scene.change(checks=self.others)
        self.scene.listen(submission=True, origin="example.com")

        async def examine(content: ReceivedContent) -> Objection:
            self.assertIn(b"From: me@example.com\r\n", content.section)
            self.assertEqual(b"".join(content.chunks()), content.section + b"Hello.\r\n")
            await content.rewrite(b"X: y\r\n" + content.section)
            return None

        self.assertEqual(self.end(examine, "From: me", "", "Hello.")[0][:3], "250")
        self.assertIn(b"X: y\r\nDate: ", self.stored())

    def test_half_an_edit_leaves_no_trace(self) -> None:
        async def examine(content: ReceivedContent) -> Objection:
            content.new_body().write(b"half of")
            return None

        self.assertEqual(self.end(examine)[0][:3], "250")
        self.assertEqual(self.stored(), b"Subject: test\r\n\r\nHello.\r\n")

    def test_given_up_in_the_middle_of_it_nothing_is_left(self) -> None:
        async def examine(content: ReceivedContent) -> Objection:
            content.new_body().write(b"half of")
            await Deferred()
            return None

        self.end(examine)
        self.scene.clock.advance(NORMAL.examination)
        self.assertEqual([each.rolled_back for each in self.scene.spool.drafts], [True, True])

    def test_a_large_one_is_copied_in_turns_and_can_be_given_up_between_them(self) -> None:
        turns: list[Deferred[None]] = []

        def turn() -> Awaitable[None]:
            turns.append(Deferred())
            return turns[-1]

        async def examine(content: ReceivedContent) -> Objection:
            body = content.new_body()
            for _ in range(40):
                body.write(b"x" * 65534 + b"\r\n")
            await content.rewrite(body=body)
            return None

        for give_up in (False, True):
            self.scene.change(checks=self.others, turn=turn)
            self.assertEqual(self.end(examine), [])
            turns[-1].callback(None)
            if give_up:
                self.scene.service.close()
                self.assertEqual([each.rolled_back for each in self.scene.spool.drafts], [True] * 3)
                self.assertEqual(self.scene.spool.stored, [])
            else:
                turns[-1].callback(None)
                self.assertEqual(len(self.scene.spool.stored), 1)
                self.scene.spool.stored.clear()
                self.scene.spool.drafts.clear()

    def test_no_room_for_it_is_452(self) -> None:
        async def examine(content: ReceivedContent) -> Objection:
            self.scene.spool.write_error = SpoolFull("no space left on device")
            await content.rewrite(b"A: 1\r\n\r\n")
            return None

        self.assertEqual([line[:9] for line in self.end(examine)], ["452 4.3.1"])
        self.assertEqual([each.rolled_back for each in self.scene.spool.drafts], [True, True])

    def test_what_cannot_be_read_back_is_451(self) -> None:
        async def examine(content: ReceivedContent) -> Objection:
            self.scene.spool.read_error = SpoolError("input/output error")
            b"".join(content.chunks())
            return None

        self.assertEqual([line[:9] for line in self.end(examine)], ["451 4.3.0"])

    def test_what_is_no_header_section_or_too_much_is_the_checks_fault_and_not_the_mails(
        self,
    ) -> None:
        for section, body in (
            (b"A: 1\r\n", b""),
            (b" A: 1\r\n\r\n", b""),
            (b"A: 1\r\n\r\nB: 2\r\n\r\n", b""),
            (b"", b""),
            (b"A: " + b"x" * 6000 + b"\r\n\r\n", b""),
            (b"\r\n", b"x" * 6000),
        ):

            async def examine(
                content: ReceivedContent, section: bytes = section, text: bytes = body
            ) -> Objection:
                body = content.new_body()
                body.write(text)
                await content.rewrite(section, body)
                return None

            self.assertEqual(self.end(examine), [BUG])
            self.assertTrue(all(each.rolled_back for each in self.scene.spool.drafts))
        self.assertEqual(len(self.scene.log.of("trouble")), 6)
