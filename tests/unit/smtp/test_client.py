"""The client core: what it says, and what it makes of every kind of next hop."""

from __future__ import annotations

import unittest
from dataclasses import replace
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.address import Mailbox
from relayd.mail.envelope import Recipient
from relayd.mail.reply import Reply
from relayd.smtp.client import SmtpClient, Transaction
from relayd.smtp.events import (
    ClientEvent,
    End,
    ProtocolTrouble,
    Ready,
    SendContent,
    TlsReady,
    TlsRefused,
    TransactionDone,
    TransactionStage,
    Unwelcome,
)
from relayd.smtp.extensions import Extensions
from relayd.smtp.framing import Purity
from tests.unit.smtp.strategies import BOUNDED, cuts_of

A, B, C = (Mailbox(local, "example.com") for local in "abc")
CONTENT = b"Subject: x\r\n\r\n.dot\r\n"


def transaction(*mailboxes: Mailbox, size: int = len(CONTENT), crlf: bool = True) -> Transaction:
    recipients = tuple(Recipient(mailbox, mailbox) for mailbox in mailboxes)
    return Transaction(Mailbox("s", "example.org"), recipients, size=size, ends_with_crlf=crlf)


class Talk:
    """A client and the test in the server's place."""

    def __init__(self, *, lmtp: bool = False, pipelining: bool = True, more: str = "") -> None:
        self.client = SmtpClient("me.example", lmtp=lmtp)
        self.events: list[ClientEvent] = []
        assert self.hear("220 hi") == (b"LHLO" if lmtp else b"EHLO") + b" me.example\r\n"
        offer = ["PIPELINING"] * pipelining + more.split(",") * bool(more)
        self.hear(*[f"250-{line}" for line in ("mx.example", *offer)], "250 X-END")
        assert self.take() == Ready(self.client.extensions)

    def hear(self, *lines: str) -> bytes:
        """The server says these lines; returns what the client sends then."""
        return self.hear_octets("".join(f"{line}\r\n" for line in lines).encode())

    def hear_octets(self, *pieces: bytes) -> bytes:
        pieces = pieces or (b"",)
        for piece in pieces:
            self.client.receive_data(piece)
            while (event := self.client.next_event()) is not None:
                self.events.append(event)
        return self.client.data_to_send()

    def send(self, what: Transaction) -> bytes:
        self.client.send(what)
        return self.hear()

    def content(self, *chunks: bytes, pure: bool = False) -> bytes:
        """Send content, as SendContent asks."""
        assert self.take() == SendContent()
        for chunk in chunks or (CONTENT,):
            self.client.send_content(chunk, pure=pure)
        self.client.end_content()
        return self.hear()

    def take(self) -> ClientEvent:
        """The one event there is."""
        [event] = self.events
        self.events = []
        return event

    def done(self) -> TransactionDone:
        event = self.take()
        assert isinstance(event, TransactionDone), event
        return event

    def outcome(self) -> list[str]:
        """Of the transaction that is done: code and stage for each recipient."""
        done = self.done()
        return [
            f"{reply.code} {stage}" for reply, stage in zip(done.replies, done.stages, strict=True)
        ]


