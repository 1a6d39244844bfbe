from __future__ import annotations

import email
import email.policy
import os
import unittest
from collections.abc import Iterator
from email.message import Message as Parsed
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.mail.address import Mailbox
from relayd.mail.content import BytesContent
from relayd.mail.envelope import Recipient
from relayd.mail.message import RecipientState
from relayd.mail.outcome import Outcome, failed
from relayd.mail.reply import Reply
from relayd.report.bounce import Action, Report, ReportedRecipient, expanded
from relayd.report.dsn import MAX_HEADER, MAX_RETURNED, Written, write
from relayd.report.fields import remote_name
from tests.unit.report.examples import (
    DELIVERED,
    HOSTNAME,
    IDENT,
    NOW,
    PLAIN,
    PUT_OFF,
    REFUSED,
    all_failures,
    message,
    recipient,
    reports,
    settlement,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "reports"
UTF8 = "дмитрий@пример.example"
BODY_8BIT = PLAIN.replace(b"all is well", "all is wohlgemüt".encode())


def route(mailbox: Mailbox) -> tuple[Recipient, ...]:
    return (Recipient(mailbox, mailbox, "isp"),)


def written(report: Report) -> Written:
    return write(report, ident=IDENT, hostname=HOSTNAME, now=NOW, route=route)


def parse(content: bytes) -> Parsed:
    return email.message_from_bytes(content)


def parts(content: bytes) -> list[Parsed]:
    found = parse(content).get_payload()
    assert isinstance(found, list)
    return [part for part in found if isinstance(part, Parsed)]


def status_groups(content: bytes) -> list[Parsed]:
    payload = parts(content)[1].get_payload()
    assert isinstance(payload, list)
    return [group for group in payload if isinstance(group, Parsed)]


def examples() -> Iterator[tuple[str, Report]]:
    """One report of each kind; the golden files hold how each reads."""
    yield "failed", reports(message(), settlement(recipient()))[0]
    yield (
        "failed-many-forwarded-envid",
        reports(
            message(envid="QQ314159", ret="HDRS"),
            settlement(recipient("bob@example.net", "info@example.com")),
            settlement(recipient("eve@example.net", orcpt="rfc822;eve@old.example"), number=1),
            settlement(
                recipient("nomail@example.com"),
                outcome=failed("5.1.10", "The domain example.com takes no mail", code=556),
                number=2,
            ),
        )[0],
    )
    yield "expired", reports(message(), settlement(recipient(), RecipientState.EXPIRED, PUT_OFF))[0]
    yield (
        "delayed",
        reports(message(), settlement(recipient(), RecipientState.QUEUED, PUT_OFF, warned=True))[0],
    )
    success = settlement(recipient(notify="SUCCESS"), RecipientState.DELIVERED, DELIVERED)
    yield "delivered", reports(message(), success, final=True)[0]
    yield "relayed", reports(message(), success)[0]
    yield "expanded", expanded(message(), [recipient("team@example.com")])[0]
    yield (
        "failed-8bit",
        reports(message(BODY_8BIT, body="8BITMIME"), settlement(recipient()))[0],
    )
    yield (
        "failed-8bit-undeclared",
        reports(message(BODY_8BIT), settlement(recipient()))[0],
    )
    yield (
        "failed-utf8",
        reports(
            message(PLAIN.replace(b"Alice", "Алиса".encode()), sender=UTF8, smtputf8=True),
            settlement(recipient("jürgen@example.org")),
        )[0],
    )
    yield (
        "failed-utf8-recipient-ascii-sender",
        reports(message(smtputf8=True), settlement(recipient("jürgen+x@example.org")))[0],
    )


class GoldenTests(unittest.TestCase):
    """Set RELAYD_GOLDEN=write to write the files anew, then read the difference."""

    maxDiff = None

    def test_each_reads_as_its_golden_file(self) -> None:
        for name, report in examples():
            with self.subTest(name):
                content = written(report).content.replace(b"\r\n", b"\n")
                path = GOLDEN / f"{name}.eml"
                if os.environ.get("RELAYD_GOLDEN") == "write":
                    path.write_bytes(content)
                self.assertEqual(content.decode(), path.read_bytes().decode())

    def test_no_golden_file_is_orphaned(self) -> None:
        self.assertEqual(
            sorted(path.stem for path in GOLDEN.glob("*.eml")),
            sorted(name for name, _ in examples()),
        )


class ShapeTests(unittest.TestCase):
    def test_every_example_is_well_formed(self) -> None:
        for name, report in examples():
            with self.subTest(name):
                result = written(report)
                content, submission = result.content, result.submission
                parsed = parse(content)
                self.assertEqual(parsed.defects, [])
                self.assertEqual(parsed.get_content_type(), "multipart/report")
                self.assertEqual(parsed["Auto-Submitted"], "auto-replied")
                self.assertEqual(len(parts(content)), 3)
                self.assertNotIn(b"\n", content.replace(b"\r\n", b""))
                self.assertNotIn(b"\r", content.replace(b"\r\n", b""))
                self.assertLessEqual(max(map(len, content.split(b"\r\n"))), 998)
                self.assertIsNone(submission.envelope.reverse_path)
                self.assertEqual(submission.recipients, route(report.to))
                self.assertEqual(content[: submission.header_size].count(b"\r\n\r\n"), 1)
                self.assertEqual(submission.eight_bit, not content.isascii())
                if submission.eight_bit:
                    self.assertEqual(submission.envelope.body, "8BITMIME")
                self.assertEqual(
                    [group["Action"] for group in status_groups(content)[1:]]
                    if not submission.envelope.smtputf8
                    else [],
                    [report.action.value] * len(report.entries)
                    if not submission.envelope.smtputf8
                    else [],
                )

    def test_a_report_to_a_sender_whose_mail_is_thrown_away_is_thrown_away(self) -> None:
        report = next(iter(examples()))[1]
        result = write(report, ident=IDENT, hostname=HOSTNAME, now=NOW, route=lambda mailbox: ())
        self.assertIs(result.submission.state, RecipientState.DISCARDED)
        self.assertEqual(result.submission.recipients, (Recipient(report.to, report.to),))
        self.assertIs(written(report).submission.state, RecipientState.QUEUED)

    def test_flufl_bounce_takes_failures_for_permanent(self) -> None:
        if all_failures is None:
            self.skipTest("flufl.bounce is not installed (PyPI, or Debian's python3-flufl.bounce)")
        expected = {
            "failed": (set(), {b"bob@example.org"}),
            "expired": (set(), {b"bob@example.org"}),
            "failed-8bit": (set(), {b"bob@example.org"}),
            "failed-many-forwarded-envid": (
                set(),
                {b"info@example.com", b"eve@old.example", b"nomail@example.com"},
            ),
            "delayed": ({b"bob@example.org"}, set()),
            "delivered": (set(), set()),
            "relayed": (set(), set()),
            "expanded": (set(), set()),
        }
        for name, report in examples():
            if name in expected:
                with self.subTest(name):
                    found = all_failures(parse(written(report).content))
                    self.assertEqual((set(found[0]), set(found[1])), expected[name])


class ReturnedTests(unittest.TestCase):
    """RFC 3461 section 4.3, and what can be sent back unharmed."""

    def kind(self, report: Report) -> tuple[str, str]:
        part = parts(written(report).content)[2]
        return part.get_content_type(), part["Content-Transfer-Encoding"]

    def failure(self, data: bytes = PLAIN, **envelope: object) -> Report:
        return reports(message(data, **envelope), settlement(recipient()))[0]  # type: ignore[arg-type]

    def test_the_whole_message_comes_back_octet_for_octet(self) -> None:
        self.assertIn(PLAIN, written(self.failure()).content)
        self.assertIn(BODY_8BIT, written(self.failure(BODY_8BIT, body="8BITMIME")).content)

    def test_kinds(self) -> None:
        headers, whole = "text/rfc822-headers", "message/rfc822"
        large = PLAIN + b"x\r\n" * MAX_RETURNED
        latin = PLAIN.replace(b"Alice", b"Alic\xe9")
        for report, expected in (
            (self.failure(), (whole, "7bit")),
            (self.failure(ret="FULL"), (whole, "7bit")),
            (self.failure(ret="HDRS"), (headers, "7bit")),
            (self.failure(large), (headers, "7bit")),
            (self.failure(BODY_8BIT), (headers, "7bit")),
            (self.failure(BODY_8BIT, body="8BITMIME"), (whole, "8bit")),
            (self.failure(latin, body="8BITMIME"), (headers, "quoted-printable")),
            (self.failure(latin, sender=UTF8), ("message/global", "8bit")),
            (self.failure(PLAIN + b"x" * 2000 + b"\r\n"), (headers, "7bit")),
            (self.failure(sender=UTF8, ret="HDRS"), (headers, "7bit")),
        ):
            self.assertEqual(self.kind(report), expected, report.about.envelope)

    def test_only_failures_return_the_whole_message(self) -> None:
        for name, report in examples():
            if report.action is not Action.FAILED:
                self.assertEqual(self.kind(report), ("text/rfc822-headers", "7bit"), name)

    def test_a_huge_header_section_is_cut_at_a_line(self) -> None:
        data = b"X: " + b"y" * 70 + b"\r\n"
        report = self.failure(data * 5000 + b"\r\nbody\r\n")
        content = written(report).content
        self.assertLess(len(content), MAX_HEADER + 8192)
        returned = parts(content)[2].get_payload()
        assert isinstance(returned, str)
        self.assertEqual({len(line) for line in returned.splitlines() if line}, {73})

    def test_unreadable_content_leaves_a_report_in_two_parts(self) -> None:
        class Gone(BytesContent):
            def chunks(self, start: int = 0) -> Iterator[bytes]:
                raise OSError("gone")

        about = message(content=Gone(PLAIN))
        content = written(reports(about, settlement(recipient()))[0]).content
        self.assertEqual(len(parts(content)), 2)

    def test_the_boundary_is_never_in_the_message(self) -> None:
        report = self.failure()
        boundary = parse(written(report).content).get_boundary()
        assert boundary is not None
        quoting = self.failure(PLAIN + b"--" + boundary.encode() + b"--\r\n")
        self.assertEqual(len(parts(written(quoting).content)), 3)


class KnownByTests(unittest.TestCase):
    def test_a_subject_in_raw_utf8_is_readable(self) -> None:
        data = PLAIN.replace(b"=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Grüße".encode())
        (report,) = reports(message(data), settlement(recipient()))
        human = parts(written(report).content)[0].get_payload(decode=True)
        assert isinstance(human, bytes)
        self.assertIn("Subject: Grüße from the sea", human.decode())


class HostileTests(unittest.TestCase):
    @settings(max_examples=200, deadline=None)
    @given(
        st.text(max_size=3000),
        st.text(max_size=100),
        st.text(max_size=200),
        st.binary(max_size=300),
        st.booleans(),
    )
    def test_no_text_of_a_peer_changes_the_shape(
        self, words: str, envid: str, orcpt: str, subject: bytes, utf8: bool
    ) -> None:
        """Whatever a peer said, there are three parts, two groups, and no field of the peer's."""
        subject = subject.replace(b"\r", b"").replace(b"\n", b"")
        data = b"Subject: " + subject + b"\r\nMessage-ID: <" + subject + b">\r\n\r\nbody\r\n"
        outcome = Outcome(
            Reply(550, 5, 0, (words, "\r\nAction: delivered\r\n\r\n--")), "mx.example.org"
        )
        about = message(data, sender=UTF8 if utf8 else "alice@sender.example", envid=envid)
        entry = ReportedRecipient(recipient(orcpt=f"rfc822;{orcpt}"), outcome, attempted_at=NOW)
        content = written(
            Report(about, about.envelope.reverse_path or route_to(), Action.FAILED, (entry,))
        ).content
        self.assertEqual(len(parts(content)), 3)
        status = content.split(b"Content-Transfer-Encoding: ")[2]
        status = status.split(b"\r\n\r\n", 1)[1].split(b"\r\n--")[0]
        fields = [line.split(b":")[0] for line in status.split(b"\r\n") if line[:1].strip()]
        self.assertEqual(fields.count(b"Action"), 1)
        self.assertEqual(fields.count(b"Final-Recipient"), 1)
        self.assertEqual(fields.count(b"Diagnostic-Code"), 1)
        self.assertNotIn(b"\n", content.replace(b"\r\n", b""))
        self.assertFalse(set(content) & (set(range(32)) - {9, 10, 13} - set(subject)))

    def test_a_socket_of_ours_is_not_told(self) -> None:
        outcome = REFUSED.but(remote_mta="unix:/run/dovecot/lmtp", remote_address="unix:/run/x")
        content = written(reports(message(), settlement(recipient(), outcome=outcome))[0]).content
        self.assertNotIn(b"/run/", content)


class RemoteTests(unittest.TestCase):
    def test_names(self) -> None:
        for name, expected in (
            ("mx1.example.org", "mx1.example.org"),
            ("192.0.2.1", "[192.0.2.1]"),
            ("2001:db8::1", "[IPv6:2001:db8::1]"),
            ("", ""),
            ("unix:/run/lmtp", ""),
            ("a b", ""),
        ):
            self.assertEqual(remote_name(DELIVERED.but(remote_mta=name)), expected)


def route_to() -> Mailbox:
    return Mailbox("alice", "sender.example")
