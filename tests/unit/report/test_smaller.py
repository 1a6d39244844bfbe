"""A report once more, in a form that every hop takes."""

from __future__ import annotations

import email
import unittest
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.mail.content import MAX_LINE, BytesContent
from relayd.mail.message import Message, RecipientState
from relayd.mail.outcome import failed
from relayd.report.bounce import Report
from relayd.report.dsn import Written, write
from relayd.report.smaller import MAX_BRIEF, MAX_HEADER, brief, reduced, smaller
from tests.unit.report.examples import (
    HOSTNAME,
    IDENT,
    NOW,
    PLAIN,
    all_failures,
    message,
    recipient,
    reports,
    settlement,
)
from tests.unit.report.test_dsn import (
    BODY_8BIT,
    UTF8,
    examples,
    parse,
    parts,
    route,
    status_groups,
    written,
)

TOO_EIGHT = failed("5.6.3", "no 8-bit", code=554)


def as_message(result: Written) -> Message:
    submission = result.submission
    return replace(
        message(sender=None),
        envelope=submission.envelope,
        client=submission.client,
        content=BytesContent(result.content),
        header_size=submission.header_size,
        eight_bit=submission.eight_bit,
        utf8_header=submission.utf8_header,
    )


def failing(data: bytes, **envelope: object) -> Report:
    about = message(data, **envelope)  # type: ignore[arg-type]
    return reports(about, settlement(recipient()))[0]


class ReducedTests(unittest.TestCase):
    def check(self, content: bytes, of_parts: int) -> None:
        self.assertTrue(content.isascii())
        self.assertNotIn(b"\0", content)
        self.assertNotIn(b"\n", content.replace(b"\r\n", b""))
        self.assertNotIn(b"\r", content.replace(b"\r\n", b""))
        self.assertLessEqual(max(map(len, content.split(b"\r\n"))), MAX_LINE)
        parsed = parse(content)
        self.assertEqual(parsed.defects, [])
        self.assertEqual(parsed.get_content_type(), "multipart/report")
        self.assertEqual(parsed.get_param("report-type"), "delivery-status")
        self.assertEqual(len(parts(content)), of_parts)
        self.assertEqual(parts(content)[1].get_content_type(), "message/delivery-status")

    def test_every_kind_of_report_has_one(self) -> None:
        for name, report in examples():
            with self.subTest(name):
                content = written(report).content
                small = reduced(content, bare=False)
                assert small is not None
                self.check(small, 3)
                last = parts(small)[2]
                self.assertEqual(last.get_content_type(), "text/rfc822-headers")
                bare = reduced(content, bare=True)
                assert bare is not None
                self.check(bare, 2)
                self.assertEqual(reduced(small, bare=False), small)
                actions = [group["Action"] for group in status_groups(small)[1:]]
                self.assertEqual(actions, [report.action.value] * len(report.entries))

    def test_flufl_bounce_still_reads_it(self) -> None:
        if all_failures is None:
            self.skipTest("flufl.bounce is not installed (PyPI, or Debian's python3-flufl.bounce)")
        report = failing(BODY_8BIT, body="8BITMIME")
        for bare in (False, True):
            small = reduced(written(report).content, bare=bare)
            assert small is not None
            self.assertEqual(all_failures(parse(small)), (set(), {b"bob@example.org"}))

    def test_the_header_section_keeps_what_it_says(self) -> None:
        data = BODY_8BIT.replace(b"Alice", "Алиса".encode())
        for sender in ("alice@sender.example", UTF8):
            content = written(failing(data, sender=sender, body="8BITMIME")).content
            small = reduced(content, bare=False)
            assert small is not None
            self.check(small, 3)
            last = parts(small)[2].get_payload(decode=True)
            assert isinstance(last, bytes)
            self.assertIn("From: Алиса <alice@sender.example>".encode(), last)
            self.assertNotIn(b"Dear Bob", last)

    def test_a_utf8_recipient_is_named_in_seven_bits(self) -> None:
        for name, report in examples():
            if name == "failed-utf8":
                small = reduced(written(report).content, bare=False)
                assert small is not None
                self.assertIn(b"Final-Recipient: utf-8; j\\x{FC}rgen@example.org\r\n", small)
                self.assertIn(b"To: Internationalized address:;\r\n", small)

    def test_a_large_header_section_is_cut(self) -> None:
        data = b"X: " + b"y" * 70 + b"\r\n"
        content = written(failing(data * 200 + b"\r\nbody\r\n")).content
        small = reduced(content, bare=False)
        assert small is not None
        self.assertLess(len(small), MAX_HEADER + 4096)

    def test_what_we_did_not_write_is_left_alone(self) -> None:
        for data in (b"", b"x", PLAIN, b'Subject: x\r\n boundary="=aa"\r\n\r\n--=aa--\r\n'):
            self.assertIsNone(reduced(data, bare=False))

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=400), st.booleans(), st.booleans())
    def test_whatever_the_header_section_holds(self, junk: bytes, utf8: bool, bare: bool) -> None:
        """NUL, bare CR and LF, any charset, lines of any length: in 7 bits all of it can go."""
        data = b"Subject: " + junk.replace(b"\r\n\r\n", b"") * 8 + b"\r\n\r\nbody\r\n"
        report = failing(data, sender=UTF8 if utf8 else "alice@sender.example", body="8BITMIME")
        small = reduced(written(report).content, bare=bare)
        assert small is not None
        self.check(small, 2 if bare else 3)