class TestSession(unittest.TestCase):
    def start(self, *lines: str) -> tuple[SmtpClient, list[ClientEvent], bytes]:
        client = SmtpClient("me.example")
        events = []
        said = b""
        for line in lines:
            client.receive_data(line.encode() + b"\r\n")
            while (event := client.next_event()) is not None:
                events.append(event)
            said += client.data_to_send()
        return client, events, said

    def test_welcome(self) -> None:
        client, events, said = self.start("220 hi", "250-mx\r\n250-SIZE 10\r\n250 8bitmime")
        self.assertEqual(events, [Ready(Extensions({"SIZE": "10", "8BITMIME": ""}))])
        self.assertEqual(said, b"EHLO me.example\r\n")
        self.assertIs(client.waiting_for, TransactionStage.IDLE)

    def test_waiting_for_the_greeting(self) -> None:
        client = SmtpClient("me.example")
        self.assertIs(client.waiting_for, TransactionStage.GREETING)
        client.receive_data(b"220-hi\r\n220 there\r\n")
        self.assertIsNone(client.next_event())
        self.assertIs(client.waiting_for, TransactionStage.HELLO)

    def test_unwelcome_greeting(self) -> None:
        for line in ("554 no", "450 later"):
            client, events, said = self.start(line)
            self.assertEqual(events, [Unwelcome(Reply.parse(line), TransactionStage.GREETING)])
            self.assertEqual(said, b"QUIT\r\n")
            self.assertTrue(client.closed)

    def test_421_needs_no_quit(self) -> None:
        client, events, said = self.start("421 4.3.2 busy")
        self.assertEqual(
            events, [Unwelcome(Reply.parse("421 4.3.2 busy"), TransactionStage.GREETING)]
        )
        self.assertEqual(said, b"")
        self.assertTrue(client.closed)

    def test_falls_back_to_helo(self) -> None:
        _, events, said = self.start("220 hi", "502 what?", "250 mx")
        self.assertEqual(events, [Ready(Extensions({}))])
        self.assertEqual(said, b"EHLO me.example\r\nHELO me.example\r\n")

    def test_helo_refused(self) -> None:
        _, events, _ = self.start("220 hi", "502 what?", "550 go away")
        self.assertEqual(events, [Unwelcome(Reply.parse("550 go away"), TransactionStage.HELLO)])

    def test_ehlo_refused_for_now(self) -> None:
        _, events, said = self.start("220 hi", "451 later")
        self.assertEqual(events, [Unwelcome(Reply.parse("451 later"), TransactionStage.HELLO)])
        self.assertNotIn(b"HELO", said.replace(b"EHLO", b""))

    def test_lmtp_has_no_helo(self) -> None:
        client = SmtpClient("me.example", lmtp=True)
        client.receive_data(b"220 hi\r\n")
        self.assertIsNone(client.next_event())
        client.receive_data(b"500 what?\r\n")
        self.assertIsInstance(client.next_event(), Unwelcome)
        self.assertEqual(client.data_to_send(), b"LHLO me.example\r\nQUIT\r\n")

    def test_nonsense(self) -> None:
        for lines in (("SSH-2.0-x",), ("220 hi", "250-mx\r\n220 no"), ("354 go",)):
            client, events, _ = self.start(*lines)
            self.assertIsInstance(events[-1], ProtocolTrouble)
            self.assertTrue(client.closed)

    def test_speaks_before_it_is_asked(self) -> None:
        """What is here before EHLO is sent cannot be the answer to it."""
        for early in ("220 hi\r\n250 mx", "220 hi\r\n2"):
            client = SmtpClient("me.example")
            client.receive_data(early.encode())
            self.assertEqual(client.next_event(), ProtocolTrouble("spoke without being asked"))
            self.assertEqual(client.data_to_send(), b"")

    def test_speaks_while_idle(self) -> None:
        talk = Talk()
        talk.hear("250 still here")
        self.assertIsInstance(talk.take(), ProtocolTrouble)
        self.assertTrue(talk.client.closed)

    def test_421_while_idle(self) -> None:
        talk = Talk()
        talk.hear("421 4.4.2 timeout")
        self.assertEqual(
            talk.take(), Unwelcome(Reply.parse("421 4.4.2 timeout"), TransactionStage.IDLE)
        )
        self.assertTrue(talk.client.closed)

    def test_quit(self) -> None:
        talk = Talk()
        talk.client.quit()
        self.assertIs(talk.client.waiting_for, TransactionStage.QUIT)
        self.assertEqual(talk.client.data_to_send(), b"QUIT\r\n")
        self.assertFalse(talk.client.closed)
        talk.hear("221 bye")
        self.assertTrue(talk.client.closed)
        self.assertEqual(talk.events, [])

    def test_lost_before_ready(self) -> None:
        client = SmtpClient("me.example")
        lost = Reply.of(451, "4.4.2", "Connection lost")
        client.fail(lost)
        self.assertEqual(client.next_event(), Unwelcome(lost, TransactionStage.GREETING))
        self.assertTrue(client.closed)


