"""The server core: the same events and answers for every cut of the input, and the rim's calls."""

from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.address import Mailbox
from relayd.mail.reply import Reply
from relayd.smtp.events import (
    Chunk,
    ContentRefused,
    Data,
    EndOfContent,
    Hello,
    Mail,
    MailParams,
    Quit,
    Rcpt,
    RcptParams,
    Refused,
    Rset,
)
from relayd.smtp.server import Offer, ServerLimits, SmtpServer
from relayd.smtp.state import SessionState
from tests.unit.smtp.house import GO_AHEAD, HOST, House
from tests.unit.smtp.strategies import BOUNDED, dirty_content, with_cuts

_SET = {"size": "40", "line": "60", "errors": "6", "recipients": "3", "starttls": ""}

_commands = st.sampled_from(
    [
        b"EHLO c.example\r\n",
        b"MAIL FROM:<a@example.org>\r\n",
        b"MAIL FROM:<> SIZE=41\r\n",
        b"RCPT TO:<b@example.com>\r\n",
        b"RCPT TO:<x@elsewhere.example>\r\n",
        b"DATA\r\n",
        b"\r\n.\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"BDAT 3\r\n",
        b"BDAT 5 LAST\r\n",
        b"BDAT 100\r\n",
        b"FOO\r\n",
        b"N" * 70,
        b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n",
        b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n",
    ]
)
_dialogue = (
    st.lists(_commands | dirty_content, max_size=12)
    .map(b"".join)
    .map(lambda tail: b"EHLO c.example\r\n" + tail)
)


class TestCuts(unittest.TestCase):
    @given(with_cuts(_dialogue), st.booleans())
    @BOUNDED
    def test_every_cut_gives_the_same(self, pieces: list[bytes], normalise: bool) -> None:
        settings = _SET | ({"normalise": ""} if normalise else {})
        whole, cut, octets = House(settings), House(settings), House(settings)
        slow = House(settings, slow=True)
        data = b"".join(pieces)
        whole.send(data)
        for piece in pieces:
            cut.send(piece)
        for at in range(len(data)):
            octets.send(data[at : at + 1])
        slow.send(data)
        while slow.decide():
            pass
        said = whole.receive()
        for other in (cut, octets, slow):
            self.assertEqual(other.events, whole.events)
            self.assertEqual(other.receive(), said)
            self.assertEqual(other.messages, whole.messages)
            self.assertEqual(other.server.state, whole.server.state)

    @given(st.binary(max_size=300))
    @BOUNDED
    def test_nothing_raises(self, data: bytes) -> None:
        house = House(_SET)
        house.send(b"EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n" + data)


