from __future__ import annotations

import unittest
from email import message_from_bytes, policy
from email.utils import parsedate_to_datetime

from hypothesis import given
from hypothesis import strategies as st

from relayd.intake.trace import (
    Hops,
    LoopLimits,
    TraceField,
    address_literal,
    date_time,
    loop,
    protocol_keyword,
)
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.ident import ident_text, make_ident

IDENT = make_ident(1_763_787_840_000_000, 3)
NOW = 1_763_787_840.25
CLIENT = Client("192.0.2.1", helo="mail.client.example", protocol="ESMTP")
FIELD = TraceField("gw.example.com")
ALICE = Mailbox("alice", "example.org")


def written(client: Client = CLIENT, recipient: Mailbox | None = None) -> bytes:
    return FIELD.received(client, IDENT, recipient, NOW)


class Written(unittest.TestCase):
    def test_every_clause_in_the_order_of_the_book(self) -> None:
        self.assertEqual(
            written(CLIENT.with_(protocol="ESMTPS", tls="TLSv1.3 TLS_AES_256_GCM_SHA384"), ALICE),
            b"Received: from mail.client.example (unknown [192.0.2.1])\r\n"
            b" by gw.example.com (relayd) with ESMTPS id " + ident_text(IDENT).encode() + b"\r\n"
            b" (TLSv1.3 TLS_AES_256_GCM_SHA384)\r\n"
            b" for <alice@example.org>;\r\n"
            b" Sat, 22 Nov 2025 05:04:00 +0000\r\n",
        )

    def test_several_recipients_are_not_named(self) -> None:
        self.assertNotIn(b" for ", written())

    def test_ipv6_client(self) -> None:
        self.assertIn(b"(unknown [IPv6:2001:db8::1])", written(CLIENT.with_(address="2001:db8::1")))

    def test_address_literal_as_helo(self) -> None:
        self.assertIn(
            b"from [IPv6:2001:db8::1] (unknown [192.0.2.1])",
            written(CLIENT.with_(helo="[IPv6:2001:db8::1]")),
        )

    def test_u_labels_in_helo_become_a_labels(self) -> None:
        self.assertIn(
            b"from mail.xn--bcher-kva.example (", written(CLIENT.with_(helo="mail.bücher.example"))
        )

    def test_recipient_beyond_ascii_is_left_out(self) -> None:
        self.assertNotIn(b" for ", written(recipient=Mailbox("jürgen", "example.org")))
        self.assertIn(
            b" for <j@xn--bcher-kva.example>;", written(recipient=Mailbox("j", "bücher.example"))
        )

    def test_date_is_made_anew_each_second(self) -> None:
        field = TraceField("gw.example.com")
        first = field.received(CLIENT, IDENT, None, NOW)
        self.assertEqual(field.received(CLIENT, IDENT, None, NOW + 0.5), first)
        self.assertIn(b"05:04:01", field.received(CLIENT, IDENT, None, NOW + 1))

    def test_date_time_is_read_by_others(self) -> None:
        for now in (0, 951782400, int(NOW), 4102444799):
            self.assertEqual(parsedate_to_datetime(date_time(now)).timestamp(), now)

    def test_keywords(self) -> None:
        self.assertEqual(protocol_keyword(False, False, False, False), "SMTP")
        self.assertEqual(protocol_keyword(True, False, False, False), "ESMTP")
        self.assertEqual(protocol_keyword(True, True, True, False), "ESMTPSA")
        self.assertEqual(protocol_keyword(True, False, True, True), "UTF8SMTPA")

    def test_address_literals(self) -> None:
        self.assertEqual(address_literal("192.0.2.1"), "[192.0.2.1]")
        self.assertEqual(address_literal(""), "[unknown]")

    def test_helo_with_an_injected_header(self) -> None:
        field = written(CLIENT.with_(helo="x\r\nX-Evil: yes\r\n\r\nbody"))
        self.assertEqual(field.count(b"\r\n"), 3)
        self.assertIn(b"(HELO x??X-Evil: yes????body)", field)

    def test_helo_that_would_forge_a_clause(self) -> None:
        for helo in (
            "a (b) by gw.example.com (relayd) with ESMTP id 000000000000 for <x@y>; now",
            "a) ([203.0.113.1])",
            "",
            "a\\",
            "=?utf-8?q?x?=",
            "x" * 300,
        ):
            field = written(CLIENT.with_(helo=helo), ALICE)
            self.assertTrue(
                field.startswith(b"Received: from [192.0.2.1] (unknown [192.0.2.1])"), field
            )
            self.assertEqual(FIELD.hops(field), Hops(1, 1, ("alice@example.org",)))

    @given(helo=st.text(max_size=300), tls=st.text(max_size=80), local=st.text(max_size=64))
    def test_whatever_a_peer_says_it_is_one_field_that_reads_back(
        self, helo: str, tls: str, local: str
    ) -> None:
        client = CLIENT.with_(helo=helo, tls=tls)
        field = written(client, None)
        self.assertTrue(field.isascii())
        lines = field.split(b"\r\n")
        self.assertEqual(lines.pop(), b"")
        self.assertTrue(all(line[:1] == b" " for line in lines[1:]))
        self.assertTrue(all(len(line) < 400 for line in lines))
        self.assertNotRegex(b"".join(lines), rb"[\x00-\x1f\x7f]")
        self.assertEqual(FIELD.hops(field), Hops(1, 1, ()))
        parsed = message_from_bytes(field + b"Subject: x\r\n\r\n", policy=policy.default)
        self.assertEqual(parsed.keys(), ["Received", "Subject"])