class TestTls(unittest.TestCase):
    def test_starttls(self) -> None:
        talk = Talk(more="STARTTLS,DSN")
        talk.client.starttls()
        self.assertIs(talk.client.waiting_for, TransactionStage.STARTTLS)
        self.assertEqual(talk.client.data_to_send(), b"STARTTLS\r\n")
        self.assertEqual(talk.hear("220 go"), b"")
        self.assertEqual(talk.take(), TlsReady())
        self.assertIs(talk.client.waiting_for, TransactionStage.STARTTLS)
        talk.client.tls_established()
        self.assertEqual(talk.client.data_to_send(), b"EHLO me.example\r\n")
        talk.hear("250-mx.example", "250 SMTPUTF8")
        self.assertEqual(talk.take(), Ready(Extensions({"SMTPUTF8": ""})))

    def test_refused(self) -> None:
        talk = Talk(more="STARTTLS")
        talk.client.starttls()
        talk.hear("454 4.7.0 not now")
        self.assertEqual(talk.take(), TlsRefused(Reply.parse("454 4.7.0 not now")))
        self.assertIn(b"MAIL FROM", talk.send(transaction(A)))

    def test_plaintext_behind_the_220_is_an_attack(self) -> None:
        """RFC 3207: what was injected must not be taken for the server's word under TLS."""
        for pieces in ((b"220 go\r\n250 x\r\n",), (b"220 go\r\n", b"250-x"), (b"220 go\r\n2",)):
            talk = Talk(more="STARTTLS")
            talk.client.starttls()
            talk.client.data_to_send()
            talk.hear_octets(*pieces)
            self.assertIsInstance(talk.events[-1], ProtocolTrouble)
            self.assertEqual(TlsReady() in talk.events, len(pieces) == 2)
            self.assertTrue(talk.client.closed)
            self.assertEqual(talk.client.data_to_send(), b"")

    def test_421_to_starttls(self) -> None:
        talk = Talk(more="STARTTLS")
        talk.client.starttls()
        talk.hear("421 bye")
        self.assertEqual(talk.take(), Unwelcome(Reply.parse("421 bye"), TransactionStage.STARTTLS))