class TestEvents(unittest.TestCase):
    def test_one_message(self) -> None:
        house = House()
        house.send(
            b"EHLO client.example\r\n"
            b"MAIL FROM:<a@example.org> SIZE=10 BODY=8BITMIME RET=HDRS ENVID=x+2By\r\n"
            b"RCPT TO:<@hop.example:b@example.com> NOTIFY=DELAY,failure"
            b" ORCPT=rfc822;b+2B@o.example\r\n"
            b"DATA\r\nhi\r\n.\r\nRSET\r\nQUIT\r\n"
        )
        self.assertEqual(
            house.events,
            [
                Hello("client.example", esmtp=True),
                Mail(
                    Mailbox("a", "example.org"),
                    MailParams(size=10, body="8BITMIME", ret="HDRS", envid="x+y"),
                ),
                Rcpt(
                    Mailbox("b", "example.com"),
                    RcptParams(frozenset({"DELAY", "FAILURE"}), "rfc822;b+@o.example"),
                ),
                Data(bdat=False),
                Chunk(b"hi\r\n"),
                EndOfContent(),
                Rset(),
                Quit(),
            ],
        )

    def test_refused_content_is_rolled_back_before_its_end(self) -> None:
        house = House()
        house.send(b"HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\na\nb\r\nccc")
        self.assertIsInstance(house.events[-1], ContentRefused)
        self.assertEqual(house.receive().split(b"\r\n")[-2][:3], b"354")
        house.send(b"\r\n.\r\n")
        self.assertEqual(house.receive()[:3], b"554")
        self.assertIsInstance(house.events[-1], ContentRefused)

    def test_hello_in_a_transaction_rolls_back(self) -> None:
        house = House()
        house.send(b"HELO c\r\nMAIL FROM:<>\r\nEHLO c\r\n")
        self.assertEqual(house.events[-2:], [Hello("c", esmtp=True), Rset()])

    def test_refused_commands_are_told_without_secrets(self) -> None:
        house = House({"tls": "", "auth": ""})
        house.send(b"FOO bar\x1b[m\r\nEHLO c\r\nauth plain secret!\r\n")
        refused = [event for event in house.events if isinstance(event, Refused)]
        self.assertEqual([event.command for event in refused], ["unknown, 10 octets", "AUTH"])

    def test_bdat_behind_a_refused_data_is_swallowed(self) -> None:
        server = SmtpServer(HOST, ServerLimits(), Offer())
        server.greet()
        server.receive_data(b"HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\n")
        for _ in range(3):
            server.next_event()
            server.answer(Reply.of(250, "2.0.0", "Ok"))
        server.receive_data(b"BDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n")
        self.assertEqual(server.next_event(), Data(bdat=True))
        server.data_to_send()
        server.answer(Reply.of(452, "4.3.1", "No room"))
        self.assertEqual(server.next_event(), Rset())
        self.assertIsNone(server.next_event())
        self.assertEqual(
            [line[:3] for line in server.data_to_send().split(b"\r\n")],
            [b"452", b"503", b"250", b""],
        )

    def test_the_fault_that_comes_first_is_the_answer(self) -> None:
        """However the content is cut: over-size before a bare LF, or after it."""
        for content, code in ((b"12345\n", b"554"), (b"123456\n", b"552")):
            for step in (1, 100):
                house = House({"size": "5"})
                house.send(b"HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
                house.receive()
                wire = content + b"\r\n.\r\n"
                for at in range(0, len(wire), step):
                    house.send(wire[at : at + step])
                self.assertEqual(house.receive()[:3], code)

    def test_over_size_bdat_is_refused_before_its_octets(self) -> None:
        house = House({"size": "5"})
        house.send(b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nBDAT 3\r\nabc")
        house.receive()
        house.send(b"BDAT 3 LAST\r\n")
        self.assertIsInstance(house.events[-1], ContentRefused)
        self.assertEqual(house.receive(), b"")
        house.send(b"def")
        self.assertEqual(house.receive()[:3], b"552")


class TestRim(unittest.TestCase):
    def start(self, data: bytes = b"") -> SmtpServer:
        server = SmtpServer(HOST, ServerLimits(), Offer(starttls=True))
        server.greet()
        server.data_to_send()
        server.receive_data(data)
        return server

    def test_nothing_is_read_before_the_greeting(self) -> None:
        server = SmtpServer(HOST, ServerLimits(), Offer())
        server.receive_data(b"QUIT\r\n")
        self.assertIsNone(server.next_event())
        self.assertEqual(server.buffered, 6)
        self.assertEqual(server.data_to_send(), b"")
        server.greet()
        self.assertEqual(server.next_event(), Quit())
        self.assertTrue(server.data_to_send().startswith(b"220 mx.example "))

    def test_pipelined_input_waits_for_the_verdict(self) -> None:
        server = self.start(b"EHLO c\r\nNOOP\r\n")
        self.assertFalse(server.awaiting_verdict)
        self.assertEqual(server.next_event(), Hello("c", esmtp=True))
        self.assertTrue(server.awaiting_verdict)
        server.receive_data(b"NOOP\r\n")
        self.assertIsNone(server.next_event())
        self.assertEqual(server.buffered, 12)
        self.assertEqual(server.data_to_send(), b"")
        server.answer(Reply.of(550, "5.7.1", "No"))
        self.assertIsNone(server.next_event())
        self.assertEqual(server.buffered, 0)
        self.assertEqual(server.data_to_send(), b"550 5.7.1 No\r\n250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n")
        self.assertIs(server.state, SessionState.GREETED)

    def test_verdict_is_awaited_only_once_its_event_was_returned(self) -> None:
        server = self.start(b"HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
        for reply in (*[Reply.of(250, "2.0.0", "Ok")] * 3, GO_AHEAD):
            server.next_event()
            server.answer(reply)
        server.receive_data(b"x\r\n.\r\n")
        self.assertEqual(server.next_event(), Chunk(b"x\r\n"))
        self.assertFalse(server.awaiting_verdict)
        self.assertEqual(server.next_event(), EndOfContent())
        self.assertTrue(server.awaiting_verdict)

    def test_refusing_greeting(self) -> None:
        server = SmtpServer(HOST, ServerLimits(), Offer())
        server.greet(Reply.of(554, "5.7.1", "Not you"))
        server.receive_data(b"EHLO c\r\nNOOP\r\nQUIT\r\n")
        self.assertIsInstance(server.next_event(), Refused)
        self.assertIsInstance(server.next_event(), Refused)
        self.assertEqual(server.next_event(), Quit())
        codes = [line[:3] for line in server.data_to_send().split(b"\r\n")]
        self.assertEqual(codes, [b"554", b"503", b"503", b"221", b""])

    def test_421_as_greeting_closes(self) -> None:
        server = SmtpServer(HOST, ServerLimits(), Offer())
        server.greet(Reply.of(421, "4.7.0", "Too busy"))
        self.assertTrue(server.closed)
        self.assertEqual(server.data_to_send(), b"421 4.7.0 Too busy\r\n")

    def test_421_as_verdict_closes(self) -> None:
        server = self.start(b"EHLO c\r\nNOOP\r\n")
        server.next_event()
        server.answer(Reply.of(421, "4.3.2", "Shutting down"))
        self.assertTrue(server.closed)
        self.assertIsNone(server.next_event())
        self.assertEqual(server.data_to_send(), b"421 4.3.2 Shutting down\r\n")

    def test_fail_while_a_verdict_is_awaited(self) -> None:
        server = self.start(b"EHLO c\r\nNOOP\r\n")
        server.next_event()
        server.fail(Reply.of(421, "4.4.2", "Timeout"))
        server.answer(Reply.of(250, "2.0.0", "too late"))
        self.assertTrue(server.closed)
        self.assertFalse(server.awaiting_verdict)
        server.fail(Reply.of(421, "4.4.2", "once is enough"))
        server.receive_data(b"NOOP\r\n")
        self.assertIsNone(server.next_event())
        self.assertEqual(server.buffered, 0)
        self.assertEqual(server.data_to_send(), b"421 4.4.2 Timeout\r\n")

    def test_fail_between_content_and_its_end(self) -> None:
        house = House(slow=True)
        house.send(b"HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
        while house.decide():
            pass
        house.server.receive_data(b"x\r\n.\r\n")
        self.assertEqual(house.server.next_event(), Chunk(b"x\r\n"))
        house.server.fail(Reply.of(421, "4.3.2", "Shutting down"))
        self.assertIsNone(house.server.next_event())

    def test_nothing_in_the_clear_outlives_starttls(self) -> None:
        """Neither what came with the command, nor after the 220, nor before TLS of the listener."""
        server = self.start(b"EHLO c\r\nSTARTTLS\r\nNOOP\r\n")
        server.next_event()
        server.answer(Reply.bare(250))
        server.next_event()
        self.assertEqual(server.buffered, 6)
        server.answer(Reply.of(220, "2.0.0", "Go"))
        self.assertEqual(server.buffered, 0)
        server.receive_data(b"NOOP\r\n")
        self.assertEqual(server.buffered, 0)
        server = SmtpServer(HOST, ServerLimits(), Offer())
        server.receive_data(b"NOOP\r\n")
        server.tls_established()
        self.assertEqual(server.buffered, 0)

    def test_refused_starttls_keeps_the_session(self) -> None:
        server = self.start(b"EHLO c\r\nSTARTTLS\r\nNOOP\r\n")
        server.next_event()
        server.answer(Reply.bare(250))
        server.next_event()
        server.data_to_send()
        server.answer(Reply.of(454, "4.7.0", "TLS not available"))
        self.assertIsNone(server.next_event())
        self.assertEqual(server.data_to_send(), b"454 4.7.0 TLS not available\r\n250 2.0.0 Ok\r\n")

    def test_replies_in_utf8_only_in_such_a_transaction(self) -> None:
        server = self.start(
            b"EHLO c\r\nMAIL FROM:<> SMTPUTF8\r\nRCPT TO:<\xc3\xbc@example.com>\r\n"
        )
        for reply in (Reply.bare(250), Reply.of(250, "2.1.0", "ü"), Reply.of(550, "5.1.1", "ü")):
            server.next_event()
            server.answer(reply)
        self.assertTrue(server.data_to_send().endswith("\r\n550 5.1.1 ü\r\n".encode()))
        server.receive_data(b"RSET\r\nVRFY x\r\n")
        server.next_event()
        server.next_event()
        server.answer(Reply.of(252, "2.1.0", "ü"))
        self.assertTrue(server.data_to_send().endswith(b"\r\n252 2.1.0 ?\r\n"))
