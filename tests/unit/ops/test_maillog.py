from __future__ import annotations

import shlex
import unittest
from collections.abc import Callable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.content import BytesContent
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.log import MailLog
from relayd.mail.message import Message, RecipientState, Record, Settlement
from relayd.mail.outcome import Outcome, postponed
from relayd.mail.reply import Reply
from relayd.ops.maillog import MAX_VALUE, LineLog, message_id, value

CLIENT = Client("192.0.2.9", 4711, "192.0.2.1:25", "client.example", "ESMTP")
HEAD = b"Received: x\r\nSubject: y\r\nMessage-ID: <one@sender.example>\r\n\r\n"
MESSAGE = Message(
    1_767_600_000_000_000 << 8,
    1_767_600_000.0,
    Envelope(Mailbox.parse("alice@sender.example")),
    CLIENT,
    BytesContent(HEAD + b"body\r\n"),
    len(HEAD),
    eight_bit=False,
    utf8_header=False,
)
BOB = Recipient(Mailbox("bob", "example.net"), Mailbox("info", "example.com"))
SENT = Outcome(Reply.of(250, "2.0.0", "Ok: queued"), "mx1.example.net", "198.51.100.7:25")


class LogTestCase(unittest.TestCase):
    def setUp(self) -> None:
        self.written = b""
        self.waiting: list[Callable[[], None]] = []
        self.now = 1_767_600_001.25

    def log(self, *, journal: bool = False) -> LineLog:
        def write(data: bytes) -> None:
            self.written += data

        return LineLog(write, clock=lambda: self.now, later=self.waiting.append, journal=journal)

    def line(self, call: Callable[[MailLog], None]) -> str:
        log = self.log(journal=True)
        self.written = b""
        call(log)
        log.flush()
        text = self.written.decode()
        self.assertEqual(text.count("\n"), 1)
        return text[:-1]