class BriefTests(unittest.TestCase):
    def of(self, recipients: int, words: str) -> bytes:
        failures = [
            settlement(
                recipient(f"user{number:04}-of-many@some.long.domain.example.org"),
                outcome=failed("5.1.1", f"{words} {number if recipients < 30 else ''}"),
            )
            for number in range(recipients)
        ]
        (report,) = reports(message(PLAIN), *failures)
        content = written(report).content
        for bare in (False, True):
            content = reduced(content, bare=bare) or b""
        return content

    def test_a_report_of_many_recipients_fits_into_a_small_mailbox(self) -> None:
        content = self.of(300, "No such user here, and many words about it")
        self.assertGreater(len(content), 20_000)
        small = brief(content)
        assert small is not None
        self.assertLess(len(small), 2 * MAX_BRIEF + 2000)
        self.assertEqual(parse(small).defects, [])
        groups = status_groups(small)[1:]
        self.assertGreater(len(groups), 30)
        for number, group in enumerate(groups):
            self.assertIn(f"user{number:04}-of-many@", group["Final-Recipient"])
            self.assertEqual((group["Action"], group["Status"]), ("failed", "5.1.1"))
        text = parts(small)[0].get_payload(decode=True)
        assert isinstance(text, bytes)
        self.assertIn(b"to 300 recipients", text)
        self.assertIn(f"names the first {len(groups)} of all".encode(), text)
        self.assertIn(f"{300 - len(groups)} recipients are named nowhere".encode(), text)
        self.assertEqual(brief(small), small)

    def test_long_words_of_many_servers_are_cut_too(self) -> None:
        small = brief(self.of(20, "Gr\u00fc\u00dfe, long words of a server " * 30))
        assert small is not None
        self.assertLess(len(small), 2 * MAX_BRIEF + 2000)
        self.assertEqual(parse(small).defects, [])
        self.assertEqual(len(status_groups(small)), 21)
        self.assertEqual(brief(small), small)

    def test_every_kind_of_report_has_one(self) -> None:
        for name, report in examples():
            with self.subTest(name):
                small = brief(written(report).content)
                assert small is not None
                self.assertEqual(parse(small).defects, [])
                self.assertEqual(len(status_groups(small)), 1 + len(report.entries))
                self.assertEqual(brief(small), small)

    def test_it_is_the_last_form(self) -> None:
        content = self.of(300, "No such user here")
        report = replace(as_message(written(failing(PLAIN))), content=BytesContent(content))
        too_large = settlement(recipient(), outcome=failed("5.3.4", "too large", code=552))
        again = smaller(report, [too_large])
        assert again is not None
        self.assertEqual(again.content, brief(content))
        report = replace(report, content=BytesContent(again.content))
        self.assertIsNone(smaller(report, [too_large]))