@st.composite
def quoted_mailboxes(draw: st.DrawFn) -> Mailbox:
    letters = st.characters(min_codepoint=32, max_codepoint=126)
    return Mailbox(draw(st.text(letters, min_size=1, max_size=64)), "example.org")


class ReadBack(unittest.TestCase):
    @given(quoted_mailboxes())
    def test_any_quoted_local_part(self, mailbox: Mailbox) -> None:
        hops = FIELD.hops(written(recipient=mailbox))
        self.assertEqual(hops, Hops(1, 1, (str(mailbox).lower(),)))

    def test_foreign_fields_are_counted_but_not_ours(self) -> None:
        section = (
            b"Received: from a.example (a.example [192.0.2.9]) by other.example (Postfix)\r\n"
            b"\twith ESMTP id 4ABC for <alice@example.org>; Sat, 22 Nov 2025 05:04:00 +0000\r\n"
            b"RECEIVED: by gw.example.com; Sat, 22 Nov 2025 05:04:00 +0000\r\n"
            b"X-Received: from nowhere\r\n"
            b"Subject: Received: from somewhere\r\n\r\n"
        )
        self.assertEqual(FIELD.hops(section), Hops(2, 0, ()))

    def test_own_field_refolded_by_a_later_hop(self) -> None:
        refolded = written(recipient=ALICE).replace(b"\r\n ", b"\r\n\t ")
        self.assertEqual(FIELD.hops(refolded), Hops(1, 1, ("alice@example.org",)))
        unfolded = written(recipient=ALICE).replace(b"\r\n ", b" ")
        self.assertEqual(FIELD.hops(unfolded), Hops(1, 1, ("alice@example.org",)))

    def test_another_relayd(self) -> None:
        other = TraceField("gw2.example.com").received(CLIENT, IDENT, ALICE, NOW)
        self.assertEqual(FIELD.hops(other), Hops(1, 0, ()))

    def test_delivered_to(self) -> None:
        section = b"Delivered-To: <Alice@Example.org>\r\nDelivered-To: bob@example.org  \r\n\r\n"
        self.assertEqual(FIELD.hops(section).recipients, ("alice@example.org", "bob@example.org"))

    def test_hostile_sections_are_read_in_linear_time(self) -> None:
        for piece in (
            b"Received:" + b" " * 100_000,
            b"Received: from " + b"x" * 100_000,
            b"Received: from x (" + b")" * 100_000,
            b"Received: from x (y) by gw.example.com (relayd) with esmtp id 0123456789ab for <"
            + b">" * 100_000,
            b"Delivered-To: " + b" \t" * 50_000 + b"<",
            b"Delivered-To:\r\n" * 50_000,
            b"Received: \r\n" * 50_000,
        ):
            FIELD.hops(piece + b"\r\nX: gw.example.com\r\n")  # the run's time is the test