class TestPipelined(unittest.TestCase):
    def test_envelope_in_one_write(self) -> None:
        talk = Talk()
        said = talk.send(transaction(A, B))
        self.assertEqual(
            said,
            b"MAIL FROM:<s@example.org>\r\nRCPT TO:<a@example.com>\r\n"
            b"RCPT TO:<b@example.com>\r\nDATA\r\n",
        )
        stages = [talk.client.waiting_for]
        for line in ("250 ok", "250 ok", "550 no", "354 go"):
            self.assertEqual(talk.hear(line), b"")
            stages.append(talk.client.waiting_for)
        self.assertEqual(
            stages,
            [
                TransactionStage.MAIL,
                TransactionStage.RCPT,
                TransactionStage.RCPT,
                TransactionStage.DATA,
                TransactionStage.CONTENT,
            ],
        )
        self.assertEqual(talk.content(), b"Subject: x\r\n\r\n..dot\r\n.\r\n")
        self.assertIs(talk.client.waiting_for, TransactionStage.END)
        talk.hear("250 2.0.0 queued")
        done = talk.done()
        self.assertEqual(done.replies, (Reply.of(250, "2.0.0", "queued"), Reply.bare(550, "no")))
        self.assertEqual(done.stages, (TransactionStage.END, TransactionStage.RCPT))
        self.assertTrue(done.reusable)
        self.assertIs(done.end, End.ANSWERED)
        self.assertIn(b"MAIL", talk.send(transaction(A)))

    def test_mail_refused(self) -> None:
        talk = Talk()
        talk.send(transaction(A, B))
        self.assertEqual(talk.hear("550 no", "503 no", "503 no", "503 no"), b"")
        self.assertEqual(talk.outcome(), ["550 mail", "550 mail"])
        self.assertTrue(talk.send(transaction(A)).startswith(b"MAIL"))  # no RSET is due

    def test_mail_refused_echo_is_not_the_reason(self) -> None:
        talk = Talk()
        talk.send(transaction(A))
        talk.hear("451 4.3.2 later", "550 5.1.1 unknown", "554 5.5.1 none")
        self.assertEqual(talk.outcome(), ["451 mail"])

    def test_all_recipients_refused(self) -> None:
        talk = Talk()
        talk.send(transaction(A, B))
        talk.hear("250 ok", "550 no", "450 later", "554 no valid recipients")
        self.assertEqual(talk.outcome(), ["550 rcpt", "450 rcpt"])
        self.assertTrue(talk.send(transaction(A)).startswith(b"RSET\r\nMAIL FROM"))
        talk.hear("250 reset", "250 ok", "250 ok", "354 go")
        talk.content()
        talk.hear("250 ok")
        self.assertEqual(talk.outcome(), ["250 end"])
        self.assertTrue(talk.send(transaction(A)).startswith(b"MAIL FROM"))

    def test_all_recipients_refused_and_data_accepted(self) -> None:
        """RFC 2920 section 3.1: a lone dot, whose answer is nobody's."""
        talk = Talk()
        talk.send(transaction(A, B))
        self.assertEqual(talk.hear("250 ok", "550 no", "450 later", "354 go"), b".\r\n")
        self.assertEqual(talk.events, [])
        talk.hear("250 accepted for nobody")
        self.assertEqual(talk.outcome(), ["550 rcpt", "450 rcpt"])
        self.assertTrue(talk.send(transaction(A)).startswith(b"MAIL FROM"))

    def test_mail_refused_and_data_accepted(self) -> None:
        talk = Talk()
        talk.send(transaction(A))
        self.assertEqual(talk.hear("550 no", "250 ok", "354 go"), b".\r\n")
        talk.hear("250 ok")
        self.assertEqual(talk.outcome(), ["550 mail"])

    def test_data_refused(self) -> None:
        talk = Talk()
        talk.send(transaction(A, B))
        talk.hear("250 ok", "550 no", "250 ok", "451 later")
        self.assertEqual(talk.outcome(), ["550 rcpt", "451 data"])
        self.assertTrue(talk.send(transaction(A)).startswith(b"RSET\r\n"))

    def test_rset_refused(self) -> None:
        talk = Talk()
        talk.send(transaction(A))
        talk.hear("250 ok", "550 no", "554 no")
        talk.done()
        talk.send(transaction(A))
        talk.hear("500 what?")
        done = talk.done()
        self.assertEqual(done.replies[0].code, 451)
        self.assertFalse(done.reusable)

    def test_content_refused(self) -> None:
        talk = Talk()
        talk.send(transaction(A, B))
        talk.hear("250 ok", "250 ok", "250 ok", "354 go")
        talk.content()
        talk.hear("554 5.7.1 spam")
        self.assertEqual(talk.outcome(), ["554 end", "554 end"])

    def test_whether_recipients_would_be_taken_is_asked_without_content(self) -> None:
        for lmtp, pipelining in ((False, True), (False, False), (True, True)):
            with self.subTest(lmtp=lmtp, pipelining=pipelining):
                talk = Talk(lmtp=lmtp, pipelining=pipelining)
                sent = talk.send(replace(transaction(A, B, C), verifies=True))
                for reply in ("250 ok", "250 yes", "550 5.1.1 no", "451 4.2.0 full"):
                    self.assertNotIn(b"DATA", sent)
                    self.assertNotIn(b"BDAT", sent)
                    sent = talk.hear(reply)
                self.assertEqual(sent, b"")
                done = talk.events[0]
                assert isinstance(done, TransactionDone)
                self.assertTrue(done.reusable)
                self.assertEqual(talk.outcome(), ["250 rcpt", "550 rcpt", "451 rcpt"])
                # the next one begins anew
                self.assertTrue(talk.send(transaction(A)).startswith(b"RSET\r\n"))

    def test_of_nobody_who_would_be_taken_nothing_is_sent(self) -> None:
        talk = Talk()
        talk.send(replace(transaction(A), verifies=True))
        self.assertEqual(talk.hear("250 ok", "550 5.1.1 no"), b"")
        self.assertEqual(talk.outcome(), ["550 rcpt"])

    def test_421_anywhere(self) -> None:
        replies = ["250 ok", "250 ok", "550 no", "250 ok", "354 go"]
        expected = [
            ["421 mail", "421 mail", "421 mail"],
            ["421 rcpt", "421 rcpt", "421 rcpt"],
            ["421 rcpt", "421 rcpt", "421 rcpt"],
            ["421 rcpt", "550 rcpt", "421 rcpt"],
            ["421 data", "550 rcpt", "421 data"],
            ["421 content", "550 rcpt", "421 content"],
        ]
        for number, outcome in enumerate(expected):
            talk = Talk()
            talk.send(transaction(A, B, C))
            talk.hear(*replies[:number], "421 4.3.2 going down", *replies[number:])
            done = [event for event in talk.events if isinstance(event, TransactionDone)]
            talk.events = list(done)
            self.assertIs(done[0].end, End.SHUT_DOWN)
            self.assertEqual(done[0].last, Reply.of(421, "4.3.2", "going down"))
            self.assertFalse(done[0].reusable)
            self.assertTrue(talk.client.closed)
            self.assertEqual(talk.outcome(), outcome)

    def test_421_after_the_dot(self) -> None:
        talk = Talk()
        talk.send(transaction(A))
        talk.hear("250 ok", "250 ok", "354 go")
        talk.content()
        talk.hear("421 4.3.2 going down")
        self.assertEqual(talk.outcome(), ["421 end"])

    def test_lost_at_every_stage(self) -> None:
        lost = Reply.of(451, "4.4.2", "Connection lost")
        replies = ["250 ok", "550 no", "250 ok", "354 go"]
        for number, outcome in enumerate(
            [
                ["451 mail", "451 mail"],
                ["451 rcpt", "451 rcpt"],
                ["550 rcpt", "451 rcpt"],
                ["550 rcpt", "451 data"],
                ["550 rcpt", "451 content"],
            ]
        ):
            talk = Talk()
            talk.send(transaction(A, B))
            talk.hear(*replies[:number])
            talk.events = []
            talk.client.fail(lost)
            talk.client.fail(lost)
            talk.hear()
            self.assertFalse(talk.client.next_event())
            self.assertEqual(talk.outcome(), outcome)

    def test_answers_twice(self) -> None:
        talk = Talk()
        talk.send(transaction(A))
        talk.hear("250 ok", "250 ok", "354 go")
        talk.content()
        talk.hear("250 ok", "250 ok")
        done = talk.done()
        self.assertEqual(done.replies[0].code, 250)
        self.assertFalse(done.reusable)
        self.assertEqual(done.trouble, "spoke without being asked")

    def test_answers_early(self) -> None:
        """A success before the dot is no success, whether it is read before or after."""
        for read_first in (True, False):
            talk = Talk()
            talk.send(transaction(A))
            talk.client.receive_data(b"250 ok\r\n250 ok\r\n354 go\r\n250 delivered\r\n")
            self.assertEqual(talk.client.next_event(), SendContent())
            if read_first:
                talk.hear()
            talk.client.send_content(CONTENT)
            talk.client.end_content()
            self.assertNotIn(b"\r\n.\r\n", talk.hear())
            done = talk.done()
            self.assertEqual([reply.code for reply in done.replies], [451])
            self.assertEqual(done.stages, (TransactionStage.CONTENT,))
            self.assertFalse(done.reusable)

    def test_refuses_early(self) -> None:
        talk = Talk()
        talk.send(transaction(A))
        talk.hear("250 ok", "250 ok", "354 go")
        talk.take()
        talk.client.send_content(CONTENT)
        talk.hear("552 5.3.4 too much")
        self.assertEqual(talk.outcome(), ["552 content"])
        self.assertTrue(talk.client.closed)
        talk.client.send_content(CONTENT)
        talk.client.end_content()
        self.assertIsNone(talk.client.next_event())

    def test_answers_out_of_step(self) -> None:
        """A reply too many shifts all that follow; it must not end in a false success."""
        talk = Talk()
        talk.send(transaction(A, B))
        talk.hear("250 ok", "250 ok", "250 ok", "250 ok", "354 go")
        self.assertEqual(talk.outcome(), ["451 data", "451 data"])
        self.assertTrue(talk.client.closed)

    def test_3xx_where_it_means_nothing(self) -> None:
        for replies in (["354 go"], ["250 ok", "354 go"]):
            talk = Talk()
            talk.send(transaction(A))
            talk.hear(*replies)
            self.assertEqual(talk.done().replies[0].code, 451)
            self.assertTrue(talk.client.closed)

    def test_nonsense_in_a_transaction(self) -> None:
        talk = Talk()
        talk.send(transaction(A, B))
        talk.hear("250 ok", "550 5.1.1 unknown", "what?")
        done = talk.done()
        self.assertEqual([reply.code for reply in done.replies], [550, 451])
        self.assertIn("what?", done.trouble)
        self.assertFalse(done.reusable)

    def test_endless_continuation(self) -> None:
        talk = Talk()
        talk.send(transaction(A))
        for _ in range(10):
            talk.hear_octets(b"250-x\r\n" * 50)
        self.assertEqual(talk.outcome(), ["451 mail"])
        self.assertTrue(talk.client.closed)

    def test_spoke_before_send(self) -> None:
        talk = Talk()
        talk.client.receive_data(b"250 ok\r\n250 ok\r\n354 go\r\n")
        self.assertEqual(talk.send(transaction(A)), b"")
        self.assertEqual(talk.done().replies[0].code, 451)

    def test_send_after_the_end(self) -> None:
        talk = Talk()
        talk.client.fail(Reply.of(451, "4.4.2", "lost"))
        talk.hear()
        talk.take()
        talk.send(transaction(A))
        self.assertEqual(talk.outcome(), ["451 idle"])


