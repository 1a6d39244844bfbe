"""Authentication-Results as others read it, and fields that claim to be ours."""

from __future__ import annotations

import time
import unittest

from authres import AuthenticationResultsHeader  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from relayd.authentication.canonical import Field
from relayd.authentication.dkim import DkimResult
from relayd.authentication.dmarc import DmarcResult
from relayd.authentication.results import ResultsField, authserv_id, without_forged
from relayd.authentication.spf import SpfResult


class Written(unittest.TestCase):
    def test_another_reader_understands_it(self) -> None:
        field = ResultsField("mx.example.org")
        field.spf(SpfResult("pass", "example.com: ip4"), 'odd "one"@example.com', "helo.test")
        field.dkim(
            [
                DkimResult(
                    "pass", "", "example.com", "s", "@example.com", "rsa-sha256", b"\1\2\3\4\5\6\7"
                ),
                DkimResult("permerror", "there is no (key)"),
            ]
        )
        field.dmarc(DmarcResult("pass", "reject", "example.com", "example.com", "example.com"))
        field.auth("ann")
        octets = bytes(field)
        for line in octets.split(b"\r\n"):
            self.assertLessEqual(len(line), 78)
        text = octets.decode("ascii").replace("\r\n", "").strip()
        read = AuthenticationResultsHeader.parse(text)
        self.assertEqual(read.authserv_id, "mx.example.org")
        self.assertEqual(
            [(each.method, each.result) for each in read.results],
            [
                ("spf", "pass"),
                ("dkim", "pass"),
                ("dkim", "permerror"),
                ("dmarc", "pass"),
                ("auth", "pass"),
            ],
        )
        self.assertEqual(read.results[1].header_d, "example.com")

    def test_nothing_checked_is_none(self) -> None:
        self.assertEqual(
            bytes(ResultsField("mx.test")), b"Authentication-Results: mx.test;\r\n none\r\n"
        )

    @given(st.text(max_size=60), st.text(max_size=60))
    def test_nobody_ends_a_line_or_adds_a_result(self, why: str, sender: str) -> None:
        """Of what a stranger writes nothing leaves its comment or its quotes."""
        field = ResultsField("mx.test")
        field.spf(SpfResult("fail", why), sender + "@x.test", "h")
        text = bytes(field).decode("utf-8").replace("\r\n ", " ").removesuffix("\r\n")
        self.assertNotIn("\r", text)
        self.assertNotIn("\n", text)
        self.assertEqual(
            len(
                AuthenticationResultsHeader.parse(text.encode("ascii", "replace").decode()).results
            ),
            1,
        )


class Forged(unittest.TestCase):
    def test_those_in_our_name_go_and_all_else_stays(self) -> None:
        ours = (
            b"Authentication-Results: mx.example.org; spf=pass\r\n",
            b"authentication-results:\r\n\tMX.Example.ORG 1;\r\n dkim=pass\r\n",
            b"Authentication-Results: (a (nested) comment) mx.example.org; none\r\n",
            b'Authentication-Results: "mx.example.org"; none\r\n',
            b"Authentication-Results: mx.(split)example.org; none\r\n",
            b"Authentication-Results: mx.example.org.; none\r\n",
            b"Authentication-Results:mx.example.org\r\n",
        )
        others = (
            b"Authentication-Results: mx.example.com; spf=pass\r\n",
            b"X-Authentication-Results: mx.example.org; spf=pass\r\n",
            b"Authentication-Results: ; spf=pass smtp.mailfrom=mx.example.org\r\n",
            b"From: a@example.com\r\n",
        )
        section = b"".join(others[:2]) + b"".join(ours) + b"".join(others[2:]) + b"\r\n"
        self.assertEqual(without_forged(section, "mx.example.org"), b"".join(others) + b"\r\n")

    def test_no_disguise_saves_one_in_our_name(self) -> None:
        for name in (
            "mx.example.org(c)1",
            "(a)mx.example.org(b(c))1 ",
            "=?utf-8?q?mx.example.org?=",
            "(x)=?us-ascii?b?bXguZXhhbXBsZS5vcmc=?=",
            "mx\u3002example.org",
            "\ufeffmx.example.org",
            "\v mx.example.org\v",
            '" mx.example.org "',
            '"mx\\.example.org"',
            '(")") "MX.example.org."',
        ):
            with self.subTest(name):
                field = f"Authentication-Results: {name}; dkim=pass\r\n".encode()
                section = b"A: b\r\n" + field + b"\r\n"
                self.assertEqual(without_forged(section, "mx.example.org"), b"A: b\r\n\r\n")

    def test_a_name_is_the_same_with_and_without_letters_beyond_ascii(self) -> None:
        section = "Authentication-Results: mx.b\u00fccher.example; none\r\n\r\n".encode()
        self.assertEqual(without_forged(section, "mx.xn--bcher-kva.example"), b"\r\n")

    def test_what_a_stranger_says_is_written_in_ascii(self) -> None:
        found = ResultsField("mx.example.org")
        found.dkim([DkimResult("permerror", "algorithm '\u00e4(\\)'")])
        self.assertTrue(bytes(found).isascii())

    def test_a_field_of_comments_costs_no_more_than_its_length(self) -> None:
        before = time.process_time()
        for body in (
            b"(" * 200_000,
            b"(" * 100_000 + b")" * 100_000,
            b'"' * 200_001,
            b"\\" * 200_000,
        ):
            authserv_id(Field(b"authentication-results", b"Authentication-Results: " + body))
        self.assertLess(time.process_time() - before, 2.0)