class Loops(unittest.TestCase):
    limits = LoopLimits(hops=50, own=10, same_recipient=3)

    def judge(self, hops: Hops, recipient: Mailbox | None = ALICE) -> str:
        return loop(hops, self.limits, recipient)

    def test_fifty_hops_pass_and_one_more_does_not(self) -> None:
        self.assertEqual(self.judge(Hops(50)), "")
        self.assertEqual(self.judge(Hops(51)), "Too many hops")

    def test_out_to_a_list_and_back_is_no_loop(self) -> None:
        self.assertEqual(self.judge(Hops(6, 2, ("list@other.example", "alice@example.org"))), "")

    def test_through_a_filter_and_back_twice_is_no_loop(self) -> None:
        self.assertEqual(self.judge(Hops(4, 2, ("alice@example.org",) * 2)), "")

    def test_the_same_mailbox_again_and_again_is_a_loop(self) -> None:
        self.assertIn("loop", self.judge(Hops(6, 3, ("alice@example.org",) * 3)))

    def test_another_mailbox_is_not_judged_by_it(self) -> None:
        hops = Hops(6, 3, ("alice@example.org",) * 3)
        self.assertEqual(self.judge(hops, Mailbox("bob", "example.org")), "")
        self.assertEqual(self.judge(hops, None), "")

    def test_ten_passages_are_a_loop_whoever_it_is_for(self) -> None:
        self.assertEqual(self.judge(Hops(20, 9), None), "")
        self.assertIn("loop", self.judge(Hops(20, 10), None))


class PassedTests(unittest.TestCase):
    """Where a message has been since it was here: no copy goes there again."""

    FAR = (
        b"Received: from gw.example.com (x [192.0.2.9])\r\n\tby mx.vault.example with ESMTP\r\n"
        b"\tfor <Archive@vault.example>; Sat, 22 Nov 2025 05:24:00 +0000\r\n"
    )
    ARCHIVE = Mailbox("archive", "vault.example")

    def holds(self, section: bytes, mailbox: Mailbox, *, own: bool = False) -> bool:
        return FIELD.passed(section).holds(mailbox, own=own)

    def test_above_a_field_of_ours_it_has_been_there(self) -> None:
        section = self.FAR + written() + b"Subject: x\r\n\r\n"
        self.assertTrue(self.holds(section, self.ARCHIVE))
        self.assertFalse(self.holds(section, self.ARCHIVE, own=True))

    def test_before_us_others_may_have_named_it(self) -> None:
        self.assertFalse(self.holds(written() + self.FAR + b"\r\n", self.ARCHIVE))
        self.assertFalse(self.holds(self.FAR + b"\r\n", self.ARCHIVE))

    def test_our_own_field_names_its_recipient(self) -> None:
        section = written(recipient=ALICE) + b"\r\n"
        self.assertTrue(self.holds(section, ALICE, own=True))
        self.assertFalse(self.holds(section, self.ARCHIVE))

    def test_a_long_header_is_read_in_no_time(self) -> None:
        for odd in (b" for " * 50_000, b" for <a@" * 30_000, b" for a" + b"@" * 100_000):
            self.assertFalse(self.holds(b"Received: x" + odd + b"\r\n" + written(), ALICE))