class TestSequential(unittest.TestCase):
    def test_one_command_at_a_time(self) -> None:
        talk = Talk(pipelining=False)
        said = [talk.send(transaction(A, B))]
        said += [talk.hear(line) for line in ("250 ok", "250 ok", "550 no", "354 go")]
        self.assertEqual(
            said,
            [
                b"MAIL FROM:<s@example.org>\r\n",
                b"RCPT TO:<a@example.com>\r\n",
                b"RCPT TO:<b@example.com>\r\n",
                b"DATA\r\n",
                b"",
            ],
        )
        self.assertTrue(talk.content().endswith(b"\r\n.\r\n"))
        talk.hear("250 ok")
        self.assertEqual(talk.outcome(), ["250 end", "550 rcpt"])

    def test_mail_refused(self) -> None:
        talk = Talk(pipelining=False)
        talk.send(transaction(A, B))
        self.assertEqual(talk.hear("550 no"), b"")
        self.assertEqual(talk.outcome(), ["550 mail", "550 mail"])

    def test_nobody_accepted(self) -> None:
        talk = Talk(pipelining=False)
        talk.send(transaction(A, B))
        self.assertEqual(talk.hear("250 ok"), b"RCPT TO:<a@example.com>\r\n")
        self.assertEqual(talk.hear("550 no"), b"RCPT TO:<b@example.com>\r\n")
        self.assertEqual(talk.hear("450 no"), b"")
        self.assertEqual(talk.outcome(), ["550 rcpt", "450 rcpt"])
        self.assertEqual(talk.send(transaction(A)), b"RSET\r\n")
        self.assertEqual(talk.hear("250 ok"), b"MAIL FROM:<s@example.org>\r\n")

    def test_answers_ahead(self) -> None:
        talk = Talk(pipelining=False)
        talk.send(transaction(A))
        self.assertEqual(talk.hear("250 ok", "250 ok"), b"")
        self.assertEqual(talk.outcome(), ["451 idle"])
        self.assertTrue(talk.client.closed)


