"""DKIM signatures that we make: dkimpy, and our own verifier, say what they are worth."""

from __future__ import annotations

import unittest
from functools import cache
from typing import Any

import dkim
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import example, given
from hypothesis import strategies as st

from relayd.authentication.canonical import Field
from relayd.authentication.dkim import DkimVerifier
from relayd.authentication.dkimkey import DkimKey, dkim_key
from relayd.authentication.dkimsignature import Signature, signature
from relayd.authentication.dkimsigning import (
    MOST_NAMES,
    PrivateKeyError,
    SigningKey,
    UnsignableError,
    body_hash,
    private_key,
    signature_fields,
)
from tests.unit.authentication import drive

NOW = 1_700_000_000
MESSAGE = (
    b"Received: from a by b; Fri, 11 Jul 2003 21:00:37 -0700\r\n"
    b"From: Ann Lee <ann@example.com>\r\n"
    b"To: bob@example.org\r\nSubject:  one \t two\r\n three \r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700\r\nList-Id: <a.example.com>\r\n"
    b"Resent-To: c@example.org\r\nResent-To: d@example.org\r\n\r\n"
    b"Hello  there \r\n\tyou\r\n\r\n\r\n"
)


@cache
def rsa(bits: int = 2048) -> RSAPrivateKey:
    return generate_private_key(65537, bits)


@cache
def keys() -> tuple[SigningKey, ...]:
    ed = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    return SigningKey("gw.example.com", "r", rsa()), SigningKey("gw.example.com", "e", ed)


def signed(message: bytes, by: tuple[SigningKey, ...] | None = None) -> bytes:
    section, _, body = message.partition(b"\r\n\r\n")
    section += b"\r\n"
    return signature_fields(section, body_hash([body]), by or keys(), NOW) + message


def ours(message: bytes) -> list[str]:
    section, _, body = message.partition(b"\r\n\r\n")
    zone = {(key.key_name, "TXT"): (key.record,) for key in keys()}
    verifier = DkimVerifier(section + b"\r\n\r\n")
    verifier.feed(body)
    verifier.finish()
    return [drive(each, zone).result for each in verifier.verdicts(NOW)]


def dkimpy(message: bytes) -> list[bool]:
    """What dkimpy says of the two upper signatures."""

    def record(name: bytes, timeout: int = 5) -> bytes | None:
        zone = {key.key_name: key.record for key in keys()}
        found = zone.get(name.decode().rstrip("."))
        return None if found is None else found.encode()

    verifier: Any = dkim.DKIM(message)
    return [verifier.verify(number, dnsfunc=record) for number in (0, 1)]


def tags(field: bytes) -> Signature:
    return signature(Field(b"dkim-signature", field.removesuffix(b"\r\n")))


def names(message: bytes) -> list[bytes]:
    field = signed(message, keys()[1:]).removesuffix(message)
    return list(tags(field).names)


def pem(key: Any, encryption: Any = None) -> bytes:  # noqa: ANN401
    octets: bytes = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()
    )
    return octets


# words and white space in every mixture that canonical forms care for
_text = st.lists(
    st.sampled_from([b"a", b"Wort", b" ", b"  ", b"\t", b"\r\n ", b"\r\n\t", b"=?utf-8?q?=C3?=",
                     "\N{LATIN SMALL LETTER U WITH DIAERESIS}".encode(), b":", b";", b"b=x"]),
    max_size=8,
).map(b"".join)  # fmt: skip
_names = st.sampled_from(
    [b"To", b"to", b"CC", b"Subject", b"X-Own", b"Date", b"Message-ID", b"Reply-To",
     b"List-Id", b"Resent-From", b"Content-Type", b"Received", b"References", b"Sender"]
)  # fmt: skip
_fields = st.tuples(_names, _text).map(lambda pair: pair[0] + b": x" + pair[1] + b"y\r\n")
_bodies = st.lists(
    st.sampled_from([b"a", b"bc", b" ", b"\t", b"\r\n", b".", "\N{SNOWMAN}".encode()]), max_size=14
).map(lambda parts: b"".join(parts) + b"\r\n")


