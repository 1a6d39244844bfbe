"""XCLIENT: what a named peer says of its client, and what it hears."""

from __future__ import annotations

import unittest
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.reply import Reply
from relayd.smtp.events import Mail, StartTls, XClient
from relayd.smtp.exchange import ServerLimits
from relayd.smtp.extensions import Offer
from relayd.smtp.grammar import MAX_HELO, RemoteProtocolError
from relayd.smtp.server import SmtpServer
from relayd.smtp.xclient import ATTRIBUTES, LOGIN, NO_ADDRESS, parse_xclient
from relayd.smtp.xtext import encode_xtext

ALL = (*ATTRIBUTES, LOGIN)
OK = Reply.of(250, "2.0.0", "Ok")


def refusal(argument: str, offered: tuple[str, ...] = ALL) -> int:
    try:
        parse_xclient(argument.encode(), offered)
    except RemoteProtocolError as error:
        return error.reply.code
    return 0


class ArgumentTests(unittest.TestCase):
    def test_what_postfix_documents(self) -> None:
        for text, expected in (
            (
                "NAME=Spike.Porcupine.org. ADDR=168.100.189.2",
                XClient("168.100.189.2", name="spike.porcupine.org"),
            ),
            ("NAME=[UNAVAILABLE]", XClient(name="")),
            ("NAME=[TEMPUNAVAIL]", XClient()),  # we may find it
            ("addr=IPV6:2001:DB8::1 port=25", XClient("2001:db8::1", 25)),
            ("ADDR=::ffff:192.0.2.1", XClient("192.0.2.1")),
            (
                "NAME=[UNAVAILABLE] ADDR=[UNAVAILABLE] PORT=[TEMPUNAVAIL]",
                XClient(NO_ADDRESS, 0, name=""),
            ),
            ("PROTO=ESMTP HELO=[tempunavail]", XClient(helo="")),
            ("HELO=a+20b LOGIN=ann+40example.com", XClient(helo="a b", login="ann@example.com")),
            ("LOGIN=[UNAVAILABLE] DESTADDR=192.0.2.9 DESTPORT=25", XClient(login="")),
        ):
            self.assertEqual(parse_xclient(text.encode(), ALL), expected, text)

    def test_what_is_malformed(self) -> None:
        for text in (
            "",
            "ADDR",
            "ADDR=",
            "=x",
            "ADDR=spike.porcupine.org",
            "ADDR=fe80::1%eth0",
            "ADDR=192.0.2.1 ADDR=192.0.2.2",
            "PORT=x",
            "PORT=65536",
            "PORT=-1",
            "PROTO=LMTP",
            "LOGIN=a+00",
            "COLOUR=blue",
            "NAME=" + "x" * 300,
            "NAME=a+20b",
            "NAME=a+5b",
            "NAME=a..b",
        ):
            self.assertEqual(refusal(text), 501, text)

    def test_what_a_client_calls_itself_may_be_anything(self) -> None:
        for text, shown in (
            (b"HELO=x+FCy", "x?y"),
            (b"HELO=x+00y+0Az", "x?y?z"),
            (b"HELO=x+2", "x+2"),
            (b"HELO=a=b", "a=b"),
            ("HELO=\u00fc".encode(), "\u00fc"),
            (b"HELO=+E3+81+82", "\u3042"),
            (b"HELO=(x)<y>", "(x)<y>"),
            (b"HELO=", ""),
            (b"HELO=" + b"a" * 2000, "a" * MAX_HELO),
        ):
            self.assertEqual(parse_xclient(text, ALL).helo, shown, text)

    def test_a_login_is_taken_only_where_it_is_offered(self) -> None:
        self.assertEqual(refusal("LOGIN=root", ATTRIBUTES), 550)
        self.assertEqual(refusal("LOGIN=[UNAVAILABLE]", ATTRIBUTES), 0)

    @given(
        st.text(min_size=1, max_size=40).filter(
            lambda name: name.isprintable() and not name.startswith("[")  # [UNAVAILABLE]
        ),
        st.ip_addresses(),
    )
    def test_values_are_xtext(self, name: str, address: object) -> None:
        argument = f"ADDR={address} LOGIN={encode_xtext(name)}"
        self.assertEqual(parse_xclient(argument.encode(), ALL).login, name)

    @given(st.one_of(st.binary(), st.text().map(lambda text: f"ADDR={text}".encode())))
    def test_nothing_else_than_a_refusal_comes_of_anything(self, argument: bytes) -> None:
        try:
            found = parse_xclient(argument, ALL)
        except RemoteProtocolError as error:
            self.assertIn(error.reply.code, (501, 550))
        else:
            self.assertTrue(found.login is None or found.login.isprintable())