class VocabularyTests(LogTestCase):
    def test_accepted(self) -> None:
        self.assertEqual(
            self.line(lambda log: log.accepted(MESSAGE, [Record(MESSAGE.ident, 0, BOB)], 0.0123)),
            "<6>accepted id=CHWZE8DE0000 from=<alice@sender.example> size=67 nrcpt=1"
            " message-id=<one@sender.example> client=[192.0.2.9]:4711 helo=client.example"
            " proto=ESMTP delay=0.01",
        )

    def test_our_own_report_is_accepted(self) -> None:
        own = replace(MESSAGE, client=Client("", protocol=""), envelope=Envelope(None))
        line = self.line(lambda log: log.accepted(own, [], 0))
        self.assertIn(" from=<> ", line)
        self.assertIn(" client=local ", line)
        self.assertIn(" proto=own ", line)

    def attempt(self, state: RecipientState, outcome: Outcome | None, **more: str) -> str:
        settled = Settlement(Record(MESSAGE.ident, 0, BOB), state, outcome, **more)  # type: ignore[arg-type]
        return self.line(lambda log: log.attempted(MESSAGE, [settled], 0.25))

    def test_recipients_of_one_delivery_have_a_line_each(self) -> None:
        refused = Outcome(Reply.parse("550 5.1.1 No such user"), "mx1.example.net")
        ends = (
            (RecipientState.DELIVERED, SENT, ""),
            (RecipientState.DELIVERED, SENT, ""),
            (RecipientState.FAILED, refused, ""),
            (RecipientState.DELIVERED, SENT, ""),
            (RecipientState.REMOVED, None, "spam"),
            (RecipientState.REMOVED, None, "on request"),
        )
        alone = [self.attempt(state, outcome, note=note) for state, outcome, note in ends]
        log = self.log(journal=True)
        self.written = b""
        settled = [
            Settlement(Record(MESSAGE.ident, 0, BOB), state, outcome, note=note)
            for state, outcome, note in ends
        ]
        log.attempted(MESSAGE, settled, 0.25)
        log.flush()
        self.assertEqual(self.written.decode().splitlines(), alone)

    def test_attempt(self) -> None:
        self.assertEqual(
            self.attempt(RecipientState.DELIVERED, SENT),
            "<6>attempt id=CHWZE8DE0000 to=<bob@example.net> orig_to=<info@example.com>"
            " relay=mx1.example.net[198.51.100.7]:25 attempts=1 delay=1.25 delays=1.00/0.25"
            " dsn=2.0.0 status=sent (250 2.0.0 Ok: queued)",
        )

    def test_who_it_is_for_stands_in_quotes_where_it_must(self) -> None:
        plain, spaced = Mailbox("bob", "example.net"), Mailbox("b ob", "example.net")
        long = Mailbox("b" * MAX_VALUE, "example.net")
        quoted = r'"<\"b ob\"@example.net>"'
        for to, original, expected in (
            (plain, plain, "to=<bob@example.net>"),
            (spaced, spaced, f"to={quoted}"),
            (plain, spaced, f"to=<bob@example.net> orig_to={quoted}"),
            (spaced, plain, f"to={quoted} orig_to=<bob@example.net>"),
            (long, plain, f'to="<{"b" * (MAX_VALUE - 1)}" orig_to=<bob@example.net>'),
        ):
            with self.subTest(to=to, original=original):
                record = Record(MESSAGE.ident, 0, Recipient(to, original))
                settled = [Settlement(record, RecipientState.DELIVERED, SENT)]
                line = self.line(lambda log, all_=settled: log.attempted(MESSAGE, all_, 0.25))  # type: ignore[misc]
                self.assertIn(f" id=CHWZE8DE0000 {expected} relay=", line)

    def test_status_words(self) -> None:
        put_off = postponed("4.4.1", "Connection refused", why="ECONNREFUSED [198.51.100.7]:25")
        line = self.attempt(RecipientState.QUEUED, put_off)
        self.assertIn(" relay=none ", line)
        self.assertTrue(
            line.endswith(
                ' dsn=4.4.1 why="ECONNREFUSED [198.51.100.7]:25"'
                " status=deferred (451 4.4.1 Connection refused)"
            ),
            line,
        )
        self.assertIn("status=expired (", self.attempt(RecipientState.EXPIRED, put_off))
        self.assertIn("status=bounced (", self.attempt(RecipientState.FAILED, SENT))
        self.assertTrue(
            self.attempt(RecipientState.REMOVED, None, note="spam").endswith(
                "status=removed (spam)"
            )
        )

    def test_relays(self) -> None:
        for mta, address, expected in (
            ("", "", "none"),
            ("mx", "[2001:db8::1]:25", "mx[2001:db8::1]:25"),
            ("", "192.0.2.1:25", "192.0.2.1[192.0.2.1]:25"),
            ("store", "unix:/run/dovecot/lmtp", "store[/run/dovecot/lmtp]"),
        ):
            outcome = SENT.but(remote_mta=mta, remote_address=address)
            self.assertIn(f" relay={expected} ", self.attempt(RecipientState.DELIVERED, outcome))

    def test_the_rest(self) -> None:
        for call, expected in (
            (
                lambda log: log.session(CLIENT, messages=2, refused=1, seconds=1.5, end="quit"),
                "<6>session client=[192.0.2.9]:4711 helo=client.example proto=ESMTP messages=2"
                " refused=1 seconds=1.5 end=quit",
            ),
            (
                lambda log: log.refused(CLIENT, "RCPT TO:<x@y>", "550 5.7.1 Relaying denied"),
                '<6>refused client=[192.0.2.9]:4711 helo=client.example command="RCPT TO:<x@y>"'
                ' reply="550 5.7.1 Relaying denied"',
            ),
            (
                lambda log: log.report(MESSAGE, "1K7QJ4V8Z0G0", "alice@sender.example", "failed"),
                "<6>report id=CHWZE8DE0000 report=1K7QJ4V8Z0G0 to=<alice@sender.example>"
                " kind=failed",
            ),
            (
                lambda log: log.notice("next hop down", name="exchange", seconds=60),
                '<5>notice event="next hop down" name=exchange seconds=60',
            ),
            (lambda log: log.trouble("disk full"), '<4>trouble event="disk full"'),
        ):
            self.assertEqual(self.line(call), expected)