class SmallerTests(unittest.TestCase):
    def test_none_where_nothing_can_be_left_out(self) -> None:
        report = as_message(written(failing(PLAIN)))
        bare = brief(b"".join(report.content.chunks()))
        assert bare is not None
        refused = settlement(recipient(), outcome=TOO_EIGHT)
        again = smaller(replace(report, content=BytesContent(bare)), [refused])
        self.assertIsNone(again)
        self.assertIsNotNone(smaller(report, [refused]))

    def test_not_for_other_refusals(self) -> None:
        report = as_message(written(failing(PLAIN)))
        for outcome in (
            failed("5.1.1", "no such user"),
            failed("5.7.1", "go away"),
            failed("5.6.7", "no UTF-8 address", code=553),
            failed("5.7.30", "no REQUIRETLS"),  # which this one does not ask for
        ):
            self.assertIsNone(smaller(report, [settlement(recipient(), outcome=outcome)]))

    def test_tls_stays_required_where_it_was_not_the_reason(self) -> None:
        report = as_message(written(failing(PLAIN, require_tls=True)))
        again = smaller(report, [settlement(recipient(), outcome=TOO_EIGHT)])
        assert again is not None
        self.assertTrue(again.submission.envelope.require_tls)
        self.assertIsNone(again.submission.envelope.reverse_path)

    def test_given_up_without_tls_it_goes_redacted(self) -> None:
        report = as_message(written(failing(PLAIN, require_tls=True)))
        again = smaller(report, [settlement(recipient(), RecipientState.EXPIRED, outcome=None)])
        assert again is not None
        self.assertFalse(again.submission.envelope.require_tls)
        self.assertEqual(len(parts(again.content)), 2)
        self.assertNotIn(b"Subject: =?utf-8", again.content)

    def test_what_goes_redacted_does_not_name_the_message(self) -> None:
        report = as_message(written(failing(PLAIN, require_tls=True)))
        for state, outcome in (
            (RecipientState.EXPIRED, None),
            (RecipientState.FAILED, failed("5.7.30", "no REQUIRETLS")),
        ):
            again = smaller(report, [settlement(recipient(), state, outcome=outcome)])
            assert again is not None
            self.assertNotIn(b"<first@sender.example>", again.content)
        # where it stays under TLS the header section says which one it is
        self.assertIn(b"<first@sender.example>", b"".join(report.content.chunks()))


class RequireTlsTests(unittest.TestCase):
    """RFC 8689 section 5."""

    def test_the_report_asks_for_it_and_returns_headers_only(self) -> None:
        for name, report in examples():
            with self.subTest(name):
                about = report.about
                envelope = replace(about.envelope, require_tls=True, ret="FULL")
                result = written(replace(report, about=replace(about, envelope=envelope)))
                self.assertTrue(result.submission.envelope.require_tls)
                self.assertNotIn(b"Content-Type: message/rfc822", result.content)
                self.assertNotIn(b"Dear Bob", result.content)
                human = email.message_from_bytes(result.content).get_payload(0)
                self.assertNotIn("Subject", str(human))

    def test_tls_required_no_goes_along(self) -> None:
        data = b"TLS-Required: No\r\n" + PLAIN
        self.assertEqual(parse(written(failing(data)).content)["TLS-Required"], "No")
        self.assertIsNone(parse(written(failing(PLAIN)).content)["TLS-Required"])
        required = parse(written(failing(data, require_tls=True)).content)
        self.assertIsNone(required["TLS-Required"])


class BoundsTests(unittest.TestCase):
    def test_a_thousand_recipients_are_one_report_of_bounded_size(self) -> None:
        words = failed("5.1.1", "x" * 2000).but(remote_mta="mx.example.org")
        about = message(PLAIN + b"x" * 70 + b"\r\n", ret="HDRS")
        settled = [
            settlement(recipient(f"user{n}@example.org"), outcome=words, number=n)
            for n in range(1000)
        ]
        (report,) = reports(about, *settled)
        content = written(report).content
        self.assertLess(len(content), 400_000)
        self.assertEqual(len(status_groups(content)), 1001)
        human = str(parts(content)[0].get_payload())
        self.assertIn("... and 980 more recipients", human)
        self.assertLess(len(human), 10_000)

    def test_a_setting_says_how_large_a_message_comes_back_whole(self) -> None:
        report = failing(PLAIN)
        for whole, kind in ((0, "text/rfc822-headers"), (len(PLAIN), "message/rfc822")):
            result = write(
                report, ident=IDENT, hostname=HOSTNAME, now=NOW, route=route, whole=whole
            )
            self.assertEqual(parts(result.content)[2].get_content_type(), kind)