class TestBdat(unittest.TestCase):
    def test_content_without_its_last_line_end(self) -> None:
        for pipelining in (True, False):
            talk = Talk(pipelining=pipelining, more="CHUNKING")
            talk.send(transaction(A, size=6, crlf=False))
            talk.hear("250 ok")
            self.assertEqual(talk.hear("250 ok"), b"BDAT 6 LAST\r\n")
            self.assertEqual(talk.content(b".\r", b"\n.a", b"b"), b".\r\n.ab")
            self.assertIs(talk.client.waiting_for, TransactionStage.END)
            talk.hear("250 ok")
            self.assertEqual(talk.outcome(), ["250 end"])

    def test_nobody_accepted(self) -> None:
        talk = Talk(more="CHUNKING")
        said = talk.send(transaction(A, size=1, crlf=False))
        self.assertEqual(said, b"MAIL FROM:<s@example.org>\r\nRCPT TO:<a@example.com>\r\n")
        self.assertEqual(talk.hear("250 ok", "550 no"), b"")
        self.assertEqual(talk.outcome(), ["550 rcpt"])

    def test_only_where_it_is_needed(self) -> None:
        self.assertIn(b"DATA", Talk(more="CHUNKING").send(transaction(A)))
        self.assertIn(b"DATA", Talk().send(transaction(A, crlf=False)))

    def test_our_own_miscount_never_desynchronises(self) -> None:
        for content in (b"12345", b"1234567"):
            talk = Talk(more="CHUNKING")
            talk.send(transaction(A, size=6, crlf=False))
            talk.hear("250 ok", "250 ok")
            talk.content(content)
            self.assertEqual(talk.outcome(), ["451 content"])
            self.assertTrue(talk.client.closed)