class WritingTests(LogTestCase):
    def test_one_write_for_an_iteration(self) -> None:
        log = self.log()
        log.notice("one")
        log.notice("two")
        self.assertEqual(self.written, b"")
        self.assertEqual(len(self.waiting), 1)
        self.waiting.pop()()
        self.assertEqual(
            self.written,
            b"2026-01-05T08:00:01.250Z notice event=one\n"
            b"2026-01-05T08:00:01.250Z notice event=two\n",
        )
        log.notice("three")
        self.assertEqual(len(self.waiting), 1)

    def test_no_memory_to_write_lines_has_those_after_them_written(self) -> None:
        scarce = [MemoryError()]

        def write(data: bytes) -> None:
            if scarce:
                raise scarce.pop()
            self.written += data

        log = LineLog(write, clock=lambda: self.now, later=self.waiting.append)
        log.notice("lost")
        with self.assertRaises(MemoryError):
            self.waiting.pop()()
        log.notice("kept")
        self.waiting.pop()()
        self.assertIn(b"event=kept", self.written)

    def test_trouble_is_written_at_once(self) -> None:
        self.log().trouble("damaged entry", id="1K7QJ4V8Z0G0")
        self.assertIn(b"damaged entry", self.written)

    def test_dropped_lines_are_told_as_any_trouble(self) -> None:
        self.assertEqual(
            self.log().dropped(7),
            b'2026-01-05T08:00:01.250Z trouble event="log lines dropped" lines=7\n',
        )
        self.assertEqual(
            self.log(journal=True).dropped(7), b'<4>trouble event="log lines dropped" lines=7\n'
        )


class SafetyTests(LogTestCase):
    @given(st.text(), st.text(), st.text())
    def test_no_peer_writes_a_line_or_a_key_of_its_own(
        self, helo: str, command: str, reply: str
    ) -> None:
        """Whatever the text, one printable line, and splitting it by shell rules finds our keys."""
        client = replace(CLIENT, helo=helo)
        self.written = b""
        log = self.log(journal=True)
        log.refused(client, command, reply)
        log.flush()
        line = self.written.decode()
        self.assertTrue(line.endswith("\n"))
        self.assertTrue(line[:-1].isprintable())
        words = shlex.split(line.replace("'", "-"))
        self.assertEqual(
            [word.split("=")[0] for word in words],
            ["<6>refused", "client", "helo", "command", "reply"],
        )

    def test_values(self) -> None:
        for text, expected in (
            ("", '""'),
            ("a b", '"a b"'),
            ('say "x"', '"say \\"x\\""'),
            ("a=b", '"a=b"'),
            ("a\r\nstatus=sent", '"a\\r\\nstatus=sent"'),
            ("\x1b[31m", '"\\x1b[31m"'),
            ("\u202eabc", '"\\u202eabc"'),
            ("back\\slash", '"back\\\\slash"'),
            ("grün", '"grün"'),
            ("x" * 600, '"' + "x" * 512 + '"'),
        ):
            self.assertEqual(value(text), expected)

    def test_message_ids(self) -> None:
        for field, expected in (
            (b"Message-Id:\r\n <folded@x>", "<folded@x>"),
            (b"MESSAGE-ID:<x@y>", "<x@y>"),
            (b"Message-ID: nonsense", "none"),
            (b"Message-ID: <a b>", "none"),
            (b"Message-ID: <\xff@x>", "none"),
            (b"Subject: Message-ID: <not@this>", "none"),
        ):
            head = b"Received: x\r\n" + field + b"\r\n\r\n"
            body = b"\nMessage-ID: <body@x>\r\n"
            self.assertEqual(message_id(BytesContent(head + body), len(head)), expected)
