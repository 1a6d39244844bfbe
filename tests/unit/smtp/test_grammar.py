"""What is read out of commands; the refusals are in the dialogues."""

from __future__ import annotations

import re
import time
import unittest
from contextlib import suppress
from dataclasses import replace
from unittest.mock import patch

import idna
from hypothesis import given
from hypothesis import strategies as st

from relayd.intake.trace import TraceField
from relayd.mail.address import AddressError, Mailbox, fold_domain
from relayd.mail.client import Client
from relayd.rules.srs import Scheme, TooLongError
from relayd.smtp.events import MailParams, RcptParams
from relayd.smtp.extensions import DSN_RCPT, Extensions, Offer, ehlo_lines, mail_keywords
from relayd.smtp.grammar import (
    RemoteProtocolError,
    parse_auth,
    parse_bdat,
    parse_hello,
    parse_mail,
    parse_rcpt,
    require_letter,
)
from relayd.smtp.xtext import (
    XtextError,
    decode_orcpt,
    decode_xtext,
    encode_orcpt,
    encode_xtext,
)
from tests.unit.smtp.strategies import BOUNDED

MAIL = mail_keywords(Offer(auth=("PLAIN",), require_tls=True), True)


class TestMail(unittest.TestCase):
    def test_paths(self) -> None:
        for text, mailbox in (
            ("FROM:<>", None),
            ("from:<a@example.org>", Mailbox("a", "example.org")),
            ("FROM:  <a@example.org>  ", Mailbox("a", "example.org")),
            ('FROM:<"a\\"> b"@example.org>', Mailbox('a"> b', "example.org")),
            ("FROM:<@x.example,@[192.0.2.1]:a@example.org>", Mailbox("a", "example.org")),
            ("FROM:<a@[IPv6:2001:db8::1]>", Mailbox("a", "[IPv6:2001:db8::1]")),
            ("FROM:<a+b=c/d@Example.ORG>", Mailbox("a+b=c/d", "Example.ORG")),
        ):
            self.assertEqual(parse_mail(text.encode(), MAIL), (mailbox, MailParams()), text)

    def test_what_is_only_met_in_the_wild_is_the_path_that_is_meant(self) -> None:
        plain, dots = Mailbox("a", "b.example"), Mailbox("a..b", "b.example")
        for text, mailbox in (
            ("FROM:a@b.example", plain),
            ("FROM:  a@b.example ", plain),
            ("  FROM:<a@b.example>", plain),
            ("\tFROM:\t<a@b.example>\t", plain),
            ("FROM:< a@b.example >", plain),
            ("FROM:<a@b.example >", plain),
            ("FROM:<a@b.example.>", plain),
            ("FROM:a@b.example.", plain),
            ("FROM:@x.example:a@b.example", plain),
            ("FROM:a..b@b.example", dots),
            ("FROM:<a..b@b.example.>", dots),
            ('FROM:<"a..b"@b.example>', dots),
            ('FROM:"a..b"@b.example', dots),
            ("FROM:<.a@b.example>", Mailbox(".a", "b.example")),
            ("FROM:<a.@b.example>", Mailbox("a.", "b.example")),
            ("FROM:<..@b.example>", Mailbox("..", "b.example")),
            ('FROM:<"a".b@b.example>', Mailbox("a.b", "b.example")),
            ('FROM:<a."b c"@b.example>', Mailbox("a.b c", "b.example")),
            ("FROM:<a\\@b@b.example>", Mailbox("a@b", "b.example")),
            ('FROM:"a > b"@b.example', Mailbox("a > b", "b.example")),
            ("FROM:a@[192.0.2.1]", Mailbox("a", "[192.0.2.1]")),
            ("FROM:<a@b\u00fccher.example.>", Mailbox("a", "b\u00fccher.example")),
            ("FROM:<A@B\u00dcCHER\uff0eexample>", Mailbox("A", "b\u00fccher.example")),
            ("FROM:<a@bu\u0308cher.example>", Mailbox("a", "b\u00fccher.example")),
            ("FROM:<<a@b.example>>", plain),
            ("FROM:< >", None),
        ):
            utf8 = "" if text.isascii() else " SMTPUTF8"
            params = MailParams(smtputf8=not text.isascii())
            found = parse_mail(f"{text}{utf8}".encode(), MAIL)
            self.assertEqual(found, (mailbox, params), text)
            found = parse_mail(f"{text}{utf8} BODY=7BIT".encode(), MAIL)
            self.assertEqual(found, (mailbox, replace(params, body="7BIT")), text)

    def test_what_nobody_takes_is_not_taken(self) -> None:
        for text in (
            *("FROM:", "FROM: ", "FROM:<", "FROM:>", "FROM :<a@b.example>", "FROM:a@b.example>"),
            *("FROM:<a@b.example", "FROM:<a@b.example>>", "FROM:<<<a@b.example>>>", "FROM:a"),
            *("FROM:a b@b.example", "FROM:<a b@b.example>", "FROM:Ann <a@b.example>"),
            *("FROM:'a@b.example'", "FROM:a@b.example,c@b.example", "FROM:a@b.example (Ann)"),
            *("FROM:a@", "FROM:@b.example", "FROM:<a@b..example>", "FROM:<a@b.example..>"),
            *("FROM:<a@.b.example>", "FROM:<a@.>", "FROM:<a@b@b.example>", 'FROM:"a@b.example'),
            *('FROM:<"a\tb"@b.example>', 'FROM:"a"b"@b.example', "FROM:<a@b.example\\>"),
            *("FROM: SIZE=10", "FROM:<a[b]@b.example>", "FROM:<a@ b.example>"),
        ):
            with self.assertRaises(RemoteProtocolError, msg=text) as caught:
                parse_mail(text.encode(), MAIL)
            self.assertEqual(caught.exception.reply.code // 100, 5, text)

    def test_one_spelling_leaves_us(self) -> None:
        for local in ("a..b", ".a", "a.", ".", "...a...b..."):
            mailbox = Mailbox.parse(f"{local}@b.example")
            self.assertEqual(str(mailbox), f'"{local}"@b.example')
            self.assertEqual(mailbox.ascii, str(mailbox))
            self.assertEqual(mailbox.key, f"{local}@b.example")
            self.assertEqual(Mailbox.parse(str(mailbox)), mailbox)
        self.assertEqual(str(Mailbox.parse('"a".b@b.example.')), "a.b@b.example")

    def test_hostile_paths_take_no_time(self) -> None:
        began = time.process_time()
        for text in (
            '"' * 2000,
            '"a' * 1000,
            '"\\"' * 700,
            "a." * 1000,
            "<" * 2000,
            "< " * 1000,
            "\\a" * 1000,
            '"a".' * 500,
            "a@" * 1000,
            '\t"' * 1000,
            "@a:" * 700,
        ):
            for each in (text, f"<{text}", f"{text}@b.example", f"<{text}@b.example> "):
                with suppress(RemoteProtocolError):
                    require_letter(f"FROM:{each}".encode())
                with suppress(RemoteProtocolError):
                    parse_mail(f"FROM:{each}".encode(), MAIL)
        self.assertLess(time.process_time() - began, 2.0)

    @given(
        st.builds(
            Mailbox,
            st.text(
                st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.just("ü"), max_size=20
            ),
            st.sampled_from(["b.example", "B_x.example", "[192.0.2.1]", "bücher.example"]),
        )
    )
    @BOUNDED
    def test_the_letter_takes_what_we_write(self, mailbox: Mailbox) -> None:
        require_letter(f"TO:<{mailbox}>".encode())
        found, _ = parse_rcpt(f"TO:<{mailbox}>".encode(), DSN_RCPT, smtputf8=True)
        self.assertEqual(found, mailbox)

    def test_all_parameters(self) -> None:
        _, params = parse_mail(
            b"FROM:<> SIZE=5 BODY=7bit SMTPUTF8 RET=full ENVID=a+3Db AUTH=<> REQUIRETLS", MAIL
        )
        self.assertEqual(
            params,
            MailParams(
                size=5,
                body="7BIT",
                smtputf8=True,
                ret="FULL",
                envid="a=b",
                auth="",
                require_tls=True,
            ),
        )


class TestRcpt(unittest.TestCase):
    def test_postmaster_needs_no_domain(self) -> None:
        self.assertEqual(
            parse_rcpt(b"TO:<Postmaster> NOTIFY=NEVER", DSN_RCPT, False),
            (Mailbox("Postmaster", ""), RcptParams(frozenset({"NEVER"}))),
        )

    def test_orcpt(self) -> None:
        for given_, orcpt in (
            ("rfc822;a+2Bb@example.org", "rfc822;a+b@example.org"),
            ("x400;+20x", "x400; x"),
            ("utf-8;j\\x{FC}rgen@example.org", "utf-8;jürgen@example.org"),
            ("UTF-8;jürgen@example.org", "UTF-8;jürgen@example.org"),
            ("rfc822;j+C3+BCrgen@example.org", "rfc822;jürgen@example.org"),
        ):
            line = f"TO:<a@example.org> ORCPT={given_}".encode()
            self.assertEqual(parse_rcpt(line, DSN_RCPT, True)[1].orcpt, orcpt)

    @given(st.binary(max_size=80))
    @BOUNDED
    def test_anything_is_read_or_refused(self, octets: bytes) -> None:
        for line in (b"TO:<" + octets, b"TO:<a@b> " + octets, b"TO:<a@b> ORCPT=" + octets):
            try:
                mailbox, params = parse_rcpt(line, DSN_RCPT, True)
            except RemoteProtocolError as error:
                self.assertGreaterEqual(error.reply.code, 500)
            else:
                for text in (str(mailbox), params.orcpt):
                    self.assertEqual(len(text.splitlines() or [""]), 1)


class TestLengths(unittest.TestCase):
    """Whoever names a domain: some versions of IDNA take very long over what is too long."""

    LONG = (
        chr(0x660) * 1000,
        chr(0x660) * 64,
        ".".join([chr(0x660) * 60] * 5),
        chr(0x3002).join([chr(0x660) * 60] * 5),
        chr(0x645) + chr(0x200C) * 300,
        "a." * 400 + "\u00fc",
    )

    def test_lengths_come_before_idna(self) -> None:
        scheme = Scheme("gw.test", (b"key",))
        with patch("relayd.mail.address.idna.encode", wraps=idna.encode) as encode:
            for domain in self.LONG:
                for ways in (
                    lambda domain=domain: parse_mail(
                        f"FROM:<a@{domain}> SMTPUTF8".encode(), ("SMTPUTF8",)
                    ),
                    lambda domain=domain: parse_rcpt(f"TO:<a@{domain}>".encode(), (), True),
                    lambda domain=domain: parse_rcpt(f'TO:<"a"@{domain}>'.encode(), (), False),
                    lambda domain=domain: Mailbox.parse(f"a@{domain}"),
                    lambda domain=domain: fold_domain(domain),
                    lambda domain=domain: scheme.forward(Mailbox("a", domain), 0.0).domain_key,
                ):
                    with self.assertRaises((RemoteProtocolError, AddressError, TooLongError)):
                        ways()
                client = Client("192.0.2.1", helo=parse_hello(domain.encode()))
                TraceField("gw.test").received(client, 1, None, 0.0)
            for call in encode.mock_calls:  # of what HELO keeps
                self.assertLessEqual(len(call.args[0]), 255)
                self.assertLessEqual(max(map(len, re.split("[.\u3002]", call.args[0]))), 63)

    def test_what_ends_a_line_for_some_readers_is_in_no_mailbox(self) -> None:
        for end in ("\x80", "\x85", "\x9f", "\u2028", "\u2029"):
            for local in (f"a{end}b", f'"a{end}b"'):
                with self.assertRaises(AddressError):
                    Mailbox.parse(f"{local}@example.com")

    def test_idna_is_asked_once_for_one_domain(self) -> None:
        domain = "once." + ".".join(["\u30fb\u30a2" * 13 + "\u4e00"] * 3) + ".test"
        with patch("relayd.mail.address.idna.encode", wraps=idna.encode) as encode:
            mailbox = Mailbox.parse(f"a@{domain}")
            for _ in range(5):
                self.assertTrue(mailbox.key.endswith(mailbox.domain_key))
            self.assertEqual(len(encode.mock_calls), 1)

    def test_labels_that_come_out_too_long_are_refused_before_idna(self) -> None:
        domain = "".join(map(chr, range(0x4E00, 0x4E00 + 50 * 97, 97))) + ".test"
        with patch("relayd.mail.address.idna.encode", wraps=idna.encode) as encode:
            for _ in range(2):
                with self.assertRaisesRegex(AddressError, "label longer than 63 octets"):
                    Mailbox.parse(f"a@{domain}")
            self.assertEqual(encode.mock_calls, [])

    def test_what_is_no_internationalized_domain_is_said_each_time(self) -> None:
        errors = []
        for _ in range(2):
            with self.assertRaises(AddressError) as caught:
                fold_domain("\u0660a\u0627.test")
            errors.append(caught.exception)
        self.assertEqual(str(errors[0]), str(errors[1]))
        self.assertIsNot(errors[0], errors[1])  # one would gather tracebacks

    def test_full_width_letters_count_as_what_they_stand_for(self) -> None:
        name = "relay" * 9
        wide = "".join(chr(ord(each) + 0xFEE0) for each in name)
        self.assertEqual(fold_domain(f"{wide}.test"), f"{name}.test")

    def test_a_domain_of_all_its_length_is_taken(self) -> None:
        for label in ("\u00fc" * 50, chr(0x627) + chr(0x660) * 20):
            self.assertTrue(Mailbox.parse(f"a@{label}.test").domain_key.endswith(".test"))


class TestOthers(unittest.TestCase):
    def test_hello(self) -> None:
        self.assertEqual(parse_hello(b"[192.0.2.1] "), "[192.0.2.1]")
        self.assertEqual(len(parse_hello(b"x" * 2000)), 255)

    def test_bdat(self) -> None:
        for argument, parsed in (
            (b"5", (5, False)),
            (b"0 LAST", (0, True)),
            (b"007 last ", (7, True)),
            (b"9" * 60, (int("9" * 60), False)),
            (b"", None),
            (b"LAST", None),
            (b"-1", None),
            (b"1 FIRST", None),
            (b"1 LAST LAST", None),
            (b"0x10", None),
            (b"\xb2", None),
        ):
            self.assertEqual(parse_bdat(argument), parsed, argument)

    def test_auth(self) -> None:
        self.assertEqual(parse_auth(b"plain"), ("PLAIN", None))
        self.assertEqual(parse_auth(b"PLAIN ="), ("PLAIN", b""))
        self.assertEqual(parse_auth(b"PLAIN AGE="), ("PLAIN", b"\0a"))
        for wrong in (b"", b"PLAIN AGE", b"PLAIN a b"):
            with self.assertRaises(RemoteProtocolError):
                parse_auth(wrong)


class TestXtext(unittest.TestCase):
    @given(st.text())
    @BOUNDED
    def test_inverse(self, text: str) -> None:
        encoded = encode_xtext(text)
        self.assertTrue(encoded.isascii())
        self.assertNotRegex(encoded, r"[\s=]")
        self.assertEqual(decode_xtext(encoded), text)

    @given(st.sampled_from(["rfc822", "utf-8"]), st.text(min_size=1), st.booleans())
    @BOUNDED
    def test_orcpt_inverse(self, kind: str, address: str, smtputf8: bool) -> None:
        encoded = encode_orcpt(f"{kind};{address}", smtputf8=smtputf8)
        self.assertNotRegex(encoded, r"[\x00-\x20=\x7f]")
        self.assertTrue(encoded.isascii() or smtputf8)
        self.assertEqual(decode_orcpt(kind, encoded.partition(";")[2]), f"{kind};{address}")

    def test_wrong(self) -> None:
        for wrong in ("a=b", "a b", "+", "+4", "+4g", "+2b", "ü", "+FF", "a\n"):
            with self.subTest(wrong), self.assertRaises(XtextError):
                decode_xtext(wrong)


class TestExtensions(unittest.TestCase):
    def test_reading_an_offer(self) -> None:
        offer = Extensions.parse(
            ("mx.example hi", "size 100", "Pipelining", "AUTH PLAIN login", "", "X Y", "SIZE 5")
        )
        self.assertEqual(
            (offer.size, offer.size_limit, offer.pipelining, offer.dsn), (True, 100, True, False)
        )
        self.assertEqual(offer.auth, ("PLAIN", "LOGIN"))

    def test_odd_sizes(self) -> None:
        for parameters, limit in (("", 0), ("0", 0), ("x", 0), ("-5", 0), ("\u0663", 0), ("7", 7)):
            offer = Extensions.parse(("mx", f"SIZE {parameters}"))
            self.assertTrue(offer.size)
            self.assertEqual(offer.size_limit, limit)

    def test_the_first_line_offers_nothing(self) -> None:
        self.assertFalse(Extensions.parse(("PIPELINING",)).pipelining)

    def test_our_offer_is_what_we_accept(self) -> None:
        for tls in (False, True):
            offer = Offer(starttls=True, auth=("PLAIN",), require_tls=True)
            read = Extensions.parse(("mx", *ehlo_lines(offer, tls)))
            keywords = mail_keywords(offer, tls)
            self.assertEqual(read.starttls, not tls)
            self.assertEqual(bool(read.auth), tls)
            self.assertIn("AUTH", keywords)  # said without being offered, too, unless it is strict
            self.assertEqual("AUTH" in mail_keywords(offer, tls, strict=True), tls)
            self.assertEqual(read.require_tls, "REQUIRETLS" in keywords)
            self.assertEqual(read.dsn, offer.dsn)