class SessionTests(unittest.TestCase):
    def setUp(self) -> None:
        self.server = SmtpServer(
            "gw.example.com", ServerLimits(), Offer(starttls=True, xclient=ALL)
        )
        self.server.greet()

    def say(self, line: str, verdict: Reply = OK) -> str:
        """One command, its verdict if it needs one; what was heard."""
        self.server.data_to_send()
        self.server.receive_data(line.encode() + b"\r\n")
        self.event = self.server.next_event()
        self.server.answer(verdict)
        return self.server.data_to_send().decode()

    def introduce(self, argument: str = "ADDR=192.0.2.1") -> str:
        return self.say(f"XCLIENT {argument}", self.server.greeting)

    def test_it_is_offered_to_those_who_may(self) -> None:
        heard = self.say("EHLO x")
        self.assertIn("XCLIENT NAME ADDR PORT PROTO HELO DESTADDR DESTPORT LOGIN\r\n", heard)
        self.server.offer = replace(self.server.offer, xclient=())
        self.assertNotIn("XCLIENT", self.say("EHLO x"))
        self.assertEqual(self.introduce()[:9], "550 5.7.1")

    def test_the_session_begins_anew(self) -> None:
        self.assertEqual(
            self.introduce(), "220 gw.example.com ESMTP relayd\r\n"
        )  # before EHLO, too
        self.say("EHLO x")
        self.assertEqual(self.introduce("LOGIN=ann"), "220 gw.example.com ESMTP relayd\r\n")
        self.assertEqual(self.event, XClient(login="ann"))
        self.assertTrue(self.server.authenticated)
        self.assertEqual(self.say("RCPT TO:<a@b.example>")[:3], "503")
        self.say("EHLO x")
        self.assertEqual(self.say("MAIL FROM:<>")[:3], "250")
        self.assertIsInstance(self.event, Mail)

    def test_not_within_a_transaction(self) -> None:
        self.say("EHLO x")
        self.say("MAIL FROM:<>")
        self.assertEqual(self.introduce()[:3], "503")
        self.assertEqual(self.say("RCPT TO:<a@example.com>")[:3], "250")

    def test_a_refused_introduction_changes_nothing(self) -> None:
        self.say("EHLO x")
        self.assertEqual(self.introduce("ADDR=x")[:3], "501")
        self.assertEqual(self.say("MAIL FROM:<>")[:3], "250")

    def test_tls_comes_before_it_or_not_at_all(self) -> None:
        """RFC 3207 would have us forget it; to forget whom a peer speaks for opens doors."""
        self.say("EHLO x")
        self.introduce()
        self.assertNotIn("STARTTLS", self.say("EHLO x"))
        self.assertEqual(self.say("STARTTLS")[:3], "503")

    def test_under_tls_it_leaves_tls_alone(self) -> None:
        self.say("EHLO x")
        self.say("STARTTLS", Reply.of(220, "2.0.0", "Go"))
        self.assertIsInstance(self.event, StartTls)
        self.server.tls_established()
        self.say("EHLO x")
        self.introduce()
        self.assertTrue(self.server.tls)