class Verified(unittest.TestCase):
    def test_both_signatures_verify_with_dkimpy_and_with_our_own_verifier(self) -> None:
        message = signed(MESSAGE)
        self.assertEqual(message.count(b"DKIM-Signature:"), 2)
        self.assertEqual(ours(message), ["pass", "pass"])
        self.assertEqual(dkimpy(message), [True, True])

    @given(st.lists(_fields, max_size=9), st.integers(0, 9), _bodies)
    @example([], 0, b"")
    @example([], 0, b"\r\n\r\n")
    @example([b"Subject: \r\n"], 0, b" \r\n")
    def test_whatever_the_message_looks_like(
        self, others: list[bytes], at: int, body: bytes
    ) -> None:
        section = b"".join([*others[:at], b"From: a@example.com\r\n", *others[at:]])
        message = signed(section + b"\r\n" + body)
        self.assertEqual(ours(message), ["pass", "pass"])
        self.assertEqual(dkimpy(message), [True, True])

    def test_blanks_before_a_colon(self) -> None:  # which dkimpy does not read at all
        self.assertEqual(ours(signed(b"Subject : x\r\n" + MESSAGE)), ["pass", "pass"])

    def test_the_body_may_come_in_pieces(self) -> None:
        body = MESSAGE.partition(b"\r\n\r\n")[2] * 20
        whole = body_hash([body])
        self.assertEqual(body_hash(body[at : at + 1] for at in range(len(body))), whole)

    def test_what_is_added_above_breaks_nothing(self) -> None:
        message = b"Received: from b by c; today\r\nX-Spam: no\r\n" + signed(MESSAGE)
        self.assertEqual(ours(message), ["pass", "pass"])
        self.assertEqual(dkimpy(message), [True, True])

    def test_what_a_reader_sees_cannot_be_added(self) -> None:
        for name in (b"From", b"Subject", b"To", b"Reply-To", b"Content-Type", b"Date"):
            with self.subTest(name=name):
                message = name + b": other@example.net\r\n" + signed(MESSAGE)
                self.assertEqual(ours(message), ["fail", "fail"])

    def test_the_whole_body_is_signed(self) -> None:
        self.assertEqual(ours(signed(MESSAGE) + b"more\r\n"), ["fail", "fail"])
        self.assertNotIn(b"l=", signed(MESSAGE).partition(b"\r\nReceived:")[0].split(b"; "))


class Written(unittest.TestCase):
    def test_its_tags(self) -> None:
        found = tags(signed(MESSAGE, keys()[:1]).removesuffix(MESSAGE))
        self.assertEqual((found.domain, found.selector), ("gw.example.com", "r"))
        self.assertEqual((found.algorithm, found.made), ("rsa-sha256", NOW))
        self.assertEqual((found.length, found.expires), (None, None))
        self.assertTrue(found.relaxed_body)
        self.assertTrue(found.relaxed_header)

    def test_its_lines_are_short(self) -> None:
        for line in signed(MESSAGE).removesuffix(MESSAGE).split(b"\r\n"):
            self.assertLessEqual(len(line), 76)

    def test_names_that_are_longer_than_a_line(self) -> None:
        key = SigningKey("a" * 60 + "." + "b" * 60 + ".example", "s" * 63, keys()[1].key)
        found = tags(signed(MESSAGE, (key,)).removesuffix(MESSAGE))
        self.assertEqual((found.domain, found.selector), (key.domain, key.selector))

    def test_fields_that_are_sealed_are_named_once_more(self) -> None:
        found = names(MESSAGE)
        self.assertEqual(found.count(b"from"), 2)
        self.assertEqual(found.count(b"cc"), 1)
        self.assertEqual(found.count(b"date"), 2)
        self.assertEqual(found.count(b"sender"), 0)  # a hop behind may add it
        self.assertEqual(found.count(b"resent-to"), 2)  # the next forwarder adds its own
        self.assertNotIn(b"received", found)

    def test_signatures_do_not_cover_each_other(self) -> None:
        above = signed(MESSAGE, keys()).removesuffix(MESSAGE)
        alone = b"".join(signed(MESSAGE, (key,)).removesuffix(MESSAGE) for key in keys())
        self.assertEqual(above, alone)


class Unsignable(unittest.TestCase):
    def test_a_message_without_author_or_with_two_from_fields(self) -> None:
        for section in (b"To: a@example.com\r\n", b"From: a@b.example\r\nfrom: c@d.example\r\n"):
            with self.subTest(section=section), self.assertRaises(UnsignableError):
                signature_fields(section, b"", keys(), NOW)

    def test_a_message_of_more_fields_than_anybody_writes(self) -> None:
        section = b"From: a@b.example\r\n" + b"To: c@d.example\r\n" * MOST_NAMES
        with self.assertRaisesRegex(UnsignableError, "too many"):
            signature_fields(section, b"", keys(), NOW)


class Keys(unittest.TestCase):
    def test_both_kinds_are_read_from_pem(self) -> None:
        for key in keys():
            again = SigningKey(key.domain, key.selector, private_key(pem(key.key)))
            self.assertEqual(again.record, key.record)

    def test_the_record_is_what_the_verifier_reads(self) -> None:
        for key in keys():
            found = dkim_key(key.record)
            assert isinstance(found, DkimKey)
            self.assertEqual(found.kind, key.algorithm.partition("-")[0])
            self.assertTrue(found.verifies(key.sign(b"x" * 32), b"x" * 32))

    def test_a_key_is_never_shown(self) -> None:
        self.assertEqual(repr(keys()[1]), "SigningKey(domain='gw.example.com', selector='e')")

    def test_what_is_no_key(self) -> None:
        ed = Ed25519PrivateKey.generate()
        for octets, why in (
            (b"", "there is no private key in it"),
            (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
             "there is no private key in it"),
            (pem(ed, BestAvailableEncryption(b"secret")), "the key has a passphrase"),
            (pem(ec_key(SECP256R1())), "the key is neither RSA nor Ed25519"),
            (pem(rsa(1024)), "the RSA key has 1024 bits, not 2048 or more"),
        ):  # fmt: skip
            with self.subTest(why=why), self.assertRaises(PrivateKeyError) as caught:
                private_key(octets)
            self.assertEqual(str(caught.exception), why)