class TestLmtp(unittest.TestCase):
    def test_one_reply_for_each_accepted_recipient(self) -> None:
        talk = Talk(lmtp=True)
        talk.send(transaction(A, B, C))
        talk.hear("250 ok", "250 ok", "550 no", "250 ok", "354 go")
        talk.content()
        talk.hear("250 stored")
        self.assertEqual(talk.events, [])
        self.assertIs(talk.client.waiting_for, TransactionStage.END)
        talk.hear("452 full")
        self.assertEqual(talk.outcome(), ["250 end", "550 rcpt", "452 end"])

    def test_lost_between_the_replies(self) -> None:
        talk = Talk(lmtp=True)
        talk.send(transaction(A, B))
        talk.hear("250 ok", "250 ok", "250 ok", "354 go")
        talk.content()
        talk.hear("250 stored")
        talk.client.fail(Reply.of(451, "4.4.2", "lost"))
        talk.hear()
        self.assertEqual(talk.outcome(), ["250 end", "451 end"])

    def test_421_between_the_replies(self) -> None:
        talk = Talk(lmtp=True)
        talk.send(transaction(A, B, C))
        talk.hear("250 ok", "250 ok", "250 ok", "250 ok", "354 go")
        talk.content()
        talk.hear("250 stored", "421 bye")
        self.assertEqual(talk.outcome(), ["250 end", "421 end", "421 end"])

    def test_a_reply_too_many(self) -> None:
        talk = Talk(lmtp=True)
        talk.send(transaction(A))
        talk.hear("250 ok", "250 ok", "354 go")
        talk.content()
        talk.hear("250 stored", "250 stored")
        self.assertFalse(talk.done().reusable)

    def test_data_accepted_for_nobody(self) -> None:
        talk = Talk(lmtp=True)
        talk.send(transaction(A))
        self.assertEqual(talk.hear("250 ok", "550 no", "354 go"), b"")
        done = talk.done()
        self.assertEqual(done.replies[0].code, 550)
        self.assertFalse(done.reusable)

    def test_early_refusal_is_not_everybodys(self) -> None:
        talk = Talk(lmtp=True)
        talk.send(transaction(A, B))
        talk.hear("250 ok", "250 ok", "250 ok", "354 go")
        talk.take()
        talk.hear("550 no")
        self.assertEqual(talk.outcome(), ["451 content", "451 content"])


