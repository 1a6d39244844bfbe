"""What is negotiated with a next hop, and what it is honestly refused."""

from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.address import Mailbox
from relayd.mail.envelope import NEVER, NOBODY, Recipient
from relayd.smtp.extensions import Extensions
from relayd.smtp.grammar import parse_rcpt
from relayd.smtp.transaction import (
    NO_ADDRESS,
    NO_EIGHT_BIT,
    NO_REQUIRETLS,
    NO_REVERSE_PATH,
    NO_SUCH_SIZE,
    NO_UTF8_ADDRESS,
    NO_UTF8_HEADER,
    Transaction,
    commands_for,
)
from tests.unit.smtp.strategies import BOUNDED

PLAIN = Mailbox("a", "example.com")
SENDER = Mailbox("s", "example.org")
LOCAL = Mailbox("jürgen", "example.com")
DOMAIN = Mailbox("a", "bücher.example")


def offer(*keywords: str) -> Extensions:
    return Extensions.parse(("mx.example", *keywords))


ALL = offer("SIZE 1000", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "REQUIRETLS")
NOTHING = offer()


def to(*mailboxes: Mailbox, sender: Mailbox | None = SENDER, **facts: object) -> Transaction:
    recipients = tuple(Recipient(mailbox, mailbox) for mailbox in mailboxes)
    return Transaction(sender, recipients, **({"size": 10} | facts))  # type: ignore[arg-type]


class TestCopies(unittest.TestCase):
    """What a `copy` rule sends: nobody is to report it."""

    def sent(self, offered: Extensions) -> tuple[bytes, bytes]:
        recipient = Recipient(PLAIN, NOBODY, reverse_path=SENDER, notify=NEVER)
        commands = commands_for(Transaction(SENDER, (recipient,), 10, bcc=True), offered)
        return commands.mail, commands.rcpt[0]

    def test_a_hop_with_dsn_is_told_to_report_nothing(self) -> None:
        mail, rcpt = self.sent(offer("DSN"))
        self.assertEqual(mail, f"MAIL FROM:<{SENDER}>\r\n".encode())
        self.assertTrue(rcpt.endswith(b" NOTIFY=NEVER\r\n"), rcpt)
        self.assertNotIn(b"ORCPT", rcpt)

    def test_a_hop_without_dsn_has_nobody_to_report_to(self) -> None:
        mail, rcpt = self.sent(NOTHING)
        self.assertEqual(mail, b"MAIL FROM:<>\r\n")
        self.assertTrue(rcpt.endswith(b">\r\n"), rcpt)


class TestParameters(unittest.TestCase):
    def test_everything_offered(self) -> None:
        recipient = Recipient(
            PLAIN,
            PLAIN,
            orcpt="rfc822;b+c@example.com",
            notify=frozenset({"FAILURE", "SUCCESS"}),
        )
        commands = commands_for(
            Transaction(
                None, (recipient,), 10, ret="HDRS", envid="a b", eight_bit=True, require_tls=True
            ),
            ALL,
        )
        self.assertEqual(
            commands.mail,
            b"MAIL FROM:<> SIZE=10 BODY=8BITMIME RET=HDRS ENVID=a+20b REQUIRETLS\r\n",
        )
        self.assertEqual(
            commands.rcpt,
            [b"RCPT TO:<a@example.com> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b+2Bc@example.com\r\n"],
        )

    def test_nothing_offered(self) -> None:
        recipient = Recipient(
            PLAIN, PLAIN, orcpt="rfc822;b@example.com", notify=frozenset({"NEVER"})
        )
        commands = commands_for(
            Transaction(SENDER, (recipient,), 10, body="8BITMIME", ret="FULL", envid="x"), NOTHING
        )
        self.assertEqual(commands.mail, b"MAIL FROM:<s@example.org>\r\n")
        self.assertEqual(commands.rcpt, [b"RCPT TO:<a@example.com>\r\n"])
        self.assertEqual(commands.refused, {})

    def test_body_as_declared(self) -> None:
        self.assertIn(b" BODY=7BIT", commands_for(to(PLAIN, body="7BIT"), ALL).mail)
        self.assertIn(
            b" BODY=8BITMIME", commands_for(to(PLAIN, body="7BIT", eight_bit=True), ALL).mail
        )
        self.assertNotIn(b"BODY", commands_for(to(PLAIN), ALL).mail)

    def test_bare_postmaster(self) -> None:
        commands = commands_for(to(Mailbox("Postmaster", "")), ALL)
        self.assertEqual(commands.rcpt, [b"RCPT TO:<Postmaster>\r\n"])

    def test_quoted_local_part(self) -> None:
        commands = commands_for(to(Mailbox('a"> b', "example.com")), ALL)
        self.assertEqual(commands.rcpt, [b'RCPT TO:<"a\\"> b"@example.com>\r\n'])


