"""Copies that are signed: each by its rules, above our trace field, and as it leaves."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred

from relayd.authentication.dkim import DkimResult, DkimVerifier
from relayd.authentication.dkimsigning import SigningKey
from relayd.intake.checks import Objection, ReceivedContent
from relayd.intake.signing import Signing
from relayd.mail.message import Message
from relayd.spool.errors import SpoolError
from tests.unit.authentication import drive
from tests.unit.intake.scene import message
from tests.unit.intake.test_examination import ExaminationCase
from tests.unit.intake.test_verdicts import Others

KEYS = {
    name: (SigningKey(domain, "s", Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)),)
    for number, (name, domain) in enumerate(
        [("gateway", "gw.example.com"), ("example", "example.com")]
    )
}
ZONE = {(key.key_name, "TXT"): (key.record,) for keys in KEYS.values() for key in keys}
CONTENT = ("From: ann@example.org", "Subject: Hello", "", "Hello,  you ", "..", "", ".")
RULES = """
dkim     gateway domain gw.example.com selector s key file s.pem
dkim     example domain example.com selector s key file s.pem
accept   to @example.com
sign     any with gateway when forwarded
sign     sender @example.com with example
forward  info@example.com -> alice@example.net, info@example.com
forward  team@example.com -> bob@example.net, carol@example.net
"""


class SigningCase(ExaminationCase):
    def rules(self, text: str, **intake: object) -> None:
        signing = Signing(lambda: KEYS, lambda: 1_700_000_000.0, self.log)
        super().rules(text, **{"sign": signing.fields, **intake})

    def setUp(self) -> None:
        super().setUp()
        self.rules(RULES)

    def copies(self) -> dict[str, bytes]:
        """What leaves, by whom it leaves for."""
        stored, submission = self.scene.spool.stored[-1]
        return {str(each.mailbox): octets(stored, each.header) for each in submission.recipients}


def octets(stored: Message, header: int) -> bytes:
    return b"".join(stored.content_for(header).chunks())


def verified(copy: bytes) -> list[tuple[str, str]]:
    section, _, body = copy.partition(b"\r\n\r\n")
    verifier = DkimVerifier(section + b"\r\n\r\n")
    verifier.feed(body)
    verifier.finish()
    results: list[DkimResult] = [drive(each, ZONE) for each in verifier.verdicts(1_700_000_001)]
    return [(each.result, each.domain) for each in results]


class Signed(SigningCase):
    def test_each_copy_by_its_rules(self) -> None:
        self.assertEqual(self.send(CONTENT, "info@example.com", sender="a@example.com")[:3], "250")
        copies = self.copies()
        self.assertEqual(
            verified(copies["alice@example.net"]),
            [("pass", "gw.example.com"), ("pass", "example.com")],
        )
        self.assertEqual(verified(copies["info@example.com"]), [("pass", "example.com")])

    def test_they_stand_above_our_trace_field_and_all_below_is_as_it_came(self) -> None:
        self.send(CONTENT, "info@example.com")
        copies = self.copies()
        plain = copies["info@example.com"]
        self.assertTrue(plain.startswith(b"Received: "))
        self.assertTrue(copies["alice@example.net"].startswith(b"DKIM-Signature: "))
        self.assertTrue(copies["alice@example.net"].endswith(b"\r\n" + plain))

    def test_copies_of_the_same_names_are_one(self) -> None:
        self.send(CONTENT, "team@example.com")
        self.assertEqual(len(self.submission.headers), 1)
        self.assertEqual([each.header for each in self.submission.recipients], [1, 1])

    def test_what_nobody_signs_is_stored_as_it_came(self) -> None:
        self.send(CONTENT, "x@example.com")
        self.assertEqual(self.submission.headers, ())
        self.assertEqual(self.scene.spool.drafts[-1].content.count(b"DKIM-Signature"), 0)

    def test_what_header_rules_changed_is_what_is_signed(self) -> None:
        self.rules(RULES + 'header replace Subject "Other"\nheader add X-Gateway "yes"\n')
        self.send(CONTENT, "info@example.com")
        copy = self.copies()["alice@example.net"]
        self.assertIn(b"\r\nSubject: Other\r\n", copy)
        self.assertEqual(verified(copy), [("pass", "gw.example.com")])

    def test_rules_that_look_at_the_content(self) -> None:
        self.rules(RULES.replace("when forwarded", 'when field subject "hello"'))
        self.send(CONTENT, "x@example.com")
        self.assertEqual(verified(self.copies()["x@example.com"]), [("pass", "gw.example.com")])
        self.send(("From: a@example.org", "Subject: No", "", "x", "."), "x@example.com")
        self.assertEqual(verified(self.copies()["x@example.com"]), [])

    def test_what_others_made_of_the_content_is_what_is_signed(self) -> None:
        async def examine(content: ReceivedContent) -> Objection:
            body = content.new_body()
            body.write(b"Another  body")  # without the end of its line
            await content.rewrite(b"X-Scanned: yes\r\n" + content.section, body)
            return None

        others = Others("content")
        others.examine = examine
        self.rules(RULES, checks=others)
        self.assertEqual(self.send(CONTENT, "team@example.com")[:3], "250")
        copy = self.copies()["bob@example.net"]
        self.assertIn(b"\r\nX-Scanned: yes\r\n", copy)
        self.assertEqual(verified(copy), [("pass", "gw.example.com")])

    def test_what_we_completed_is_signed_as_well(self) -> None:
        self.scene.listen(submission=True)
        self.assertEqual(self.send(CONTENT, "team@example.com")[:3], "250")
        copy = self.copies()["bob@example.net"]
        self.assertIn(b"\r\nMessage-ID: ", copy)
        self.assertEqual(verified(copy), [("pass", "gw.example.com")])

    def test_a_large_body_and_none(self) -> None:
        for body in (["x" * 70] * 40_000, []):
            content = ("From: ann@example.org", "", *body, ".")
            self.assertEqual(self.send(content, "team@example.com")[:3], "250")
            copy = self.copies()["bob@example.net"]
            self.assertEqual(verified(copy), [("pass", "gw.example.com")])

    def test_the_second_message_of_a_session_has_a_hash_of_its_own(self) -> None:
        self.send(CONTENT, "team@example.com")
        again = ("From: ann@example.org", "", "Other", ".")
        said = self.peer.say(
            "MAIL FROM:<a@example.org>", "RCPT TO:<team@example.com>", "DATA", *again
        )
        self.assertEqual(said[-1][:3], "250")
        self.assertEqual(verified(self.copies()["bob@example.net"]), [("pass", "gw.example.com")])


class Unsigned(SigningCase):
    def test_a_message_that_nobody_should_vouch_for_goes_as_it_is(self) -> None:
        content = ("From: a@example.org", "From: b@example.org", "", "x", ".")
        self.assertEqual(self.send(content, "team@example.com")[:3], "250")
        self.assertEqual(self.submission.headers, ())
        (said,) = self.log.of("notice")
        self.assertIn("not signed", said)
        self.assertIn("it has not one From field", said)

    def test_keys_that_a_reload_took_away(self) -> None:
        signing = Signing(dict, lambda: 0.0, self.log)
        self.rules(RULES, sign=signing.fields)
        self.assertEqual(self.send(CONTENT, "team@example.com")[:3], "250")
        self.assertEqual(self.submission.headers, ())

    def test_a_client_that_goes_while_a_large_body_is_hashed(self) -> None:
        turns: list[Deferred[None]] = []

        def turn() -> Deferred[None]:
            turns.append(Deferred())
            return turns[-1]

        self.rules(RULES, turn=turn)
        content = ("From: ann@example.org", "", *(["x" * 70] * 20_000), ".")
        peer = self.scene.greeted()
        peer.say(*message("team@example.com"), *content)
        self.assertEqual(len(turns), 1)
        peer.leave()
        self.assertEqual(self.scene.spool.stored, [])
        self.assertEqual([each.rolled_back for each in self.scene.spool.drafts], [True])
        self.assertEqual(self.scene.intake.memory.held, 0)

    def test_a_spool_that_cannot_be_read_is_trouble_of_our_own(self) -> None:
        self.scene.spool.read_error = SpoolError("no")
        self.assertEqual(self.send(CONTENT, "team@example.com")[:3], "451")
        self.assertEqual(self.scene.spool.stored, [])

    def test_a_signature_is_no_growth_of_the_header(self) -> None:
        limits = self.scene.intake.limits
        self.rules(RULES, limits=type(limits)(header_size=100))
        content = ("From: ann@example.org", "X: " + "x" * 70, "", "x", ".")
        self.assertEqual(self.send(content, "team@example.com")[:3], "250")
        self.assertEqual(verified(self.copies()["bob@example.net"]), [("pass", "gw.example.com")])