class TestOwnContent(unittest.TestCase):
    def test_bare_line_ends_are_never_sent(self) -> None:
        for chunks in ((b"a\nb\r\n",), (b"a\rb",), (b"a\0b",), (b"a\r", b"b\r\n"), (b"a\r",)):
            talk = Talk()
            talk.send(transaction(A))
            talk.hear("250 ok", "250 ok", "354 go")
            said = talk.content(*chunks)
            self.assertNotIn(b".\r\n", said)
            self.assertEqual(talk.outcome(), ["554 content"])
            self.assertTrue(talk.client.closed)

    def test_what_was_proven_when_it_came_is_not_looked_through_again(self) -> None:
        talk = Talk()
        talk.send(transaction(A))
        talk.hear("250 ok", "250 ok", "354 go")
        with patch.object(Purity, "offence", side_effect=AssertionError):
            said = talk.content(b"a\r\n", pure=True)
        self.assertEqual(said, b"a\r\n.\r\n")


_replies = st.sampled_from(
    [
        "250 2.1.0 ok",
        "250-2.1.5 a\r\n250 2.1.5 b",
        "550 5.1.1 no",
        "451 4.3.0 later",
        "354 go",
        "421 4.3.2 bye",
        "what?",
        "what-ever",
        "250-a\r\n251 b",
        "",
        "250",
        "299 odd",
        "399 odd",
        "5",
    ]
)


class TestAnyServer(unittest.TestCase):
    @given(
        st.lists(st.lists(_replies, max_size=6), max_size=8),
        st.booleans(),
        st.booleans(),
        st.data(),
    )
    @BOUNDED
    def test_every_recipient_has_one_word_and_success_needs_the_dot(
        self, turns: list[list[str]], lmtp: bool, pipelining: bool, data: st.DataObject
    ) -> None:
        talk = Talk(lmtp=lmtp, pipelining=pipelining)
        client = talk.client
        client.send(transaction(A, B))
        ended = False
        done: list[TransactionDone] = []
        turns = (
            [["250 ok", "250 ok", "550 no", "354 go"], *turns]
            if data.draw(st.booleans())
            else turns
        )
        for turn in turns:
            wire = "".join(f"{reply}\r\n" for reply in turn).encode()
            for piece in data.draw(cuts_of(wire)):
                client.receive_data(piece)
                while (event := client.next_event()) is not None:
                    if isinstance(event, SendContent):
                        client.send_content(CONTENT)
                        client.end_content()
                    elif isinstance(event, TransactionDone):
                        done.append(event)
                ended = ended or client.data_to_send().endswith(b"\r\n.\r\n")
        client.fail(Reply.of(451, "4.4.2", "lost"))
        while (event := client.next_event()) is not None:
            if isinstance(event, TransactionDone):
                done.append(event)
        self.assertEqual(len(done), 1)
        self.assertEqual(len(done[0].replies), 2)
        self.assertEqual(len(done[0].stages), 2)
        for reply, stage in zip(done[0].replies, done[0].stages, strict=True):
            if reply.code < 400:
                self.assertLess(reply.code, 300)
                self.assertIs(stage, TransactionStage.END)
                self.assertTrue(ended)

    @given(
        st.lists(_replies, min_size=4, max_size=4),
        st.lists(_replies, min_size=1, max_size=1),
        st.data(),
    )
    @BOUNDED
    def test_every_cut_gives_the_same(
        self, envelope: list[str], end: list[str], data: st.DataObject
    ) -> None:
        """A server that gives as many replies as it was asked for, and no more."""
        results = []
        for cut in (False, True):
            talk = Talk()
            said = [talk.send(transaction(A, B))]
            for turn in (envelope, end):
                wire = "".join(f"{reply}\r\n" for reply in turn).encode()
                said.append(talk.hear_octets(*(data.draw(cuts_of(wire)) if cut else [wire])))
                if SendContent() in talk.events:
                    talk.client.send_content(CONTENT)
                    talk.client.end_content()
                    said.append(talk.hear())
                    talk.events.remove(SendContent())
                if talk.client.waiting_for is not TransactionStage.END:
                    break
            results.append((talk.events, said, talk.client.closed, talk.client.waiting_for))
        self.assertEqual(*results)