class TestSmtpUtf8(unittest.TestCase):
    def test_only_asked_for_when_needed(self) -> None:
        self.assertNotIn(b"SMTPUTF8", commands_for(to(PLAIN, smtputf8=True), ALL).mail)
        header = to(PLAIN, utf8_header=True, smtputf8=True)
        for needs in (to(LOCAL), to(DOMAIN), to(PLAIN, sender=LOCAL), header):
            commands = commands_for(needs, ALL)
            self.assertIn(b" SMTPUTF8", commands.mail)
            self.assertEqual(commands.refused, {})
        self.assertEqual(
            commands_for(to(LOCAL), ALL).rcpt, ["RCPT TO:<jürgen@example.com>\r\n".encode()]
        )

    def test_domain_has_an_ascii_form(self) -> None:
        commands = commands_for(to(DOMAIN, sender=DOMAIN), offer("8BITMIME"))
        self.assertEqual(commands.mail, b"MAIL FROM:<a@xn--bcher-kva.example>\r\n")
        self.assertEqual(commands.rcpt, [b"RCPT TO:<a@xn--bcher-kva.example>\r\n"])

    def test_only_those_who_need_it_are_refused(self) -> None:
        commands = commands_for(to(PLAIN, LOCAL, DOMAIN), NOTHING)
        self.assertEqual(commands.refused, {1: NO_UTF8_ADDRESS})
        self.assertEqual(commands.numbers, [0, 2])

    def test_everybody_when_reverse_path_or_header_needs_it(self) -> None:
        for needs, reply in (
            (to(PLAIN, PLAIN, sender=LOCAL), NO_UTF8_ADDRESS),
            (to(PLAIN, PLAIN, utf8_header=True, eight_bit=True, smtputf8=True), NO_UTF8_HEADER),
        ):
            commands = commands_for(needs, offer("8BITMIME"))
            self.assertEqual(commands.refused, {0: reply, 1: reply})
            self.assertEqual((commands.mail, commands.rcpt), (b"", []))

    def test_eight_bit_header_fields_that_came_without_it_go_on_without_it(self) -> None:
        raw = to(PLAIN, utf8_header=True, eight_bit=True)
        for extensions in (offer("8BITMIME"), ALL):
            commands = commands_for(raw, extensions)
            self.assertEqual(commands.refused, {})
            self.assertIn(b"BODY=8BITMIME", commands.mail)
            self.assertNotIn(b"SMTPUTF8", commands.mail)
        self.assertEqual(commands_for(raw, NOTHING).refused, {0: NO_EIGHT_BIT})


class TestHonestRefusals(unittest.TestCase):
    def test_refusals(self) -> None:
        for what, extensions, reply in (
            (to(PLAIN, eight_bit=True), NOTHING, NO_EIGHT_BIT),
            (to(PLAIN, size=1001), ALL, NO_SUCH_SIZE),
            (to(PLAIN, require_tls=True), NOTHING, NO_REQUIRETLS),
        ):
            self.assertEqual(commands_for(what, extensions).refused, {0: reply})
        for size in (1000, 1):
            self.assertEqual(commands_for(to(PLAIN, size=size), ALL).refused, {})
        for unlimited in ("SIZE", "SIZE 0"):
            self.assertEqual(commands_for(to(PLAIN, size=1001), offer(unlimited)).refused, {})

    def test_addresses_that_rules_made_cannot_leave_their_line(self) -> None:
        for evil in (
            Mailbox("a\r\nDATA", "example.com"),
            Mailbox("a", "example.com>\r\nDATA"),
            Mailbox("a", "example.com> NOTIFY=NEVER"),
            Mailbox("a\u2028b", "example.com"),
            Mailbox("a", "xn--\u0378.example"),
        ):
            commands = commands_for(to(evil, PLAIN), offer("DSN"))
            self.assertIn(0, commands.refused)
            self.assertIn(commands.refused[0], (NO_ADDRESS, NO_UTF8_ADDRESS))
            self.assertEqual(commands.numbers, [1])
            self.assertEqual(
                commands_for(to(PLAIN, sender=evil), ALL).refused.get(0, NO_REVERSE_PATH),
                NO_REVERSE_PATH,
            )

    @given(st.text(max_size=20), st.text(max_size=20), st.booleans())
    @BOUNDED
    def test_one_command_is_one_line(self, local: str, domain: str, utf8: bool) -> None:
        recipient = Recipient(Mailbox(local, domain), PLAIN, orcpt=f"utf-8;{local}")
        what = Transaction(Mailbox(local, domain), (recipient,), 1, envid=local)
        commands = commands_for(what, ALL if utf8 else NOTHING)
        for line in (commands.mail, *commands.rcpt):
            self.assertEqual(line.count(b"\n") + line.count(b"\r"), 2 * bool(line))

    @given(st.text(min_size=1, max_size=10))
    @BOUNDED
    def test_our_own_server_reads_the_mailbox_back(self, local: str) -> None:
        mailbox = Mailbox(local, "example.com")
        for line in commands_for(to(mailbox), ALL).rcpt:
            self.assertEqual(parse_rcpt(line[5:-2], (), True)[0], mailbox)
