"""Old devices and old habits, through relayd to servers that are strict: a scanner, a telephone."""

from __future__ import annotations

import socket

from tests.scenarios import peers
from tests.scenarios.harness import Relayd, Scenario, wait_until
from tests.sink import Asked, Sink

SITE = "site.example"
LETTER = b"From: scanner@site.example\r\nSubject: scanned\r\n\r\npage 1\r\n"
# local parts that are no dot-atom, as telephones have them
PHONES = ("ann..lee@docomo.example", ".ann@docomo.example", "ann.@docomo.example")
QUOTED = ('"ann..lee"@docomo.example', ".ann", "ann.")


class Device:
    """Sends a line, waits for its answer, and knows nothing else."""

    def __init__(self, scenario: Scenario, relay: Relayd, end: bytes = b"\r\n") -> None:
        self._end = end
        self._socket = socket.create_connection(relay.address, timeout=60)
        scenario.addCleanup(self._socket.close)
        self._replies = self._socket.makefile("rb")
        scenario.addCleanup(self._replies.close)
        self.hear()

    def hear(self) -> str:
        while (line := self._replies.readline())[3:4] == b"-":
            pass
        return line.decode().rstrip()

    def say(self, line: bytes, end: bytes = b"") -> str:
        self._socket.sendall(line + (end or self._end))
        return self.hear()


class Office(Scenario):
    """A relayd for devices, and what one of them sends."""

    def site(self, hop: str, more: str = "") -> Relayd:
        return self.relayd(
            f"next-hop store {hop}\naccept from 127.0.0.0/8\n{more}route any via store\n"
        )

    def send(self, relay: Relayd, sender: str, recipients: tuple[str, ...]) -> None:
        device = Device(self, relay)
        talk = [f"MAIL FROM: {sender}", *(f"RCPT TO:{each}" for each in recipients)]
        for line in talk:
            self.assertEqual(device.say(line.encode())[:3], "250", line)
        self.assertEqual(device.say(b"DATA")[:3], "354")
        self.assertEqual(device.say(LETTER + b".")[:3], "250")
        self.assertEqual(device.say(b"QUIT")[:3], "221")


class OldDevice(Office):
    """No angle brackets, no EHLO, no HELO; and one that ends its lines with LF alone."""

    def test_without_brackets_and_without_a_name_it_reaches_any_hop(self) -> None:
        with Sink() as sink:
            relay = self.site(f"smtp 127.0.0.1:{sink.port}")
            self.send(relay, f"scanner@{SITE}.", ("bob@example.com",))
            [message] = sink.wait(1)
            self.assertEqual(message.sender, f"scanner@{SITE}")
            self.assertEqual(message.recipients, ("bob@example.com",))
            self.assertIn(
                b"Received: from [127.0.0.1] (localhost [127.0.0.1])\r\n", message.content
            )
            self.assertIn(b" with SMTP id ", message.content)

    def test_without_a_name_that_can_be_heard(self) -> None:
        with Sink() as sink:
            relay = self.site(f"smtp 127.0.0.1:{sink.port}")
            device = Device(self, relay)
            for line in (b"HELO", b"EHLO  ", b"HELO b\xfcro", b"EHLO b\xfcro"):
                self.assertEqual(device.say(line)[:3], "501", line)
            self.assertEqual(device.say(b"MAIL  FROM:<scanner@site.example> AUTH=<>")[:3], "250")
            self.assertEqual(device.say(b"RCPT\tTO:bob@example.com")[:3], "250")
            self.assertEqual(device.say(b"DATA")[:3], "354")
            self.assertEqual(device.say(LETTER + b".")[:3], "250")
            self.assertEqual(sink.wait(1)[0].recipients, ("bob@example.com",))

    def test_with_lf_alone_it_hears_500_at_once_and_nothing_of_it_is_run(self) -> None:
        with Sink() as sink:
            relay = self.site(f"smtp 127.0.0.1:{sink.port}")
            device = Device(self, relay, b"\n")
            for line in (b"HELO scanner", b"MAIL FROM: a@b.example", b"RCPT TO: bob@example.com"):
                self.assertEqual(device.say(line)[:9], "500 5.5.2", line)
            # CRLF ends what the bare LF has torn, and the session goes on
            self.assertEqual(device.say(b"RSET", b"\r\n")[:3], "500")
            for line in (b"MAIL FROM: a@b.example", b"RCPT TO: bob@example.com"):
                self.assertEqual(device.say(line, b"\r\n")[:3], "250")
            self.assertEqual(device.say(b"DATA", b"\r\n")[:3], "354")
            # bare LF in content stays what it was: refused, and never the end of it
            self.assertEqual(
                device.say(b"x\n.\nMAIL FROM:<c@d.example>\n\r\n.", b"\r\n")[:3], "554"
            )
            self.assertEqual(device.say(b"QUIT", b"\r\n")[:3], "221")
            self.assertEqual(sink.arrived, [])

    def test_a_report_finds_the_way_back_to_such_a_sender(self) -> None:
        def script(asked: Asked) -> str | None:
            refused = asked.stage == "rcpt" and asked.argument.startswith("gone")
            return "550 5.1.1 No such user" if refused else None

        with Sink(script=script) as sink:
            relay = self.site(f"smtp 127.0.0.1:{sink.port}")
            self.send(relay, PHONES[0], ("gone@example.com",))
            [report] = sink.wait(1)
            self.assertEqual((report.sender, report.recipients), ("", QUOTED[:1]))
            self.assertIn(b"To: <" + QUOTED[0].encode() + b">\r\n", report.content)


class ToPostfix(Office):
    """To a Postfix that has the letter of RFC 821."""

    needs = ("postfix",)

    def test_telephones_are_reached_in_the_spelling_of_the_book(self) -> None:
        postfix = peers.Postfix(
            self, domains=("docomo.example",), extra="strict_rfc821_envelopes = yes\n"
        )
        relay = self.site(f"smtp 127.0.0.1:{postfix.port}")
        self.send(relay, PHONES[0], PHONES)
        wait_until(lambda: len(postfix.mailbox()) == len(PHONES), "three letters")
        for content in postfix.mailbox():
            self.assertIn(b"Return-Path: <" + QUOTED[0].encode() + b">\r\n", content)
            self.assertTrue(content.endswith(b"\r\n\r\npage 1\r\n"), content)
        said = ['from=<"ann..lee"@docomo.example>']
        said += [f'to=<"{local}"@docomo.example>' for local in ("ann..lee", ".ann", "ann.")]
        for words in said:
            wait_until(lambda: words in postfix.log(), f"in Postfix's log: {words}")  # noqa: B023


class ToDovecot(Office):
    """To a mail store by LMTP."""

    needs = ("dovecot",)

    def test_telephones_are_reached_in_the_spelling_of_the_book(self) -> None:
        dovecot = peers.Dovecot(self, PHONES[:1])
        relay = self.site(f"lmtp unix:{dovecot.socket}")
        self.send(relay, PHONES[0], PHONES[:1])
        [content] = wait_until(lambda: dovecot.by_imap(PHONES[0]), "the letter")
        self.assertTrue(content.endswith(LETTER))
