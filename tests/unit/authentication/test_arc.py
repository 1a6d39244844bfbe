"""ARC as RFC 8617 has it: what we seal dkimpy verifies, what dkimpy seals we verify."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from functools import lru_cache
from hashlib import sha256
from typing import Any

import dkim

from relayd.authentication.arc import MOST_SETS, UNANSWERED, ArcResult, ArcVerifier, sealed
from relayd.authentication.canonical import fields, relaxed_field
from relayd.authentication.dkimkey import DkimKey, dkim_key
from relayd.authentication.dkimsignature import without_value
from relayd.authentication.dkimsigning import (
    SigningKey,
    UnsignableError,
    body_hash,
    new_private_key,
    private_key,
    signature_fields,
)
from tests.support import TestCase
from tests.unit.authentication import Zone, drive

NOW = 1_750_000_000
SECTION = (
    b"Received: from a.example by b.example; Mon, 5 Jan 2026 10:00:00 +0000\r\n"
    b"From: Ann <ann@sender.example>\r\nTo: info@example.com\r\nSubject: one \t two\r\n\tthree\r\n"
    b"Date: Mon, 5 Jan 2026 10:00:00 +0000\r\nMessage-ID: <x@sender.example>\r\n\r\n"
)
BODY = b"Hello,  you \r\n\r\n.\r\n\r\n"
RESULTS = (
    b"Authentication-Results: gw.example.com;\r\n spf=pass smtp.mailfrom=ann@sender.example;\r\n"
    b" dkim=none; dmarc=pass (p=none) header.from=sender.example\r\n"
)


@lru_cache
def pem(name: str) -> bytes:
    return new_private_key(ed25519=name.startswith("e"))


@lru_cache
def key(name: str = "r") -> SigningKey:
    return SigningKey(f"{name}.gw.example.com", "s", private_key(pem(name)))


def zone(*names: str) -> Zone:
    return {(key(name).key_name, "TXT"): (key(name).record,) for name in names or ("r",)}


def verdict(content: bytes, records: Zone | None = None, now: float = NOW) -> ArcResult:
    section, gap, body = content.partition(b"\r\n\r\n")
    verifier = ArcVerifier(section + gap)
    for at in range(0, len(body), 7):
        verifier.feed(body[at : at + 7])
    verifier.finish()
    found: ArcResult = drive(verifier.verdict(now), zone() if records is None else records)
    return found


def seal(content: bytes, name: str = "r", records: Zone | None = None) -> bytes:
    """It with one more set."""
    section, gap, body = content.partition(b"\r\n\r\n")
    fields = sealed(
        section + gap, body_hash([body]), [key(name)], NOW, verdict(content, records), RESULTS
    )
    return fields + content


def by_dkimpy(content: bytes, records: Zone | None = None) -> str:
    asked = zone() if records is None else records
    known = {name: texts[0] for (name, _), texts in asked.items() if texts}

    def record(name: bytes, timeout: int = 5) -> bytes | None:
        found = known.get(name.decode().rstrip("."))
        return None if found is None else str(found).encode()

    result: Any = dkim.ARC(content).verify(dnsfunc=record)
    return str(result[0].decode() if isinstance(result[0], bytes) else result[0])


def sealed_by_dkimpy(content: bytes, name: str = "r", found: str = "none") -> bytes:
    results = f"Authentication-Results: other.example; spf=pass; arc={found}\r\n".encode()
    headers = dkim.ARC(results + content).sign(
        b"s", f"{name}.gw.example.com".encode(), traditional(name), b"other.example", timestamp=NOW
    )
    return b"".join(re.sub(rb"\r?\n", b"\r\n", each) for each in headers) + content


def traditional(name: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    octets: bytes = key(name).key.private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )
    return octets


class Sealing(TestCase):
    def test_what_we_seal_dkimpy_verifies_up_to_the_fifth(self) -> None:
        content = SECTION + BODY
        for number in range(1, 6):
            content = seal(content)
            self.assertTrue(content.startswith(b"ARC-Seal: i=%d;" % number))
            found = verdict(content)
            self.assertEqual((found.result, found.sets), ("pass", number), found.why)
            self.assertEqual(by_dkimpy(content), "pass")
            content = b"Received: by hop%d.example\r\n" % number + content
        self.assertLess(max(map(len, content.split(b"\r\n"))), 100)

    def test_what_dkimpy_seals_we_verify_and_seal_on(self) -> None:
        content = sealed_by_dkimpy(SECTION + BODY)
        self.assertEqual(verdict(content).result, "pass", verdict(content).why)
        content = seal(content)
        self.assertEqual(by_dkimpy(content), "pass")
        self.assertEqual(verdict(content).result, "pass")
        self.assertEqual(verdict(sealed_by_dkimpy(content, found="pass")).sets, 3)

    def test_our_results_are_in_it_and_the_first_of_its_kind_says_cv_none(self) -> None:
        content = seal(SECTION + BODY)
        self.assertIn(b"\r\nARC-Authentication-Results: i=1; gw.example.com;\r\n spf=pass", content)
        self.assertIn(b"cv=none;", content)
        self.assertIn(b"cv=pass;", seal(content).partition(b"ARC-Message-Signature")[0])

    def test_signatures_of_ours_and_of_others_are_signed(self) -> None:
        own = signature_fields(SECTION, body_hash([BODY]), [key()], NOW)
        content = seal(own + SECTION + BODY)
        signed = re.sub(rb"\s", b"", re.findall(rb"h=([^;]*);", content)[0]).split(b":")
        self.assertIn(b"dkim-signature", signed)
        self.assertNotIn(b"authentication-results", signed)
        self.assertFalse([name for name in signed if name.startswith(b"arc-")])
        self.assertEqual(verdict(content).result, "pass")
        self.assertEqual(by_dkimpy(content), "pass")

    def test_an_rsa_key_is_preferred_and_ed25519_serves(self) -> None:
        both = sealed(
            SECTION, body_hash([BODY]), [key("e"), key()], NOW, ArcResult("none"), RESULTS
        )
        self.assertEqual(both.count(b"a=rsa-sha256"), 2)
        content = seal(SECTION + BODY, "e")
        self.assertEqual(content.count(b"a=ed25519-sha256"), 2)
        self.assertEqual(verdict(content, zone("e")).result, "pass")

    def test_a_chain_that_fails_is_sealed_so_once_and_then_no_more(self) -> None:
        content = seal(SECTION + BODY).replace(b"Hello", b"Hullo")
        self.assertEqual(verdict(content).why, "the body has changed")
        content = seal(content)
        self.assertIn(b"cv=fail;", content.partition(b"ARC-Message-Signature")[0])
        self.assertEqual(verdict(content).why, "it failed before us")
        self.assertNotEqual(by_dkimpy(content), "pass")
        self.assertEqual(seal(content), content)

    def test_there_are_no_more_than_fifty(self) -> None:
        content = SECTION + BODY
        for _ in range(MOST_SETS):
            content = seal(content)
        self.assertEqual((verdict(content).result, verdict(content).sets), ("pass", MOST_SETS))
        self.assertEqual(seal(content), content)
        more = content.replace(b"i=50;", b"i=51;")
        self.assertEqual(verdict(more).why, "a field has no number from 1 to 50")

    def test_what_nobody_answers_for_is_not_sealed(self) -> None:
        content = seal(SECTION + BODY)
        unknown = ArcResult(UNANSWERED, sets=1)
        self.assertEqual(sealed(SECTION, b"", [key()], NOW, unknown, RESULTS), b"")
        self.assertEqual(sealed(SECTION, b"", [], NOW, ArcResult("none"), RESULTS), b"")
        self.assertEqual(verdict(content, {(key().key_name, "TXT"): None}).result, UNANSWERED)

    def test_two_authors_are_vouched_for_by_nobody(self) -> None:
        with self.assertRaises(UnsignableError):
            seal(b"From: b@x.example\r\n" + SECTION + BODY)


def public() -> DkimKey:
    found = dkim_key(key().record)
    assert isinstance(found, DkimKey)
    return found


class Chains(TestCase):
    def setUp(self) -> None:
        self.whole = seal(seal(SECTION + BODY))

    def check(self, content: bytes, why: str, records: Zone | None = None) -> None:
        found = verdict(content, records)
        self.assertEqual((found.result, found.why), ("fail", why))
        self.assertNotEqual(by_dkimpy(content, records), "pass", why)

    def without(self, start: bytes) -> bytes:
        """It without the field that begins so."""
        return re.sub(rb"(?m)^" + re.escape(start) + rb".*\r\n(?:[ \t].*\r\n)*", b"", self.whole)

    def test_none(self) -> None:
        self.assertEqual(verdict(SECTION + BODY).result, "none")

    def test_everything_that_may_be_wrong(self) -> None:
        self.check(self.whole.replace(b"Hello", b"Hullo"), "the body has changed")
        self.check(self.whole.replace(b"Subject: one", b"Subject: two"),
                   "the last signature does not fit")  # fmt: skip
        self.check(self.without(b"ARC-Seal: i=1;"), "a set is not whole")
        self.check(self.without(b"ARC-Message-Signature: i=1;"), "a set is not whole")
        self.check(self.without(b"ARC-Authentication-Results: i=2;"), "a set is not whole")
        twice = b"ARC-Authentication-Results: i=1; x.example; none\r\n" + self.whole
        self.check(twice, "i=1 has two fields of a kind")
        self.check(b"ARC-Seal: i=0; x\r\n" + self.whole, "a field has no number from 1 to 50")
        found = verdict(b"ARC-Seal: x\r\n" + self.whole)  # dkimpy passes it over
        self.assertEqual(found.why, "a field has no number from 1 to 50")
        changed = self.whole.replace(b"i=1; gw.example.com", b"i=1; evil.example")
        self.check(changed, "the seal of i=2 does not fit")
        self.check(self.whole.replace(b"cv=none", b"cv=pass"), "i=1 says cv=pass")

    def test_keys_that_are_gone_revoked_or_others(self) -> None:
        name = key().key_name
        self.check(self.whole, f"{name}: there is no key", {})
        self.check(self.whole, f"{name}: the key was revoked", {(name, "TXT"): ("v=DKIM1; p=",)})
        other = key("r2").record
        self.check(self.whole, "the last signature does not fit", {(name, "TXT"): (other,)})
        found = verdict(self.whole, {(name, "TXT"): (key("e").record,)})
        self.assertEqual(found.why, f"{name}: the key is of another kind")

    def test_a_seal_with_what_does_not_belong_there(self) -> None:
        for changed, why in (
            (b"ARC-Seal: i=2; h=from;", "a seal has no tag h or bh"),
            (b"ARC-Seal: i=2; i=2;", "the tag i stands twice"),
            (b"ARC-Seal: i=2; ???;", "'???' is no tag"),
        ):
            found = verdict(self.whole.replace(b"ARC-Seal: i=2;", changed))
            self.assertEqual((found.result, found.why), ("fail", why))
        for changed, why in (
            (b"ARC-Message-Signature: i=2; v=1;", "the tag v does not belong there"),
            (b"ARC-Message-Signature: i=2; x=1;", "it expires before it is made"),
        ):
            found = verdict(self.whole.replace(b"ARC-Message-Signature: i=2;", changed))
            self.assertEqual((found.result, found.why), ("fail", why))

    def test_a_signature_may_not_sign_a_seal_nor_leave_out_the_end(self) -> None:
        found = verdict(self.whole.replace(b"h=from:", b"h=arc-seal:from:", 1))
        self.assertEqual((found.result, found.why), ("fail", "a seal is signed"))
        found = verdict(self.whole.replace(b"c=relaxed/relaxed;", b"c=relaxed/relaxed; l=3;", 1))
        self.assertEqual(found.result, "fail")

    def test_octets_that_nobody_meant(self) -> None:
        junk = b64encode(bytes(range(256)))
        for section in (
            b"ARC-Seal: i=1;\xff\r\nARC-Message-Signature: i=1\r\n",
            b"ARC-Seal: i=1; cv=none; a=rsa-sha256; d=.; s=.; b=" + junk + b"\r\n",
            b"ARC-Seal:\r\nARC-Seal:\r\n" * 1000,
            b"".join(b"ARC-Seal: i=%d; " % number + junk + b"\r\n" for number in range(99)),
        ):
            self.assertEqual(verdict(section + SECTION + BODY).result, "fail")

    def test_the_scope_of_a_seal_that_says_fail(self) -> None:
        """As if its set was the only one (RFC 8617 section 5.1.2)."""
        broken = seal(SECTION + BODY).replace(b"Hello", b"Hullo")
        content = seal(broken)
        results, message, own = [
            each for each in reversed(fields(content)) if b" i=2;" in each.octets
        ]
        scope = [relaxed_field(each.octets) + b"\r\n" for each in (results, message)]
        digest = sha256(b"".join(scope) + relaxed_field(without_value(own)))
        value = b64decode(own.octets.rpartition(b"b=")[2])
        self.assertTrue(public().verifies(value, digest.digest()))
